"""Public records that no hospital holds: of the embedded ontology, for what a coordinator does alone. data -> HERE."""

from __future__ import annotations

from collections.abc import Collection

from fedmed.config.schema import FedMedConfig
from fedmed.errors import EmptyDataError
from fedmed.pipeline.scoring import Records
from fedmed.types import QARecord
from fedmed.utils.random_streams import stream

FOR_FACTORS = 64
"""The first so many of the order are for Fed-SB's factors, so that no adapter is judged on what it was made from."""
LONGEST = 300  # characters of question and answer together, of a record that is judged on


def records_for_factors(config: FedMedConfig, private: Collection[str]) -> Records:
    """A sample for ``algorithm_start.first_adapter``; args as for ``records_for_judge``."""
    return _plain(_drawn(config, private)[:FOR_FACTORS])


def records_for_judge(config: FedMedConfig, private: Collection[str]) -> Records:
    """Short records that adapters are judged on, one an ontology term, none of them among ``records_for_factors``.

    Args:
        config: settings.
        private: groups of all records of the hospitals, training and test; public records are of none of them. Under
            privacy noise they are drawn from all of the ontology, as what is left out would tell who holds what.

    Raises:
        EmptyDataError: too few records of the ontology are at no hospital.
    """
    drawn = _drawn(config, private)
    terms = {record.group for record in drawn[:FOR_FACTORS]}
    chosen: list[QARecord] = []
    wanted = config.federated.agent.public_records
    for record in drawn[FOR_FACTORS:]:
        if len(chosen) == wanted:
            break
        if record.group not in terms and len(record.question) + len(record.answer) <= LONGEST:
            terms.add(record.group)
            chosen.append(record)
    if len(chosen) < wanted:
        raise EmptyDataError(
            f"{len(chosen)} public records are at no hospital, and the agent judges on {wanted}",
            "lower training.dataset.max_samples or federated.agent.public_records",
        )
    return _plain(chosen)


def _drawn(config: FedMedConfig, private: Collection[str]) -> list[QARecord]:
    from fedmed.data.hpo import hpo_records

    taken = () if config.privacy.noised else private
    free = [record for record in hpo_records() if record.group not in taken]
    return [free[index] for index in stream(config.federated.seed, "public").permutation(len(free))]


def _plain(records: list[QARecord]) -> Records:
    return [{"question": record.question, "answer": record.answer} for record in records]

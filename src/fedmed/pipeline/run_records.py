"""The records that a run's settings describe, each at its hospital, with audit canaries among them. data -> HERE."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from fedmed.config.schema import FedMedConfig
from fedmed.data.federated_split import create_federated_split
from fedmed.data.load_dataset import load_with_report
from fedmed.evaluation.attacks.canaries import Canary, inserted_records, make_canaries
from fedmed.pipeline.scoring import Records
from fedmed.types import QARecord

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class RunRecords:
    """What each hospital holds."""

    split: Mapping[str, Dataset]  # as it was shared out, without canaries
    loaded: Any  # what became of the records of the source
    own: Mapping[str, Records]  # the same rows as plain values
    canaries: tuple[Canary, ...]  # of the whole run; empty without an audit
    copies: int  # of each inserted one

    def train(self) -> dict[str, Records]:
        """Training records of each hospital, canaries last: they go round the hospitals one by one."""
        placed = list(self._placed())
        return {
            name: [
                *(row for row in own if row["split"] == "train"),
                *(asdict(record) for where, record in placed if where == name),
            ]
            for name, own in self.own.items()
        }

    def _placed(self) -> Iterator[tuple[str, QARecord]]:
        names = list(self.own)
        inserted = inserted_records(self.canaries) if self.canaries else []
        for number, record in enumerate(inserted):
            for copy in inserted_records([Canary(record, inserted=True)], self.copies):
                yield names[number % len(names)], copy


def run_records(config: FedMedConfig) -> RunRecords:
    """Read, share out and, for an audit, salt the records.

    Raises:
        What loading and splitting raise. EmptyDataError: so few canaries that all or none are inserted.
    """
    settings, federated, audit = config.training.dataset, config.federated, config.privacy.audit
    dataset, loaded = load_with_report(
        settings.name, settings.max_samples, seed=federated.seed, test_fraction=settings.test_fraction,
        hub_split=settings.hub_split, columns=settings.columns or None,
    )  # fmt: skip
    split = create_federated_split(
        dataset, federated.num_clients, federated.split, alpha=federated.dirichlet_alpha, seed=federated.seed
    )
    canaries = make_canaries(audit.canaries, federated.seed) if audit.canaries else ()
    return RunRecords(split, loaded, {name: data.to_list() for name, data in split.items()}, canaries, audit.copies)

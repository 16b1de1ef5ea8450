"""A hospital's half of a round: its records, its model, its ledger; from a plan to what leaves. worker -> HERE.

    plan + global state + kept -> begin -> train -> finish -> clip, noise -> message, or whole numbers to be masked

The same plan, seeds and records give the same bits as ``fedmed run`` in one process with ``training.engine=single``.
The base model is loaded once for its settings and stays; records are read once. What the settings of a run say about
other people's files is left out: the records and the ledger are the hospital's own, and no copy of records is kept.

Not covered: records that change while a worker runs; several runs side by side, which would take turns with the model;
``privacy.hospital`` noise that is solved for, as hospitals would have to agree on it first.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedmed.config.load import config_digest
from fedmed.config.schema import FedMedConfig
from fedmed.data.load_dataset import local_records
from fedmed.errors import ConfigError, EmptyDataError, FederationError, UpdateRejectedError
from fedmed.federated.admission import beside_the_arrays
from fedmed.federated.algorithms import check_combination, get_algorithm
from fedmed.federated.fixed_point import to_fixed
from fedmed.federated.links import Uplink, apart
from fedmed.federated.noise_shares import NoiseShares
from fedmed.privacy.ledger import Ledger
from fedmed.privacy.spending import open_ledgers
from fedmed.types import AdapterState, HospitalState, LocalJob, LocalPlan, LocalResult, LocalTrainer, Payload, RoundPlan


@dataclass(frozen=True, slots=True)
class Sent:
    """What a hospital is about to send, and what it keeps if that is admitted."""

    payload: Payload  # as the coordinator will read it
    kept: HospitalState
    message: bytes = b""  # of the payload, in the clear
    vector: NDArray[np.int64] | None = None  # to be masked


@dataclass(frozen=True)
class _Running:
    """What is made once for a run and used in each of its rounds."""

    key: tuple[str, str]
    trainer: LocalTrainer
    uplink: Uplink
    ledgers: Mapping[str, Ledger]


class HospitalHalf:
    """One hospital's records, model and ledger.

    Args:
        name: the hospital's.
        records: a file or folder with its records; rows whose ``split`` is "test" are not trained on.
        ledgers: the folder of its ledger.
    """

    def __init__(self, name: str, records: Path, ledgers: Path) -> None:
        self._name, self._records, self._ledgers = name, records, ledgers
        self._rows: list[dict[str, str]] | None = None
        self._running: _Running | None = None
        self._digest: tuple[Any, str] | None = None  # a model and its digest

    def train(
        self, asked: FedMedConfig, plan: LocalPlan, global_state: AdapterState, kept: HospitalState,
        cohort: Sequence[str] = (),
    ) -> Sent:  # fmt: skip
        """Train one round and make what leaves of it; the ledger is charged first.

        Args:
            asked: settings of the run, as the coordinator sent them.
            plan: of this hospital and round.
            global_state: to start from.
            kept: the hospital's state, see ``Outbox.kept``.
            cohort: hospitals of a secure sum; empty: in the clear.

        Raises:
            UpdateRejectedError: the update cannot be sent. BudgetError, LedgerError: it may not be. What loading and
            training raise.
        """
        algorithm = get_algorithm(asked.federated)
        own, link = apart(kept)
        job = plan.bound(algorithm.begin(global_state, own, plan))
        running = self.prepare(asked, plan)
        try:
            payload, own = algorithm.finish(job, _only(running.trainer, job), own)
            if not cohort:
                message, payload, link = running.uplink.message(payload, link)
                return Sent(payload, own | link, message)
            payload = running.uplink.hidden(payload)
            vector = _whole_numbers(payload, algorithm.template(global_state, plan), plan, cohort, algorithm.name)
        except BaseException:
            self._running = None  # what failed in the middle is not used again
            raise
        return Sent(replace(payload, arrays={}), own | link, vector=vector)

    def ledger_head(self) -> str | None:
        """Of the run at hand; None: it charges nothing."""
        ledgers = self._running.ledgers if self._running else {}
        return ledgers[self._name].head() if ledgers else None

    def base_digest(self, asked: FedMedConfig) -> str:
        """Of the base model that these settings name; loads it."""
        from fedmed.model.base_digest import base_digest

        model, _ = self._model(asked)
        if self._digest is None or self._digest[0] is not model:
            self._digest = model, base_digest(model)
        return self._digest[1]

    def loaded_digest(self) -> str | None:
        """Of the base model that is in memory; None: none was needed yet."""
        return self._digest[1] if self._digest else None

    def save_adapter(self, asked: FedMedConfig, global_state: AdapterState, kept: HospitalState, folder: Path) -> None:
        """Write the adapter that this hospital ends with, in PEFT's format.

        Raises:
            AdapterMismatchError, OutputNotWritableError, DiskFullError.
        """
        from fedmed.model.adapter import save_adapter

        state = get_algorithm(asked.federated).export(global_state, apart(kept)[0])
        save_adapter(state, folder, self._model(asked)[0])

    def prepare(self, asked: FedMedConfig, plan: LocalPlan) -> _Running:
        """Load what trains in this run, and keep it for its rounds; the first ``train`` does it otherwise."""
        key = plan.run_id, config_digest(asked)
        if self._running is None or self._running.key != key:
            self._running = None  # the old one's memory goes first
            config = _at_home(asked)
            ledgers = open_ledgers(config.privacy, [self._name], self._ledgers)
            left = plan.rounds - plan.round + 1
            noise = None
            if config.privacy.hospital.on:
                fewest = config.federated.min_replies or plan.asked
                noise = NoiseShares(
                    config.privacy.hospital, ledgers, min_replies=fewest, rounds=left, run_id=plan.run_id
                )
            uplink = Uplink(config.privacy, config.federated.wire, noise)
            self._running = _Running(key, self._trainer(config, plan, ledgers, left), uplink, ledgers)
        return self._running

    def _trainer(self, config: FedMedConfig, plan: LocalPlan, ledgers: Mapping[str, Ledger], left: int) -> LocalTrainer:
        from fedmed.pipeline.scoring import encode
        from fedmed.training.plain import use_threads
        from fedmed.training.trainer import make_trainer

        use_threads(config.training)
        model, tokenizer = self._model(config)
        records = self._train_records()
        rows = encode(tokenizer, records, config)
        if not rows:
            raise EmptyDataError(f"all {len(records)} training records are over-long", "raise model.max_length")
        groups = {self._name: [record["group"] for record in records]}
        return make_trainer(
            model, {self._name: rows}, config, groups=groups, ledgers=ledgers, rounds_left=left, run_id=plan.run_id
        )

    def _model(self, config: FedMedConfig) -> tuple[Any, Any]:
        from fedmed.model.load_model import shared_model

        return shared_model(config.model, config.federated.seed)

    def _train_records(self) -> list[dict[str, str]]:
        if self._rows is None:
            rows = [asdict(record) for record in local_records(self._records) if record.split != "test"]
            if not rows:
                raise EmptyDataError("this hospital has no training records", "give the folder that holds them")
            self._rows = rows
        return self._rows


def unfit_settings(asked: FedMedConfig, plan: LocalPlan) -> Iterator[str]:
    """Why no hospital can do what is asked, whatever its policy says."""
    try:
        check_combination(asked)
    except ConfigError as error:
        yield from error.problems
    if plan.seed != asked.federated.seed or plan.rounds != asked.federated.rounds:
        yield "the plan has another seed or number of rounds than the settings"
    if asked.privacy.example.noise_seed is not None:
        yield "privacy.example.noise_seed is for tests: anybody can subtract such noise"
    if asked.privacy.hospital.on and asked.privacy.hospital.noise_multiplier is None:
        yield "privacy.hospital.noise_multiplier must be set on a network: hospitals do not know each other's ledgers"


def _at_home(asked: FedMedConfig) -> FedMedConfig:
    """The settings without what they say of files: those of the coordinator's machine are none of a hospital's."""
    dataset = asked.training.dataset.model_copy(update={"token_cache": False})
    return asked.model_copy(
        update={
            "training": asked.training.model_copy(update={"dataset": dataset}),
            "privacy": asked.privacy.model_copy(update={"ledgers": None}),
        }
    )


def _only(trainer: LocalTrainer, job: LocalJob) -> LocalResult:
    results = trainer.run([job])
    try:
        (result,) = results
    finally:  # a folded base is let go whatever happens
        if isinstance(results, Generator):
            results.close()
    if result.hospital != job.hospital or result.round != job.round:
        raise FederationError("the trainer returned a result that nobody asked for")
    return result


def _whole_numbers(
    payload: Payload, shapes: Mapping[str, tuple[int, ...]], plan: LocalPlan, cohort: Sequence[str], algorithm: str
) -> NDArray[np.int64]:
    """What goes under masks; the coordinator cannot look at it, so its checks are made here, as in ``MaskedRound``."""
    around = RoundPlan(plan.run_id, plan.round, plan.rounds, tuple(cohort), 1, plan.seed)
    reason = beside_the_arrays(payload, around, algorithm, ())
    if reason is not None:
        raise UpdateRejectedError(f"the update is kept back: {reason}")
    if {name: array.shape for name, array in payload.arrays.items()} != dict(shapes):
        raise UpdateRejectedError("the update has other arrays than were asked for")
    return np.concatenate(
        [to_fixed(name, payload.arrays[name]).ravel() * payload.num_samples for name in sorted(shapes)]
    )

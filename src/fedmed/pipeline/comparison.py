"""The references beside a federated run: each hospital alone, all records in one place, and a shuffled control.

Every reference starts from the same adapter, sees the same number of tokens and is scored on the same records.
The control trains on answers that belong to other questions: what it gains is format, not knowledge.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fedmed.config.schema import FedMedConfig
from fedmed.data.encode import EncodedRow
from fedmed.federated.algorithms import get_algorithm
from fedmed.federated.runner import AllOrSampled, FederationState, run_rounds
from fedmed.federated.simulation import SimulationTransport
from fedmed.pipeline.scoring import Records, Scorer, encode
from fedmed.training.central import train_central
from fedmed.training.local_train import OnStep, PeftLocalTrainer
from fedmed.types import AdapterState
from fedmed.utils.random_streams import stream

REFERENCES = ("local", "central", "shuffled")


def shuffle_answers(records: Records, *, seed: int, hospital: str) -> list[dict[str, str]]:
    """The same questions and the same answers, paired at random among records of one kind."""
    shuffled = [dict(row) for row in records]
    for kind in sorted({row["kind"] for row in records}):
        places = [index for index, row in enumerate(records) if row["kind"] == kind]
        for place, other in zip(places, stream(seed, hospital, "shuffle", kind).permutation(places), strict=True):
            shuffled[place]["answer"] = records[other]["answer"]
    return shuffled


class References:
    """Trains and scores the references of one run."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        start: AdapterState,
        train: Mapping[str, Records],
        scorer: Scorer,
        config: FedMedConfig,
        on_step: OnStep | None = None,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.start = start
        self.train = train
        self.scorer = scorer
        self.config = config
        self.on_step = on_step

    def run(self, name: str) -> dict[str, Any]:
        """Train and score one reference: ``{"loss", "per_hospital"}``."""
        recipes: dict[str, Callable[[], dict[str, Any]]] = {
            "local": self._local,
            "central": self._central,
            "shuffled": self._shuffled,
        }
        return recipes[name]()

    def _rows(self, records: Mapping[str, Records]) -> dict[str, list[EncodedRow]]:
        return {name: encode(self.tokenizer, rows, self.config) for name, rows in records.items()}

    def _federate(self, rows: Mapping[str, Sequence[EncodedRow]], hospitals: Sequence[str]) -> AdapterState:
        federated = self.config.federated
        trainer = PeftLocalTrainer(self.model, rows, self.config.training, self.on_step)
        everyone = len(hospitals) == federated.num_clients
        policy = AllOrSampled(
            run_id="reference",
            hospitals=tuple(hospitals),
            rounds=federated.rounds,
            seed=federated.seed,
            hospitals_per_round=federated.hospitals_per_round if everyone else None,
            min_replies=federated.min_replies if everyone else None,
        )
        final = run_rounds(
            FederationState(round=0, global_state=self.start),
            algorithm=get_algorithm(federated),
            transport=SimulationTransport(trainer, {}, self.config.privacy),
            policy=policy,
            rounds=federated.rounds,
            on_round=lambda state, report: None,
        )
        return final.global_state

    def _local(self) -> dict[str, Any]:
        """Each hospital alone, for as many rounds and steps; judged on its own records, weighted as the others are."""
        rows = self._rows(self.train)
        per_hospital: dict[str, float] = {}
        nll = tokens = 0.0
        for name in rows:
            if not self.scorer.held_out[name]:
                continue
            scores = self.scorer.loss(self._federate(rows, [name]), [name])
            per_hospital |= scores.per_hospital
            nll += sum(scores.nll)
            tokens += sum(scores.tokens)
        return {"loss": nll / tokens, "per_hospital": per_hospital}

    def _central(self) -> dict[str, Any]:
        federated = self.config.federated
        state = train_central(
            self.model, self._rows(self.train), self.config.training,
            start=self.start, rounds=federated.rounds, seed=federated.seed,
        )  # fmt: skip
        return self._scored(state)

    def _shuffled(self) -> dict[str, Any]:
        seed = self.config.federated.seed
        records = {name: shuffle_answers(rows, seed=seed, hospital=name) for name, rows in self.train.items()}
        return self._scored(self._federate(self._rows(records), list(records)))

    def _scored(self, state: AdapterState) -> dict[str, Any]:
        scores = self.scorer.loss(state)
        return {"loss": scores.loss, "per_hospital": scores.per_hospital}

"""The references beside a federated run: each hospital alone, all records in one place, and a shuffled control.

Every reference starts from the same adapter and is scored on the same records. Central and the control see the rows
that the federation sees; a hospital alone sees its own, in every round.
The control trains on answers that belong to other questions: what it gains is format, and which answers are frequent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fedmed.config.schema import FedMedConfig
from fedmed.data.encode import EncodedRow
from fedmed.errors import ConfigError
from fedmed.federated.algorithms import get_algorithm
from fedmed.federated.runner import AllOrSampled, FederationState, adapters_of, run_rounds
from fedmed.federated.simulation import SimulationTransport
from fedmed.pipeline.scoring import Records, Scorer, Scores, encode
from fedmed.training.central import train_central
from fedmed.training.engine import EngineTrainer
from fedmed.training.steps import steps_per_round
from fedmed.types import AdapterState
from fedmed.utils.random_streams import stream

REFERENCES = ("local", "central", "shuffled")


def check_compare(config: FedMedConfig, compare: Sequence[str], asked_by: str = "--compare") -> None:
    """Refuse references where noise or masks hide the records: training on them without would undo that.

    Raises:
        ConfigError: so it is, and ``compare`` names a reference.
    """
    if compare and (config.privacy.noised or config.privacy.secure_sum):
        raise ConfigError(
            [
                f"{asked_by} trains references on the same records without noise and masks, which privacy.example,"
                " privacy.hospital and privacy.secure_sum are there to prevent"
            ],
            f"leave {asked_by} out, or compare in a run with both epsilons null and secure_sum false",
        )


def shuffle_answers(records: Records, *, seed: int, hospital: str) -> list[dict[str, str]]:
    """The same questions and the same answers; each gets the answer of another record of its kind, at random.

    A record that is alone in its kind keeps its answer.
    """
    shuffled = [dict(row) for row in records]
    for kind in sorted({row["kind"] for row in records}):
        places = [index for index, row in enumerate(records) if row["kind"] == kind]
        circle = stream(seed, hospital, "shuffle", kind).permutation(places).tolist()
        for place, other in zip(circle, [*circle[1:], circle[0]], strict=True):
            shuffled[place]["answer"] = records[other]["answer"]
    return shuffled


class References:
    """Trains and scores the references of one run.

    Args:
        model, tokenizer: the base with an adapter, which is overwritten.
        start: LoRA's own start, of the central reference.
        fresh: the federation before its first round, of the other two, which train by the run's own algorithm.
        train: training records; rows: the same as token rows.
        scorer: of the run. config: of the run.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        start: AdapterState,
        fresh: FederationState,
        train: Mapping[str, Records],
        rows: Mapping[str, Sequence[EncodedRow]],
        scorer: Scorer,
        config: FedMedConfig,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.start = start
        self.fresh = fresh
        self.train = train
        self.rows = rows
        self.scorer = scorer
        self.config = config
        self._advance: Callable[[], None] = lambda: None

    def steps(self, name: str) -> int:
        """Optimiser steps that ``run`` takes; an estimate where only some hospitals take part in a round."""
        own = [steps_per_round(len(rows), self.config.training) for rows in self.rows.values()]
        return self.config.federated.rounds * (max(own) if name == "central" else sum(own))

    def run(self, name: str, advance: Callable[[], None] = lambda: None) -> dict[str, Any]:
        """Train and score one reference: ``{"loss", "per_hospital"}``; ``advance`` is called after each step."""
        self._advance = advance
        recipes: dict[str, Callable[[], dict[str, Any]]] = {
            "local": self._local,
            "central": self._central,
            "shuffled": self._shuffled,
        }
        return recipes[name]()

    def alone(self, hospital: str, advance: Callable[[], None] = lambda: None) -> AdapterState:
        """The adapter that a hospital gets alone, by the run's method, in as many rounds and steps."""
        self._advance = advance
        return self._federate(self.rows, [hospital])[hospital]

    def _policy(self, hospitals: Sequence[str]) -> AllOrSampled:
        federated = self.config.federated
        everyone = len(hospitals) == federated.num_clients
        return AllOrSampled(
            run_id="reference",
            hospitals=tuple(hospitals),
            rounds=federated.rounds,
            seed=federated.seed,
            hospitals_per_round=federated.hospitals_per_round if everyone else None,
            min_replies=federated.min_replies if everyone else None,
            ranks=dict(zip(self.rows, federated.ranks or (), strict=False)),
            tolerate=federated.tolerate if federated.robust else 0,
        )

    def _federate(self, rows: Mapping[str, Sequence[EncodedRow]], hospitals: Sequence[str]) -> dict[str, AdapterState]:
        """Each hospital's adapter; the same for all where the method is not personal."""
        federated = self.config.federated
        if len(hospitals) == 1:  # no rule can judge one hospital by the others
            federated = federated.model_copy(update={"robust": None})
        trainer = EngineTrainer(self.model, rows, self.config.training, lambda *step: self._advance())
        algorithm = get_algorithm(federated)
        final = run_rounds(
            self.fresh,
            algorithm=algorithm,
            transport=SimulationTransport(trainer, {}, self.config.privacy),
            policy=self._policy(hospitals),
            rounds=federated.rounds,
            on_round=lambda state, report: None,
        )
        return adapters_of(algorithm, final, hospitals)

    def _local(self) -> dict[str, Any]:
        """Each hospital alone, for as many rounds and steps; judged on its own records, weighted as the others are."""
        per_hospital: dict[str, float] = {}
        nll = tokens = 0.0
        for name in self.rows:
            if not self.scorer.held_out[name]:
                continue
            scores = self.scorer.loss(self.alone(name, self._advance), [name])
            per_hospital |= scores.per_hospital
            nll += sum(scores.nll)
            tokens += sum(scores.tokens)
        return {"loss": nll / tokens, "per_hospital": per_hospital or None}

    def _central(self) -> dict[str, Any]:
        policy = self._policy(list(self.rows))
        plans = [policy.plan(number, ()) for number in range(1, policy.rounds + 1)]
        state = train_central(
            self.model, self.rows, self.config.training, start=self.start, seed=policy.seed,
            hospitals=[plan.hospitals for plan in plans if plan], on_step=lambda *step: self._advance(),
        )  # fmt: skip
        return _figures(self.scorer.loss(state))

    def _shuffled(self) -> dict[str, Any]:
        seed = self.config.federated.seed
        records = {name: shuffle_answers(rows, seed=seed, hospital=name) for name, rows in self.train.items()}
        rows = {name: encode(self.tokenizer, own, self.config) for name, own in records.items()}
        adapters = self._federate(rows, list(rows))
        if get_algorithm(self.config.federated).traits.personal:
            return _figures(self.scorer.loss_of_each(adapters))
        return _figures(self.scorer.loss(next(iter(adapters.values()))))


def _figures(scores: Scores) -> dict[str, Any]:
    return {"loss": scores.loss, "per_hospital": scores.per_hospital or None}

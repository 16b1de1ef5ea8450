"""The frozen records and protocols that cross rooms. Knows numpy only, so a coordinator needs no torch.

Shapes: r = LoRA rank, d_in / d_out = width of the adapted layer's input / output.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

AdapterState: TypeAlias = dict[str, NDArray[np.float32]]
"""PEFT's own key names -> float32 array; ``…lora_A.weight [r, d_in]``, ``…lora_B.weight [d_out, r]``."""

HospitalState: TypeAlias = dict[str, NDArray[Any]]
"""What an algorithm keeps at one hospital between rounds; empty for FedAvg."""


@dataclass(frozen=True, slots=True)
class QARecord:
    """One question with its answer. The columns of every dataset in FED-MED are these fields, in this order."""

    id: str
    question: str
    answer: str
    kind: str = "qa"  # which question was asked of the source: definition, lay_name, term, qa …
    specialty: str = "general"
    source: str = ""
    group: str = ""  # records of one group (an ontology term, a note) never cross the train/test line
    split: str = "train"  # train | test


@dataclass(frozen=True, slots=True)
class LocalPlan:
    """What the coordinator asks of one hospital in one round: data only, never code."""

    run_id: str
    round: int  # 1-based
    rounds: int
    hospital: str
    seed: int


@dataclass(frozen=True, slots=True)
class RoundPlan:
    """One round for the whole consortium."""

    run_id: str
    round: int
    rounds: int
    hospitals: tuple[str, ...]
    min_replies: int
    seed: int

    def for_hospital(self, name: str) -> LocalPlan:
        return LocalPlan(self.run_id, self.round, self.rounds, name, self.seed)


@dataclass(frozen=True, slots=True)
class LocalJob:
    """What an algorithm wants trained at one hospital."""

    hospital: str
    round: int
    rounds: int
    seed: int
    start: AdapterState
    trainable: tuple[str, ...] | None = None  # keys that move; None: all of ``start``
    proximal_mu: float = 0.0  # FedProx: loss += mu/2 * ||w - start||^2


@dataclass(frozen=True, slots=True)
class TrainMetrics:
    """Counts and losses of one local training. Losses are nats per answer token."""

    loss: float  # mean over the steps
    step_losses: tuple[float, ...]
    tokens: int  # prompt and answer
    answer_tokens: int
    steps: int
    seconds: float


@dataclass(frozen=True, slots=True)
class LocalResult:
    hospital: str
    round: int
    state: AdapterState
    num_samples: int  # training records the hospital holds: FedAvg's weight
    metrics: TrainMetrics


@dataclass(frozen=True, slots=True)
class Payload:
    """What leaves a hospital in one round, all of it."""

    hospital: str
    round: int
    algorithm: str
    arrays: AdapterState
    num_samples: int
    metrics: TrainMetrics | None = None  # None where the hospital does not share losses


@dataclass(frozen=True, slots=True)
class RoundReport:
    """What one aggregation did, for people and logs."""

    round: int
    admitted: tuple[str, ...]
    refused: Mapping[str, str] = field(default_factory=dict)  # hospital -> reason
    update_norm: float = 0.0  # L2 of the change of the global adapter
    bytes_up: int = 0
    bytes_down: int = 0
    num_samples: Mapping[str, int] = field(default_factory=dict)  # admitted hospital -> its weight
    metrics: Mapping[str, TrainMetrics] = field(default_factory=dict)  # admitted hospitals that share theirs


@dataclass(frozen=True, slots=True)
class Traits:
    """What an algorithm is, declared once and tested by the shared suite."""

    kind: Literal["stream", "gather"]  # stream: a weighted sum, constant memory; gather: needs every payload
    exact: bool = False  # the global adapter's BA is the weighted mean of the hospitals' BA
    personal: bool = False  # some part of the adapter stays at the hospital
    mixed_ranks: bool = False


class Algorithm(Protocol):
    """Both halves of a federated method in one object; see ARCHITECTURE.md, 'One contract'."""

    name: str
    traits: Traits

    def begin(self, global_state: AdapterState, hospital_state: HospitalState, plan: LocalPlan) -> LocalJob: ...
    def finish(
        self, job: LocalJob, result: LocalResult, hospital_state: HospitalState
    ) -> tuple[Payload, HospitalState]: ...
    def init(self, global_state: AdapterState) -> Any: ...
    def add(self, acc: Any, payload: Payload, weight: int) -> Any: ...
    def close(self, global_state: AdapterState, acc: Any) -> tuple[AdapterState, RoundReport]: ...


class LocalTrainer(Protocol):
    """Turns jobs into results: one at a time on a network, many at once in a simulation."""

    def run(self, jobs: Sequence[LocalJob]) -> Iterator[LocalResult]: ...


@dataclass(frozen=True, slots=True)
class Answer:
    """What a person gets to see for one question; the JSON of ``fedmed ask --json``."""

    answer: str
    allowed: bool
    reasons: tuple[str, ...]
    confidence: float | None  # in [0, 1]; None when nothing was generated
    disclaimer: str
    model: str
    run: str | None

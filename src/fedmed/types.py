"""The frozen records and protocols that cross rooms. Knows numpy only, so a coordinator needs no torch.

Shapes: r = LoRA rank, d_in / d_out = width of the adapted layer's input / output.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

AdapterState: TypeAlias = dict[str, NDArray[np.float32]]
"""PEFT's own key names -> float32 array; ``…lora_A.weight [r, d_in]``, ``…lora_B.weight [d_out, r]``."""

HospitalState: TypeAlias = dict[str, NDArray[Any]]
"""What an algorithm keeps at one hospital between rounds; empty for FedAvg."""

ServerState: TypeAlias = dict[str, NDArray[Any]]
"""What an algorithm keeps at the server between rounds, momentum for example; empty for FedAvg."""

Shapes: TypeAlias = Mapping[str, tuple[int, ...]]
"""Array name -> shape: what a payload must look like."""

CORE = ".lora_core.weight"
"""Ends the key of a square matrix ``[r, r]`` between B and A: the layer's change is then ``B @ core @ A``."""

FOLDED = "folded."
"""Begins the keys of a global state that hold what is folded into the frozen base: ``folded.<PEFT key>``."""


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
    asked: int = field(default=1, kw_only=True)  # hospitals asked this round, this one among them
    rank: int | None = field(default=None, kw_only=True)  # this hospital's LoRA rank; None: the shared adapter's
    ranks: tuple[int, ...] = field(default=(), kw_only=True)  # of all that are asked; empty: the shared adapter's
    steps: int | None = field(default=None, kw_only=True)  # at most so many optimiser steps; None: as the settings say
    rate_scale: float = field(default=1.0, kw_only=True)  # times the learning rate of the settings; 1 at most

    def bound(self, job: LocalJob) -> LocalJob:
        """The job with this plan's bounds on steps and learning rate; algorithms need not know of them."""
        if self.steps is None and self.rate_scale == 1.0:
            return job
        return replace(job, steps=self.steps, rate_scale=self.rate_scale)


@dataclass(frozen=True, slots=True)
class RoundPlan:
    """One round for the whole consortium."""

    run_id: str
    round: int
    rounds: int
    hospitals: tuple[str, ...]
    min_replies: int
    seed: int
    ranks: Mapping[str, int] = field(default_factory=dict, kw_only=True)  # hospital -> rank; absent: the adapter's
    steps: Mapping[str, int] = field(default_factory=dict, kw_only=True)  # hospital -> most steps; absent: no bound
    rate_scale: float = field(default=1.0, kw_only=True)  # times the learning rate of the settings; 1 at most
    deadline_s: float | None = field(default=None, kw_only=True)  # a reply that trained longer is late; None: none is

    def for_hospital(self, name: str) -> LocalPlan:
        return LocalPlan(
            self.run_id,
            self.round,
            self.rounds,
            name,
            self.seed,
            asked=len(self.hospitals),
            rank=self.ranks.get(name),
            ranks=tuple(self.ranks[hospital] for hospital in self.hospitals if hospital in self.ranks),
            steps=self.steps.get(name),
            rate_scale=self.rate_scale,
        )


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
    folded: AdapterState = field(default_factory=dict, kw_only=True)  # B A of these keys is part of the frozen base
    total_rank: int = field(default=0, kw_only=True)  # the most that the mean product of all asked can have; 0: unused
    steps: int | None = field(default=None, kw_only=True)  # as in ``LocalPlan``; none under privacy noise
    rate_scale: float = field(default=1.0, kw_only=True)


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
    message_bytes: int = field(default=0, kw_only=True)  # length of the message it came in; 0: it was never encoded


@dataclass(frozen=True, slots=True)
class SummedPayload:
    """A round's replies where nobody may see one of them: their sum, and whose are in it."""

    round: int
    algorithm: str
    sums: dict[str, NDArray[np.int64]]  # of ``fixed_point``'s integers, each times its hospital's weight
    num_samples: Mapping[str, int]  # hospital -> weight
    metrics: Mapping[str, TrainMetrics]  # of hospitals that share theirs
    bytes_up: int
    bytes_down: int  # of the protocol; the global state travels apart


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
    suspected: Mapping[str, str] = field(default_factory=dict)  # hospital -> why, whether it was left out or not
    norms: Mapping[str, float] = field(default_factory=dict)  # admitted hospital -> L2 of what it sent, if seen
    digests: Mapping[str, str] = field(default_factory=dict)  # admitted hospital -> digest of what it sent, if seen
    lost_energy: float | None = None  # share of the mean's squared norm that the shared rank cannot hold
    silent: tuple[str, ...] = ()  # asked, and no reply came; they are in ``refused`` too
    unusable: tuple[str, ...] = ()  # asked, and not admitted; they are in ``refused`` too
    weights: Mapping[str, int] = field(default_factory=dict)  # admitted hospital -> weight, where an overseer set them
    rolled_back: str | None = None  # why the global state is as before, and ``admitted`` empty; None: it moved


@dataclass(frozen=True, slots=True)
class Traits:
    """What an algorithm is, declared once and tested by the shared suite."""

    kind: Literal["stream", "gather"]  # stream: a weighted sum, constant memory; gather: needs every payload
    exact: bool = False  # at equal ranks, the exported BA is the weighted mean of the hospitals' BA
    personal: bool = False  # some part of the adapter stays at the hospital
    mixed_ranks: bool = False  # hospitals may train with ranks of their own
    linear: bool = False  # a payload is a change of the global arrays: encodings and robust rules apply to it
    folds: bool = False  # what the shared rank cannot hold goes into the base; the exported adapter has a larger rank


class Algorithm(Protocol):
    """Both halves of a federated method in one object; see ARCHITECTURE.md, 'One contract'."""

    name: str

    @property
    def traits(self) -> Traits: ...
    def start(self, adapter: AdapterState) -> tuple[AdapterState, ServerState]:
        """The global and the server's state before the first round, from a standard adapter."""
        ...

    def begin(self, global_state: AdapterState, hospital_state: HospitalState, plan: LocalPlan) -> LocalJob: ...
    def finish(
        self, job: LocalJob, result: LocalResult, hospital_state: HospitalState
    ) -> tuple[Payload, HospitalState]: ...
    def template(self, global_state: AdapterState, plan: LocalPlan) -> Shapes:
        """What the payload of this plan's hospital must look like."""
        ...

    def init(self, global_state: AdapterState, plan: RoundPlan) -> Any: ...
    def add(self, acc: Any, payload: Payload, weight: int) -> Any: ...
    def add_sum(self, acc: Any, summed: SummedPayload) -> Any:
        """Take in a sum that was made under masks. Raises FederationError where every payload is needed."""
        ...

    def close(
        self, global_state: AdapterState, server_state: ServerState, acc: Any, refused: int = 0
    ) -> tuple[AdapterState, ServerState, RoundReport]:
        """The next state; ``refused``: hospitals whose replies were not admitted, fewer for a robust rule to bear."""
        ...

    def export(self, global_state: AdapterState, hospital_state: HospitalState) -> AdapterState:
        """A standard adapter that is complete by itself, perhaps of a larger rank; a hospital's own where personal."""
        ...


class LocalTrainer(Protocol):
    """Turns jobs into results: one at a time on a network, many at once in a simulation."""

    def run(self, jobs: Sequence[LocalJob]) -> Iterator[LocalResult]: ...


@dataclass(frozen=True, slots=True)
class Answer:
    """What a person gets to see for one question; its first seven fields are the JSON of ``fedmed ask --json``."""

    answer: str
    allowed: bool
    reasons: tuple[str, ...]
    confidence: float | None  # in [0, 1]; None when nothing was generated
    disclaimer: str
    model: str
    run: str | None
    raw_confidence: float | None = None  # before the cap
    calibrated: bool = False  # whether confidence is a chance measured on held-out answers
    action: str = "allow"  # the gravest that a rail asked for
    cut_off: bool = False  # the model was stopped at the length limit
    prompt_tokens: int = 0  # that the model read; 0 where none was asked
    answer_tokens: int = 0  # that the model wrote, shown or not

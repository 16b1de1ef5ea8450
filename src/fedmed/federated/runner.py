"""Run rounds: everything with a side effect meets here, each behind a protocol. pipeline -> HERE -> server.

The server's step is pure (``apply_round``); who takes part is a ``RoundPolicy``'s choice, how replies arrive is a
``Transport``'s, and what is written to disk is ``on_round``'s.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from fedmed.errors import FederationError
from fedmed.federated.links import Downlink, apart
from fedmed.federated.server import apply_round
from fedmed.federated.weighing import Outcome, Weighed
from fedmed.types import (
    AdapterState,
    Algorithm,
    HospitalState,
    Payload,
    RoundPlan,
    RoundReport,
    ServerState,
    SummedPayload,
)
from fedmed.utils.random_streams import stream


@dataclass(frozen=True, slots=True)
class FederationState:
    """A whole federation between two rounds: what a checkpoint holds and a resumed run starts from."""

    round: int  # rounds applied so far; 0 before the first
    global_state: AdapterState
    hospital_states: Mapping[str, HospitalState] = field(default_factory=dict)  # only those that are not empty
    history: tuple[RoundReport, ...] = ()  # one a round, oldest first
    server_state: ServerState = field(default_factory=dict)  # what the algorithm keeps at the server
    held: AdapterState | None = None  # the global state as hospitals have it; None: as it is
    ledger_heads: Mapping[str, str] = field(default_factory=dict)  # hospital -> head of its ledger, never a ledger


def adapters_of(algorithm: Algorithm, state: FederationState, hospitals: Iterable[str]) -> dict[str, AdapterState]:
    """Each hospital's complete adapter; one and the same object for all where the method is not personal."""
    if not algorithm.traits.personal:
        return dict.fromkeys(hospitals, algorithm.export(state.global_state, {}))
    return {
        name: algorithm.export(state.global_state, apart(state.hospital_states.get(name, {}))[0]) for name in hospitals
    }


class Transport(Protocol):
    """Takes a plan to the hospitals and brings their replies, in process or over a network."""

    def exchange(
        self, plan: RoundPlan, global_state: AdapterState, algorithm: Algorithm
    ) -> Iterator[Payload] | SummedPayload:
        """Yield replies as they come, or return their sum under masks; a hospital that does not reply is absent."""
        ...

    def commit(self, report: RoundReport) -> Mapping[str, HospitalState]:
        """Learn that the round was applied; return the hospital states that a checkpoint must hold.

        In process these are all of them; on a network hospitals keep their own and the mapping is empty.
        """
        ...


class RoundPolicy(Protocol):
    """Decides who takes part in a round."""

    def plan(self, round: int, history: Sequence[RoundReport]) -> RoundPlan | None:
        """The plan of a round (1-based), or None to stop before it."""
        ...


class Overseer(Protocol):
    """Looks at what a round's updates do, before and after they are summed."""

    @property
    def weighs(self) -> bool:
        """Whether it looks at updates; else they are summed as they come, by records, and only the result is shown."""
        ...

    def weigh(self, plan: RoundPlan, before: AdapterState, outcome: Outcome) -> Weighed:
        """What the admitted updates count for. Not asked where a sum was made under masks.

        Args:
            plan: of the round.
            before: the global state that hospitals started from.
            outcome: tries weights.
        """
        ...

    def undoes(self, plan: RoundPlan, before: AdapterState, after: AdapterState, report: RoundReport) -> str | None:
        """Why the round is undone, or None: its result stands."""
        ...


@dataclass(frozen=True, slots=True)
class AllOrSampled:
    """All hospitals each round, or a sample without replacement that depends on (seed, round) alone."""

    hospitals: tuple[str, ...]
    rounds: int
    seed: int
    run_id: str = ""
    hospitals_per_round: int | None = None  # None: all
    min_replies: int | None = None  # None: all that were asked, less those that a robust rule may leave out
    ranks: Mapping[str, int] = field(default_factory=dict)  # hospital -> LoRA rank; absent: the adapter's
    tolerate: int = 0  # hostile hospitals that a robust rule bears

    def plan(self, round: int, history: Sequence[RoundReport] = ()) -> RoundPlan:
        """Never stops early; the sample keeps the order of ``hospitals``."""
        asked = self.hospitals
        if self.hospitals_per_round is not None and self.hospitals_per_round < len(asked):
            drawn = stream(self.seed, "hospitals", round).choice(len(asked), self.hospitals_per_round, replace=False)
            asked = tuple(asked[index] for index in sorted(drawn))
        min_replies = max(1, len(asked) - self.tolerate) if self.min_replies is None else self.min_replies
        return RoundPlan(self.run_id, round, self.rounds, asked, min_replies, self.seed, ranks=self.ranks)


def run_rounds(
    start: FederationState,
    *,
    algorithm: Algorithm,
    transport: Transport,
    policy: RoundPolicy,
    rounds: int,
    on_round: Callable[[FederationState, RoundReport], None],
    downlink: Downlink | None = None,
    max_norm: float | None = None,
    overseer: Overseer | None = None,
) -> FederationState:
    """Run the rounds after ``start.round`` up to ``rounds``, or until the policy stops.

    Args:
        start: a fresh state, or one that ``load_latest`` gave.
        algorithm: the federated method, the same on both sides.
        transport: reaches the hospitals.
        policy: plans each round from the history so far.
        rounds: number of the last round.
        downlink: how the global state travels; None: whole, in float32.
        max_norm: replies with a larger L2 norm are refused; None: no limit.
        overseer: weighs updates and undoes rounds; None: every update counts as many as its records, and stays.
        on_round: called after each applied round, for example to write a checkpoint; what it raises ends the run.

    Returns:
        The state after the last applied round.

    Raises:
        QuorumError: a round had too few usable replies; the last state given to ``on_round`` still holds.
        FederationError: the policy planned another round than it was asked for, or one without hospitals.
    """
    downlink = downlink or Downlink()
    state = start
    for number in range(start.round + 1, rounds + 1):
        plan = policy.plan(number, state.history)
        if plan is None:
            break
        if plan.round != number or not plan.hospitals:
            raise FederationError(
                f"the plan for round {number} is for round {plan.round} with {plan.hospitals or 'nobody'}"
            )
        held, bytes_down = downlink.send(state.global_state, state.held, state.history, plan, algorithm.name)
        payloads = transport.exchange(plan, held, algorithm)
        try:
            global_state, server_state, report = apply_round(
                state.global_state, state.server_state, algorithm, plan, payloads,
                history=state.history, max_norm=max_norm,
                weigh=functools.partial(overseer.weigh, plan, state.global_state)
                if overseer and overseer.weighs
                else None,
            )  # fmt: skip
        finally:  # what a transport or a trainer holds for the length of a round goes now, also after an error
            if isinstance(payloads, Generator):
                payloads.close()
        report = replace(report, bytes_down=report.bytes_down + bytes_down)
        if overseer and (why := overseer.undoes(plan, state.global_state, global_state, report)):
            global_state, server_state, report = state.global_state, state.server_state, undone(report, why)
        hospital_states = transport.commit(report)
        history = (*state.history, report)
        state = FederationState(number, global_state, hospital_states, history, server_state, held)
        on_round(state, report)
    return state


def undone(report: RoundReport, why: str) -> RoundReport:
    """The report of a round whose result was taken back: it was held, and moved nothing."""
    refused = {**report.refused, **dict.fromkeys(report.admitted, f"round {report.round} was rolled back: {why}")}
    return replace(
        report, admitted=(), refused={name: refused[name] for name in sorted(refused)}, update_norm=0.0,
        rolled_back=why,
    )  # fmt: skip

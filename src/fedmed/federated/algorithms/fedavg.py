"""FedAvg: the new global adapter is the mean of the hospitals' adapters, weighted by their training records.

Source: McMahan et al. 2017, arXiv:1602.05629. Here a hospital sends its change of the adapter, not the adapter: the
mean is the same, and a change is what a norm bound is about.
Mixed ranks: a hospital of a smaller rank trains the first rows of A and columns of B, and each row and column is the
mean over those who trained it (nested as in HeteroFL, Diao et al. 2021, arXiv:2010.01264; filling up with zeros, as
HetLoRA does, would shrink them: Cho et al. 2024, arXiv:2401.06432).

This is also the base of every method whose payload is a change of some arrays of the global state: which arrays
(``sent``), and what the server does with their mean (``step``), is all that those differ in.

Not covered: averaging A and B apart is not averaging the product BA (``Traits.exact`` is False).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from fedmed.config.schema import FederatedSection
from fedmed.errors import AdapterMismatchError, FederationError, UpdateRejectedError
from fedmed.federated.lora_products import A, B, check_finite, prefix
from fedmed.federated.means import Combiner, Mean, RobustMean, RunningMean
from fedmed.types import (
    AdapterState,
    HospitalState,
    LocalJob,
    LocalPlan,
    LocalResult,
    Payload,
    RoundPlan,
    RoundReport,
    ServerState,
    Shapes,
    SummedPayload,
    Traits,
)


@dataclass(slots=True)
class Round:
    """What the server keeps while payloads come in."""

    plan: RoundPlan
    combiner: Combiner
    weights: dict[str, int]  # hospital -> weight


class FedAvg:
    """Both halves of FedAvg. It keeps nothing at the hospital and nothing at the server between rounds.

    Args:
        robust: name of a rule in ``federated.robust`` to use in place of the mean; None: the mean.
        tolerate: how many hostile hospitals that rule must bear.
    """

    name: str = "fedavg"
    base_traits: Traits = Traits(kind="stream", mixed_ranks=True, linear=True)

    def __init__(self, *, robust: str | None = None, tolerate: int = 1) -> None:
        self.robust = robust
        self.tolerate = tolerate

    @classmethod
    def from_config(cls, config: FederatedSection) -> FedAvg:
        """Reads ``federated.robust`` and ``federated.tolerate``."""
        return cls(robust=config.robust, tolerate=config.tolerate)

    @property
    def traits(self) -> Traits:
        """A robust rule needs every payload, takes no part of an adapter for the whole, and is no mean."""
        if self.robust is None:
            return self.base_traits
        return replace(self.base_traits, kind="gather", exact=False, mixed_ranks=False)

    def sent(self, global_state: AdapterState, round: int) -> Sequence[str]:
        """Which arrays a hospital sends in a round, sorted."""
        return sorted(global_state)

    def trained(self, global_state: AdapterState, round: int) -> Sequence[str]:
        """Which arrays a hospital trains in a round: those it sends."""
        return self.sent(global_state, round)

    def step(self, mean: Mean, server_state: ServerState) -> tuple[Mean, ServerState]:
        """What the server adds to the global state, given the mean change: the mean itself."""
        return mean, server_state

    def start(self, adapter: AdapterState) -> tuple[AdapterState, ServerState]:
        """The adapter as it is."""
        return adapter, {}

    def begin(self, global_state: AdapterState, hospital_state: HospitalState, plan: LocalPlan) -> LocalJob:
        """Train from the global adapter, or from its nested part where the hospital has a rank of its own."""
        trained = self.trained(global_state, plan.round)
        return LocalJob(
            plan.hospital,
            plan.round,
            plan.rounds,
            plan.seed,
            start=prefix(global_state, plan.rank),
            trainable=None if len(trained) == len(global_state) else tuple(trained),
        )

    def finish(
        self, job: LocalJob, result: LocalResult, hospital_state: HospitalState
    ) -> tuple[Payload, HospitalState]:
        """Send the change of the arrays that are shared: trained minus start, float32.

        Raises:
            AdapterMismatchError: the trained adapter has other arrays than the one the job started from.
        """
        check_same_arrays(job, result)
        change = {
            key: np.subtract(result.state[key], job.start[key], dtype=np.float32)
            for key in self.sent(job.start, job.round)
        }
        return Payload(job.hospital, job.round, self.name, change, result.num_samples, result.metrics), hospital_state

    def template(self, global_state: AdapterState, plan: LocalPlan) -> Shapes:
        """The arrays that are sent, at the hospital's rank."""
        start = prefix(global_state, plan.rank)
        return {key: start[key].shape for key in self.sent(global_state, plan.round)}

    def init(self, global_state: AdapterState, plan: RoundPlan) -> Round:
        """An empty mean of what is sent this round."""
        shapes = {key: global_state[key].shape for key in self.sent(global_state, plan.round)}
        combiner: Combiner = (
            RunningMean(shapes) if self.robust is None else RobustMean(shapes, self.robust, self.tolerate)
        )
        return Round(plan, combiner, {})

    def add(self, acc: Round, payload: Payload, weight: int) -> Round:
        """Take the payload in with its weight, in place; a payload that is refused leaves everything as it was.

        Raises:
            UpdateRejectedError: what the sum cannot hold; names the hospital.
        """
        try:
            acc.combiner.add(payload.hospital, payload.arrays, weight)
        except UpdateRejectedError as error:
            raise UpdateRejectedError(f"the update of '{payload.hospital}' is refused: {error.what}") from error
        acc.weights[payload.hospital] = weight
        return acc

    def add_sum(self, acc: Round, summed: SummedPayload) -> Round:
        """Take in a sum made under masks, in place.

        Raises:
            FederationError: a robust rule needs every payload. UpdateRejectedError: what the sum cannot hold.
        """
        if not isinstance(acc.combiner, RunningMean):
            raise FederationError("a robust rule cannot look into a sum", "leave federated.robust out")
        acc.combiner.add_sum(summed)
        acc.weights.update(summed.num_samples)
        return acc

    def close(
        self, global_state: AdapterState, server_state: ServerState, acc: Round, refused: int = 0
    ) -> tuple[AdapterState, ServerState, RoundReport]:
        """Move the global adapter by what ``step`` makes of the mean change.

        Raises:
            FederationError: nothing was added, all weights are zero, or the result does not fit float32.
        """
        combined = acc.combiner.result(refused)
        mean = _over_those_who_trained(combined.mean, acc)
        move, new_server = self.step(mean, server_state)
        new = dict(global_state)
        squares = 0.0
        for name, by in move.items():
            before = global_state[name]
            new[name] = (before.astype(np.float64) + by).astype(np.float32)
            squares += float(np.sum(np.square(new[name].astype(np.float64) - before)))
        check_finite({name: new[name] for name in move}, acc.plan.round)
        report = RoundReport(
            acc.plan.round,
            admitted=combined.used,
            update_norm=float(np.sqrt(squares)),
            suspected=combined.suspected,
        )
        return new, new_server, report

    def export(self, global_state: AdapterState, hospital_state: HospitalState) -> AdapterState:
        """The global adapter is a standard one."""
        return global_state


def check_same_arrays(job: LocalJob, result: LocalResult) -> None:
    """Raises AdapterMismatchError: the trained adapter has other arrays than the one the job started from."""
    if {k: v.shape for k, v in result.state.items()} != {k: v.shape for k, v in job.start.items()}:
        raise AdapterMismatchError(
            f"the adapter trained at '{job.hospital}' has other arrays than the global one",
            "train it on the same base model with the same LoRA settings",
        )


def _over_those_who_trained(mean: Mean, acc: Round) -> Mean:
    """With mixed ranks the sum holds zeros where a hospital has no row: divide each row by the weights that have it."""
    ranks = acc.plan.ranks
    if not any(hospital in ranks for hospital in acc.weights):
        return mean
    total = sum(acc.weights.values())
    corrected = {}
    for name, array in mean.items():
        axis = 0 if name.endswith(A) else 1 if name.endswith(B) else None
        if axis is None:
            corrected[name] = array
            continue
        rank = array.shape[axis]
        having = np.zeros(rank)
        for hospital, weight in acc.weights.items():
            having[: ranks.get(hospital, rank)] += weight
        factor = np.divide(total, having, out=np.zeros(rank), where=having > 0)
        corrected[name] = array * (factor[:, None] if axis == 0 else factor[None, :])
    return corrected

"""FedAvg: the new global adapter is the mean of the hospitals' adapters, weighted by their training records.

Source: McMahan et al. 2017, arXiv:1602.05629. Here a hospital sends its change of the adapter, not the adapter:
the mean is the same, and a change is what a norm bound is about.

Not covered: averaging A and B apart is not averaging the product BA (``Traits.exact`` is False), and all hospitals
share one rank.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from fedmed.config.schema import FederatedSection
from fedmed.errors import AdapterMismatchError, FederationError, UpdateRejectedError
from fedmed.federated.fixed_point import FixedPointSum
from fedmed.types import (
    AdapterState,
    HospitalState,
    LocalJob,
    LocalPlan,
    LocalResult,
    Payload,
    RoundReport,
    Traits,
)


@dataclass(slots=True)
class WeightedSum:
    """What FedAvg keeps while payloads come in; grows by a name a hospital, never by an array."""

    sum: FixedPointSum
    round: int = 0
    hospitals: list[str] = field(default_factory=list)


class FedAvg:
    """Both halves of FedAvg. It keeps nothing at the hospital and nothing at the server between rounds."""

    name: str = "fedavg"
    traits: Traits = Traits(kind="stream")

    @classmethod
    def from_config(cls, config: FederatedSection) -> FedAvg:
        """FedAvg has no settings of its own."""
        return cls()

    def begin(self, global_state: AdapterState, hospital_state: HospitalState, plan: LocalPlan) -> LocalJob:
        """Train every array of the global adapter, starting from it."""
        return LocalJob(plan.hospital, plan.round, plan.rounds, plan.seed, start=global_state)

    def finish(
        self, job: LocalJob, result: LocalResult, hospital_state: HospitalState
    ) -> tuple[Payload, HospitalState]:
        """Send the change of the adapter: trained minus start, float32.

        Raises:
            AdapterMismatchError: the trained adapter has other arrays than the one the job started from.
        """
        if {k: v.shape for k, v in result.state.items()} != {k: v.shape for k, v in job.start.items()}:
            raise AdapterMismatchError(
                f"the adapter trained at '{job.hospital}' has other arrays than the global one",
                "train it on the same base model with the same LoRA settings",
            )
        change = {
            name: np.subtract(result.state[name], start, dtype=np.float32) for name, start in sorted(job.start.items())
        }
        payload = Payload(job.hospital, job.round, self.name, change, result.num_samples, result.metrics)
        return payload, hospital_state

    def init(self, global_state: AdapterState) -> WeightedSum:
        """An empty sum of the global adapter's shapes."""
        return WeightedSum(FixedPointSum(global_state))

    def add(self, acc: WeightedSum, payload: Payload, weight: int) -> WeightedSum:
        """Add ``weight`` times the payload to the sum, in place; a payload that is refused leaves it as it was.

        Raises:
            UpdateRejectedError: what the sum cannot hold; names the hospital.
        """
        try:
            acc.sum.add(payload.arrays, weight)
        except UpdateRejectedError as error:
            raise UpdateRejectedError(f"the update of '{payload.hospital}' is refused: {error.what}") from error
        acc.round = payload.round
        acc.hospitals.append(payload.hospital)
        return acc

    def close(self, global_state: AdapterState, acc: WeightedSum) -> tuple[AdapterState, RoundReport]:
        """Move the global adapter by the weighted mean of the changes.

        Raises:
            FederationError: nothing was added, all weights are zero, or the result does not fit float32.
        """
        mean = acc.sum.mean()
        new = {}
        squares = 0.0
        for name, before in global_state.items():
            new[name] = (before.astype(np.float64) + mean[name]).astype(np.float32)
            if not np.all(np.isfinite(new[name])):
                raise FederationError(
                    f"array '{name}' of the global adapter is not finite after round {acc.round}",
                    "go back to the last checkpoint and lower the learning rate",
                )
            squares += float(np.sum(np.square(new[name].astype(np.float64) - before)))
        report = RoundReport(acc.round, admitted=tuple(sorted(acc.hospitals)), update_norm=float(np.sqrt(squares)))
        return new, report

"""FedSA-LoRA: both factors are trained, A is shared, B stays at its hospital.

Source: Guo et al. 2024, arXiv:2410.01463: A learns what is general, B what is a hospital's own. Every hospital ends
with an adapter of its own; the shared A alone changes nothing in the base, so there is no shared adapter to hand out.

Not covered: a hospital that joins later; its B starts at zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from fedmed.federated.algorithms.fedavg import FedAvg
from fedmed.federated.lora_products import A, layers_of
from fedmed.types import AdapterState, HospitalState, LocalJob, LocalPlan, LocalResult, Payload, Traits


class FedSa(FedAvg):
    """FedAvg of A; B is hospital state."""

    name: str = "fedsa"
    base_traits: Traits = Traits(kind="stream", personal=True, linear=True)

    def sent(self, global_state: AdapterState, round: int) -> Sequence[str]:
        """Every A."""
        return [layer + A for layer in layers_of(global_state)]

    def trained(self, global_state: AdapterState, round: int) -> Sequence[str]:
        """A and B."""
        return sorted(global_state)

    def begin(self, global_state: AdapterState, hospital_state: HospitalState, plan: LocalPlan) -> LocalJob:
        """Start from the shared A and the hospital's own B."""
        job = super().begin(global_state, hospital_state, plan)
        return replace(job, start=self.export(job.start, hospital_state))

    def finish(
        self, job: LocalJob, result: LocalResult, hospital_state: HospitalState
    ) -> tuple[Payload, HospitalState]:
        """Send the change of A, keep B."""
        payload, _ = super().finish(job, result, hospital_state)
        return payload, {key: array for key, array in result.state.items() if key not in payload.arrays}

    def export(self, global_state: AdapterState, hospital_state: HospitalState) -> AdapterState:
        """The hospital's adapter; without a hospital's state the shared one, which holds the B of before training."""
        return global_state | hospital_state

"""FedEx-LoRA: FedAvg of A and B, and what that mean lacks of the mean product goes into the base.

Source: Singhal et al. 2024, arXiv:2410.09432: with the residual ``mean(B_k A_k) - mean(B_k) mean(A_k)`` added to the
frozen weights, aggregation is exact. Here the residual travels and is kept as two thin factors (of rank (k + 1) r for
k hospitals, those of all rounds together cut to what they need), not as a dense matrix. The exported adapter holds
it, so it is complete, and has a larger rank.

A gather: the residual needs every hospital's A and B in the clear. ``sketch`` gets the same mean from sums alone.
Not covered: mixed ranks; the paper's truncated residual.
"""

from __future__ import annotations

from dataclasses import replace

from fedmed.config.schema import FederatedSection
from fedmed.federated.algorithms.fedavg import FedAvg, Round
from fedmed.federated.lora_products import (
    complete,
    factors_of,
    fold,
    layers_of,
    plus,
    split_folded,
    stacked,
)
from fedmed.federated.means import Gathered
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
    Traits,
)


class FedEx:
    """FedAvg with an exact residual. Global state: the adapter, and under ``folded.`` the residuals of all rounds."""

    name: str = "fedex"
    traits: Traits = Traits(kind="gather", exact=True, folds=True)

    def __init__(self) -> None:
        self._mean = FedAvg()

    @classmethod
    def from_config(cls, config: FederatedSection) -> FedEx:
        """FedEx has no settings of its own."""
        return cls()

    def start(self, adapter: AdapterState) -> tuple[AdapterState, ServerState]:
        """The adapter as it is. Raises AdapterMismatchError where its change is no product."""
        layers_of(adapter)
        return adapter, {}

    def begin(self, global_state: AdapterState, hospital_state: HospitalState, plan: LocalPlan) -> LocalJob:
        """Train A and B on a base that holds the residuals."""
        adapter, folded = split_folded(global_state)
        return replace(self._mean.begin(adapter, hospital_state, plan), folded=folded)

    def finish(
        self, job: LocalJob, result: LocalResult, hospital_state: HospitalState
    ) -> tuple[Payload, HospitalState]:
        """Send the change of A and B. Raises AdapterMismatchError as FedAvg does."""
        payload, hospital_state = self._mean.finish(job, result, hospital_state)
        return replace(payload, algorithm=self.name), hospital_state

    def template(self, global_state: AdapterState, plan: LocalPlan) -> Shapes:
        """A and B."""
        return self._mean.template(split_folded(global_state)[0], plan)

    def init(self, global_state: AdapterState, plan: RoundPlan) -> Round:
        """Nothing gathered yet."""
        shapes = {key: array.shape for key, array in split_folded(global_state)[0].items()}
        return Round(plan, Gathered(shapes), {})

    def add(self, acc: Round, payload: Payload, weight: int) -> Round:
        """Keep the payload. Raises UpdateRejectedError as FedAvg does."""
        return self._mean.add(acc, payload, weight)

    def close(
        self, global_state: AdapterState, server_state: ServerState, acc: Round, refused: int = 0
    ) -> tuple[AdapterState, ServerState, RoundReport]:
        """FedAvg's mean, and the residual on top of what was folded before. Raises FederationError as FedAvg does."""
        assert isinstance(acc.combiner, Gathered)
        adapter, _ = split_folded(global_state)
        new, server_state, report = self._mean.close(adapter, server_state, acc, refused)
        trained = [(share, plus(adapter, change)) for share, change in acc.combiner.shares()]
        residuals = {
            layer: stacked(
                [*((share, factors_of(state, layer)) for share, state in trained), (-1.0, factors_of(new, layer))]
            )
            for layer in layers_of(adapter)
        }
        return new | fold(global_state, residuals), server_state, report

    def export(self, global_state: AdapterState, hospital_state: HospitalState) -> AdapterState:
        """Adapter and residuals as one standard adapter of a larger rank."""
        return complete(global_state)

"""FedEx-LoRA: FedAvg of A and B, and what that mean lacks of the mean product goes into the base.

Source: Singhal et al. 2024, arXiv:2410.09432: with the residual ``mean(B_k A_k) - mean(B_k) mean(A_k)`` added to the
frozen weights, aggregation is exact. Here the residual travels and is kept as two thin factors (of rank (k + 1) r for
k hospitals, those of all rounds together cut to what they need), not as a dense matrix. The exported adapter holds
it, so it is complete, and has a larger rank.

A gather: the residual needs every hospital's A and B in the clear. ``sketch`` gets the same mean from sums alone.
Not covered: mixed ranks; the paper's truncated residual.
"""

from __future__ import annotations

from fedmed.federated.algorithms.fedavg import Round
from fedmed.federated.algorithms.gathering import GatheredFactors
from fedmed.federated.lora_products import factors_of, fold, layers_of, plus, split_folded, stacked
from fedmed.federated.means import Gathered
from fedmed.types import AdapterState, RoundReport, ServerState, Traits


class FedEx(GatheredFactors):
    """FedAvg with an exact residual, which is what it folds."""

    name: str = "fedex"
    traits: Traits = Traits(kind="gather", exact=True, folds=True)

    def start(self, adapter: AdapterState) -> tuple[AdapterState, ServerState]:
        """The adapter as it is. Raises AdapterMismatchError where its change is no product."""
        layers_of(adapter)
        return adapter, {}

    def close(
        self, global_state: AdapterState, server_state: ServerState, acc: Round, refused: int = 0
    ) -> tuple[AdapterState, ServerState, RoundReport]:
        """FedAvg's mean, and the residual on top of what was folded before. Raises FederationError as FedAvg does."""
        assert isinstance(acc.combiner, Gathered)
        adapter, _ = split_folded(global_state)
        new, server_state, report = self._fedavg.close(adapter, server_state, acc, refused)
        trained = [(share, plus(adapter, change)) for share, change in acc.combiner.shares()]
        residuals = {
            layer: stacked(
                [*((share, factors_of(state, layer)) for share, state in trained), (-1.0, factors_of(new, layer))]
            )
            for layer in layers_of(adapter)
        }
        return new | fold(global_state, residuals), server_state, report

"""FLoRA: hospitals' factors are stacked, their exact mean product goes into the base, and a fresh adapter begins.

Source: Wang et al. 2024, arXiv:2409.05976. Stacking ``[B_1 … B_k]`` on ``[w_1 A_1; …; w_k A_k]`` is exact and bears
any mix of ranks. A is drawn anew each round from a stream named by seed, round and layer; B starts at zero. The
stacks of all rounds are kept as thin factors, cut to what they need; the exported adapter holds them and has a larger
rank.

A gather: it needs every hospital's A and B in the clear, and the stack goes to everyone. Users report divergence over a
hundred rounds and more; the fresh start costs progress in few.
Not covered: sending only the newest stack to hospitals that hold the older ones.
"""

from __future__ import annotations

import numpy as np

from fedmed.federated.algorithms.fedavg import Round
from fedmed.federated.algorithms.gathering import GatheredFactors
from fedmed.federated.lora_products import (
    A,
    B,
    check_finite,
    factors_of,
    fold,
    layers_of,
    plus,
    prefix,
    split_folded,
    stacked,
)
from fedmed.federated.means import Gathered
from fedmed.types import AdapterState, RoundPlan, RoundReport, ServerState, Traits
from fedmed.utils.random_streams import stream


class FLora(GatheredFactors):
    """Stacking: every round's mean product is folded, and its adapter changes nothing when it begins."""

    name: str = "flora"
    traits: Traits = Traits(kind="gather", exact=True, mixed_ranks=True, folds=True)

    def start(self, adapter: AdapterState) -> tuple[AdapterState, ServerState]:
        """What the adapter already does is folded, so that every round starts from B = 0.

        Raises:
            AdapterMismatchError: its change is no product.
        """
        layers = layers_of(adapter)
        if not any(np.any(adapter[layer + B]) for layer in layers):
            return adapter, {}
        fresh = {key: np.zeros_like(array) if key.endswith(B) else array for key, array in adapter.items()}
        return fresh | fold({}, {layer: factors_of(adapter, layer) for layer in layers}), {}

    def close(
        self, global_state: AdapterState, server_state: ServerState, acc: Round, refused: int = 0
    ) -> tuple[AdapterState, ServerState, RoundReport]:
        """Fold the mean product and draw the next A. Raises FederationError: the result is not finite."""
        assert isinstance(acc.combiner, Gathered)
        adapter, _ = split_folded(global_state)
        check_finite(global_state, acc.plan.round)
        trained = []
        for share, change in acc.combiner.shares():
            rank = next(array.shape[0] for key, array in change.items() if key.endswith(A))
            state = plus(prefix(adapter, rank), change)
            check_finite(state, acc.plan.round)
            trained.append((share, state))
        products = {
            layer: stacked((share, factors_of(state, layer)) for share, state in trained)
            for layer in layers_of(adapter)
        }
        folded = fold(global_state, products)
        squares = sum(float(np.sum(np.square(factors.svd()[1]))) for factors in products.values())
        report = RoundReport(acc.plan.round, acc.combiner.result(refused).used, update_norm=float(np.sqrt(squares)))
        return _fresh(adapter, acc.plan) | folded, server_state, report


def _fresh(adapter: AdapterState, plan: RoundPlan) -> AdapterState:
    """A as LoRA draws it (uniform up to 1/sqrt(d_in): Kaiming with a = sqrt 5), B = 0."""
    drawn = {}
    for key, array in adapter.items():
        if key.endswith(A):
            bound = 1.0 / np.sqrt(array.shape[1])
            drawn[key] = stream(plan.seed, "flora", plan.round, key).uniform(-bound, bound, array.shape)
        else:
            drawn[key] = np.zeros(array.shape)
    return {key: array.astype(np.float32) for key, array in drawn.items()}

"""RoLoRA: B and A take turns. In odd rounds B is trained and sent with A frozen, in even rounds A with B frozen.

Source: Chen et al. 2025, arXiv:2502.01755. One factor is the same everywhere in each round, so the mean of the
products is exact, as in FFA-LoRA, and yet both factors learn. B goes first: it starts at zero, and A has no gradient
until it moves.

Not covered: several rounds in a row on one factor.
"""

from __future__ import annotations

from collections.abc import Sequence

from fedmed.federated.algorithms.fedavg import FedAvg
from fedmed.federated.lora_products import A, B, layers_of
from fedmed.types import AdapterState, Traits


class RoLora(FedAvg):
    """FedAvg of one factor at a time."""

    name: str = "rolora"
    base_traits: Traits = Traits(kind="stream", exact=True, mixed_ranks=True, linear=True)

    def sent(self, global_state: AdapterState, round: int) -> Sequence[str]:
        """Every B in odd rounds, every A in even ones."""
        return [layer + (B if round % 2 else A) for layer in layers_of(global_state)]

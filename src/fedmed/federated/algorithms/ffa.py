"""FFA-LoRA: A stays as it was drawn, only B is trained and sent.

Source: Sun et al. 2024, arXiv:2403.12313. With one A for all, the mean of the products B_k A is (mean B_k) A:
averaging is exact, half the bytes travel, and noise added for privacy is not multiplied by itself.

Not covered: drawing A from data, which would cost privacy.
"""

from __future__ import annotations

from collections.abc import Sequence

from fedmed.federated.algorithms.fedavg import FedAvg
from fedmed.federated.lora_products import B, layers_of
from fedmed.types import AdapterState, Traits


class FfaLora(FedAvg):
    """FedAvg of B alone."""

    name: str = "ffa"
    base_traits: Traits = Traits(kind="stream", exact=True, mixed_ranks=True, linear=True)

    def sent(self, global_state: AdapterState, round: int) -> Sequence[str]:
        """Every B."""
        return [layer + B for layer in layers_of(global_state)]

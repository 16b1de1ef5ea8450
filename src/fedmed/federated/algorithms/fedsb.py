"""Fed-SB: B and A are fixed, only a square core R [r, r] between them is trained and sent. The layer's change is B R A.

Source: Singhal et al. 2025, arXiv:2502.15436, on LoRA-SB (Ponkshe et al. 2024, arXiv:2411.19557). The mean of the
products is exact, and r^2 numbers travel instead of r (d_in + d_out). All that the method can learn lies in the span
of B and A, so these are drawn from data, see ``training/fedsb_factors.py``: data that is public, or the privacy it
costs must be charged. R starts at zero here, so that the adapter changes nothing yet; LoRA-SB starts it at the first
gradient's singular values.

Not covered: mixed ranks; hospitals with factors of their own.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fedmed.errors import AdapterMismatchError
from fedmed.federated.algorithms.fedavg import FedAvg
from fedmed.federated.lora_products import A, B, layers_of
from fedmed.types import CORE, AdapterState, HospitalState, ServerState, Traits


class FedSb(FedAvg):
    """FedAvg of the cores. Global state: A, B and the core of every layer."""

    name: str = "fedsb"
    base_traits: Traits = Traits(kind="stream", exact=True, linear=True)

    def start(self, adapter: AdapterState) -> tuple[AdapterState, ServerState]:
        """Put a core of zeros between the factors of ``adapter``.

        Raises:
            AdapterMismatchError: a B is zero, as LoRA draws it: nothing could be learnt.
        """
        layers = layers_of(adapter)
        empty = [layer for layer in layers if not np.any(adapter[layer + B])]
        if empty:
            raise AdapterMismatchError(
                f"B of {empty[0]} is zero, and fedsb keeps B as it is",
                "start from the factors that fedmed.training.fedsb_factors gives",
            )
        rank = adapter[layers[0] + A].shape[0]
        return adapter | {layer + CORE: np.zeros((rank, rank), np.float32) for layer in layers}, {}

    def sent(self, global_state: AdapterState, round: int) -> Sequence[str]:
        """Every core."""
        return sorted(key for key in global_state if key.endswith(CORE))

    def export(self, global_state: AdapterState, hospital_state: HospitalState) -> AdapterState:
        """The standard adapter with B R as its B."""
        layers = [key.removesuffix(CORE) for key in self.sent(global_state, 1)]
        exported = {layer + A: global_state[layer + A] for layer in layers}
        return exported | {
            layer + B: (global_state[layer + B].astype(np.float64) @ global_state[layer + CORE]).astype(np.float32)
            for layer in layers
        }

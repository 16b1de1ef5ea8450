"""The fixed factors of Fed-SB: a B and an A for every adapted layer, and how they are found.

``from_gradient``: the directions in which full fine-tuning would first move each layer, from one gradient over some
rows (LoRA-SB, Ponkshe et al. 2024, arXiv:2411.19557). It sees those rows, so they must be public, or the privacy they
cost be charged. ``from_weights``: the leading directions of the frozen weights themselves (LoRA-XS, Balazy et al.
2024, arXiv:2405.17604). It sees no records at all.

Both give B [d_out, r] with orthonormal columns and A [r, d_in] with orthonormal rows.
Not covered: 4-bit weights in ``from_weights``; layers so wide that their gradient does not fit (one [d_out, d_in]
matrix a layer)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from fedmed.config.schema import TrainingSection
from fedmed.data.encode import EncodedRow
from fedmed.errors import EmptyDataError, TrainingError
from fedmed.model.adapter import adapted_layers
from fedmed.model.packed_lora import HospitalAdapter
from fedmed.training.engine import Engine, fits
from fedmed.types import AdapterState


def from_gradient(model: Any, rows: Sequence[EncodedRow], rank: int, config: TrainingSection) -> AdapterState:
    """Factors from the gradient of the mean loss of ``rows`` by the whole weight of every adapted layer.

    Args:
        model: a PEFT model; unchanged.
        rows: public rows.
        rank: of the factors.
        config: batch size and precision.

    Raises:
        EmptyDataError: there are no rows.
        TrainingError: the engine cannot train this model, or the rank is more than a layer is wide.
    """
    if not rows:
        raise EmptyDataError(
            "there are no public records to start fedsb from", "set federated.fedsb_factors to weights"
        )
    if not fits(model):
        raise TrainingError(
            "fedsb needs the training engine, which cannot train this model", "choose another algorithm"
        )
    # With A the identity and B zero, the gradient of B is that of the weight itself, up to the adapter's scale.
    probe: AdapterState = {}
    for name, layer in adapted_layers(model).items():
        base = layer.get_base_layer()
        probe[f"{name}.lora_A.weight"] = np.eye(base.in_features, dtype=np.float32)
        probe[f"{name}.lora_B.weight"] = np.zeros((base.out_features, base.in_features), np.float32)
    engine = Engine(model, config)
    trainable = [key for key in probe if key.endswith("lora_B.weight")]
    adapter = HospitalAdapter(probe, trainable, engine.device)
    batches = [rows[place : place + config.batch_size] for place in range(0, len(rows), config.batch_size)]
    was_training = model.training
    try:
        engine.gradients([adapter], [batches], ["the public records"])
    finally:
        model.train(was_training)
    return _leading({name: adapter.gradients[f"{name}.lora_B.weight"] for name in adapted_layers(model)}, rank)


def from_weights(model: Any, rank: int) -> AdapterState:
    """Factors from the frozen weights alone.

    Raises:
        TrainingError: the weights are 4-bit, or the rank is more than a layer is wide.
    """
    weights = {name: layer.get_base_layer().weight.detach() for name, layer in adapted_layers(model).items()}
    if not all(weight.is_floating_point() for weight in weights.values()):
        raise TrainingError("4-bit weights cannot be decomposed", "set model.quantization to null")
    return _leading(weights, rank)


def _leading(matrices: dict[str, torch.Tensor], rank: int) -> AdapterState:
    """The ``rank`` leading singular vectors of each matrix [d_out, d_in]."""
    factors: AdapterState = {}
    for name, matrix in sorted(matrices.items()):
        if rank > min(matrix.shape):
            raise TrainingError(
                f"fedsb has no {rank} directions in {name}, which is {min(matrix.shape)} wide", "lower model.lora.r"
            )
        u, _, vt = np.linalg.svd(matrix.to("cpu", torch.float32).numpy(), full_matrices=False)
        factors[f"{name}.lora_A.weight"] = np.ascontiguousarray(vt[:rank])
        factors[f"{name}.lora_B.weight"] = np.ascontiguousarray(u[:, :rank])
    return factors

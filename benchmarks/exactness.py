"""How exact a sketched mean is and how much it sends, on adapters of the model's own shapes; nothing is trained."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from fedmed.config.schema import PrivacySection, WireSection
from fedmed.federated.algorithms.fedavg import FedAvg
from fedmed.federated.algorithms.fedsb import FedSb
from fedmed.federated.algorithms.sketch import Sketch
from fedmed.federated.links import Uplink
from fedmed.federated.lora_products import factors_of, layers_of
from fedmed.federated.server import NO_METRICS
from fedmed.types import AdapterState, Algorithm, LocalResult, Payload, RoundPlan
from fedmed.utils.random_streams import stream

SPREAD = 0.05  # of the random factors
RECORDS = 1000  # of the first hospital; each other has 371 more than the one before


def random_adapter(like: AdapterState, *names: str | int) -> AdapterState:
    """A and B of these shapes, neither of them zero."""
    draw = stream(17, "exactness", *names)
    return {key: (SPREAD * draw.standard_normal(array.shape)).astype(np.float32) for key, array in like.items()}


def message_bytes(payload: Payload, encoding: str) -> int:
    """Length of the message that carries a payload."""
    wire = WireSection(up=encoding)  # type: ignore[arg-type]
    return Uplink(PrivacySection(), wire).send(replace(payload, metrics=None), {})[0].message_bytes


def empty_payload(algorithm: Algorithm, adapter: AdapterState, hospitals: int) -> Payload:
    """What a hospital sends in the first round, all zeros: an encoding's length does not depend on values."""
    plan = RoundPlan("bench", 1, 1, tuple(f"hospital_{number}" for number in range(hospitals)), 1, 17)
    state, _ = algorithm.start(adapter)
    shapes = algorithm.template(state, plan.for_hospital("hospital_0"))
    arrays = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    return Payload("hospital_0", 1, algorithm.name, arrays, RECORDS)


def sketch_exactness(like: AdapterState, hospitals: int) -> dict[str, Any]:
    """One round of ``sketch`` with residual ``fold``, through its own halves, against the dense mean in float64.

    Returns:
        ``relative_error`` of all layers together (Frobenius) and of the worst layer; message bytes as a multiple of
        FedAvg's in fp32.
    """
    algorithm = Sketch("fold")
    names = tuple(f"hospital_{number}" for number in range(hospitals))
    plan = RoundPlan("bench", 1, 1, names, hospitals, 17)
    state, server_state = algorithm.start(random_adapter(like, "start"))
    acc = algorithm.init(state, plan)
    layers = layers_of(state)
    exact = {layer: np.zeros(factors_of(state, layer).dense().shape) for layer in layers}
    total, size = 0, 0
    for number, name in enumerate(names):
        weight = RECORDS + 371 * number
        trained = random_adapter(like, name)
        job = algorithm.begin(state, {}, plan.for_hospital(name))
        payload, _ = algorithm.finish(job, LocalResult(name, 1, trained, weight, NO_METRICS), {})
        size = message_bytes(payload, "fp32")
        acc = algorithm.add(acc, payload, weight)
        total += weight
        for layer in layers:
            exact[layer] += weight * factors_of(trained, layer).dense()
    closed, _, report = algorithm.close(state, server_state, acc)
    result = algorithm.export(closed, {})
    off, all_of_it, worst = 0.0, 0.0, 0.0
    for layer in layers:
        mean = exact[layer] / total
        error, norm = float(np.linalg.norm(factors_of(result, layer).dense() - mean)), float(np.linalg.norm(mean))
        off, all_of_it, worst = off + error**2, all_of_it + norm**2, max(worst, error / norm)
    return {
        "hospitals": hospitals,
        "relative_error": float(np.sqrt(off / all_of_it)),
        "relative_error_worst_layer": worst,
        "lost_to_the_shared_rank": report.lost_energy,  # of squared norm; fold puts it into the base
        "message_bytes": size,
        "bytes_ratio": size / message_bytes(empty_payload(FedAvg(), state, hospitals), "fp32"),
    }


def fedsb_bytes(like: AdapterState, hospitals: int) -> dict[str, float]:
    """FedAvg's fp32 message as a multiple of Fed-SB's."""
    adapter = random_adapter(like, "start")
    fedavg = message_bytes(empty_payload(FedAvg(), adapter, hospitals), "fp32")
    payload = empty_payload(FedSb(), adapter, hospitals)
    return {encoding: fedavg / message_bytes(payload, encoding) for encoding in ("fp32", "bf16")}

"""Bytes that a run will send, from the shapes of the adapter alone: what templates and encodings already say. For the
planner.

Not covered: message headers (some hundred bytes each); keys and shares of a secure sum (6 kB a hospital and round among
4, 200 kB among 64); folded parts, which grow with the rounds in a way that the records decide; hospitals that miss a
round and get everything again."""

from __future__ import annotations

import numpy as np

from fedmed.config.schema import FedMedConfig
from fedmed.federated.algorithms import get_algorithm
from fedmed.federated.encodings import body_length
from fedmed.federated.lora_products import A, B
from fedmed.federated.runner import AllOrSampled
from fedmed.types import Shapes


def traffic(config: FedMedConfig, shapes: Shapes) -> dict[str, int]:
    """Bytes of all rounds and hospitals together, ``up`` and ``down``.

    Args:
        config: settings of the run.
        shapes: of the adapter, by PEFT's keys.
    """
    federated = config.federated
    algorithm = get_algorithm(federated)
    # Ones without memory: only shapes matter, and Fed-SB refuses a B of zeros.
    adapter = {key: np.broadcast_to(np.float32(1), shape) for key, shape in shapes.items()}
    state, _ = algorithm.start(adapter)
    names = tuple(f"hospital_{number}" for number in range(federated.num_clients))
    policy = AllOrSampled(
        names, federated.rounds, federated.seed, hospitals_per_round=federated.hospitals_per_round,
        ranks=dict(zip(names, federated.ranks or (), strict=False)),
    )  # fmt: skip
    share = federated.wire.top_k_share
    everything = {key: array.shape for key, array in state.items()}
    up = down = 0
    for number in range(1, federated.rounds + 1):
        plan = policy.plan(number)
        for hospital in plan.hospitals:
            sent = algorithm.template(state, plan.for_hospital(hospital))
            words = 2 if config.privacy.secure_sum else 1  # of 64 bits, where fp32 has 32
            up += words * body_length(sent, federated.wire.up, top_k_share=share)
        if number == 1:
            down += len(plan.hospitals) * body_length(everything, "fp32")
            continue
        before = policy.plan(number - 1)
        # An encoding leaves a rest of what was sent two rounds ago, if other arrays were sent since.
        rounds = [number - 1, number - 2] if federated.wire.down != "fp32" and number > 2 else [number - 1]
        changed: dict[str, tuple[int, ...]] = {}
        for earlier in rounds:
            changed |= algorithm.template(state, policy.plan(earlier).for_hospital(names[0]))
        if not algorithm.traits.linear or federated.ranks:  # a payload is not what changes
            changed = {key: shape for key, shape in everything.items() if key.endswith((A, B))}
        late = len(set(plan.hospitals) - set(before.hospitals))
        down += late * body_length(everything, "fp32")
        down += (len(plan.hospitals) - late) * body_length(changed, federated.wire.down, top_k_share=share)
    return {"up": up, "down": down}

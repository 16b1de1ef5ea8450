"""The reference everyone asks for: all records in one place.

Same rows in the same order and the same number of optimiser steps as the federated run, so the same tokens: each
step takes the micro-batches of every hospital at once. One optimiser goes through; nothing is averaged.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fedmed.config.schema import TrainingSection
from fedmed.data.encode import EncodedRow
from fedmed.model.adapter import get_adapter_state, set_adapter_state
from fedmed.training.stepper import LoraStepper
from fedmed.training.steps import learning_rate, plan_steps
from fedmed.types import AdapterState


def train_central(
    model: Any,
    rows_by_hospital: Mapping[str, Sequence[EncodedRow]],
    config: TrainingSection,
    *,
    start: AdapterState,
    rounds: int,
    seed: int,
    on_step: Callable[[int, int, float], None] | None = None,
) -> AdapterState:
    """Train ``start`` on the pooled rows and return the adapter.

    A hospital whose rounds are shorter than another's simply has no part in the later steps of a round.
    ``on_step`` is called with (step from 1, steps, loss).
    """
    set_adapter_state(model, start)
    stepper = LoraStepper(model, config)
    plans = [
        {
            name: plan_steps(len(rows), config, seed=seed, hospital=name, round_number=number)
            for name, rows in rows_by_hospital.items()
        }
        for number in range(1, rounds + 1)
    ]
    per_round = max(len(steps) for steps in plans[0].values())
    for round_number, plan in enumerate(plans, start=1):
        for number in range(per_round):
            batches = [
                [rows_by_hospital[name][row] for row in batch]
                for name, steps in plan.items()
                if number < len(steps)
                for batch in steps[number]
            ]
            rate = learning_rate(config, step=number, steps=per_round, round_number=round_number, rounds=rounds)
            result = stepper.step(batches, rate, f"central training, round {round_number}, step {number + 1}")
            if on_step:
                on_step((round_number - 1) * per_round + number + 1, rounds * per_round, result.loss)
    return get_adapter_state(model)

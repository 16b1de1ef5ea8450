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
from fedmed.training.stepper import LoraStepper, repeatable_dropout
from fedmed.training.steps import learning_rate, plan_steps
from fedmed.types import AdapterState


def train_central(
    model: Any,
    rows_by_hospital: Mapping[str, Sequence[EncodedRow]],
    config: TrainingSection,
    *,
    start: AdapterState,
    hospitals: Sequence[Sequence[str]],
    seed: int,
    on_step: Callable[[int, int, float], None] | None = None,
) -> AdapterState:
    """Train ``start`` on the pooled rows and return the adapter.

    ``hospitals`` names who takes part in each round, as in the federated run. Where one hospital's round is shorter
    than another's, it has no part in the later steps of the round.
    ``on_step`` is called with (step from 1, steps, loss).
    """
    set_adapter_state(model, start)
    rounds = len(hospitals)
    stepper = LoraStepper(model, config)
    plans = [
        {
            name: plan_steps(len(rows_by_hospital[name]), config, seed=seed, hospital=name, round_number=number)
            for name in asked
        }
        for number, asked in enumerate(hospitals, start=1)
    ]
    lengths = [max(len(steps) for steps in plan.values()) for plan in plans]
    with repeatable_dropout(seed, "central"):
        for round_number, (plan, length) in enumerate(zip(plans, lengths, strict=True), start=1):
            for number in range(length):
                batches = [
                    [rows_by_hospital[name][row] for row in batch]
                    for name, steps in plan.items()
                    if number < len(steps)
                    for batch in steps[number]
                ]
                rate = learning_rate(config, step=number, steps=length, round_number=round_number, rounds=rounds)
                result = stepper.step(batches, rate, f"central training, round {round_number}, step {number + 1}")
                if on_step:
                    on_step(sum(lengths[: round_number - 1]) + number + 1, sum(lengths), result.loss)
    return get_adapter_state(model)

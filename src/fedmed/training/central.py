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
from fedmed.model.packed_lora import HospitalAdapter
from fedmed.training.engine import Engine, fits
from fedmed.training.stepper import AdapterOptimizer, LoraStepper, StepResult, repeatable_dropout
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
    rounds = len(hospitals)
    stepper = _EngineStepper(model, config, start) if fits(model) else _PlainStepper(model, config, start)
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
    return stepper.state()


class _EngineStepper:
    """The engine with one adapter for everybody."""

    def __init__(self, model: Any, config: TrainingSection, start: AdapterState) -> None:
        self.engine = Engine(model, config)
        self.adapter = HospitalAdapter(start, None, self.engine.device)
        self.optimizer = AdapterOptimizer([self.adapter.flat], config)

    def step(self, batches: Sequence[Sequence[EncodedRow]], rate: float, where: str) -> StepResult:
        (result,) = self.engine.gradients([self.adapter], [batches], [where])
        self.optimizer.prepare(where)
        self.optimizer.step(rate)
        return result

    def state(self) -> AdapterState:
        return self.adapter.state()


class _PlainStepper(LoraStepper):
    """The same for a model that the engine cannot train."""

    def __init__(self, model: Any, config: TrainingSection, start: AdapterState) -> None:
        set_adapter_state(model, start, any_rank=True)
        super().__init__(model, config)

    def state(self) -> AdapterState:
        return get_adapter_state(self.model)

"""Which rows train in which optimiser step, and at what learning rate. Pure functions of (seed, hospital, round).

Nothing is remembered between rounds, so a resumed run sees the rows that an uninterrupted one would have seen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

from fedmed.config.schema import TrainingSection
from fedmed.data.encode import EncodedRow
from fedmed.errors import EmptyDataError
from fedmed.types import LocalJob
from fedmed.utils.random_streams import stream

Step: TypeAlias = tuple[tuple[int, ...], ...]
"""Row numbers of one optimiser step: its micro-batches."""


def plan_steps(num_rows: int, config: TrainingSection, *, seed: int, hospital: str, round_number: int) -> list[Step]:
    """The optimiser steps of one local training.

    A hospital reads its rows in one endless sequence of shuffled passes; each round goes on where the round
    before it ended, so short rounds see every row before any comes again.

    Args:
        num_rows: training rows of the hospital, >= 1.
        config: ``max_steps`` full steps if set, else ``epochs`` passes (the last step may be smaller).
        seed, hospital, round_number: name the random stream; rounds count from 1.

    Raises:
        EmptyDataError: the hospital has no training rows.
    """
    if num_rows < 1:
        raise EmptyDataError(f"{hospital} has no training records", "give it records or leave it out of the federation")
    needed = _rows_per_round(num_rows, config)
    first = (round_number - 1) * needed
    sequence: list[int] = []
    for epoch in range(first // num_rows, (first + needed - 1) // num_rows + 1):
        sequence.extend(stream(seed, hospital, "order", epoch).permutation(num_rows).tolist())
    offset = first % num_rows
    rows = sequence[offset : offset + needed]
    batches = [tuple(rows[i : i + config.batch_size]) for i in range(0, needed, config.batch_size)]
    grouped = config.gradient_accumulation_steps
    return [tuple(batches[i : i + grouped]) for i in range(0, len(batches), grouped)]


def steps_per_round(num_rows: int, config: TrainingSection) -> int:
    """How many optimiser steps ``plan_steps`` plans."""
    return math.ceil(_rows_per_round(num_rows, config) / (config.batch_size * config.gradient_accumulation_steps))


def _rows_per_round(num_rows: int, config: TrainingSection) -> int:
    if config.max_steps:
        return config.max_steps * config.batch_size * config.gradient_accumulation_steps
    return config.epochs * num_rows


def learning_rate(config: TrainingSection, *, step: int, steps: int, round_number: int, rounds: int) -> float:
    """Rate of one step. Warm-up and decay run over all rounds together, not anew in each.

    Args:
        step: 0-based within the round; ``steps``: of this round; ``round_number``: from 1; ``rounds``: of the run.
    """
    total = rounds * steps
    position = (round_number - 1) * steps + step
    warmup = config.warmup_ratio * total
    if position < warmup:
        return config.learning_rate * (position + 1) / (warmup + 1)
    if config.lr_scheduler == "constant":
        return config.learning_rate
    done = (position - warmup) / max(1.0, total - warmup)
    return config.learning_rate * 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))


class JobSteps:
    """What one job trains on, step by step; ``number`` counts from 0.

    Args:
        job: names the random stream and the round.
        rows: training rows of its hospital.
        config: batch, steps, rates.

    Raises:
        EmptyDataError: the hospital has no training rows.
    """

    def __init__(self, job: LocalJob, rows: Sequence[EncodedRow], config: TrainingSection) -> None:
        self.job, self.rows, self._config = job, rows, config
        whole = plan_steps(len(rows), config, seed=job.seed, hospital=job.hospital, round_number=job.round)
        self._of = len(whole)  # a bound on steps moves no other step along the schedule of rates
        self._steps = whole if job.steps is None else whole[: max(1, job.steps)]

    def __len__(self) -> int:
        return len(self._steps)

    def batches(self, number: int) -> list[list[EncodedRow]]:
        """The rows of each micro-batch."""
        return [[self.rows[row] for row in batch] for batch in self._steps[number]]

    def where(self, number: int) -> str:
        """Names a step in an error; numbers of rows, never what they say."""
        numbers = ", ".join(str(row) for batch in self._steps[number] for row in batch)
        return f"{self.job.hospital}, round {self.job.round}, step {number + 1} (training rows {numbers})"

    def rate(self, number: int) -> float:
        """Learning rate."""
        job = self.job
        rate = learning_rate(self._config, step=number, steps=self._of, round_number=job.round, rounds=job.rounds)
        return rate * min(1.0, job.rate_scale)

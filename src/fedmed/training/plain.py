"""The plain path: transformers' and PEFT's own forward, one hospital after another.

For what the engine cannot train: LoRA dropout, DoRA, models whose rows do not stay apart when packed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

from fedmed.config.schema import TrainingSection
from fedmed.data.encode import EncodedRow
from fedmed.model.adapter import get_adapter_state, set_adapter_state
from fedmed.training.stepper import LoraStepper, StepResult, repeatable_dropout, train_metrics
from fedmed.training.steps import Step, learning_rate, plan_steps
from fedmed.types import LocalJob, LocalResult

OnStep = Callable[[LocalJob, int, int, StepResult], None]
"""Called after each optimiser step with (job, step from 1, steps, result)."""


def use_threads(config: TrainingSection) -> None:
    """Set the number of CPU threads for this process, where the settings name one."""
    if config.threads:
        torch.set_num_threads(config.threads)


class PlainLocalTrainer:
    """One hospital at a time, bit-reproducible on a CPU: same job, rows, versions, machine and threads, same adapter.

    Each job starts a fresh optimiser, as FedAvg does (McMahan et al. 2017, arXiv:1602.05629).

    Args:
        model: a PEFT model; its adapter is overwritten by every job.
        rows_by_hospital: training rows of each hospital.
        config: batch, steps, rates.
        on_step: progress.
    """

    def __init__(
        self,
        model: Any,
        rows_by_hospital: Mapping[str, Sequence[EncodedRow]],
        config: TrainingSection,
        on_step: OnStep | None = None,
    ) -> None:
        self.model = model
        self.rows_by_hospital = rows_by_hospital
        self.config = config
        self.on_step = on_step
        use_threads(config)

    def run(self, jobs: Sequence[LocalJob]) -> Iterator[LocalResult]:
        """Results in the order of ``jobs``, each as soon as it is there."""
        for job in jobs:
            yield self._train(job)

    def _train(self, job: LocalJob) -> LocalResult:
        rows = self.rows_by_hospital[job.hospital]
        steps = plan_steps(len(rows), self.config, seed=job.seed, hospital=job.hospital, round_number=job.round)
        set_adapter_state(self.model, job.start)
        started = time.perf_counter()
        with repeatable_dropout(job.seed, job.hospital, job.round):
            results = self._steps(job, rows, steps)
        seconds = time.perf_counter() - started
        return LocalResult(
            job.hospital, job.round, get_adapter_state(self.model), len(rows), train_metrics(results, seconds)
        )

    def _steps(self, job: LocalJob, rows: Sequence[EncodedRow], steps: Sequence[Step]) -> list[StepResult]:
        stepper = LoraStepper(self.model, self.config, trainable=job.trainable, proximal_mu=job.proximal_mu)
        results = []
        for number, step in enumerate(steps):
            rate = learning_rate(self.config, step=number, steps=len(steps), round_number=job.round, rounds=job.rounds)
            numbers = ", ".join(str(row) for batch in step for row in batch)
            where = f"{job.hospital}, round {job.round}, step {number + 1} (training rows {numbers})"
            results.append(stepper.step([[rows[row] for row in batch] for batch in step], rate, where))
            if self.on_step:
                self.on_step(job, number + 1, len(steps), results[-1])
        return results

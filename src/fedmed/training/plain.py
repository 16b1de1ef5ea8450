"""The plain path: transformers' and PEFT's own forward, one hospital after another.

For what the engine cannot train: LoRA dropout, DoRA, models whose rows do not stay apart when packed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from fedmed.config.schema import TrainingSection
from fedmed.data.encode import EncodedRow
from fedmed.errors import TrainingError
from fedmed.model.adapter import get_adapter_state, set_adapter_state
from fedmed.training.stepper import LoraStepper, StepResult, repeatable_dropout, train_metrics
from fedmed.training.steps import JobSteps
from fedmed.types import CORE, LocalJob, LocalResult

OnStep = Callable[[LocalJob, int, int, StepResult], None]
"""Called after each optimiser step with (job, step from 1, steps, result)."""


def use_threads(config: TrainingSection) -> None:
    """Set the number of CPU threads for this process, where the settings name one."""
    if config.threads:
        torch.set_num_threads(config.threads)


def train_plain(
    model: Any, job: LocalJob, rows: Sequence[EncodedRow], config: TrainingSection, on_step: OnStep | None = None
) -> LocalResult:
    """One job, bit-reproducible on a CPU: same job, rows, versions, machine and threads, same adapter.

    A fresh optimiser, as in FedAvg (McMahan et al. 2017, arXiv:1602.05629).

    Args:
        model: a PEFT model; its adapter is overwritten.
        job: what to train.
        rows: training rows of its hospital.
        config: batch, steps, rates.
        on_step: progress.

    Raises:
        NonFiniteLossError: names the hospital, the step and its rows. EmptyDataError: there are no rows.
        TrainingError: the job trains cores between A and B, which only the engine can.
    """
    if any(key.endswith(CORE) for key in job.start):
        raise TrainingError(
            "fedsb trains cores between A and B, and this model trains on the plain path, which has none",
            "choose another federated.algorithm",
        )
    steps = JobSteps(job, rows, config)
    set_adapter_state(model, job.start, any_rank=True)
    started = time.perf_counter()
    results: list[StepResult] = []
    with repeatable_dropout(job.seed, job.hospital, job.round):
        stepper = LoraStepper(model, config, trainable=job.trainable, proximal_mu=job.proximal_mu)
        for number in range(len(steps)):
            results.append(stepper.step(steps.batches(number), steps.rate(number), steps.where(number)))
            if on_step:
                on_step(job, number + 1, len(steps), results[-1])
    metrics = train_metrics(results, time.perf_counter() - started)
    return LocalResult(job.hospital, job.round, get_adapter_state(model), len(rows), metrics)

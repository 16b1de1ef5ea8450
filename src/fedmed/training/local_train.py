"""Train LoRA at one hospital after another on one loaded base model: the ``LocalTrainer`` of laptop and hospital."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fedmed.config.load import default_config
from fedmed.config.schema import FedMedConfig, TrainingSection
from fedmed.data.encode import EncodedRow, encode_records
from fedmed.errors import EmptyDataError, TrainingError
from fedmed.model.adapter import get_adapter_state, save_adapter, set_adapter_state
from fedmed.training.stepper import LoraStepper, StepResult, repeatable_dropout
from fedmed.training.steps import Step, learning_rate, plan_steps
from fedmed.types import AdapterState, LocalJob, LocalResult, TrainMetrics

OnStep = Callable[[LocalJob, int, int, StepResult], None]
"""Called after each optimiser step with (job, step from 1, steps, result)."""


def use_threads(config: TrainingSection) -> None:
    """Set the number of CPU threads for this process, where the settings name one."""
    if config.threads:
        torch.set_num_threads(config.threads)


class PeftLocalTrainer:
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
        metrics = TrainMetrics(
            loss=sum(result.loss for result in results) / len(results),
            step_losses=tuple(result.loss for result in results),
            tokens=sum(result.tokens for result in results),
            answer_tokens=sum(result.answer_tokens for result in results),
            steps=len(results),
            seconds=time.perf_counter() - started,
        )
        return LocalResult(job.hospital, job.round, get_adapter_state(self.model), len(rows), metrics)

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


@dataclass(frozen=True)
class LocalTraining:
    """What ``train_local`` hands back: the trained PEFT model, its adapter and what the training was like."""

    model: Any
    state: AdapterState
    metrics: TrainMetrics
    num_samples: int

    def save_model(self, folder: str | Path) -> Path:
        """Write the adapter in PEFT's own format and return the folder."""
        save_adapter(self.state, Path(folder), self.model)
        return Path(folder)


def train_local(
    model: Any,
    train_dataset: Any,
    tokenizer: Any | None = None,
    config: FedMedConfig | None = None,
    *,
    name: str = "local",
    on_step: OnStep | None = None,
) -> LocalTraining:
    """Fine-tune the LoRA adapter of ``model`` on one data set. Rows marked ``split == "test"`` are left out.

    Args:
        model: from ``setup_lora``; trained in place.
        train_dataset: rows with ``question`` and ``answer``.
        tokenizer: None: the one ``load_model_and_tokenizer`` put on the model.
        config: None: the defaults.
        name: names the random stream and the errors.
        on_step: progress.

    Raises:
        EmptyDataError: no training rows. NonFiniteLossError: names the step and its rows.
        TrainingError: the model has no adapter or no tokenizer.
    """
    config = config or default_config()
    tokenizer = tokenizer if tokenizer is not None else getattr(model, "fedmed_tokenizer", None)
    if tokenizer is None:
        raise TrainingError(
            "the model carries no tokenizer", "pass tokenizer=, or load it with load_model_and_tokenizer"
        )
    if not hasattr(model, "peft_config"):
        raise TrainingError("the model has no LoRA adapter", "call setup_lora(model) first")
    rows, report = encode_records(
        [row for row in train_dataset if row.get("split", "train") != "test"],
        tokenizer,
        prompt_template=config.model.prompt_template,
        answer_prefix=config.model.answer_prefix,
        max_length=config.model.max_length,
    )
    if report.dropped and not rows:
        raise EmptyDataError(f"all {report.dropped} training records are over-long", "raise model.max_length")
    trainer = PeftLocalTrainer(model, {name: rows}, config.training, on_step)
    job = LocalJob(name, round=1, rounds=1, seed=config.federated.seed, start=get_adapter_state(model))
    result = next(trainer.run([job]))
    return LocalTraining(model, result.state, result.metrics, result.num_samples)

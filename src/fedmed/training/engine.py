"""The training engine: one frozen base, many hospitals, their micro-batches in one forward and one backward.

Rows of all hospitals of a pass lie end to end without padding (``model.packing``), attend within themselves
(``model.packed_attention``), meet their own hospital's LoRA (``model.packed_lora``), and pay the output layer at
answer tokens only, without logits (``model.answer_loss``). Each hospital has a fresh AdamW of its own, as in FedAvg
(McMahan et al. 2017, arXiv:1602.05629), and gets the gradient that it would get alone.

Hospitals train in waves of about ``TOKENS_PER_WAVE`` tokens, so memory does not grow with their number. With
``engine=single`` a wave is one hospital and a result is the same bit for bit on the same versions, machine and threads;
``engine=packed`` sums products in another order (relative L2 <= 1e-4).
Not covered here, and trained by ``plain.train_plain``: LoRA dropout, DoRA, models whose rows do not stay
apart. Not covered at all: several devices.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from fedmed.config.schema import TrainingSection
from fedmed.data.encode import EncodedRow
from fedmed.errors import NonFiniteLossError, TrainingError
from fedmed.model.adapter import get_adapter_state
from fedmed.model.answer_loss import answer_loss, body_and_head
from fedmed.model.folding import folded
from fedmed.model.hardware import give_back_free_memory
from fedmed.model.packed_attention import layout, rows_apart
from fedmed.model.packed_lora import Gradient, HospitalAdapter, Pass, Segment, installed, why_not
from fedmed.model.packing import PROBE_ROWS, group_by_tokens, losses_apart, pack_rows
from fedmed.training.compiling import compiled, compiled_parts
from fedmed.training.plain import OnStep, train_plain, use_threads
from fedmed.training.stepper import (
    AdapterOptimizer,
    StepResult,
    autocast,
    not_finite,
    train_metrics,
    use_checkpointing,
)
from fedmed.training.steps import JobSteps
from fedmed.types import AdapterState, LocalJob, LocalResult
from fedmed.utils.logger import get_logger

log = get_logger(__name__)

TOKENS_PER_WAVE = 320
"""Tokens of the hospitals that train side by side, on average: beyond it products gain little, and memory grows."""
HOSPITALS_PER_WAVE = 4
"""At most: each brings its adapter, gradient and optimiser along, four times an adapter in all."""
TOKENS_PER_PASS = 384
"""Tokens of one forward and backward at most, unless one micro-batch alone has more."""


def place_in_wave(tokens: int) -> int:
    """Of ``TOKENS_PER_WAVE``, what a hospital takes whose micro-batches have so many tokens."""
    return max(tokens, TOKENS_PER_WAVE // HOSPITALS_PER_WAVE)


class EngineTrainer:
    """The ``LocalTrainer`` of the simulation, of ``train_local`` and of a hospital on a network.

    Args:
        model: a PEFT model; its own adapter is not touched by the engine, and is by the plain path.
        rows_by_hospital: training rows of each hospital.
        config: batch, steps, rates, and ``engine``.
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
        self._fits = fits(model)

    def run(self, jobs: Sequence[LocalJob]) -> Iterator[LocalResult]:
        """Results in the order of ``jobs``, each as soon as its wave is done.

        Raises:
            NonFiniteLossError: names the hospital, the step and its rows. EmptyDataError: a hospital without rows.
            TrainingError: jobs on different bases. What ``folded`` raises.
        """
        if not all(_same_arrays(job.folded, jobs[0].folded) for job in jobs):
            raise TrainingError("jobs with different folded parts cannot train together", "run them one after another")
        with folded(self.model, jobs[0].folded if jobs else {}):
            if not self._fits:
                for job in jobs:
                    yield train_plain(self.model, job, self.rows_by_hospital[job.hospital], self.config, self.on_step)
                return
            for wave in self._waves(jobs):
                yield from self._train(wave)

    def _waves(self, jobs: Sequence[LocalJob]) -> Iterator[list[LocalJob]]:
        """Jobs, in order, whose micro-batches fill one pass on average; one a wave with ``engine=single``."""
        if self.config.engine == "single":
            yield from ([job] for job in jobs)
            return
        sizes = []
        for job in jobs:
            rows = self.rows_by_hospital[job.hospital]
            mean = sum(len(row.input_ids) for row in rows) / max(1, len(rows))
            sizes.append(place_in_wave(math.ceil(mean * min(self.config.batch_size, max(1, len(rows))))))
        for group in group_by_tokens(sizes, TOKENS_PER_WAVE):
            yield [jobs[index] for index in group]

    def _train(self, jobs: Sequence[LocalJob]) -> Iterator[LocalResult]:
        started = time.perf_counter()
        hospitals = [
            _Hospital(job, self.rows_by_hospital[job.hospital], self.config, _device(self.model)) for job in jobs
        ]
        self._fit(hospitals)
        seconds = (time.perf_counter() - started) / len(hospitals)
        hospitals.reverse()
        while hospitals:  # each is let go before the next result is made
            yield hospitals.pop().result(seconds)
        give_back_free_memory()

    def _fit(self, hospitals: Sequence[_Hospital]) -> None:
        engine = Engine(self.model, self.config)
        for number in range(max(len(hospital.steps) for hospital in hospitals)):
            going = [hospital for hospital in hospitals if number < len(hospital.steps)]
            adapters = [hospital.adapter for hospital in going]
            names = [hospital.steps.where(number) for hospital in going]
            results = engine.gradients(adapters, [hospital.steps.batches(number) for hospital in going], names)
            for hospital, name in zip(going, names, strict=True):
                hospital.optimizer.prepare(name)
            for hospital, result in zip(going, results, strict=True):
                hospital.optimizer.step(hospital.steps.rate(number))
                hospital.results.append(result)
                if self.on_step:
                    self.on_step(hospital.job, number + 1, len(hospital.steps), result)


@dataclass(frozen=True, slots=True)
class Part:
    """Some rows of one hospital in a pass, and where their gradient goes."""

    adapter: HospitalAdapter
    gradient: Gradient
    answers: int  # answer tokens that the loss is a mean over; these rows may hold a part of them
    rows: Sequence[EncodedRow]


class Engine:
    """One step's losses and gradients for several hospitals at once.

    Args:
        model: a PEFT model that ``fits``.
        config: precision, checkpointing, compiling.
    """

    def __init__(self, model: Any, config: TrainingSection) -> None:
        self.model = model
        self.config = config
        self.device = _device(model)
        self.body, self.head, self.softcap = body_and_head(model)
        self.loss = answer_loss  # the planner watches it
        use_checkpointing(model, config.gradient_checkpointing)
        self.compiled = compiled_parts(model, config.compile)

    def gradients(
        self,
        adapters: Sequence[HospitalAdapter],
        micro_batches: Sequence[Sequence[Sequence[EncodedRow]]],
        where: Sequence[str] | None = None,
    ) -> list[StepResult]:
        """Fill each adapter's gradient with that of its mean loss over all answer tokens of its step.

        Args:
            adapters: one a hospital.
            micro_batches: hospital -> micro-batch -> rows; hospitals may have different numbers of them.
            where: names each hospital's step in an error.

        Raises:
            NonFiniteLossError: names the first hospital whose loss is not finite.
        """
        for adapter in adapters:
            adapter.begin_step()
        answers = [sum(map(count_answers, batches)) for batches in micro_batches]
        longest = max(len(batches) for batches in micro_batches)
        items = [(n, own[place]) for place in range(longest) for n, own in enumerate(micro_batches) if place < len(own)]
        losses = [0.0] * len(adapters)
        current = Pass(self.device)
        self.model.train()
        with installed(self.model, current), compiled(self.compiled, self.config.compile):
            for group in group_by_tokens([count_tokens(batch) for _, batch in items], TOKENS_PER_PASS):
                chosen = [items[index] for index in group]
                parts = [Part(adapters[n], adapters[n].gradient, answers[n], batch) for n, batch in chosen]
                losses_of, counts = self.pass_losses(current, parts)
                for (number, _), own in zip(chosen, torch.split(losses_of, counts), strict=True):
                    part = float(own.sum())
                    if not math.isfinite(part):
                        raise not_finite("loss", part, where[number] if where else f"hospital {number}")
                    losses[number] += part
        for adapter in adapters:
            adapter.end_step()
        return [
            StepResult(loss, sum(map(count_tokens, batches)), count)
            for loss, batches, count in zip(losses, micro_batches, answers, strict=True)
        ]

    def pass_losses(self, current: Pass, parts: Sequence[Part]) -> tuple[torch.Tensor, list[int]]:
        """Forward and backward of some micro-batches.

        Args:
            current: what ``installed`` put into the model.
            parts: the micro-batches.

        Returns:
            The losses of all answer tokens, each a share of its part's mean, and their number in each part.
        """
        flat = [row for part in parts for row in part.rows]
        pack = pack_rows([(row.input_ids, row.prompt_length) for row in flat], self.device)
        counts = [count_answers(part.rows) for part in parts]
        weights = torch.cat(
            [torch.full((count,), 1.0 / part.answers) for count, part in zip(counts, parts, strict=True)]
        ).to(self.device)
        segments, start = [], 0
        for part in parts:
            end = start + count_tokens(part.rows)
            segments.append(Segment(start, end, part.adapter, part.gradient))
            start = end
        current.segments = segments
        groups = layout([len(row.input_ids) for row in flat], self.device)
        with rows_apart(self.model, groups):  # also while gradients are taken: checkpointing runs layers again
            with autocast(self.config, self.device):
                hidden = self.body(
                    input_ids=pack.input_ids, position_ids=pack.position_ids, use_cache=False
                ).last_hidden_state[0]
                loss, nll = self.loss(
                    hidden[pack.keep],
                    self.head.weight,
                    pack.targets,
                    weights,
                    bias=self.head.bias,
                    softcap=self.softcap,
                )
            torch.autograd.backward(loss)
        return nll.double() * weights.double(), counts


def fits(model: Any) -> bool:
    """Whether the engine can train this PEFT model; measured once on two short rows, then remembered.

    What it cannot is said in the log, and why.
    """
    known = getattr(model, "fedmed_engine_fits", None)
    if known is None:
        reason = why_not(model) or _probe(model)
        known = model.fedmed_engine_fits = reason is None
        if reason is not None:
            log.warning("hospitals train one by one on the plain path, which is slower: %s", reason)
    return bool(known)


def _probe(model: Any) -> str | None:
    """Compare with the model's own answer on rows one by one; returns what differs."""
    rows = [EncodedRow(tuple(ids), prompt_length) for ids, prompt_length in PROBE_ROWS]
    device = _device(model)
    was_training = model.training
    try:
        engine = Engine(model, TrainingSection(precision="fp32", compile="off"))
        adapter = HospitalAdapter(get_adapter_state(model), None, device)
        packed = engine.gradients([adapter], [[rows]])[0].loss
    except (AttributeError, TypeError, ValueError, KeyError, NotImplementedError, NonFiniteLossError) as error:
        # The probe's rows are our own, so no record can be in the message.
        log.debug("the engine's probe failed", exc_info=True)
        first = (str(error).splitlines() or [""])[0]
        return f"the model has another layout ({type(error).__name__}{': ' if first else ''}{first})"
    finally:
        model.train(was_training)
    plain = float(losses_apart(model, PROBE_ROWS).mean())
    tolerance = 1e-4 if next(model.parameters()).dtype == torch.float32 else 0.05
    if abs(packed - plain) > tolerance * max(1.0, abs(plain)):
        return f"its rows do not stay apart when packed, or it bends logits (loss {packed:.4f}, not {plain:.4f})"
    return None


class _Hospital:
    """One hospital's local training: its steps, its adapter, its optimiser, its losses."""

    def __init__(
        self, job: LocalJob, rows: Sequence[EncodedRow], config: TrainingSection, device: torch.device
    ) -> None:
        self.job = job
        self.steps = JobSteps(job, rows, config)
        self.adapter = HospitalAdapter(job.start, job.trainable, device)
        self.optimizer = AdapterOptimizer([self.adapter.flat], config, proximal_mu=job.proximal_mu)
        self.results: list[StepResult] = []

    def result(self, seconds: float) -> LocalResult:
        metrics = train_metrics(self.results, seconds)
        return LocalResult(self.job.hospital, self.job.round, self.adapter.state(), len(self.steps.rows), metrics)


def _same_arrays(left: AdapterState, right: AdapterState) -> bool:
    """As a rule they are the same objects, so that nothing is compared."""
    return left is right or (
        left.keys() == right.keys()
        and all(array is right[key] or np.array_equal(array, right[key]) for key, array in left.items())
    )


def count_tokens(rows: Sequence[EncodedRow]) -> int:
    return sum(len(row.input_ids) for row in rows)


def count_answers(rows: Sequence[EncodedRow]) -> int:
    return sum(len(row.input_ids) - row.prompt_length for row in rows)


def _device(model: Any) -> torch.device:
    device: torch.device = model.get_input_embeddings().weight.device
    return device

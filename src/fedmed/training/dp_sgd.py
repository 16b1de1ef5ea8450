"""DP-SGD on one hospital's LoRA factors. the engine's gradients, one unit at a time -> HERE -> what leaves.

One step, Abadi et al. 2016 (arXiv:1607.00133, algorithm 1), with AdamW or SGD behind it:

    sample   each unit, a record or a patient, by itself with probability q: the size of a batch is chance (Poisson)
    clip     the gradient of each unit's own mean loss an answer token, all factors together, to the L2 norm C
    noise    their sum + N(0, (sigma C)^2) on every number that trains, from the operating system's generator
    step     divided by the expected batch q N, never by the true one, which is secret

A unit's gradient needs no second pass: rows lie end to end in one pass and each has a place of its own for its two
small products a layer. A pass holds as many units as fit its tokens, so a batch may be of any size.

What a round costs is in the hospital's ledger before its first step; a round trained again is charged again. Its
losses and its number of records are no part of what is noised: metrics stay home, and the weight sent is 1.

Not covered: how other rows of a pass change the last bits of a gradient (relative 1e-6 in fp32, more in bf16); LoRA
dropout, DoRA and models that the engine cannot train (an error, not a slow path); gradient accumulation (it only
sets the expected batch); how long a step takes, which tells the size of its batch to whoever can time it; the memory of
one gradient a unit of a pass, which the planner does not count; settings chosen by training on the same records several
times, unless each is charged.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from fedmed.config.schema import ExampleSection, TrainingSection
from fedmed.data.encode import EncodedRow
from fedmed.errors import AccountingError, BudgetError, TrainingError
from fedmed.model.packed_lora import Gradient, HospitalAdapter, Pass, installed
from fedmed.model.packing import group_by_tokens
from fedmed.privacy.accountant import Event, SampledGaussian, solve_sigma
from fedmed.privacy.discrete_gaussian import SeededSource, Source, SystemSource
from fedmed.privacy.gaussian import gaussian, uniform
from fedmed.privacy.ledger import Budget, Ledger
from fedmed.training.compiling import compiled
from fedmed.training.engine import TOKENS_PER_PASS, Engine, Part, count_answers, count_tokens, fits
from fedmed.training.plain import OnStep, use_threads
from fedmed.training.stepper import AdapterOptimizer, StepResult, not_finite, train_metrics
from fedmed.training.steps import learning_rate
from fedmed.types import AdapterState, LocalJob, LocalResult
from fedmed.utils.random_streams import stream_seed

Units = Sequence[Sequence[EncodedRow]]
"""What is hidden, one by one: the rows of each record (one row) or of each patient."""

_SHORTER = 1.0 - 2.0**-40
"""Clipping aims so much below C that float64's rounding stays within; sums and noise are float64 to the end."""


class NoisySum:
    """A sum of clipped gradients with noise in it.

    Args:
        size: numbers of a gradient.
        clip: L2 bound C of one contribution, > 0.
        sigma: noise multiplier; the noise on each number has the standard deviation sigma C.
        source: of random bits.
        device: where the sum lives.
    """

    def __init__(
        self, size: int, clip: float, sigma: float, source: Source, device: torch.device | str = "cpu"
    ) -> None:
        self._sum = torch.zeros(size, device=device, dtype=torch.float64)
        self._clip, self._sigma, self._source = clip, sigma, source

    def add(self, gradient: torch.Tensor) -> float:
        """Clip one unit's gradient [size] and add it; returns its norm before. Not finite: counts as zero."""
        norm = float(torch.linalg.vector_norm(gradient, dtype=torch.float64))
        if math.isfinite(norm):
            self._sum.add_(gradient, alpha=min(1.0, self._clip / norm * _SHORTER) if norm else 0.0)
        return norm

    def close(self) -> torch.Tensor:
        """The sum with its noise [size], float64; draws anew each time, so call it once."""
        if self._sigma:
            noise = torch.from_numpy(gaussian(self._sum.numel(), self._source))
            self._sum.add_(noise.to(self._sum.device), alpha=self._sigma * self._clip)
        return self._sum


def privatize(gradients: torch.Tensor, clip: float, sigma: float, source: Source) -> torch.Tensor:
    """What one step lets out of the gradients [n, d] of n units: their clipped, noised sum [d]."""
    noisy = NoisySum(gradients.shape[1], clip, sigma, source)
    for gradient in gradients:
        noisy.add(gradient)
    return noisy.close()


def poisson_sample(units: int, rate: float, source: Source) -> list[int]:
    """Which of ``units`` take part: each by itself with probability ``rate``; maybe none."""
    drawn: list[int] = np.flatnonzero(uniform(units, source) < rate).tolist()
    return drawn


@dataclass(frozen=True, slots=True)
class NoisePlan:
    """How one hospital trains under noise; all of it follows from its settings and its number of units."""

    rate: float  # q: chance of a unit to be in a step, rounded up to three digits
    batch: float  # q N: what a sum is divided by
    sigma: float
    steps: int  # of a round
    event: SampledGaussian  # what a round costs


def plan_noise(
    units: int, training: TrainingSection, example: ExampleSection, rounds: int, before: Sequence[Event] = ()
) -> NoisePlan:
    """Rate, steps and noise of one hospital.

    Args:
        units: records or patients it trains on, >= 1.
        training: the expected batch is ``batch_size * gradient_accumulation_steps``; ``max_steps`` or ``epochs``.
        example: budget, and the noise multiplier if it is set.
        rounds: to come; the noise is the least with which all of them, and ``before``, cost at most the budget.
        before: what the hospital has spent.

    Raises:
        AccountingError: no noise meets the budget. MissingExtraError: dp-accounting is not installed.
    """
    rate = min(1.0, _rounded_up(training.batch_size * training.gradient_accumulation_steps / units))
    steps = training.max_steps or math.ceil(training.epochs / rate)
    assert example.epsilon is not None
    sigma = example.noise_multiplier or solve_sigma(example.epsilon, example.delta, rate, steps * rounds, before=before)
    return NoisePlan(rate, rate * units, sigma, steps, SampledGaussian(rate, sigma, steps, example.unit))


def _rounded_up(rate: float) -> float:
    """To three digits: hospitals of nearly the same size then share a rate, and its second of accounting."""
    near = float(f"{rate:.3g}")
    return near if near >= rate else float(f"{near + 10.0 ** (math.floor(math.log10(rate)) - 2):.3g}")


class DpTrainer:
    """The ``LocalTrainer`` of hospitals that hide their records; they train one after another.

    Args:
        model: a PEFT model that the engine can train.
        units: hospital -> what it hides, one by one.
        training: batch, steps, rates; clipping of whole gradients (``max_grad_norm``) is left out.
        example: the noise.
        rounds: that will train, for ``plan_noise``; 0: none, and nothing is planned.
        ledgers: hospital -> its ledger, open for charges; it is charged before anything trains.
        run_id: names the run in the ledgers.
        on_step: progress.

    Raises:
        TrainingError: the engine cannot train this model.
        BudgetError: a hospital has spent its budget, or this run would pass it; nothing is charged.
    """

    def __init__(
        self,
        model: object,
        units: Mapping[str, Units],
        training: TrainingSection,
        example: ExampleSection,
        *,
        rounds: int,
        ledgers: Mapping[str, Ledger],
        run_id: str = "",
        on_step: OnStep | None = None,
    ) -> None:
        use_threads(training)
        if not fits(model):
            raise TrainingError(
                "this model or its LoRA settings cannot train with privacy noise",
                "switch LoRA dropout and DoRA off, or choose a model that the engine packs",
            )
        self._model, self._units, self._training, self._example = model, units, training, example
        self._ledgers, self._run_id, self._on_step = ledgers, run_id, on_step
        self.plans = {name: self._plan(name, rounds) for name in units} if rounds else {}

    @property
    def budget(self) -> Budget:
        """What a hospital's ledger holds every charge against."""
        assert self._example.epsilon is not None
        return Budget(self._example.epsilon, self._example.delta)

    def run(self, jobs: Sequence[LocalJob]) -> Iterator[LocalResult]:
        """Results in the order of ``jobs``; each is charged before its training begins.

        Raises:
            BudgetError, LedgerError: the hospital's ledger does not allow it. NonFiniteLossError: the adapter is
            not finite any more. TrainingError: jobs with folded parts, or weights that do not move.
        """
        for job in jobs:
            if job.folded:
                raise TrainingError(
                    "methods that fold into the base cannot train with privacy noise yet", "use fedavg, ffa or fedsb"
                )
            self._charge(job)
            yield self._train(job)

    def _plan(self, hospital: str, rounds: int) -> NoisePlan:
        ledger, budget = self._ledgers[hospital], self.budget
        spent = ledger.spent(budget.delta, self._example.unit).epsilon
        if spent >= budget.epsilon:
            raise BudgetError(
                f"the privacy budget of '{hospital}' per {self._example.unit} is spent: ε {spent:.4g} of"
                f" {budget.epsilon:g} at δ {budget.delta:g}",
                "raise privacy.example.epsilon, or train no more on these records",
            )
        try:
            before = ledger.events(self._example.unit)
            plan = plan_noise(len(self._units[hospital]), self._training, self._example, rounds, before)
        except AccountingError as error:
            raise BudgetError(
                f"the privacy budget of '{hospital}' per {self._example.unit}, ε {budget.epsilon:g} at δ"
                f" {budget.delta:g}, is spent to {spent:.4g}, and no noise lets {rounds} more rounds fit",
                "raise privacy.example.epsilon, or train no more on these records",
            ) from error
        after = ledger.would_spend([plan.event] * rounds, budget.delta).epsilon
        if after > budget.epsilon:
            raise BudgetError(
                f"the privacy budget of '{hospital}' per {self._example.unit} would be exceeded: ε {spent:.4g} of"
                f" {budget.epsilon:g} at δ {budget.delta:g} is spent, {budget.epsilon - spent:.4g} is left, this run"
                f" would bring it to {after:.4g}",
                "take fewer steps or rounds, or raise privacy.example.noise_multiplier or leave it out",
            )
        return plan

    def _charge(self, job: LocalJob) -> None:
        if self._example.noise_seed is not None:
            return  # no epsilon is claimed for it
        # Trained again after a kill, a round has other noise: another attempt, charged again.
        self._ledgers[job.hospital].charge(self._run_id, job.round, None, self.plans[job.hospital].event, self.budget)

    def _train(self, job: LocalJob) -> LocalResult:
        started = time.perf_counter()
        plan, units = self.plans[job.hospital], self._units[job.hospital]
        seed = self._example.noise_seed
        source: Source = SystemSource() if seed is None else SeededSource(stream_seed(seed, job.hospital, job.round))
        engine = Engine(self._model, self._training)
        adapter = HospitalAdapter(job.start, job.trainable, engine.device)
        start = adapter.flat.detach().clone()
        whole = self._training.model_copy(update={"max_grad_norm": None})  # each unit's gradient is clipped already
        optimizer = AdapterOptimizer(
            [adapter.flat], whole, proximal_mu=job.proximal_mu, sgd=self._example.optimizer == "sgd"
        )
        results = []
        for number in range(plan.steps):
            where = f"{job.hospital}, round {job.round}, step {number + 1}"
            drawn = [units[index] for index in poisson_sample(len(units), plan.rate, source)]
            noisy = NoisySum(adapter.flat.numel(), self._example.clip, plan.sigma, source, engine.device)
            result = add_gradients(engine, adapter, drawn, noisy.add)
            adapter.flat.grad = noisy.close().div_(plan.batch).float()
            optimizer.prepare(where)
            rate = learning_rate(
                self._training, step=number, steps=plan.steps, round_number=job.round, rounds=job.rounds
            )
            optimizer.step(rate * min(1.0, job.rate_scale))
            # Only what has noise in it may stop a run: that one record's gradient overflows is nobody's business.
            if not bool(torch.isfinite(adapter.flat).all()):
                raise not_finite("adapter", math.nan, where)
            if number == 0 and torch.equal(start, adapter.flat.detach()):
                raise TrainingError(f"the weights did not move at {where}", "raise training.learning_rate")
            results.append(result)
            if self._on_step:
                self._on_step(job, number + 1, plan.steps, result)
        metrics = train_metrics(results, time.perf_counter() - started)
        return LocalResult(job.hospital, job.round, adapter.state(), 1, metrics)


def add_gradients(
    engine: Engine, adapter: HospitalAdapter, units: Units, add: Callable[[torch.Tensor], float]
) -> StepResult:
    """Hand over the gradient of each unit's mean loss, in their order, all from the adapter as it is now.

    Args:
        engine: of the model.
        adapter: where the gradients are taken; its own step gradient is cleared and stays so.
        units: any number, each of any size.
        add: takes a unit's gradient [n], which is overwritten afterwards, and returns its norm.

    Returns:
        The mean of the units' losses (NaN where there is none), and their tokens.
    """
    adapter.begin_step()
    current = Pass(engine.device)
    places: list[Gradient] = []  # made once, used by every pass
    losses = []
    engine.model.train()
    with installed(engine.model, current), compiled(engine.compiled, engine.config.compile):
        for group in group_by_tokens([count_tokens(unit) for unit in units], TOKENS_PER_PASS):
            while len(places) < len(group):
                places.append(adapter.new_gradient())
            used = places[: len(group)]
            sums = [0.0] * len(group)
            for place in used:
                place.clear()
            for parts in _passes(adapter, [units[index] for index in group], used):
                token_losses, counts = engine.pass_losses(current, [part for _, part in parts])
                for (number, _), own in zip(parts, torch.split(token_losses, counts), strict=True):
                    sums[number] += float(own.sum())
            for place in used:
                adapter.end_step(place)
                add(place.flat)
            losses += sums
    mean = sum(losses) / len(losses) if losses else math.nan
    return StepResult(mean, sum(map(count_tokens, units)), sum(map(count_answers, units)))


def update_of(
    model: object,
    state: AdapterState,
    rows: Sequence[EncodedRow],
    training: TrainingSection,
    *,
    clip: float,
    sigma: float,
) -> AdapterState:
    """What a step on one unit alone lets out of its hospital: PEFT key -> clipped, noised gradient.

    Args:
        model: a PEFT model of the state's rank that the engine can train.
        state: where the gradient is taken.
        rows: of the unit.
        training: precision.
        clip, sigma: as in ``NoisySum``; sigma 0: no noise.
    """
    engine = Engine(model, training)
    adapter = HospitalAdapter(state, None, engine.device)
    noisy = NoisySum(adapter.flat.numel(), clip, sigma, SystemSource(), engine.device)
    add_gradients(engine, adapter, [rows], noisy.add)
    adapter.gradient.flat.copy_(noisy.close())
    return {key: array.cpu().numpy().copy() for key, array in adapter.gradients.items()}


def _passes(adapter: HospitalAdapter, units: Units, places: Sequence[Gradient]) -> Iterator[list[tuple[int, Part]]]:
    """Passes of a group: one, or, where a single unit has more rows than fit, several that fill the same place."""
    if len(units) > 1:
        yield [
            (number, Part(adapter, place, count_answers(unit), unit))
            for number, (unit, place) in enumerate(zip(units, places, strict=True))
        ]
        return
    (unit,) = units
    answers = count_answers(unit)
    for rows in group_by_tokens([len(row.input_ids) for row in unit], TOKENS_PER_PASS):
        yield [(0, Part(adapter, places[0], answers, [unit[row] for row in rows]))]

"""What privacy a run would cost, or what a budget buys, before it runs. settings -> HERE -> ``fedmed privacy plan``.

Not covered: what noise does to the loss; only its length beside the longest signal is predicted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from fedmed.config.schema import FedMedConfig
from fedmed.errors import AccountingError
from fedmed.federated.algorithms import get_algorithm
from fedmed.privacy.accountant import SampledGaussian, Spent, epsilon, solve_rate, solve_sigma, solve_steps
from fedmed.privacy.hospital_dp import noise_to_signal
from fedmed.types import LocalPlan
from fedmed.utils.extras import require

SHOWN = {"full adapter": "fedavg", "ffa": "ffa", "fedsb": "fedsb"}
"""What a row is called -> an algorithm that trains and sends so many numbers."""


@dataclass(frozen=True, slots=True)
class Noise:
    """One algorithm's row; ratios are noise / longest signal, both as L2 norms over all numbers."""

    trained: str
    numbers: int
    step_ratio: float  # example level, one step, summed over all hospitals
    run_ratio: float  # example level, all steps, if every step pulled the same way
    hospital_ratio: float  # hospital level, one round's sum over all hospitals
    hospitals_needed: int  # hospital level, for a ratio of 1: fewer and a round's sum is mostly noise


@dataclass(frozen=True, slots=True)
class PrivacyPlan:
    """The JSON of ``fedmed privacy plan --json``."""

    epsilon: float  # target
    delta: float
    solved: str  # sigma | steps | batch | nothing
    fits: bool
    spent: dict[str, Any]  # ε of these settings by PLD and RDP, unit and sampling
    sigma: float
    sampling_rate: float
    records: int  # at one hospital
    batch: float  # expected records of one step at one hospital
    steps: int  # a round
    rounds: int
    hospitals: int
    hospital_sigma: float  # discrete Gaussian, the same ε and δ over the rounds
    noise: list[Noise]
    assumptions: list[str]
    warnings: list[str]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def make_privacy_plan(
    *,
    target: float,
    delta: float,
    records: int,
    batch: int | None,
    steps: int | None,
    rounds: int,
    hospitals: int,
    sigma: float | None,
    numbers: Mapping[str, int],
) -> PrivacyPlan:
    """Solve for what is None, and say what the whole costs.

    Args:
        target: ε for the records of one hospital, over all rounds.
        delta: of the target.
        records: training records of one hospital.
        batch: expected records of a step at one hospital; None: solved.
        steps: of a round at one hospital; None: solved.
        rounds: of the run.
        hospitals: in every round's sum.
        sigma: noise multiplier; None: solved.
        numbers: row name -> numbers trained and sent, see ``trained_numbers``.

    Raises:
        AccountingError: two or more unknowns, a batch larger than the records, or no answer meets the target.
        MissingExtraError: dp-accounting is not installed.
    """
    unknown = [name for name, value in (("sigma", sigma), ("steps", steps), ("batch", batch)) if value is None]
    if len(unknown) > 1:
        raise AccountingError(f"{' and '.join(unknown)} are all unknown", "state all of sigma, steps, batch but one")
    if batch is not None and batch > records:
        raise AccountingError(f"a batch of {batch} is more than the {records} records", "lower --batch")
    # What is solved for stands as 1 until it is known.
    rate, local, noise = (batch or 1) / records, steps or 1, sigma if sigma is not None else 1.0
    if sigma is None:
        noise = solve_sigma(target, delta, rate, local * rounds)
    elif steps is None:
        local = solve_steps(target, delta, rate, noise) // rounds
        if local == 0:
            raise AccountingError(f"not one step a round fits into {rounds} rounds", "take fewer rounds or raise sigma")
    elif batch is None:
        rate = solve_rate(target, delta, noise, local * rounds)
    spent = epsilon([SampledGaussian(rate, noise, local * rounds)], delta)
    hospital_sigma = solve_sigma(target, delta, 1.0, rounds, noise="discrete")
    rows = [_row(name, count, noise, rate * records, local * rounds, hospitals, hospital_sigma) for name, count in
            numbers.items()]  # fmt: skip
    return PrivacyPlan(
        epsilon=target,
        delta=delta,
        solved=unknown[0] if unknown else "nothing",
        fits=spent.epsilon <= target,
        spent=_without_infinity(spent),
        sigma=noise,
        sampling_rate=rate,
        records=records,
        batch=rate * records,
        steps=local,
        rounds=rounds,
        hospitals=hospitals,
        hospital_sigma=hospital_sigma,
        noise=rows,
        assumptions=_assumptions(rate),
        warnings=_warnings(rows, hospitals, delta, records),
    )


def trained_numbers(config: FedMedConfig) -> dict[str, int]:
    """How many numbers the full adapter, FFA-LoRA and Fed-SB train and send, on this model with this LoRA.

    Raises:
        ModelNotFoundError, ModelCorruptError, TargetModuleError.
    """
    torch = require("torch", "train")
    from fedmed.model.plan_shapes import build_shape, shape_of  # it needs torch, and stated numbers do not

    model = build_shape(shape_of(config.model.name), config.model.lora, torch.float32)
    peft = require("peft", "train")
    shapes = {key: tuple(value.shape) for key, value in peft.get_peft_model_state_dict(model).items()}
    adapter = {key: np.broadcast_to(np.float32(1), shape) for key, shape in shapes.items()}
    counts = {}
    for shown, name in SHOWN.items():
        algorithm = get_algorithm(config.federated.model_copy(update={"algorithm": name, "ranks": None}))
        state, _ = algorithm.start(adapter)
        sent = algorithm.template(state, LocalPlan("plan", 1, 1, "hospital_1", 0))
        counts[shown] = sum(math.prod(shape) for shape in sent.values())
    return counts


def _row(
    name: str, numbers: int, sigma: float, batch: float, steps: int, hospitals: int, hospital_sigma: float
) -> Noise:
    # The hospitals' own noises add up in the sum: sqrt(hospitals) sigma, in units of the clip bound.
    step = noise_to_signal(numbers, 1.0, sigma * math.sqrt(hospitals), 1) / (batch * hospitals)
    return Noise(
        trained=name,
        numbers=numbers,
        step_ratio=step,
        run_ratio=step / math.sqrt(steps),
        hospital_ratio=noise_to_signal(numbers, 1.0, hospital_sigma, hospitals),
        hospitals_needed=math.ceil(noise_to_signal(numbers, 1.0, hospital_sigma, 1)),
    )


def _without_infinity(spent: Spent) -> dict[str, Any]:
    """JSON has no infinity: null says that no ε holds."""
    values = asdict(spent)
    return {key: None if isinstance(value, float) and math.isinf(value) else value for key, value in values.items()} | {
        "sampling": list(spent.sampling)
    }


def _assumptions(rate: float) -> list[str]:
    drawn = (
        "every record enters every step"
        if rate == 1.0
        else "each record enters each step by itself with the sampling rate (Poisson), and who was drawn stays secret"
    )
    return [
        "the unit is one record, added or removed; a patient with several records is protected less",
        drawn,
        "each hospital adds its own noise; a record lies at one hospital, so hospitals do not add up",
        "a ratio is the noise's length beside the longest signal there can be, so what is learnt sees more noise",
        "hospital hidden: all take part in every round, whole-number noise on the sum, one hospital replaced by zeros",
    ]


def _warnings(rows: list[Noise], hospitals: int, delta: float, records: int) -> list[str]:
    said = []
    hopeless = [row for row in rows if row.hospitals_needed > hospitals]
    if hopeless:
        least = min(rows, key=lambda row: row.hospitals_needed)
        word = (
            "hopeless" if len(hopeless) == len(rows) else f"hopeless for {', '.join(row.trained for row in hopeless)}"
        )
        said.append(
            f"hiding a whole hospital among {hospitals} is {word}: a round's noise is up to "
            f"{max(row.hospital_ratio for row in rows):,.0f} times the longest sum; it begins to make sense from "
            f"{least.hospitals_needed:,} hospitals ({least.trained})"
        )
    if delta * records >= 1.0:
        said.append(f"δ {delta:g} allows one of {records:,} records to be published outright: take δ below 1 / records")
    return said

"""How much privacy noisy steps have cost. what training and hospital_dp did -> HERE -> ledger, plan, summary.

Two events are known. ``SampledGaussian``: steps of DP-SGD, each on a Poisson sample, with Gaussian noise on a sum of
clipped contributions. ``Concentrated``: releases that are rho-zCDP, as integer noise is. Events of all rounds and runs
compose into one (ε, δ).

Two ways count the same events: privacy loss distributions (PLD; Koskela et al. 2020, arXiv:1906.03049; Doroshenko et
al. 2022, arXiv:2207.04380) and Rényi divergences (RDP; Mironov et al. 2019, arXiv:1908.10530). Each is an upper bound
by itself, so the smaller one is stated and the other stands beside it. zCDP has no PLD: RDP counts it alone, as it does
below a δ of 1e-10, where rounding in the convolutions of the PLD reaches the figure.

Assumptions, which the caller must make true: neighbours differ by one whole unit, added or removed; with a sampling
rate below 1 each unit enters each step independently with that probability, and who was drawn stays secret; noise has
``sigma`` times the clip bound as its standard deviation, from a generator that nobody can predict.

Not covered: shuffled or fixed-size batches (another record takes the place of a removed one, so that a sum moves by
twice the clip bound: charge them at rate 1 with half of sigma); choosing settings on the same records (charge each
trial); floating-point effects in Gaussian noise (hospital_dp draws integers instead).
"""

from __future__ import annotations

import contextlib
import functools
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

from fedmed.errors import AccountingError
from fedmed.utils.extras import require

Unit: TypeAlias = Literal["record", "patient", "hospital"]
"""What one neighbour more or less is."""

Level: TypeAlias = Literal["example", "hospital"]
"""Whether noise hides what is inside a hospital (records, patients), or a whole hospital."""

MOST_STEPS = 10_000_000
_NO_PLD_ABOVE = 100.0  # ε by RDP; beyond it the PLD's grid costs seconds and gigabytes, and no answer matters
_NO_PLD_BELOW = 1e-10  # δ; at 1e-12 the PLD already came out below a closed form, by 2e-4
_FINE, _COARSE = 1e-4, 1e-3  # grids of the privacy loss; the coarse one is ten times faster and finds the place
_LEAST_SIGMA = 1e-3
_CLOSE = 1e-4  # relative; how near solved sigmas and rates come to the target


@dataclass(frozen=True, slots=True)
class SampledGaussian:
    """``steps`` times: a Poisson sample, clipped contributions summed, Gaussian noise added.

    Args:
        q: sampling rate, above 0 and at most 1; 1: everyone takes part.
        sigma: noise multiplier, standard deviation / clip bound, >= 0; 0 is no privacy at all (ε infinite).
        steps: >= 1.
        unit: what was clipped and sampled as one.

    Raises:
        AccountingError: a value outside these ranges.
    """

    q: float
    sigma: float
    steps: int
    unit: Unit = "record"

    def __post_init__(self) -> None:
        _need(0.0 < self.q <= 1.0, f"the sampling rate is {self.q}", "it must be above 0 and at most 1")
        _need(0.0 <= self.sigma < math.inf, f"the noise multiplier is {self.sigma}", "it must be a number from 0")
        _check_common(self.steps, self.unit)

    @property
    def sampling(self) -> str:
        """The sampling assumption, for records and people."""
        return "Poisson, secret" if self.q < 1.0 else "none"


@dataclass(frozen=True, slots=True)
class Concentrated:
    """``steps`` releases, each rho-zCDP (Bun and Steinke 2016, arXiv:1605.02065), without sampling.

    Args:
        rho: of one release, >= 0; infinite where there is no noise.
        steps: >= 1.
        unit: what one neighbour is.

    Raises:
        AccountingError: a value outside these ranges.
    """

    rho: float
    steps: int
    unit: Unit = "hospital"

    def __post_init__(self) -> None:
        _need(self.rho >= 0.0, f"rho is {self.rho}", "it must be a number from 0")
        _check_common(self.steps, self.unit)

    @property
    def sampling(self) -> str:
        """The sampling assumption, for records and people."""
        return "none"


Event: TypeAlias = SampledGaussian | Concentrated


@dataclass(frozen=True, slots=True)
class Spent:
    """What events cost together."""

    epsilon: float  # the smaller of the two bounds; infinite: no privacy
    delta: float
    by: Literal["pld", "rdp"]  # which bound that is
    pld: float | None  # None: not counted, because of zCDP events, an ε beyond sense or a tiny δ
    rdp: float
    unit: Unit | None  # None: nothing was spent
    sampling: tuple[str, ...]  # the assumptions in use


def level_of(unit: Unit) -> Level:
    """Records and patients are hidden at the level of examples, hospitals at their own."""
    return "hospital" if unit == "hospital" else "example"


def event_as_dict(event: Event) -> dict[str, Any]:
    """Plain JSON values that ``event_from_dict`` reads; the unit is left to the reader's record.

    An infinite rho is written as the text "inf", which JSON has no number for.
    """
    if isinstance(event, SampledGaussian):
        return {"kind": "sampled_gaussian", "q": event.q, "sigma": event.sigma, "steps": event.steps}
    return {"kind": "zcdp", "rho": event.rho if math.isfinite(event.rho) else "inf", "steps": event.steps}


def event_from_dict(values: Mapping[str, Any], unit: Unit) -> Event:
    """The event that ``event_as_dict`` wrote.

    Raises:
        AccountingError: these are not the values of an event.
    """
    try:
        rest = {key: value for key, value in values.items() if key != "kind"}
        if values["kind"] == "sampled_gaussian":
            return SampledGaussian(**rest, unit=unit)
        if values["kind"] == "zcdp":
            return Concentrated(**(rest | {"rho": float(rest["rho"])}), unit=unit)
    except (AttributeError, TypeError, KeyError, ValueError) as error:
        raise AccountingError(f"an event cannot be read ({type(error).__name__}: {error})") from error
    raise AccountingError(f"the kind of event '{values['kind']}' is unknown", "read it with a newer FED-MED")


def epsilon(events: Sequence[Event], delta: float) -> Spent:
    """What all events cost together.

    Args:
        events: of one unit, in any order; equal ones are counted once, times their steps.
        delta: above 0 and below 1; far below 1 / number of units.

    Returns:
        ε and how it was counted; 0 for no events.

    Raises:
        AccountingError: ``delta`` is out of range, or the events protect different units, which do not add up.
        MissingExtraError: dp-accounting is not installed.
    """
    check_target(1.0, delta)
    units = {event.unit for event in events}
    _need(
        len(units) <= 1, f"events of different units ({', '.join(sorted(units))}) do not add up", "count each by itself"
    )
    return _spent(events, delta, _FINE)


def fits(events: Sequence[Event], epsilon: float, delta: float) -> bool:
    """Whether all events together cost at most (ε, δ); as ``epsilon`` counts, and fast where RDP alone says yes.

    Raises:
        As ``epsilon``.
    """
    check_target(epsilon, delta)
    return _rdp(_grouped(events), delta) <= epsilon or _spent(events, delta, _FINE).epsilon <= epsilon


def solve_sigma(
    epsilon: float,
    delta: float,
    q: float,
    steps: int,
    *,
    noise: Literal["gaussian", "discrete"] = "gaussian",
    before: Sequence[Event] = (),
) -> float:
    """The least noise multiplier that keeps ``steps`` steps within (ε, δ), to a relative 1e-4 and never below it.

    Args:
        epsilon: target, above 0.
        delta: target, above 0 and below 1.
        q: sampling rate.
        steps: in all rounds and runs together.
        noise: "discrete": integer noise, each step 1/(2 sigma^2)-zCDP; without sampling.
        before: what was spent already, and counts against the target too.

    Raises:
        AccountingError: a value out of range, or no noise meets the target.
    """
    check_target(epsilon, delta)
    _need(noise == "gaussian" or q == 1.0, "integer noise is counted without sampling", "pass a sampling rate of 1")

    def made(sigma: float) -> list[Event]:
        if noise == "gaussian":
            return [*before, SampledGaussian(q, sigma, steps)]
        return [*before, Concentrated(1.0 / (2.0 * sigma**2), steps)]

    def share(sigma: float, grid: float) -> float:
        return _counted(made(sigma), delta, grid) / epsilon

    enough = 1.0
    while _rdp(made(enough), delta) > epsilon and share(enough, _COARSE) > 1.0:  # what was before may fit by PLD alone
        enough *= 2.0
        _need(enough < 1e9, f"no noise meets ε {epsilon:g} at δ {delta:g}", "raise ε or δ")
    while enough > _LEAST_SIGMA and _rdp(made(enough / 1.1), delta) <= epsilon:
        enough /= 1.1
    too_little = enough / 1.25
    while too_little > _LEAST_SIGMA and share(too_little, _COARSE) <= 1.0:
        enough, too_little = too_little, too_little / 1.25
    return enough if enough <= _LEAST_SIGMA else _boundary(enough, too_little, share, _LEAST_SIGMA)


def solve_steps(epsilon: float, delta: float, q: float, sigma: float) -> int:
    """The most steps within (ε, δ); at most ``MOST_STEPS``.

    Raises:
        AccountingError: a value out of range, or one step already costs more.
    """
    check_target(epsilon, delta)

    def share(steps: float, grid: float) -> float:
        return _counted([SampledGaussian(q, sigma, round(steps))], delta, grid) / epsilon

    one = share(1, _FINE)
    _need(one <= 1.0, f"one step alone costs ε {one * epsilon:.3g}, above {epsilon:g}", "raise sigma or lower the rate")
    within = 1
    while 2 * within <= MOST_STEPS and _rdp([SampledGaussian(q, sigma, 2 * within)], delta) <= epsilon:
        within *= 2
    beyond = 2 * within
    while beyond <= MOST_STEPS and share(beyond, _COARSE) <= 1.0:
        within, beyond = beyond, 2 * beyond
    if beyond > MOST_STEPS:
        if share(MOST_STEPS, _FINE) <= 1.0:
            return MOST_STEPS
        beyond = MOST_STEPS
    return round(_boundary(within, beyond, share, MOST_STEPS, whole=True))


def solve_rate(epsilon: float, delta: float, sigma: float, steps: int) -> float:
    """The largest sampling rate within (ε, δ), to a relative 1e-4 and never above it.

    Raises:
        AccountingError: a value out of range, or no rate meets the target.
    """
    check_target(epsilon, delta)

    def share(q: float, grid: float) -> float:
        return _counted([SampledGaussian(q, sigma, steps)], delta, grid) / epsilon

    if share(1.0, _FINE) <= 1.0:
        return 1.0
    within = 0.5
    while _rdp([SampledGaussian(within, sigma, steps)], delta) > epsilon and share(within, _COARSE) > 1.0:
        within /= 2.0
        _need(within > 1e-9, f"no sampling rate meets ε {epsilon:g} at δ {delta:g} with sigma {sigma:g}", "raise sigma")
    return _boundary(within, min(1.0, 2.0 * within), share, 1.0)


def check_target(epsilon: float, delta: float) -> None:
    """Raise an AccountingError unless ε is a finite number above 0 and δ lies between 0 and 1."""
    _need(0.0 < epsilon < math.inf, f"ε is {epsilon}", "it must be a finite number above 0")
    _need(0.0 < delta < 1.0, f"δ is {delta}", "it must be above 0 and below 1")


def _need(true: bool, what: str, hint: str) -> None:
    if not true:
        raise AccountingError(what, hint)


def _check_common(steps: int, unit: str) -> None:
    whole = isinstance(steps, int) and not isinstance(steps, bool)
    _need(whole and steps >= 1, f"the number of steps is {steps}", "it must be a whole number from 1")
    _need(unit in get_args(Unit), f"the unit of privacy is '{unit}'", f"use one of {', '.join(get_args(Unit))}")


def _grouped(events: Sequence[Event]) -> list[Event]:
    """Equal events as one with their steps together; the order of arrival leaves no trace."""
    steps: dict[tuple[Any, ...], int] = {}
    for event in events:
        key = (0, event.q, event.sigma) if isinstance(event, SampledGaussian) else (1, event.rho)
        steps[key] = steps.get(key, 0) + event.steps
    return [
        SampledGaussian(key[1], key[2], steps[key]) if key[0] == 0 else Concentrated(key[1], steps[key])
        for key in sorted(steps)
    ]


def _boundary(
    good: float, bad: float, share: Callable[[float, float], float], limit: float, *, whole: bool = False
) -> float:
    """Where ``share(place, grid)`` passes 1, between a place that is within and one that is not on the coarse grid.

    Returns:
        A place that is within, ``_CLOSE`` to one that is not; with ``whole`` the whole number next to it; ``limit`` if
        everything up to there is within.
    """
    near = _falsi(good, bad, lambda place: share(place, _COARSE), whole) if share(bad, _COARSE) > 1.0 else good
    step = math.copysign(_CLOSE, math.log(bad / good))
    while True:  # on the fine grid the place lies a little further, seldom much
        ahead = near * math.exp(step)
        if whole:
            ahead = max(float(round(ahead)), near + 1.0)
        if (ahead - limit) * step >= 0.0:
            ahead = limit
        if share(ahead, _FINE) > 1.0:
            return _falsi(near, ahead, lambda place: share(place, _FINE), whole)
        if ahead == limit:
            return limit
        near, step = ahead, 8.0 * step


def _falsi(good: float, bad: float, share: Callable[[float], float], whole: bool) -> float:
    """Regula falsi in logarithms, the Illinois way."""
    left, right = _logarithm(share(good)), _logarithm(share(bad))
    last = 0
    while (abs(bad - good) > 1.0) if whole else (abs(math.log(bad / good)) > 1.01 * _CLOSE):
        part = -left / (right - left) if left < right < math.inf else 0.5
        place = good * (bad / good) ** min(max(part, 0.01), 0.99)
        if whole:
            place = min(max(float(round(place)), good + 1.0), bad - 1.0)
        value = _logarithm(share(place))
        if value <= 0.0:  # the end that stays twice in a row counts half, so that it comes near too
            good, left, right = place, value, right / 2.0 if last == 1 else right
            last = 1
        else:
            bad, right, left = place, value, left / 2.0 if last == -1 else left
            last = -1
    return good


def _logarithm(share: float) -> float:
    return math.log(share) if share > 0.0 else -30.0


def _spent(events: Sequence[Event], delta: float, grid: float) -> Spent:
    if not events:
        return Spent(0.0, delta, "pld", 0.0, 0.0, None, ())
    return _spent_on(tuple(_grouped(events)), events[0].unit, delta, grid)


@functools.lru_cache(maxsize=4096)  # a PLD takes about a second, and hospitals of one run ask for the same ones
def _spent_on(grouped: tuple[Event, ...], unit: Unit, delta: float, grid: float) -> Spent:
    sampling = tuple(sorted({event.sampling for event in grouped}))
    by_rdp = _rdp(grouped, delta)
    by_pld = _pld(grouped, delta, grid) if by_rdp <= _NO_PLD_ABOVE and delta >= _NO_PLD_BELOW else None
    if by_pld is not None and by_pld <= by_rdp:
        return Spent(by_pld, delta, "pld", by_pld, by_rdp, unit, sampling)
    return Spent(by_rdp, delta, "rdp", by_pld, by_rdp, unit, sampling)


def _counted(events: Sequence[Event], delta: float, grid: float) -> float:
    return _spent(events, delta, grid).epsilon


def _dp_event(event: Event) -> Any:
    dp = require("dp_accounting", "privacy")
    if isinstance(event, Concentrated):
        return dp.SelfComposedDpEvent(dp.ZCDpEvent(event.rho), event.steps)
    one = dp.GaussianDpEvent(event.sigma)
    return dp.SelfComposedDpEvent(one if event.q == 1.0 else dp.PoissonSampledDpEvent(event.q, one), event.steps)


def _rdp(events: Sequence[Event], delta: float) -> float:
    if any(event.rho == math.inf if isinstance(event, Concentrated) else event.sigma == 0.0 for event in events):
        return math.inf
    accountant = require("dp_accounting.rdp", "privacy").RdpAccountant()
    with _quiet():
        for event in events:
            accountant.compose(_dp_event(event))
        return float(accountant.get_epsilon(delta))


def _pld(events: Sequence[Event], delta: float, grid: float) -> float | None:
    if any(isinstance(event, Concentrated) for event in events):
        return None
    accountant = require("dp_accounting.pld", "privacy").PLDAccountant(value_discretization_interval=grid)
    with _quiet():
        for event in events:
            accountant.compose(_dp_event(event))
        return float(accountant.get_epsilon(delta))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """dp-accounting warns of each Rényi order whose series does not converge, and leaves it out, which is safe."""
    log = logging.getLogger("absl")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)

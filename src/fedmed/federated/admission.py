"""Decide whether one reply may enter the sum, before it touches it. transport -> HERE -> algorithm.add.

Works in the clear only, but for the envelope and the shapes: a masked payload shows no values.
Not covered: a hospital that sends plausible but harmful values (``robust`` looks at a whole round), or overstates its
number of records.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedmed.errors import UpdateRejectedError
from fedmed.federated.fixed_point import LARGEST_TOTAL_WEIGHT, LARGEST_VALUE, within_bound
from fedmed.federated.suspicion import SMALLEST_NORM
from fedmed.types import Payload, RoundPlan, RoundReport, Shapes, SummedPayload, TrainMetrics

ABSURD = 100.0
"""A reply this many times longer than the longest that was ever admitted is refused. Honest ones differ by far less."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What admission found out about a payload on the way."""

    norm: float  # L2 over all arrays
    digest: str  # of the arrays; "" where all are zero, as that tells nothing


class Admission:
    """The checks of one round.

    Args:
        plan: the round that was asked for.
        algorithm: the method that was asked for.
        history: reports of earlier rounds of this run: a reply that was admitted then is a replay now.
        max_norm: an L2 norm beyond which a reply is refused; None: no limit but ``ABSURD``.
    """

    def __init__(
        self, plan: RoundPlan, algorithm: str, history: Sequence[RoundReport] = (), max_norm: float | None = None
    ) -> None:
        self._plan = plan
        self._algorithm = algorithm
        self._max_norm = max_norm
        self._seen = {digest: report.round for report in history for digest in report.digests.values() if digest}
        self._longest = max((norm for report in history for norm in report.norms.values()), default=0.0)

    def admit(self, payload: Payload, shapes: Shapes, admitted: Collection[str]) -> Measured:
        """Return quietly if the payload may be summed.

        Args:
            payload: one hospital's reply; nothing in it is trusted.
            shapes: the keys and shapes that the payload must have.
            admitted: hospitals already in this round's sum.

        Raises:
            UpdateRejectedError: names the hospital and the first thing wrong.
        """
        reason = beside_the_arrays(payload, self._plan, self._algorithm, admitted) or _wrong_arrays(
            payload.arrays, shapes
        )
        if reason is None:
            measured = _measure(payload)
            reason = self._wrong_size(measured.norm) or self._replayed(measured.digest)
        if reason is not None:
            raise UpdateRejectedError(f"the update of '{payload.hospital}' is refused: {reason}")
        return measured

    def admit_sum(self, summed: SummedPayload) -> None:
        """Return quietly if a sum made under masks may be taken in; of single updates it shows no values.

        Raises:
            UpdateRejectedError: names the first thing wrong.
        """
        for name, records in summed.num_samples.items():
            claimed = Payload(name, summed.round, summed.algorithm, {}, records, summed.metrics.get(name))
            reason = beside_the_arrays(claimed, self._plan, self._algorithm, ())
            if reason is not None:
                raise UpdateRejectedError(f"the sum is refused for '{name}': {reason}")

    def _wrong_size(self, norm: float) -> str | None:
        if self._max_norm is not None and norm > self._max_norm:
            return f"its norm {norm:.3g} is above federated.max_reply_norm {self._max_norm:g}"
        if self._longest and norm > ABSURD * max(self._longest, SMALLEST_NORM):
            return f"its norm {norm:.3g} is more than {ABSURD:g} times the longest so far"
        return None

    def _replayed(self, digest: str) -> str | None:
        return f"it is a copy of a reply of round {self._seen[digest]}" if digest in self._seen else None


def _measure(payload: Payload) -> Measured:
    digest = hashlib.blake2b(digest_size=16)
    squares = 0.0
    for name in sorted(payload.arrays):
        array = payload.arrays[name]
        squares += float(np.sum(np.square(array, dtype=np.float64)))
        digest.update(name.encode() + np.ascontiguousarray(array).tobytes())
    return Measured(math.sqrt(squares), digest.hexdigest() if squares else "")


def beside_the_arrays(payload: Payload, plan: RoundPlan, algorithm: str, admitted: Collection[str]) -> str | None:
    """What is wrong with a reply but for its arrays; None: nothing."""
    return _wrong_envelope(payload, plan, algorithm, admitted) or (
        None if payload.metrics is None else _wrong_metrics(payload.metrics)
    )


def _wrong_envelope(payload: Payload, plan: RoundPlan, algorithm: str, admitted: Collection[str]) -> str | None:
    if payload.hospital not in plan.hospitals:
        return "it was not asked this round"
    if payload.round != plan.round:
        return f"it is for round {payload.round}, this is round {plan.round}"
    if payload.algorithm != algorithm:
        return f"it was made by '{payload.algorithm}', this run uses '{algorithm}'"
    if payload.hospital in admitted:
        return "a reply was already admitted this round"
    # A share for everyone that is asked: whoever claims more could crowd the others out of the sum.
    largest = LARGEST_TOTAL_WEIGHT // len(plan.hospitals)
    if type(payload.num_samples) is not int or not 1 <= payload.num_samples <= largest:
        return f"its number of records is not a whole number from 1 to {largest}"
    return None


def _wrong_arrays(arrays: Mapping[str, NDArray[np.float32]], shapes: Shapes) -> str | None:
    missing = sorted(shapes.keys() - arrays.keys())
    if missing:
        return f"array '{missing[0]}' is missing ({len(missing)} in all)"
    extra = len(arrays.keys() - shapes.keys())
    if extra:  # their names are the sender's own text, so they are counted and not repeated
        return f"it holds {extra} arrays that nobody asked for"
    for name, expected in shapes.items():
        array = arrays[name]
        if not isinstance(array, np.ndarray) or array.dtype != np.float32:
            return f"array '{name}' is not float32"
        if array.shape != expected:
            return f"array '{name}' has shape {array.shape}, not {expected}"
        if not np.all(np.isfinite(array)):
            return f"array '{name}' has values that are not finite"
        if not within_bound(array):
            return f"array '{name}' has values beyond ±{LARGEST_VALUE:g}"
    return None


def _wrong_metrics(metrics: TrainMetrics) -> str | None:
    numbers = (metrics.loss, metrics.seconds, *metrics.step_losses)
    if not all(isinstance(number, int | float) and math.isfinite(number) for number in numbers):
        return "its losses or its time are not finite numbers"
    counts = (metrics.tokens, metrics.answer_tokens, metrics.steps)
    if not all(type(count) is int and count >= 0 for count in counts):
        return "its counts are not whole numbers from 0"
    return None

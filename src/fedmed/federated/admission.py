"""Decide whether one reply may enter the sum, before it touches it. transport -> HERE -> algorithm.add.

Not covered: a hospital that sends plausible but harmful values, or overstates its number of records. ``clip_update``
bounds the first at an honest hospital's own side; neither is detected here.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

import numpy as np
from numpy.typing import NDArray

from fedmed.errors import UpdateRejectedError
from fedmed.federated.fixed_point import LARGEST_TOTAL_WEIGHT, LARGEST_VALUE, within_bound
from fedmed.types import AdapterState, Payload, RoundPlan, TrainMetrics


def admit(
    payload: Payload, *, plan: RoundPlan, algorithm: str, template: AdapterState, admitted: Collection[str]
) -> None:
    """Return quietly if the payload may be summed.

    Args:
        payload: one hospital's reply; nothing in it is trusted.
        plan: the round that was asked for.
        algorithm: the method that was asked for.
        template: gives the keys and shapes that the payload must have.
        admitted: hospitals already in this round's sum.

    Raises:
        UpdateRejectedError: names the hospital and the first thing wrong.
    """
    reason = (
        _wrong_envelope(payload, plan, algorithm, admitted)
        or _wrong_arrays(payload.arrays, template)
        or (_wrong_metrics(payload.metrics) if payload.metrics is not None else None)
    )
    if reason is not None:
        raise UpdateRejectedError(f"the update of '{payload.hospital}' is refused: {reason}")


def _wrong_envelope(payload: Payload, plan: RoundPlan, algorithm: str, admitted: Collection[str]) -> str | None:
    if payload.hospital not in plan.hospitals:
        return "it was not asked this round"
    if payload.round != plan.round:
        return f"it is for round {payload.round}, this is round {plan.round}"
    if payload.algorithm != algorithm:
        return f"it was made by '{payload.algorithm}', this run uses '{algorithm}'"
    if payload.hospital in admitted:
        return "a reply was already admitted this round"
    if type(payload.num_samples) is not int or not 1 <= payload.num_samples <= LARGEST_TOTAL_WEIGHT:
        return f"its number of records is not a whole number from 1 to {LARGEST_TOTAL_WEIGHT}"
    return None


def _wrong_arrays(arrays: Mapping[str, NDArray[np.float32]], template: AdapterState) -> str | None:
    missing = sorted(template.keys() - arrays.keys())
    if missing:
        return f"array '{missing[0]}' is missing ({len(missing)} in all)"
    extra = len(arrays.keys() - template.keys())
    if extra:  # their names are the sender's own text, so they are counted and not repeated
        return f"it holds {extra} arrays that the global adapter does not have"
    for name, expected in template.items():
        array = arrays[name]
        if not isinstance(array, np.ndarray) or array.dtype != np.float32:
            return f"array '{name}' is not float32"
        if array.shape != expected.shape:
            return f"array '{name}' has shape {array.shape}, not {expected.shape}"
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

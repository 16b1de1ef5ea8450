"""Bound one hospital's influence, and drop what it does not share. training -> HERE -> federated.

Both run at the hospital's own side, so what they take away never leaves it.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from fedmed.config.schema import PrivacySection
from fedmed.errors import ConfigError, UpdateRejectedError
from fedmed.types import AdapterState, Payload

_ROUNDING = 1.0 - 2.0**-23  # rounding to float32 can lengthen an update by a factor of 1 + 2^-24


def clip_update(update: AdapterState, max_norm: float) -> tuple[AdapterState, float]:
    """Scale an update so that its L2 norm over all arrays is at most ``max_norm``.

    Args:
        update: PEFT key -> float32 array; left as it is.
        max_norm: unitless, > 0.

    Returns:
        The scaled copy (an unscaled one where the norm is within the bound), and the norm before scaling.

    Raises:
        ConfigError: ``max_norm`` is not a finite number above 0.
        UpdateRejectedError: the norm is not finite; names the arrays that are not.

    Not covered: per-layer clipping. Source: McMahan et al. 2018, arXiv:1710.06963.
    """
    if not (np.isfinite(max_norm) and max_norm > 0):
        raise ConfigError([f"privacy.max_update_norm is {max_norm}, it must be a finite number above 0"])
    squares = {name: float(np.sum(np.square(array, dtype=np.float64))) for name, array in update.items()}
    broken = sorted(name for name, square in squares.items() if not np.isfinite(square))
    if broken:
        raise UpdateRejectedError(f"the update has values that are not finite in {', '.join(broken)}")
    norm = float(np.sqrt(sum(squares.values())))
    if norm <= max_norm:  # true of a zero norm, so it is never divided by
        return {name: array.copy() for name, array in update.items()}, norm
    scale = max_norm / norm * _ROUNDING
    return {name: (array * np.float64(scale)).astype(np.float32) for name, array in update.items()}, norm


def process_payload(payload: Payload, privacy: PrivacySection) -> Payload:
    """Apply a hospital's privacy settings to what it is about to send: first clip, then drop the metrics.

    Args:
        payload: its arrays are a change, not an adapter (of the adapter, of cores, of sketches of products); left as it
            is. The bound is on what is sent, before it is encoded: an encoding may lengthen it by its rounding.
        privacy: the hospital's settings.

    Returns:
        What may leave the hospital.

    Raises:
        UpdateRejectedError: the update is not finite, where a norm bound is set.

    Not covered: the number of records, which FedAvg needs as its weight and which is always sent.
    """
    if privacy.max_update_norm is not None:
        clipped, _ = clip_update(payload.arrays, privacy.max_update_norm)
        payload = replace(payload, arrays=clipped)
    if not privacy.shares_metrics:
        payload = replace(payload, metrics=None)
    return payload

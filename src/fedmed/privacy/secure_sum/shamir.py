"""Cut a 32-byte secret into shares of which any t give it back and t - 1 say nothing. hospital -> HERE -> server.

The secret is the value at 0 of a random polynomial of degree t - 1 over the integers modulo 2^521 - 1; a share is its
value at a point from 1 on. Source: Shamir 1979, "How to share a secret".

Why this prime: every 32-byte string must be one number of the field, so it must exceed 2^256. 2^521 - 1 is the smallest
Mersenne prime that does, and the Lucas-Lehmer test proves it prime in milliseconds, so nobody has to believe us; the
price is 66 bytes a share instead of 33.

Not covered: wrong shares. Any t numbers give some secret; who signed for which share is ``messages``' business, and
whether the secret is the right one is checked against what its owner published. Timing: Python's integers take time
that depends on their values.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from fedmed.errors import SecureSumError

Random: TypeAlias = Callable[[int], bytes]
"""So many unpredictable bytes; ``secrets.token_bytes`` is the only one that makes anything secret."""

PRIME = 2**521 - 1
SECRET_BYTES = 32
SHARE_BYTES = 66
LARGEST_POINT = 2**16


def split(secret: bytes, points: Sequence[int], threshold: int, random: Random = secrets.token_bytes) -> dict[int, int]:
    """Share a secret.

    Args:
        secret: 32 bytes.
        points: one a recipient, distinct, 1 … ``LARGEST_POINT``.
        threshold: how many shares give the secret back, 1 … number of points.
        random: where the polynomial comes from.

    Returns:
        point -> share, a number of the field.

    Raises:
        SecureSumError: a secret of another length, a point that is zero, doubled or out of range, or a threshold that
            the points cannot meet.
    """
    if len(secret) != SECRET_BYTES:
        raise SecureSumError(f"a secret to share has {len(secret)} bytes", f"it must have {SECRET_BYTES}")
    _check_points(points)
    if not 1 <= threshold <= len(points):
        raise SecureSumError(
            f"{threshold} of {len(points)} shares cannot be asked for", "the threshold lies between 1 and the shares"
        )
    polynomial = [int.from_bytes(secret, "big"), *(_number(random) for _ in range(threshold - 1))]
    return {point: _value(polynomial, point) for point in points}


def combine(shares: Mapping[int, int] | Sequence[tuple[int, int]], threshold: int) -> bytes:
    """Get a secret back from the first ``threshold`` shares.

    Args:
        shares: (point, share) pairs, at least ``threshold``.
        threshold: as it was shared with.

    Raises:
        SecureSumError: too few shares, a zero or doubled point, a number outside the field, or numbers that no 32-byte
            secret has as its shares.
    """
    pairs = list(shares.items()) if isinstance(shares, Mapping) else list(shares)
    _check_points([point for point, _ in pairs])
    if threshold < 1 or len(pairs) < threshold:
        raise SecureSumError(
            f"{len(pairs)} shares of a secret that needs {threshold}", "more hospitals have to reveal theirs"
        )
    if any(not 0 <= share < PRIME for _, share in pairs):
        raise SecureSumError("a share is outside the field", "it is damaged or made up")
    used, secret = pairs[:threshold], 0
    for point, share in used:
        above, below = 1, 1
        for other, _ in used:
            if other != point:
                above = above * other % PRIME
                below = below * (other - point) % PRIME
        secret = (secret + share * above * pow(below, -1, PRIME)) % PRIME
    if secret >= 2 ** (8 * SECRET_BYTES):
        raise SecureSumError("the shares do not belong to one secret", "one of them is wrong")
    return secret.to_bytes(SECRET_BYTES, "big")


def _check_points(points: Sequence[int]) -> None:
    if len(set(points)) != len(points):
        raise SecureSumError("two shares lie at the same point", "each hospital has a point of its own")
    if any(not 1 <= point <= LARGEST_POINT for point in points):
        # At 0 lies the secret itself.
        raise SecureSumError("a share lies at a point out of range", f"points go from 1 to {LARGEST_POINT}")


def _number(random: Random) -> int:
    """A uniform number of the field."""
    while True:
        drawn = int.from_bytes(random(SHARE_BYTES), "big") >> (8 * SHARE_BYTES - 521)
        if drawn < PRIME:  # all but one of 2^521
            return drawn


def _value(polynomial: Sequence[int], point: int) -> int:
    value = 0
    for coefficient in reversed(polynomial):
        value = (value * point + coefficient) % PRIME
    return value

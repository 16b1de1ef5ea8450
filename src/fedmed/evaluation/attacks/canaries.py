"""Made-up records with a secret that only training could have taught. HERE -> data, then back as losses.

Every canary asks in the same form and answers with words that a named stream drew; nothing in them looks like a person
or a finding. A fair coin of another stream says which are inserted. The coins are independent, as the one-run bound of
``epsilon_bound`` needs, so how many are inserted is random too.

Exposure: Carlini et al. 2019, arXiv:1802.08232, with the canaries that were left out as the sample of the
space of secrets.
Not covered: canaries made to be remembered by optimisation; a secret spread over several records.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fedmed.errors import DataFormatError, EmptyDataError
from fedmed.types import QARecord
from fedmed.utils.random_streams import stream

# fmt: off
WORDS = (
    "acorn", "amber", "anvil", "apron", "arrow", "badge", "basil", "bench", "bison", "brick", "cabin", "candle",
    "canoe", "cedar", "chalk", "cliff", "clover", "comet", "copper", "coral", "crane", "daisy", "delta", "ember",
    "falcon", "fern", "flint", "garnet", "glider", "harbor", "hazel", "helmet", "indigo", "island", "ivory", "jasper",
    "juniper", "kettle", "lantern", "lemon", "linen", "magnet", "maple", "marble", "meadow", "nickel", "oak", "ocean",
    "olive", "orchid", "otter", "paddle", "pebble", "pepper", "pine", "quartz", "quilt", "raven", "ribbon", "saddle",
    "silver", "tulip", "violet", "walnut",
)
# fmt: on
SECRET_WORDS = 8  # each one of 64: 48 bits


@dataclass(frozen=True, slots=True)
class Canary:
    record: QARecord
    inserted: bool


@dataclass(frozen=True, slots=True)
class Exposure:
    """How far inserted secrets stand out from those left out, in bits."""

    mean: float
    chance: float  # what it would be had nothing been learnt
    most: float  # log2(left out + 1): no inserted secret can show more
    p_value: float  # chance of such a mean, or a higher one, had nothing been learnt
    inserted: int
    left_out: int

    @property
    def above_chance(self) -> float:
        return self.mean - self.chance


def make_canaries(count: int, seed: int) -> tuple[Canary, ...]:
    """Draw canaries and toss for each; equal arguments, equal canaries, and a larger count begins with the same ones.

    Raises:
        EmptyDataError: the coins left one side empty, as few canaries allow.
    """
    secrets = stream(seed, "canaries", "secret").integers(0, len(WORDS), (count, SECRET_WORDS))
    coins = stream(seed, "canaries", "coin").integers(0, 2, count).astype(bool)
    if not 0 < coins.sum() < count:
        raise EmptyDataError(
            f"of {count} canaries all or none are inserted", "ask for more canaries or change the seed"
        )
    return tuple(
        Canary(_record(number, " ".join(WORDS[word] for word in words)), bool(coin))
        for number, (words, coin) in enumerate(zip(secrets, coins, strict=True), start=1)
    )


def inserted_records(canaries: Sequence[Canary], copies: int = 1) -> list[QARecord]:
    """What goes among the training records: the inserted canaries, each ``copies`` times, copies of one group.

    Whoever bounds ε by canaries that were repeated must pass ``copies`` on: such a canary is a group of records.
    """
    records = [canary.record for canary in canaries if canary.inserted]
    return [
        record if copy == 1 else replace(record, id=f"{record.id}-{copy}")
        for copy in range(1, copies + 1)
        for record in records
    ]


def left_out_records(canaries: Sequence[Canary]) -> list[QARecord]:
    """The others, which no training may see."""
    return [canary.record for canary in canaries if not canary.inserted]


def exposure(inserted: NDArray[np.float64], left_out: NDArray[np.float64], *, seed: int, draws: int = 2000) -> Exposure:
    """Mean over inserted canaries of log2(N) - log2(rank), N = canaries left out + 1.

    A canary's rank is 1 + how many of those left out have a loss as low as its own or lower, so ties count against it.
    Had nothing been learnt, a rank would be uniform in 1 .. N. The p-value draws again who was inserted: ranks share
    the canaries left out and are not independent.

    Args:
        inserted, left_out: nats of each whole answer.
        seed: names the stream of the redraws.
        draws: redraws; the p-value is at least 1 / (draws + 1).

    Raises:
        EmptyDataError: one side is empty. DataFormatError: a loss is not a finite number.
    """
    if not inserted.size or not left_out.size:
        raise EmptyDataError("exposure needs canaries of both kinds", "make more canaries")
    losses = np.concatenate([inserted, left_out]).astype(np.float64)
    if not np.isfinite(losses).all():
        raise DataFormatError("a canary's loss is not a finite number", "see whether the training diverged")
    size = left_out.size + 1
    mean = _mean_exposure(losses[: inserted.size], losses[inserted.size :])
    random = stream(seed, "exposure")
    as_high = 0
    for _ in range(draws):
        mixed = random.permutation(losses)
        as_high += _mean_exposure(mixed[: inserted.size], mixed[inserted.size :]) >= mean
    chance = math.log2(size) - float(np.log2(np.arange(1, size + 1)).mean())
    return Exposure(mean, chance, math.log2(size), (as_high + 1) / (draws + 1), inserted.size, left_out.size)


def _mean_exposure(inserted: NDArray[np.float64], left_out: NDArray[np.float64]) -> float:
    ranks = 1 + np.searchsorted(np.sort(left_out), inserted, "right")
    return math.log2(left_out.size + 1) - float(np.log2(ranks).mean())


def _record(number: int, secret: str) -> QARecord:
    return QARecord(
        id=f"canary-{number:05d}",
        question=f"Which test words belong to audit canary {number:05d}?",
        answer=secret,
        kind="canary",
        specialty="general",
        source="canary",
        group=f"canary-{number:05d}",
        split="train",
    )

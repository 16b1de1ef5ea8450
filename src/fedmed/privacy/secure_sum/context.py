"""What all parties of one attempt must agree on, and its digest. plan -> HERE -> all that is signed or keyed.

The digest goes into every signature, every derived key and all associated data, so nothing made for one run, round,
attempt, cohort, threshold or bound is worth anything in another.

**Threshold t**, of n hospitals. Fewer than t at any phase stops the attempt, so n - t may drop out. A server that lies
wants two live lists signed by t hospitals each, for then it gets both shares of somebody. Honest hospitals sign one
list, the c that collude with it sign two, so it needs 2t <= n + c, and is stopped if c <= 2t - n - 1
(``tolerated_colluders``; the condition is that of Bonawitz et al. 2017). The sum then hides among at least t - c honest
hospitals.

    floor(2n/3) + 1   the default: drop-outs and colluders of nearly a third each
    floor(n/2) + 1    the least allowed: most drop-outs; one colluder if n is even, none if it is odd
    n                 no drop-out; all others may collude, and then know the last one's vector anyway

Two hospitals must both stay to the end.

Not covered: whether these settings are wise. Each hospital must look at who takes part, not only at how many.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Collection
from dataclasses import dataclass, field

from fedmed.errors import SecureSumError
from fedmed.privacy.secure_sum.bounds import Bounds

VERSION = 1
SERVER = "the server"
LONGEST_NAME = 64  # bytes of UTF-8, of a hospital or a run
LARGEST_LENGTH = 2**30  # numbers in a vector: 8 GiB; far below where ChaCha20's 32-bit block counter ends
_LARGEST_COUNT = 2**32


def packed(domain: str, *parts: bytes) -> bytes:
    """One unambiguous byte string of a purpose and its parts, each after its length.

    No two different (domain, parts) give the same bytes, and no domain's bytes begin like another's.
    """
    fields = (f"fedmed secure sum {VERSION} {domain}".encode(), *parts)
    return b"".join(piece for part in fields for piece in (struct.pack("<Q", len(part)), part))


def digest(domain: str, *parts: bytes) -> bytes:
    """SHA-256 of ``packed``."""
    return hashlib.sha256(packed(domain, *parts)).digest()


def default_threshold(hospitals: int) -> int:
    """floor(2n/3) + 1: as many liars as Bonawitz et al. allow, and nearly a third of drop-outs."""
    return min(hospitals, 2 * hospitals // 3 + 1)


@dataclass(frozen=True, slots=True)
class Participant:
    """A hospital: the name everybody calls it by, and SHA-256 of its public identity key."""

    name: str
    fingerprint: bytes


@dataclass(frozen=True, slots=True)
class Context:
    """One attempt at one sum.

    Args:
        run_id: of the federation's run.
        round, attempt: from 0. A second try is a new attempt, with all keys fresh.
        participants: in an order that all share; it gives each its seat, and its point in secret sharing.
        threshold: see above; more than half.
        bounds: of the words and what they may hold.
        length: numbers in a vector, 1 … 2^30.
        weights: public weights in the order of ``participants``, each >= 1; None: each hospital keeps its own.

    Raises:
        SecureSumError: a value out of range, doubled names or identities, or weights beyond the bounds.
    """

    run_id: str
    round: int
    attempt: int
    participants: tuple[Participant, ...]
    threshold: int
    bounds: Bounds
    length: int
    weights: tuple[int, ...] | None = None
    digest: bytes = field(init=False, repr=False, compare=False)
    names: tuple[str, ...] = field(init=False, repr=False, compare=False)
    _seats: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self._check()
        names = tuple(participant.name for participant in self.participants)
        bounds = self.bounds
        numbers = (self.round, self.attempt, self.threshold, bounds.bits, bounds.hospitals, self.length)
        parts = [
            self.run_id.encode(),
            struct.pack("<6Q", *numbers),
            str(bounds.largest_value).encode(),
            str(bounds.largest_total_weight).encode(),
            packed(
                "participants", *(part for one in self.participants for part in (one.name.encode(), one.fingerprint))
            ),
            b"private"
            if self.weights is None
            else packed("weights", *(str(weight).encode() for weight in self.weights)),
        ]
        object.__setattr__(self, "names", names)
        object.__setattr__(self, "_seats", {name: seat for seat, name in enumerate(names)})
        object.__setattr__(self, "digest", digest("context", *parts))

    @property
    def tolerated_colluders(self) -> int:
        """Hospitals that may collude with a lying server and still learn only the sum of the others."""
        return 2 * self.threshold - len(self.participants) - 1

    @property
    def tolerated_drop_outs(self) -> int:
        """Hospitals that may leave and a sum still comes out."""
        return len(self.participants) - self.threshold

    def seat(self, name: str) -> int:
        """The place of a hospital in the order."""
        return self._seats[name]

    def point(self, name: str) -> int:
        """Where a hospital's shares lie; never 0, where the secrets are."""
        return self._seats[name] + 1

    def __contains__(self, name: str) -> bool:
        return name in self._seats

    def ordered(self, names: Collection[str]) -> tuple[str, ...]:
        """These hospitals in the shared order."""
        return tuple(name for name in self.names if name in names)

    def weight(self, name: str) -> int | None:
        """A hospital's public weight, if weights are public."""
        return None if self.weights is None else self.weights[self._seats[name]]

    def limit(self, name: str) -> int:
        """The largest |integer| that this hospital may send."""
        return self.bounds.limit(self.weight(name))

    def _check(self) -> None:
        hospitals = len(self.participants)
        if hospitals != self.bounds.hospitals:
            raise SecureSumError(
                f"{hospitals} hospitals take part and the bounds are for {self.bounds.hospitals}", "they must agree"
            )
        names = [participant.name for participant in self.participants]
        for name in (self.run_id, *names):
            if not 1 <= len(name.encode("utf-8", "replace")) <= LONGEST_NAME or not name.isprintable():
                raise SecureSumError(
                    "a run or hospital has a name that cannot be used", f"1 to {LONGEST_NAME} printable bytes, please"
                )
        if SERVER in names:
            raise SecureSumError(f"a hospital cannot be called '{SERVER}'", "give it another name")
        for name, one in zip(names, self.participants, strict=True):
            if len(one.fingerprint) != 32:
                raise SecureSumError(f"the fingerprint of '{name}' is no SHA-256", "it has 32 bytes")
        for what, values in (("name", names), ("identity", [one.fingerprint for one in self.participants])):
            if len(set(values)) != hospitals:
                raise SecureSumError(f"two hospitals have the same {what}", "each has its own")
        if not hospitals < 2 * self.threshold <= 2 * hospitals:
            raise SecureSumError(
                f"a threshold of {self.threshold} among {hospitals} hospitals protects nobody or cannot be met",
                f"take more than half; {default_threshold(hospitals)} is the default",
            )
        if not (0 <= self.round < _LARGEST_COUNT and 0 <= self.attempt < _LARGEST_COUNT):
            raise SecureSumError(f"round {self.round}, attempt {self.attempt} is out of range", "both count from 0")
        if not 1 <= self.length <= LARGEST_LENGTH:
            raise SecureSumError(f"a vector of {self.length} numbers is out of range", f"1 to {LARGEST_LENGTH}")
        if self.weights is not None and (
            len(self.weights) != hospitals
            or min(self.weights) < 1
            or sum(self.weights) > self.bounds.largest_total_weight
        ):
            raise SecureSumError(
                "the public weights are not one of at least 1 for each hospital within the declared total",
                f"their sum may be at most {self.bounds.largest_total_weight}",
            )

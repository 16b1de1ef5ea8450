"""What crosses the line in a secure sum: nine frozen records, and what in them is signed. hospital -> HERE -> server.

What a hospital says is signed with its identity key, all of it, so it can be shown to others and nobody can change it.
What the server says is lists of signed things, and sets which hospitals compare among themselves.

Not covered: who the server is, which the transport must prove; the bytes on the wire, see ``message_bytes``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias, TypeVar

import numpy as np

from fedmed.errors import SecureSumError
from fedmed.privacy.secure_sum.bounds import Words
from fedmed.privacy.secure_sum.context import Context, digest, packed
from fedmed.privacy.secure_sum.keys import SEAL_BYTES, Identity, is_signed
from fedmed.privacy.secure_sum.shamir import PRIME, SHARE_BYTES

NONCE_BYTES = 32  # of a commitment
OPENED_BYTES = SHARE_BYTES + NONCE_BYTES
SEALED_BYTES = 2 * OPENED_BYTES + SEAL_BYTES


@dataclass(frozen=True, slots=True)
class Advertise:
    """0, hospital: two fresh public keys, under its identity."""

    context: bytes
    sender: str
    identity: bytes
    channel: bytes
    mask: bytes
    signature: bytes = b""

    def signed(self) -> bytes:
        return packed("advertise", self.context, self.sender.encode(), self.channel, self.mask)


@dataclass(frozen=True, slots=True)
class KeyList:
    """0, server to all: who takes part, and their keys, in the shared order."""

    context: bytes
    entries: tuple[Advertise, ...]


@dataclass(frozen=True, slots=True)
class Opened:
    """A share and the nonce of its commitment; secret until it is revealed."""

    value: int = field(repr=False)
    nonce: bytes = field(repr=False)

    def commitment(self, context: bytes, dealer: str, recipient: str, what: str) -> bytes:
        """Binding and hiding: SHA-256 of the share with 32 random bytes. ``what``: "seed" or "key"."""
        return digest(
            f"commitment {what}",
            context,
            dealer.encode(),
            recipient.encode(),
            self.value.to_bytes(SHARE_BYTES, "big"),
            self.nonce,
        )


@dataclass(frozen=True, slots=True)
class Row:
    """What a dealer has for one recipient: commitments to both shares, and both sealed for the recipient."""

    seed: bytes
    key: bytes
    sealed: bytes  # empty in the dealer's own row

    def digest(self, context: bytes, dealer: str, recipient: str) -> bytes:
        return digest("row", context, dealer.encode(), recipient.encode(), self.seed, self.key, self.sealed)


@dataclass(frozen=True, slots=True)
class Shares:
    """1, hospital: a row for each hospital of the key list, in order; and a digest of its seed, to check it by."""

    context: bytes
    sender: str
    keys: bytes  # digest of the key list that the shares are for
    seed_digest: bytes
    recipients: tuple[str, ...]
    rows: tuple[Row, ...]
    signature: bytes = b""

    def row_digests(self) -> tuple[bytes, ...]:
        return tuple(
            row.digest(self.context, self.sender, recipient)
            for recipient, row in zip(self.recipients, self.rows, strict=True)
        )

    def signed(self) -> bytes:
        return shares_signed(self.context, self.sender, self.keys, self.seed_digest, self.row_digests())


@dataclass(frozen=True, slots=True)
class Dealt:
    """One dealer's shares as one recipient gets them: digests of all rows, the recipient's row whole."""

    dealer: str
    seed_digest: bytes
    row_digests: tuple[bytes, ...]
    row: Row
    signature: bytes


@dataclass(frozen=True, slots=True)
class Delivery:
    """1, server to one hospital: who has dealt, and what for this hospital."""

    context: bytes
    recipient: str
    recipients: tuple[str, ...]  # all hospitals of the key list
    dealt: tuple[Dealt, ...]


@dataclass(frozen=True, slots=True)
class MaskedInput:
    """2, hospital: its vector under all masks."""

    context: bytes
    sender: str
    dealt: bytes  # digest of the key list and of all that was dealt
    words: Words = field(repr=False, compare=False)
    signature: bytes = b""

    def signed(self) -> bytes:
        content = hashlib.sha256(words_bytes(self.words)).digest()
        return packed("masked", self.context, self.sender.encode(), self.dealt, content)


@dataclass(frozen=True, slots=True)
class LiveList:
    """3, server to all who sent a vector: who they are."""

    context: bytes
    live: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Agreement:
    """3, hospital: which key list, dealt shares and live list it saw. The server shows it to the others."""

    context: bytes
    sender: str
    keys: bytes
    dealt: bytes
    live: tuple[str, ...]
    signature: bytes = b""

    def signed(self) -> bytes:
        live = packed("names", *(name.encode() for name in self.live))
        return packed("agreement", self.context, self.sender.encode(), self.keys, self.dealt, live)


@dataclass(frozen=True, slots=True)
class UnmaskRequest:
    """4, server to all who agreed: at least t agreements."""

    context: bytes
    agreements: tuple[Agreement, ...]


@dataclass(frozen=True, slots=True)
class Reveal:
    """4, hospital: its shares of the seeds of live hospitals, and of the mask keys of those that dropped out."""

    context: bytes
    sender: str
    seeds: tuple[tuple[str, Opened], ...]
    keys: tuple[tuple[str, Opened], ...]
    signature: bytes = b""

    def signed(self) -> bytes:
        opened = (
            part
            for what, shares in ((b"seed", self.seeds), (b"key", self.keys))
            for dealer, one in shares
            for part in (what, dealer.encode(), opened_bytes(one))
        )
        return packed("reveal", self.context, self.sender.encode(), *opened)


FromHospital: TypeAlias = Advertise | Shares | MaskedInput | Agreement | Reveal
FromServer: TypeAlias = KeyList | Delivery | LiveList | UnmaskRequest
Message: TypeAlias = FromHospital | FromServer


Signed = TypeVar("Signed", Advertise, Shares, MaskedInput, Agreement, Reveal)


def shares_signed(context: bytes, sender: str, keys: bytes, seed_digest: bytes, row_digests: Sequence[bytes]) -> bytes:
    """What a dealer signs; recipients check it without the rows of others."""
    return packed("shares", context, sender.encode(), keys, seed_digest, *row_digests)


def keys_digest(context: Context, entries: Collection[Advertise]) -> bytes:
    """Of a key list: who takes part with which keys."""
    parts = (part for entry in entries for part in (entry.sender.encode(), entry.channel, entry.mask))
    return digest("key list", context.digest, *parts)


def dealt_digest(context: Context, keys: bytes, dealt: Collection[tuple[str, bytes, Sequence[bytes]]]) -> bytes:
    """Of all that was dealt: (dealer, digest of its seed, digests of its rows), in the shared order."""
    parts = (part for dealer, seed_digest, rows in dealt for part in (dealer.encode(), seed_digest, b"".join(rows)))
    return digest("dealt", context.digest, keys, *parts)


def words_bytes(words: Words) -> memoryview:
    """The bytes of a vector; nothing is copied where it is one contiguous row, as it always is here."""
    return np.ascontiguousarray(words).data.cast("B")


def sign(message: Signed, identity: Identity) -> Signed:
    """The message with its sender's signature."""
    return replace(message, signature=identity.sign(message.signed()))


def seed_digest(context: Context, name: str, seed: bytes) -> bytes:
    """What a reconstructed seed is checked against; 32 random bytes cannot be guessed from it."""
    return digest("seed", context.digest, name.encode(), seed)


def check_signature(message: FromHospital, identity: bytes, *, relay: str = "") -> None:
    """Raise unless the sender signed all of this message.

    Args:
        message: in the name of its sender.
        identity: the sender's public identity key.
        relay: who handed the message over and should have looked; it is to blame, not the sender.

    Raises:
        SecureSumError: names the sender, in whose name somebody else spoke.
    """
    if not is_signed(identity, message.signature, message.signed()):
        raise SecureSumError(
            f"a message in the name of '{message.sender}' does not carry its signature",
            "somebody else made or changed it",
            culprit=relay,
        )


def opened_pair(plain: bytes) -> tuple[Opened, Opened] | None:
    """A dealer's shares for one recipient, after decryption; None where they are malformed."""
    if len(plain) != 2 * OPENED_BYTES:
        return None
    halves = [
        Opened(int.from_bytes(half[:SHARE_BYTES], "big"), half[SHARE_BYTES:])
        for half in (plain[:OPENED_BYTES], plain[OPENED_BYTES:])
    ]
    return None if any(one.value >= PRIME for one in halves) else (halves[0], halves[1])


def pair_bytes(seed: Opened, key: Opened) -> bytes:
    """What a dealer encrypts for one recipient."""
    return opened_bytes(seed) + opened_bytes(key)


def opened_bytes(one: Opened) -> bytes:
    """98 bytes of a share and its nonce."""
    return one.value.to_bytes(SHARE_BYTES, "big") + one.nonce

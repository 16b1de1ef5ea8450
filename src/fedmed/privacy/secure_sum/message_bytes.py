"""The one binary spelling of every message, and its strict reading; never pickle. messages -> HERE -> transport.

    bytes   0  magic "FMSS"
            4  version u16, kind u8, seat of the sender u8 (255: the server)
            8  digest of the attempt's context, 32 bytes
           40  length of the body u64
           48  body: fixed fields, hospitals as bits of a u64, then what those bits announce
          -16  blake2b of everything before it

All numbers but shares are little-endian. The context and the bits give the body's exact length, so another length is
refused before anything is copied. Sets of hospitals are bits: they have one order and no doubles.

Not covered: who sent it; signatures are checked by those who know the keys. The digest catches accidents.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Collection

import numpy as np

from fedmed.errors import SecureSumError
from fedmed.privacy.secure_sum.bounds import Words
from fedmed.privacy.secure_sum.context import SERVER, VERSION, Context
from fedmed.privacy.secure_sum.keys import KEY_BYTES, SIGNATURE_BYTES
from fedmed.privacy.secure_sum.messages import (
    NONCE_BYTES,
    OPENED_BYTES,
    SEALED_BYTES,
    Advertise,
    Agreement,
    Dealt,
    Delivery,
    KeyList,
    LiveList,
    MaskedInput,
    Message,
    Opened,
    Reveal,
    Row,
    Shares,
    UnmaskRequest,
    opened_bytes,
    words_bytes,
)
from fedmed.privacy.secure_sum.shamir import PRIME, SHARE_BYTES

_MAGIC = b"FMSS"
_HEADER = struct.Struct("<4sHBB32sQ")
_DIGEST_BYTES = 16
_SERVER_SEAT = 255
_AGAIN = "it must be sent again"


def encode(message: Message, context: Context) -> bytes:
    """The bytes of a message."""
    kind = _KINDS.index(type(message))
    sender = getattr(message, "sender", None)
    body = b"".join(_write(message, context))
    seat = _SERVER_SEAT if sender is None else context.seat(sender)
    head = _HEADER.pack(_MAGIC, VERSION, kind, seat, message.context, len(body))
    whole = hashlib.blake2b(head, digest_size=_DIGEST_BYTES)
    whole.update(body)
    return b"".join((head, body, whole.digest()))


def message_limit(context: Context) -> int:
    """The length of the largest valid message of this attempt: what a receiver need ever read."""
    most, bits = len(context.names), 8
    entry = 3 * KEY_BYTES + SIGNATURE_BYTES
    row = 64 + SEALED_BYTES
    bodies = (
        bits + most * entry,
        bits + 64 + most * row + SIGNATURE_BYTES,
        2 * bits + 1 + most * (32 + 32 * most + row + SIGNATURE_BYTES),
        32 + context.length * context.bounds.bits // 8 + SIGNATURE_BYTES,
        bits + most * (64 + bits + SIGNATURE_BYTES),
        2 * bits + most * OPENED_BYTES + SIGNATURE_BYTES,
    )
    return _HEADER.size + max(bodies) + _DIGEST_BYTES


def decode(raw: bytes, context: Context) -> Message:
    """Read a message of this attempt.

    Args:
        raw: the whole message.
        context: the attempt; a message of another one is refused.

    Returns:
        The record. Its signature is not checked here.

    Raises:
        SecureSumError: not a message, of another version or attempt, of a wrong length, damaged, or with a set or a
            number that cannot be. Names the sender where the header does.
    """
    who = "a message"
    if len(raw) < _HEADER.size + _DIGEST_BYTES:
        raise _refused(who, f"has {len(raw)} bytes, fewer than any has")
    magic, version, kind, seat, attempt, length = _HEADER.unpack_from(raw)
    if magic != _MAGIC:
        raise _refused(who, "is none of a secure sum")
    if version != VERSION:
        raise SecureSumError(
            f"a message has version {version}, this hospital or server speaks {VERSION}", "update FED-MED on both ends"
        )
    if kind >= len(_KINDS):
        raise _refused(who, f"is of an unknown kind, {kind}")
    of_hospital = _KINDS[kind] in _HOSPITAL_KINDS
    if (seat >= len(context.names)) if of_hospital else (seat != _SERVER_SEAT):
        raise _refused(who, f"names a sender that it cannot have, seat {seat}")
    sender = context.names[seat] if of_hospital else SERVER
    who = f"a message of {_quoted(sender)}"
    if attempt != context.digest:
        raise SecureSumError(
            f"{who} is for another run, round, attempt or cohort",
            "messages are not kept for later",
            culprit=_blamed(sender),
        )
    if length != len(raw) - _HEADER.size - _DIGEST_BYTES or len(raw) > message_limit(context):
        raise _refused(who, f"has {len(raw)} bytes, which is not its length", sender)
    if hashlib.blake2b(memoryview(raw)[:-_DIGEST_BYTES], digest_size=_DIGEST_BYTES).digest() != raw[-_DIGEST_BYTES:]:
        raise _refused(who, "was damaged on the way", sender)
    reader = _Reader(raw, context, sender)
    message = _READERS[_KINDS[kind]](reader)
    reader.end()
    return message


class _Reader:
    """Takes fields off a body; every count is checked against what is left before anything is read."""

    def __init__(self, raw: bytes, context: Context, sender: str) -> None:
        self._raw, self._place, self._end = raw, _HEADER.size, len(raw) - _DIGEST_BYTES
        self.context, self.sender = context, sender

    def take(self, count: int) -> bytes:
        self.left(count)
        start, self._place = self._place, self._place + count
        return self._raw[start : self._place]

    def left(self, count: int, *, exactly: bool = False) -> None:
        """Refuse unless this many bytes are left, or at least as many."""
        left = self._end - self._place
        if left < count or (exactly and left != count):
            raise _refused(f"a message of {_quoted(self.sender)}", "is longer or shorter than it says", self.sender)

    def end(self) -> None:
        self.left(0, exactly=True)

    def names(self) -> tuple[str, ...]:
        bits = int.from_bytes(self.take(8), "little")
        if bits >> len(self.context.names):
            raise _refused(f"a message of {_quoted(self.sender)}", "names hospitals that do not take part", self.sender)
        return tuple(name for seat, name in enumerate(self.context.names) if bits >> seat & 1)

    def words(self) -> Words:
        dtype, count = self.context.bounds.dtype, self.context.length
        start, self._place = self._place, self._place + count * dtype.itemsize
        return np.frombuffer(self._raw, dtype=dtype, count=count, offset=start)  # a view: nothing is copied

    def opened(self) -> Opened:
        value = int.from_bytes(self.take(SHARE_BYTES), "big")
        if value >= PRIME:
            raise _refused(f"a message of {_quoted(self.sender)}", "has a share outside the field", self.sender)
        return Opened(value, self.take(NONCE_BYTES))

    def row(self, *, own: bool) -> Row:
        return Row(self.take(32), self.take(32), b"" if own else self.take(SEALED_BYTES))


def _bits(names: Collection[str], context: Context) -> bytes:
    if context.ordered(names) != tuple(names):
        raise SecureSumError("a message lists hospitals twice, out of order or from elsewhere", "it cannot be written")
    return sum(1 << context.seat(name) for name in names).to_bytes(8, "little")


def _write(message: Message, context: Context) -> list[bytes | memoryview]:
    match message:
        case Advertise():
            return [message.identity, message.channel, message.mask, message.signature]
        case KeyList():
            entries = [b"".join(_as_bytes(_write(entry, context))) for entry in message.entries]
            return [_bits([entry.sender for entry in message.entries], context), *entries]
        case Shares():
            rows = [part for row in message.rows for part in (row.seed, row.key, row.sealed)]
            recipients = _bits(message.recipients, context)
            return [recipients, message.keys, message.seed_digest, *rows, message.signature]
        case Delivery():
            dealers = _bits([one.dealer for one in message.dealt], context)
            parts: list[bytes | memoryview] = [
                _bits(message.recipients, context),
                dealers,
                bytes([context.seat(message.recipient)]),
            ]
            for one in message.dealt:
                parts += [one.seed_digest, *one.row_digests, one.row.seed, one.row.key, one.row.sealed, one.signature]
            return parts
        case MaskedInput():
            return [message.dealt, words_bytes(message.words), message.signature]
        case LiveList():
            return [_bits(message.live, context)]
        case Agreement():
            return [message.keys, message.dealt, _bits(message.live, context), message.signature]
        case UnmaskRequest():
            signers = _bits([one.sender for one in message.agreements], context)
            return [signers, *(b"".join(_as_bytes(_write(one, context))) for one in message.agreements)]
        case Reveal():
            sets = [_bits([dealer for dealer, _ in shares], context) for shares in (message.seeds, message.keys)]
            opened = [opened_bytes(one) for _, one in (*message.seeds, *message.keys)]
            return [*sets, *opened, message.signature]


def _as_bytes(parts: list[bytes | memoryview]) -> list[bytes]:
    return [bytes(part) for part in parts]


def _read_advertise(reader: _Reader) -> Advertise:
    return _entry(reader, reader.sender)


def _entry(reader: _Reader, sender: str) -> Advertise:
    identity, channel, mask = (reader.take(KEY_BYTES) for _ in range(3))
    return Advertise(reader.context.digest, sender, identity, channel, mask, reader.take(SIGNATURE_BYTES))


def _read_key_list(reader: _Reader) -> KeyList:
    names = reader.names()
    reader.left(len(names) * (3 * KEY_BYTES + SIGNATURE_BYTES), exactly=True)
    return KeyList(reader.context.digest, tuple(_entry(reader, name) for name in names))


def _read_shares(reader: _Reader) -> Shares:
    recipients = reader.names()
    if reader.sender not in recipients:
        raise _refused(f"a message of {_quoted(reader.sender)}", "has no row of its sender", reader.sender)
    reader.left(64 + 64 * len(recipients) + SEALED_BYTES * (len(recipients) - 1) + SIGNATURE_BYTES, exactly=True)
    keys, seed_digest = reader.take(32), reader.take(32)
    rows = tuple(reader.row(own=name == reader.sender) for name in recipients)
    return Shares(
        reader.context.digest, reader.sender, keys, seed_digest, recipients, rows, reader.take(SIGNATURE_BYTES)
    )


def _read_delivery(reader: _Reader) -> Delivery:
    recipients, dealers, seat = reader.names(), reader.names(), reader.take(1)[0]
    if seat >= len(reader.context.names) or reader.context.names[seat] not in dealers:
        raise _refused(f"a message of {_quoted(SERVER)}", "is for no hospital that has dealt", SERVER)
    recipient = reader.context.names[seat]
    each = 32 + 32 * len(recipients) + 64 + SIGNATURE_BYTES
    reader.left(each * len(dealers) + SEALED_BYTES * (len(dealers) - 1), exactly=True)
    dealt = []
    for dealer in dealers:
        seed_digest, digests = reader.take(32), tuple(reader.take(32) for _ in recipients)
        row = reader.row(own=dealer == recipient)
        dealt.append(Dealt(dealer, seed_digest, digests, row, reader.take(SIGNATURE_BYTES)))
    return Delivery(reader.context.digest, recipient, recipients, tuple(dealt))


def _read_masked(reader: _Reader) -> MaskedInput:
    context = reader.context
    reader.left(32 + context.length * context.bounds.dtype.itemsize + SIGNATURE_BYTES, exactly=True)
    dealt, words = reader.take(32), reader.words()
    return MaskedInput(context.digest, reader.sender, dealt, words, reader.take(SIGNATURE_BYTES))


def _read_live_list(reader: _Reader) -> LiveList:
    return LiveList(reader.context.digest, reader.names())


def _read_agreement(reader: _Reader) -> Agreement:
    return _agreement(reader, reader.sender)


def _agreement(reader: _Reader, sender: str) -> Agreement:
    keys, dealt, live = reader.take(32), reader.take(32), reader.names()
    return Agreement(reader.context.digest, sender, keys, dealt, live, reader.take(SIGNATURE_BYTES))


def _read_unmask_request(reader: _Reader) -> UnmaskRequest:
    signers = reader.names()
    reader.left(len(signers) * (64 + 8 + SIGNATURE_BYTES), exactly=True)
    return UnmaskRequest(reader.context.digest, tuple(_agreement(reader, name) for name in signers))


def _read_reveal(reader: _Reader) -> Reveal:
    of_seeds, of_keys = reader.names(), reader.names()
    reader.left((len(of_seeds) + len(of_keys)) * OPENED_BYTES + SIGNATURE_BYTES, exactly=True)
    seeds = tuple((name, reader.opened()) for name in of_seeds)
    keys = tuple((name, reader.opened()) for name in of_keys)
    return Reveal(reader.context.digest, reader.sender, seeds, keys, reader.take(SIGNATURE_BYTES))


_READERS: dict[type[Message], Callable[[_Reader], Message]] = {
    Advertise: _read_advertise,
    KeyList: _read_key_list,
    Shares: _read_shares,
    Delivery: _read_delivery,
    MaskedInput: _read_masked,
    LiveList: _read_live_list,
    Agreement: _read_agreement,
    UnmaskRequest: _read_unmask_request,
    Reveal: _read_reveal,
}
_KINDS = tuple(_READERS)  # the place in this row is the kind on the wire
_HOSPITAL_KINDS = (Advertise, Shares, MaskedInput, Agreement, Reveal)


def _blamed(sender: str) -> str:
    """Nothing shows that a hospital named in a header wrote it; the server has its own line."""
    return SERVER if sender == SERVER else ""


def _quoted(sender: str) -> str:
    return sender if sender == SERVER else f"'{sender}'"


def _refused(who: str, why: str, sender: str = "") -> SecureSumError:
    return SecureSumError(f"{who} {why}", _AGAIN, culprit=_blamed(sender))

"""What coordinator and worker say to each other, whatever carries it. coordinator -> HERE -> relay -> HERE -> worker.

    bytes   0  magic "FMOR" (order) or "FMRE" (reply)
            4  version u16, kind u8, 0 u8
            8  when an order expires, Unix seconds, u64; 0 in a reply
           16  length of the header u32, length of the body u64
           28  header: compact ASCII JSON, keys sorted
            …  body: bytes of another format, see Order and Reply
          -64  Ed25519 over a domain of its own and the SHA-256 of everything before it

All numbers are little-endian. Lengths are checked against the frame and a limit before anything is parsed or copied. A
header is refused where writing its content again gives other bytes. A frame is looked at only after its signature: what
a stranger sends is never parsed. ``digest_of`` leaves out the expiry and the signature, so an order that was sent again
with a later expiry is the same order, and its reply, which names that digest, stays the same bytes.

Not covered: secrecy, which is the transport's (TLS); whether an order fits the worker's state, its policy or its run;
clocks that are wrong.
"""

from __future__ import annotations

import hashlib
import json
import struct
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, get_args

from fedmed.errors import WireError
from fedmed.privacy.secure_sum.context import packed
from fedmed.privacy.secure_sum.keys import SIGNATURE_BYTES, is_signed

VERSION = 1
LARGEST_FRAME = 1 << 30  # bytes; a whole global state of 250 million numbers
LARGEST_HEADER = 1 << 20
LARGEST_NAME = 200  # characters, of a run or hospital
LONGEST_LIFE = 7 * 24 * 3600  # seconds between now and an order's expiry

OrderKind: TypeAlias = Literal["hello", "train", "sum", "finish"]
ReplyKind: TypeAlias = Literal["hello", "payload", "sum", "refused", "failed", "finished"]
Sign: TypeAlias = Callable[[bytes], bytes]
"""``Identity.sign``: bytes that name their purpose -> 64 bytes."""

_ENVELOPE = struct.Struct("<4sHBBQIQ")
_EXPIRY = slice(8, 16)
_PART = struct.Struct("<Q")
_AGAIN = "it must be sent again"
_MAGIC = {"order": b"FMOR", "reply": b"FMRE"}
_KINDS: dict[str, tuple[str, ...]] = {"order": get_args(OrderKind), "reply": get_args(ReplyKind)}
_FIELDS = {
    "order": frozenset({"run_id", "round", "attempt", "hospital", "header"}),
    "reply": frozenset({"run_id", "round", "attempt", "hospital", "header", "answers"}),
}


@dataclass(frozen=True, slots=True)
class Order:
    """What the coordinator asks of one worker.

    Args:
        kind: "train" has a ``wire`` global state as its body, "sum" one message of a secure sum, the others none.
        run_id: at most 200 printable characters; may be empty in a "hello".
        round, attempt: from 0.
        hospital: whom it is for.
        expires: Unix seconds, at most ``LONGEST_LIFE`` from now.
        header: JSON values; see worker.py for what each kind needs.
    """

    kind: OrderKind
    run_id: str
    round: int
    attempt: int
    hospital: str
    expires: int
    header: Mapping[str, Any] = field(default_factory=dict)
    body: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class Reply:
    """A worker's word on one order.

    Args:
        kind: "payload" has a ``wire`` payload as its body, "sum" the messages of a secure sum (``join``).
        run_id, round, attempt, hospital: of the order; empty and 0 where it could not be read.
        answers: ``digest_of`` the order, in hex.
        header: JSON values; ``reasons``, a list of text, in "refused" and "failed".
    """

    kind: ReplyKind
    run_id: str
    round: int
    attempt: int
    hospital: str
    answers: str
    header: Mapping[str, Any] = field(default_factory=dict)
    body: bytes = field(default=b"", repr=False)


def encode_order(order: Order, sign: Sign) -> bytes:
    """The bytes of an order.

    Raises:
        WireError: something in it is not of its type or too long.
    """
    return _seal("order", order, order.expires, sign)


def decode_order(raw: bytes, public: bytes, *, limit: int = LARGEST_FRAME, now: float | None = None) -> Order:
    """Read an order.

    Args:
        raw: the whole frame; not trusted.
        public: the coordinator's pinned Ed25519 key.
        limit: longer frames are refused.
        now: Unix seconds; None: this machine's clock.

    Raises:
        WireError: names the first thing wrong: length, version, signature, expiry, header.
    """
    kind, expires, values, body = _open("order", raw, public, limit)
    left = expires - (time.time() if now is None else now)
    if left <= 0:
        raise WireError(
            f"the order expired {abs(left):.0f} s ago", "send it again, and compare the clocks of both machines"
        )
    if left > LONGEST_LIFE:
        raise WireError(f"the order expires in {left:.0f} s, {LONGEST_LIFE} is the most", "compare the clocks")
    return Order(kind=kind, expires=expires, body=body, **values)  # type: ignore[arg-type]  # _open has looked


def encode_reply(reply: Reply, sign: Sign) -> bytes:
    """The bytes of a reply.

    Raises:
        WireError: something in it is not of its type or too long.
    """
    return _seal("reply", reply, 0, sign)


def decode_reply(raw: bytes, public: bytes, answers: str | None = None, *, limit: int = LARGEST_FRAME) -> Reply:
    """Read a reply.

    Args:
        raw: the whole frame; not trusted.
        public: the hospital's Ed25519 key.
        answers: ``digest_of`` the order that was sent; None: any, for tools that look at stored replies.
        limit: longer frames are refused.

    Raises:
        WireError: names the first thing wrong.
    """
    kind, _, values, body = _open("reply", raw, public, limit)
    if answers is not None and values["answers"] != answers:
        raise WireError("the reply answers another order", "it is a replay, or the relay mixed up two replies")
    return Reply(kind=kind, body=body, **values)  # type: ignore[arg-type]


def digest_of(raw: bytes) -> str:
    """SHA-256, in hex, of an order's frame without its expiry and its signature; of any bytes, for a refusal."""
    view = memoryview(raw)
    digest = hashlib.sha256(view[: _EXPIRY.start])
    digest.update(view[_EXPIRY.stop : max(_EXPIRY.stop, len(raw) - SIGNATURE_BYTES)])
    return digest.hexdigest()


def join(parts: Sequence[bytes]) -> bytes:
    """Several byte strings as one, each after its length."""
    return b"".join(piece for part in parts for piece in (_PART.pack(len(part)), part))


def split(raw: bytes, most: int = 64) -> tuple[bytes, ...]:
    """What ``join`` joined.

    Raises:
        WireError: it is cut, or holds more than ``most`` parts.
    """
    parts: list[bytes] = []
    place = 0
    while place < len(raw):
        start = place + _PART.size
        place = start + _PART.unpack_from(raw, place)[0] if start <= len(raw) else len(raw) + 1
        if place > len(raw) or len(parts) == most:
            raise WireError("a list of messages is cut, or longer than it may be", _AGAIN)
        parts.append(raw[start:place])
    return tuple(parts)


def _seal(what: Literal["order", "reply"], one: Order | Reply, expires: int, sign: Sign) -> bytes:
    values = {name: getattr(one, name) for name in _FIELDS[what]}
    try:
        header = _json({**values, "header": dict(one.header)})
        same = json.loads(header)["header"].keys() == one.header.keys()  # JSON makes text of a key that is a number
    except (TypeError, ValueError, AttributeError, RecursionError) as error:
        raise WireError(f"the {what} cannot be sent: its header is not made of JSON values") from error
    wrong = _wrong(what, values) or (None if same else "its header has keys that are no text")
    if wrong is None and not (one.kind in _KINDS[what] and isinstance(one.body, bytes)):
        wrong = "its kind is not known, or its body is no bytes"
    if wrong is None and not (type(expires) is int and 0 <= expires < 2**63):
        wrong = "its expiry is not a whole number of seconds"
    if wrong is None and len(header) > LARGEST_HEADER:
        wrong = f"its header takes {len(header)} bytes, {LARGEST_HEADER} is the most"
    if wrong is not None:
        raise WireError(f"the {what} cannot be sent: {wrong}")
    kind = _KINDS[what].index(one.kind) + 1
    envelope = _ENVELOPE.pack(_MAGIC[what], VERSION, kind, 0, expires, len(header), len(one.body))
    return b"".join((envelope, header, one.body, sign(_signed(what, envelope, header, one.body))))


def _open(
    what: Literal["order", "reply"], raw: bytes, public: bytes, limit: int
) -> tuple[str, int, dict[str, Any], bytes]:
    if len(raw) > limit:
        raise WireError(f"the {what} has {len(raw)} bytes, {limit} is the most", "raise the limit at this end")
    if len(raw) < _ENVELOPE.size + SIGNATURE_BYTES:
        raise WireError(f"the {what} ends after {len(raw)} bytes, inside its envelope", _AGAIN)
    magic, version, kind, zero, expires, header_length, length = _ENVELOPE.unpack_from(raw)
    if magic != _MAGIC[what]:
        raise WireError(f"these bytes are no {what} of FED-MED", "both ends must speak FED-MED's format")
    if version != VERSION:
        raise WireError(
            f"the {what} has version {version}, this end speaks {VERSION}", "install the same version on both"
        )
    if header_length > LARGEST_HEADER:
        raise WireError(f"the {what}'s header takes {header_length} bytes, {LARGEST_HEADER} is the most", _AGAIN)
    whole = _ENVELOPE.size + header_length + length + SIGNATURE_BYTES
    if len(raw) != whole:
        raise WireError(f"the {what} has {len(raw)} bytes, its envelope says {whole}", _AGAIN)
    view = memoryview(raw)  # slices without copies
    start = _ENVELOPE.size + header_length
    envelope, header, body = view[: _ENVELOPE.size], view[_ENVELOPE.size : start], view[start:-SIGNATURE_BYTES]
    if not is_signed(public, bytes(view[-SIGNATURE_BYTES:]), _signed(what, envelope, header, body)):
        signer = "the coordinator" if what == "order" else "the hospital"
        raise WireError(f"the {what} is not signed by {signer}'s key", "compare the fingerprints of both ends")
    values = _parse(what, bytes(header))
    if not (1 <= kind <= len(_KINDS[what]) and zero == 0 and (what == "order" or expires == 0)):
        raise WireError(f"the {what} is of a kind that is not known, {kind}", "install the same version on both")
    return _KINDS[what][kind - 1], expires, values, bytes(body)


def _signed(what: str, *parts: bytes | memoryview) -> bytes:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return packed(f"network {what}", digest.digest())


def _parse(what: Literal["order", "reply"], raw: bytes) -> dict[str, Any]:
    try:
        values = json.loads(raw.decode("ascii"))
        wrong = _wrong(what, values) if _json(values) == raw else "it is not spelled as FED-MED spells it"
    except (ValueError, RecursionError):  # a number too long or not finite; ten thousand open brackets
        wrong = "it is no JSON"
    if wrong is not None:
        raise WireError(f"the {what}'s header cannot be used: {wrong}", "install the same version on both")
    return dict(values)


def _wrong(what: Literal["order", "reply"], values: Any) -> str | None:
    """What is wrong with the fields of a header, the same words for both ends."""
    if not isinstance(values, dict) or values.keys() != _FIELDS[what] or not isinstance(values["header"], Mapping):
        return f"its fields are not those of the {what}"
    for name in ("round", "attempt"):
        if not (type(values[name]) is int and 0 <= values[name] < 2**32):
            return f"its {name} is not a whole number from 0"
    for name in ("run_id", "hospital"):
        text = values[name]
        if not (isinstance(text, str) and len(text) <= LARGEST_NAME and (text.isprintable() or not text)):
            return f"its {name} is not at most {LARGEST_NAME} printable characters"
    answers = values.get("answers", "0" * 64)
    if not (isinstance(answers, str) and len(answers) == 64 and set(answers) <= set("0123456789abcdef")):
        return "what it answers is no digest"
    return None


def _json(values: Any) -> bytes:
    return json.dumps(values, separators=(",", ":"), sort_keys=True, allow_nan=False).encode("ascii")

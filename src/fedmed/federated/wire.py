"""The one form in which arrays cross a line: versioned, length-checked, never pickle. encodings -> HERE -> transport.

    bytes   0  magic "FMED"
            4  version u16, kind u8 (1 payload, 2 global state), encoding u8 (1 fp32, 2 bf16, 3 int8, 4 int4, 5 topk)
            8  length of the header u32, length of the body u64
           20  header: compact ASCII JSON
            …  body: one safetensors blob, see encodings.py
          -16  blake2b of everything before it

All numbers are little-endian. Shapes and encoding give the body's exact length, so a wrong length is refused before
anything is parsed or allocated. A header is refused where writing its content again gives other bytes, so no key is
doubled and no number has a second spelling. Errors repeat numbers of the envelope, and never the sender's text.

Not covered: who sent it. The digest catches damage, not somebody who computes it anew, and a digest of the template
is no secret; authenticity is a signature's business. Whether a payload fits the round is admission's. A header holds
about 3,000 step losses; a hospital with more steps a round must keep its losses to itself.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass
from typing import Any, Literal

from fedmed.config.schema import Encoding
from fedmed.errors import UpdateRejectedError, WireError
from fedmed.federated.encodings import (
    ENCODINGS,
    TOP_K_SHARE,
    body_length,
    decode_arrays,
    encode_arrays,
    template_of,
)
from fedmed.types import AdapterState, Payload, Shapes, TrainMetrics

__all__ = [
    "ENCODINGS",
    "Encoding",
    "GlobalState",
    "decode_arrays",
    "decode_payload",
    "decode_state",
    "encode_arrays",
    "encode_payload",
    "encode_state",
    "message_limit",
]

VERSION = 1
LARGEST_HEADER = 64 * 1024
LARGEST_NAME = 200  # characters
_MAGIC = b"FMED"
_ENVELOPE = struct.Struct("<4sHBBIQ")
_DIGEST = 16
_KINDS = ("payload", "state")
_AGAIN = "it must be sent again"
_SAME_VERSION = "both ends need the same version of FED-MED"
_SAME_ADAPTER = "both ends need the same model, LoRA settings and top_k_share"


@dataclass(frozen=True, slots=True)
class GlobalState:
    """What goes down to a hospital: the arrays to start from."""

    round: int
    algorithm: str
    arrays: AdapterState


def message_limit(template: Shapes, encoding: Encoding, *, top_k_share: float = TOP_K_SHARE) -> int:
    """The length of the largest valid message: what a receiver need ever read."""
    body = body_length(template, encoding, top_k_share=top_k_share)
    return _ENVELOPE.size + LARGEST_HEADER + body + _DIGEST


def encode_payload(payload: Payload, encoding: Encoding, *, top_k_share: float = TOP_K_SHARE) -> bytes:
    """Make the message that carries a hospital's payload.

    Args:
        payload: its arrays are float32; their names and shapes are the template the receiver must have.
        encoding: one of ``ENCODINGS``; all but fp32 lose something.
        top_k_share: for topk, the share of all values that is sent.

    Raises:
        UpdateRejectedError: something in it is not finite, not of its type, or too long for a header.
    """
    header = {
        "hospital": payload.hospital,
        "round": payload.round,
        "algorithm": payload.algorithm,
        "num_samples": payload.num_samples,
        "metrics": None if payload.metrics is None else _plain(payload.metrics),
    }
    return _seal("payload", header, _wrong_payload, payload.arrays, encoding, top_k_share)


def decode_payload(message: bytes, template: Shapes, *, top_k_share: float = TOP_K_SHARE) -> Payload:
    """Read a hospital's message.

    Args:
        message: not trusted. Its own word decides which encoding it is in.
        template: names and shapes of the adapter.
        top_k_share: what the sender was told.

    Returns:
        The payload; its arrays are finite float32, row-major, of the template's shapes.

    Raises:
        WireError: names the first thing wrong.
    """
    header, arrays = _open("payload", message, _wrong_payload, template, top_k_share)
    metrics = header["metrics"]
    if metrics is not None:
        metrics = TrainMetrics(**{**metrics, "step_losses": tuple(metrics["step_losses"])})
    return Payload(header["hospital"], header["round"], header["algorithm"], arrays, header["num_samples"], metrics)


def encode_state(
    arrays: AdapterState, encoding: Encoding, *, round: int, algorithm: str, top_k_share: float = TOP_K_SHARE
) -> bytes:
    """Make the message that carries a global state down to the hospitals; see ``encode_payload``."""
    header = {"round": round, "algorithm": algorithm}
    return _seal("state", header, _wrong_state, arrays, encoding, top_k_share)


def decode_state(message: bytes, template: Shapes, *, top_k_share: float = TOP_K_SHARE) -> GlobalState:
    """Read the coordinator's message; see ``decode_payload``."""
    header, arrays = _open("state", message, _wrong_state, template, top_k_share)
    return GlobalState(header["round"], header["algorithm"], arrays)


def _seal(
    kind: Literal["payload", "state"],
    header: dict[str, Any],
    wrong: Callable[[Any], str | None],
    arrays: AdapterState,
    encoding: Encoding,
    top_k_share: float,
) -> bytes:
    body = encode_arrays(arrays, encoding, top_k_share=top_k_share)
    reason = wrong(header)
    if reason:
        raise UpdateRejectedError(f"the {kind} cannot be sent: {reason}")
    raw = _json({**header, "template": _template_digest(template_of(arrays))})
    if len(raw) > LARGEST_HEADER:
        what = f"the {kind} cannot be sent: its header takes {len(raw)} bytes, {LARGEST_HEADER} is the most"
        raise UpdateRejectedError(what, "send it without metrics")
    numbers = (VERSION, _KINDS.index(kind) + 1, ENCODINGS.index(encoding) + 1)
    sealed = b"".join((_ENVELOPE.pack(_MAGIC, *numbers, len(raw), len(body)), raw, body))
    return sealed + _digest(sealed)


def _open(
    kind: Literal["payload", "state"],
    message: bytes,
    wrong: Callable[[Any], str | None],
    template: Shapes,
    top_k_share: float,
) -> tuple[dict[str, Any], AdapterState]:
    if len(message) < _ENVELOPE.size + _DIGEST:
        raise WireError(f"the message ends after {len(message)} bytes, inside its envelope", _AGAIN)
    magic, version, kind_number, encoding_number, header_length, length = _ENVELOPE.unpack_from(message)
    if magic != _MAGIC:
        raise WireError("the message does not start with the letters FMED", "the sender must speak FED-MED's format")
    if version != VERSION:
        raise WireError(f"the message has version {version}, this end reads {VERSION}", _SAME_VERSION)
    if kind_number != _KINDS.index(kind) + 1:
        raise WireError(f"the message is no {kind}: its kind is {kind_number}", "the sender mixed up two messages")
    if not 1 <= encoding_number <= len(ENCODINGS):
        raise WireError(f"the message has encoding {encoding_number}, which is not known", _SAME_VERSION)
    encoding = ENCODINGS[encoding_number - 1]
    if header_length > LARGEST_HEADER:
        raise WireError(f"the message's header takes {header_length} bytes, {LARGEST_HEADER} is the most", _AGAIN)
    expected = body_length(template, encoding, top_k_share=top_k_share)
    if length != expected:
        raise WireError(
            f"the message's body takes {length} bytes, this adapter in {encoding} {expected}", _SAME_ADAPTER
        )
    whole = _ENVELOPE.size + header_length + length + _DIGEST
    if len(message) != whole:
        raise WireError(f"the message has {len(message)} bytes, its envelope says {whole}", _AGAIN)
    view = memoryview(message)  # slices without copies
    if _digest(view[:-_DIGEST]) != view[-_DIGEST:]:
        raise WireError("the message was damaged on the way: its digest does not match", _AGAIN)

    header = _parse(bytes(view[_ENVELOPE.size : _ENVELOPE.size + header_length]))
    if header.pop("template", None) != _template_digest(template):
        raise WireError("the message was made for an adapter of other names or shapes", _SAME_ADAPTER)
    reason = wrong(header)
    if reason:
        raise WireError(f"the message's header cannot be used: {reason}", _SAME_VERSION)
    body = view[_ENVELOPE.size + header_length : -_DIGEST]
    return header, decode_arrays(body, encoding, template, top_k_share=top_k_share)


def _digest(data: bytes | memoryview) -> bytes:
    return hashlib.blake2b(data, digest_size=_DIGEST).digest()


def _template_digest(template: Shapes) -> str:
    listed = json.dumps([[name, list(template[name])] for name in sorted(template)])
    return hashlib.blake2b(listed.encode(), digest_size=8).hexdigest()


def _json(header: dict[str, Any]) -> bytes:
    return json.dumps(header, separators=(",", ":"), allow_nan=False).encode("ascii")


def _parse(raw: bytes) -> dict[str, Any]:
    try:
        header = json.loads(raw.decode("ascii"))
        same = isinstance(header, dict) and _json(header) == raw
    except (ValueError, RecursionError):  # bad JSON, a number too long or not finite; ten thousand open brackets
        same = False
    if not same:
        raise WireError("the message's header is no JSON object as FED-MED writes it", _SAME_VERSION)
    return dict(header)


def _plain(metrics: TrainMetrics) -> dict[str, Any]:
    """The metrics as JSON values; 0 seconds become 0.0, so that what is read has the types of ``TrainMetrics``."""
    return {
        **asdict(metrics),
        "loss": float(metrics.loss),
        "step_losses": [float(loss) for loss in metrics.step_losses],
        "seconds": float(metrics.seconds),
    }


# What is wrong with a header, the same words for the end that writes it and the end that reads it.


def _wrong_payload(header: dict[str, Any]) -> str | None:
    if header.keys() != {"hospital", "round", "algorithm", "num_samples", "metrics"}:
        return "its keys are not those of a payload"
    if not _is_name(header["hospital"]):
        return f"the hospital's name is not 1 to {LARGEST_NAME} printable characters"
    if not _is_count(header["num_samples"]):
        return "the number of records is not a whole number from 0"
    return _wrong_round(header) or (None if header["metrics"] is None else _wrong_metrics(header["metrics"]))


def _wrong_state(header: dict[str, Any]) -> str | None:
    if header.keys() != {"round", "algorithm"}:
        return "its keys are not those of a global state"
    return _wrong_round(header)


def _wrong_round(header: dict[str, Any]) -> str | None:
    if not _is_count(header["round"]):
        return "the round is not a whole number from 0"
    if not _is_name(header["algorithm"]):
        return f"the algorithm's name is not 1 to {LARGEST_NAME} printable characters"
    return None


def _wrong_metrics(metrics: Any) -> str | None:
    if not isinstance(metrics, dict) or metrics.keys() != TrainMetrics.__dataclass_fields__.keys():
        return "its metrics have other keys than a training's"
    if not isinstance(metrics["step_losses"], list):
        return "its step losses are no list"
    if not _are_finite([metrics["loss"], metrics["seconds"], *metrics["step_losses"]]):
        return "its losses or its time are not finite numbers"
    if not all(_is_count(metrics[name]) for name in ("tokens", "answer_tokens", "steps")):
        return "its counts are not whole numbers from 0"
    return None


def _are_finite(values: Collection[Any]) -> bool:
    return all(type(value) is float and math.isfinite(value) for value in values)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _is_name(value: Any) -> bool:
    # Printable: no line breaks into logs, and no half of a surrogate pair, which no text file could hold.
    return isinstance(value, str) and 1 <= len(value) <= LARGEST_NAME and value.isprintable()

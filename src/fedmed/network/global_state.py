"""The global state inside a train order: whole, or what changed since the hospital last had one. order -> HERE.

    header["state"]   form "whole" | "changed" | "moved"
                      known   digest of the state that the other two build on; null
                      digest  of the state that must come out
                      arrays  name -> shape, of the arrays in the body
    body              a ``wire`` global state of those arrays; "whole" and "changed" bring values, "moved" differences

The digest of the outcome is compared, so both ends hold the same state to the bit or the order is refused.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from fedmed.errors import WireError
from fedmed.federated.links import Update
from fedmed.federated.wire import decode_state, encode_state
from fedmed.types import AdapterState, Shapes

LARGEST_DIMENSION = 2**40
MOST_DIMENSIONS = 8
_WHOLE = "send the whole global state"


def state_digest(state: AdapterState) -> str:
    """SHA-256, in hex, over names, shapes and values."""
    digest = hashlib.sha256()
    for name in sorted(state):
        array = np.ascontiguousarray(state[name], dtype="<f4")
        digest.update(json.dumps([name, list(state[name].shape)]).encode() + b"\0")
        digest.update(array.tobytes())
    return digest.hexdigest()


def pack_whole(state: AdapterState, *, round: int, algorithm: str) -> tuple[dict[str, Any], bytes]:
    """The header's "state" and the body for a hospital that may have nothing."""
    message = encode_state(state, "fp32", round=round, algorithm=algorithm)
    return _header("whole", None, state_digest(state), state), message


def pack_update(update: Update, known: AdapterState) -> tuple[dict[str, Any], bytes]:
    """The header's "state" and the body for a hospital that holds ``known``, on which ``update`` was made."""
    arrays = {name: update.now[name] for name in update.names}
    form = "moved" if update.moved else "changed"
    return _header(form, state_digest(known), state_digest(update.now), arrays), update.message


def unpack_state(
    header: Any,
    body: bytes,
    known: AdapterState | None,
    *,
    round: int,
    algorithm: str,
    top_k_share: float,
) -> AdapterState:
    """The global state of a train order.

    Args:
        header: the order's ``state``.
        body: the order's body.
        known: what this hospital holds; None: nothing.
        round, algorithm: of the order; those in the body must be the same.
        top_k_share: of the settings.

    Raises:
        WireError: the header or the body cannot be used, it builds on a state that is not held, or another state comes
            out than it says.
    """
    if not isinstance(header, Mapping) or header.keys() != {"form", "known", "digest", "arrays"}:
        raise WireError("the order does not describe its global state", "both ends need the same version of FED-MED")
    form = header["form"]
    if form not in ("whole", "changed", "moved"):
        raise WireError("the order's global state has a form that is not known", _WHOLE)
    held = None if known is None else state_digest(known)
    if form != "whole" and (held is None or header["known"] != held):
        raise WireError("the order builds on a global state that this hospital does not hold", _WHOLE)
    arrived = decode_state(body, _shapes(header["arrays"]), top_k_share=top_k_share)
    if arrived.round != round or arrived.algorithm != algorithm:
        raise WireError("the global state is of another round or algorithm than its order", "send it again")
    now = dict(arrived.arrays)
    if form != "whole":
        base = known or {}
        if form == "moved":
            if any(name not in base or base[name].shape != array.shape for name, array in now.items()):
                raise WireError("the order moves arrays that this hospital does not hold", _WHOLE)
            now = {name: np.add(base[name], array, dtype=np.float32) for name, array in now.items()}
        now = {**base, **now}  # arrays that were taken away would stay: the digest tells
    if state_digest(now) != header["digest"]:
        raise WireError("another global state came out than the order says", _WHOLE)
    return now


def _header(form: str, known: str | None, digest: str, arrays: AdapterState) -> dict[str, Any]:
    shapes = {name: list(array.shape) for name, array in arrays.items()}
    return {"form": form, "known": known, "digest": digest, "arrays": shapes}


def _shapes(given: Any) -> Shapes:
    """Shapes that a stranger may have made up; sizes are checked against the body before anything is allocated."""
    shapes: dict[str, tuple[int, ...]] = {}
    known_shape = isinstance(given, Mapping)
    for name, shape in given.items() if known_shape else ():
        known_shape = known_shape and isinstance(shape, list) and len(shape) <= MOST_DIMENSIONS
        if known_shape and all(type(size) is int and 0 <= size <= LARGEST_DIMENSION for size in shape):
            shapes[name] = tuple(shape)
    if not known_shape or len(shapes) != len(given):
        raise WireError("the order's arrays have no shapes that can be", "both ends need the same version")
    return shapes

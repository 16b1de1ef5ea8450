"""Adapter arrays as bytes and back, whole or with fewer bits. update -> HERE -> wire.

Both ends know the template (name -> shape), so no name is sent: the arrays lie one after another in sorted-name order,
row-major, inside one safetensors blob with one or two short-named tensors, little-endian:

    fp32  {"v": F32 [n]}                the values themselves
    bf16  {"v": BF16 [n]}               rounded to nearest, ties to even; beyond the largest bf16: that one
    int8  {"s": F32 [m], "q": I8 [n]}   value = q * s with |q| <= 127
    int4  {"s": F32 [m], "q": U8}       |q| <= 7, stored as q + 8, two a byte, the first in the low half
    topk  {"v": F32 [k], "i": U32 [k]}  the k largest magnitudes of all arrays together; ties go to the lower index

There is one scale for each vector along the longer axis of a 2-D array (lora_A [r, d_in]: a row; lora_B [d_out, r]: a
column; square: a row) and one for any other array. int8 takes max|x| / 127, so no value moves by more than half a step.
int4 takes the share of max|x| / 7, from 1 down to 1/2, with the least squared error: it gives up the few largest
values, and on Gaussian vectors of 256 to 1,024 values lowers the relative error by 13 to 24 %. It is never worse than
max|x| / 7, but for rounding among float32's smallest.

The blob's own header is a function of template and encoding. It is written here and compared byte for byte, never
parsed: a sender has no say in what is allocated, and the length does not hang on safetensors' version. It is what
``safetensors`` itself writes, which a test holds; BF16 is the true type, although numpy has none of that name.

Not covered: what quantisation drops. Who sends updates round after round adds the rest to the next (error feedback).
topk is for updates: a whole adapter sent so would lose most of itself.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator, Mapping
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from fedmed.config.schema import Encoding
from fedmed.errors import UpdateRejectedError, WireError
from fedmed.types import AdapterState, Shapes

ENCODINGS: tuple[Encoding, ...] = get_args(Encoding)
TOP_K_SHARE = 0.05

_TYPES = {"F32": "<f4", "BF16": "<u2", "I8": "<i1", "U8": "<u1", "U32": "<u4"}  # bf16 as its bits
_LEVELS = {"int8": 127, "int4": 7}
_SHARES = np.arange(19, 9, -1, dtype=np.float32) / np.float32(20)  # 0.95 … 0.5, tried against 1
_SAME_BOTH = "both ends need the same model, LoRA settings, encoding and top_k_share"
_ANEW = "the sender must make its message anew"


def template_of(arrays: AdapterState) -> dict[str, tuple[int, ...]]:
    """The names and shapes of some arrays."""
    return {name: array.shape for name, array in arrays.items()}


def body_length(template: Shapes, encoding: Encoding, *, top_k_share: float = TOP_K_SHARE) -> int:
    """The exact length of a body, whatever its values."""
    parts = _parts(template, encoding, top_k_share)
    return len(_prefix(parts)) + sum(_size(part) for part in parts.values())


def encode_arrays(arrays: AdapterState, encoding: Encoding, *, top_k_share: float = TOP_K_SHARE) -> bytes:
    """Turn arrays into a body.

    Args:
        arrays: float32, any shapes; left as they are.
        encoding: one of ``ENCODINGS``.
        top_k_share: for topk, the share of all values that is sent, above 0 and at most 1; at least one value is.

    Raises:
        UpdateRejectedError: an array is not float32 or not finite; names it.
    """
    for name, array in arrays.items():
        if array.dtype != np.float32:
            raise UpdateRejectedError(f"array '{name}' is not float32", "convert it before it is encoded")
        if not np.all(np.isfinite(array)):
            raise UpdateRejectedError(f"array '{name}' has values that are not finite", "look at the losses")
    parts = _parts(template_of(arrays), encoding, top_k_share)
    ordered = [np.ascontiguousarray(arrays[name]).reshape(arrays[name].shape) for name in sorted(arrays)]
    flat = np.concatenate([np.zeros(0, np.float32), *(array.ravel() for array in ordered)])
    tensors: dict[str, NDArray[Any]]
    if encoding == "fp32":
        tensors = {"v": flat}
    elif encoding == "bf16":
        tensors = {"v": _to_bf16(flat)}
    elif encoding == "topk":
        chosen = _largest(np.abs(flat), parts["i"][1])
        tensors = {"v": flat[chosen], "i": chosen}
    else:
        quantised = [_quantise(array, encoding) for array in ordered]
        levels = np.concatenate([np.zeros(0, np.int8), *(level.ravel() for _, level in quantised)])
        scales = np.concatenate([np.zeros(0, np.float32), *(scale for scale, _ in quantised)])
        tensors = {"s": scales, "q": _pack(levels) if encoding == "int4" else levels}
    stored = (tensors[name].astype(_TYPES[dtype]).tobytes() for name, (dtype, _) in parts.items())
    return b"".join((_prefix(parts), *stored))


def decode_arrays(
    body: bytes | memoryview, encoding: Encoding, template: Shapes, *, top_k_share: float = TOP_K_SHARE
) -> AdapterState:
    """Turn a body into arrays again.

    Args:
        body: not trusted.
        encoding, template, top_k_share: what it was made with, known beforehand and trusted.

    Returns:
        Finite float32 arrays, row-major, of the template's names and shapes; together they own their memory.

    Raises:
        WireError: the body is not what ``encode_arrays`` makes for this template.
    """
    parts = _parts(template, encoding, top_k_share)
    prefix = _prefix(parts)
    if len(body) != len(prefix) + sum(_size(part) for part in parts.values()):
        raise WireError("the body's length is not that of this adapter in this encoding", _SAME_BOTH)
    if body[: len(prefix)] != prefix:
        raise WireError("the body does not hold the tensors of this adapter in this encoding", _SAME_BOTH)
    tensors: dict[str, NDArray[Any]] = {}
    start = len(prefix)
    for name, part in parts.items():
        tensors[name] = np.frombuffer(body, _TYPES[part[0]], part[1], start)
        start += _size(part)

    if encoding == "fp32":
        flat = tensors["v"].astype(np.float32)
    elif encoding == "bf16":
        flat = (tensors["v"].astype(np.uint32) << 16).view(np.float32)
    elif encoding == "topk":
        flat = _scatter(tensors["i"], tensors["v"], _count(template))
    else:
        flat = _dequantise(tensors["q"], tensors["s"], encoding, template)
    if not np.all(np.isfinite(flat)):
        raise WireError("the body holds values that are not finite", _ANEW)
    return dict(_cut(flat, template))


def _count(template: Shapes) -> int:
    return sum(math.prod(shape) for shape in template.values())


def _parts(template: Shapes, encoding: Encoding, top_k_share: float) -> dict[str, tuple[str, int]]:
    """Tensor name -> (safetensors type, number of values), in the order they are stored: 4-byte values first."""
    count = _count(template)
    if encoding == "fp32":
        return {"v": ("F32", count)}
    if encoding == "bf16":
        return {"v": ("BF16", count)}
    if encoding == "topk":
        if not 0 < top_k_share <= 1 or count >= 2**32:
            raise ValueError(f"topk needs a share above 0 and at most 1 ({top_k_share}), and fewer than 2^32 values")
        kept = min(count, max(1, math.ceil(top_k_share * count)))
        return {"v": ("F32", kept), "i": ("U32", kept)}
    if encoding not in _LEVELS:
        raise ValueError(f"'{encoding}' is none of {', '.join(ENCODINGS)}")
    scales = sum(_vector_count(shape) for shape in template.values())
    return {"s": ("F32", scales), "q": ("I8", count) if encoding == "int8" else ("U8", (count + 1) // 2)}


def _size(part: tuple[str, int]) -> int:
    return np.dtype(_TYPES[part[0]]).itemsize * part[1]


def _prefix(parts: Mapping[str, tuple[str, int]]) -> bytes:
    """What a safetensors blob of these tensors begins with: the length of its JSON, and the JSON."""
    entries, end = {}, 0
    for name, part in parts.items():
        start, end = end, end + _size(part)
        entries[name] = {"dtype": part[0], "shape": [part[1]], "data_offsets": [start, end]}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _cut(flat: NDArray[Any], template: Shapes) -> Iterator[tuple[str, NDArray[Any]]]:
    """Views of ``flat``, one for each name in sorted order."""
    start = 0
    for name in sorted(template):
        end = start + math.prod(template[name])
        yield name, flat[start:end].reshape(template[name])
        start = end


def _vector_count(shape: tuple[int, ...]) -> int:
    return min(shape) if len(shape) == 2 else 1


def _vectors(array: NDArray[Any]) -> NDArray[Any]:
    """A view [vectors, length] of the values that share a scale."""
    if array.ndim != 2:
        return array.reshape(1, array.size)
    return array if array.shape[0] <= array.shape[1] else array.T


def _to_bf16(values: NDArray[np.float32]) -> NDArray[np.uint32]:
    bits: NDArray[np.uint32] = values.view(np.uint32)
    to_even = np.bitwise_and(bits >> np.uint32(16), np.uint32(1), dtype=np.uint32)
    upper: NDArray[np.uint32] = np.right_shift(bits + np.uint32(0x7FFF) + to_even, np.uint32(16), dtype=np.uint32)
    # Rounding up from just below the end of float32 would give infinity: take the largest bf16 of that sign.
    upper[(upper & np.uint32(0x7FFF)) == np.uint32(0x7F80)] -= np.uint32(1)
    return upper


def _largest(magnitudes: NDArray[np.float32], kept: int) -> NDArray[np.int64]:
    """Ascending indices of the ``kept`` largest; among equals the first."""
    if kept == 0:
        return np.zeros(0, np.int64)
    least = np.partition(magnitudes, magnitudes.size - kept)[magnitudes.size - kept]
    above = np.flatnonzero(magnitudes > least)
    ties = np.flatnonzero(magnitudes == least)[: kept - above.size]
    return np.sort(np.concatenate([above, ties]))


def _scatter(indices: NDArray[np.uint32], values: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    if indices.size and (int(indices[-1]) >= count or not np.all(indices[1:] > indices[:-1])):
        raise WireError("the body's indices are not ascending or out of range", _ANEW)
    flat = np.zeros(count, np.float32)
    flat[indices] = values
    return flat


def _quantise(array: NDArray[np.float32], encoding: str) -> tuple[NDArray[np.float32], NDArray[np.int8]]:
    """The scales [vectors] and the levels, of the array's shape."""
    levels = _LEVELS[encoding]
    vectors = _vectors(array)
    exact = np.abs(vectors).max(axis=1, initial=0).astype(np.float64) / levels
    scales = exact.astype(np.float32)
    # Upwards, so that even the smallest numbers of float32 stay within ``levels`` steps; not so far that the largest
    # times ``levels`` overflows.
    scales = np.where(scales < exact, np.nextafter(scales, np.float32(np.inf)), scales)
    scales = np.minimum(scales, np.nextafter(np.float32(np.finfo(np.float32).max / levels), np.float32(0)))
    if encoding == "int4":
        scales = scales * _best_shares((vectors / _divisors(scales)).astype(np.float32), levels)
    stored = np.empty(array.shape, np.int8)
    _vectors(stored)[...] = np.clip(np.rint(vectors / _divisors(scales)), -levels, levels)
    return scales, stored


def _divisors(scales: NDArray[np.float32]) -> NDArray[np.float32]:
    """[vectors, 1]; 1 for a vector of zeros."""
    return np.where(scales > 0, scales, np.float32(1))[:, None]


def _best_shares(steps: NDArray[np.float32], levels: int) -> NDArray[np.float32]:
    """For each row of values in full steps, the share of a step with the least squared error."""

    def error(share: np.float32) -> NDArray[np.float32]:
        squared: NDArray[np.float32] = np.square(np.clip(np.rint(steps / share), -levels, levels) * share - steps)
        total: NDArray[np.float32] = squared.sum(axis=1)
        return total

    best = np.ones(len(steps), np.float32)
    least = error(np.float32(1))
    for share in _SHARES:
        now = error(share)
        best = np.where(now < least, share, best)
        least = np.minimum(now, least)
    return best


def _dequantise(
    stored: NDArray[Any], scales: NDArray[np.float32], encoding: str, template: Shapes
) -> NDArray[np.float32]:
    count = _count(template)
    levels = _unpack(stored, count) if encoding == "int4" else stored
    if levels.size and int(levels.min()) < -_LEVELS[encoding]:
        raise WireError("the body holds a level that its encoding does not have", _ANEW)
    if not np.all(np.isfinite(scales)) or np.any(scales < 0):
        raise WireError("the body's scales are not finite numbers from 0", _ANEW)
    flat = np.empty(count, np.float32)
    first = 0
    with np.errstate(over="ignore"):  # the caller refuses what overflows
        for (_, array), (_, level) in zip(_cut(flat, template), _cut(levels, template), strict=True):
            last = first + _vector_count(array.shape)
            np.multiply(_vectors(level), scales[first:last, None], out=_vectors(array))
            first = last
    return flat


def _pack(levels: NDArray[np.int8]) -> NDArray[np.uint8]:
    halves = np.zeros(levels.size + levels.size % 2, np.uint8)  # an odd count ends in an empty half
    halves[: levels.size] = levels + np.int8(8)
    return halves[0::2] + np.uint8(16) * halves[1::2]


def _unpack(stored: NDArray[np.uint8], count: int) -> NDArray[np.int8]:
    halves = np.empty(2 * stored.size, np.int8)
    halves[0::2] = stored & 15
    halves[1::2] = stored >> 4
    if np.any(halves[count:]):
        raise WireError("the body's last half byte is not empty", _ANEW)
    halves -= 8
    return halves[:count]

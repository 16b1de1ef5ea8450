"""Read a GGUF file: its metadata and its tensors, de-quantised one at a time.

The ``gguf`` package's own reader makes an array of every token of the vocabulary, which takes half a minute for
262,144 of them; this one walks the header once. Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
Not covered: big-endian files, GGUF version 1.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedmed.errors import ModelCorruptError
from fedmed.utils.extras import require

_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_TEXT, _ARRAY = 8, 9
_ROWS = 1024  # de-quantised at a time: what stays in the processor's cache is five times faster


@dataclass(frozen=True, slots=True)
class TensorPlace:
    """Where one tensor lies in the file."""

    shape: tuple[int, ...]  # row-major, as torch has it
    kind: int  # ggml's number of the quantisation
    start: int  # first byte, from the beginning of the file


@dataclass(frozen=True, slots=True)
class GgufFile:
    """The header of one file; ``tensor`` reads the rest as it is asked for."""

    path: Path
    metadata: Mapping[str, Any]
    tensors: Mapping[str, TensorPlace]

    def tensor(self, name: str) -> NDArray[np.float32]:
        """One tensor, de-quantised.

        Raises:
            ModelCorruptError: it is not there, or lies beyond the end of the file. MissingExtraError: no ``gguf``.
        """
        gguf = require("gguf", "builtin")
        place = self.tensors.get(name)
        if place is None:
            raise ModelCorruptError(f"{self.path} has no tensor '{name}'", _AGAIN)
        try:
            kind = gguf.GGMLQuantizationType(place.kind)
            block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
            size = prod(place.shape) // block * block_bytes
            raw = np.memmap(self.path, np.uint8, "r", place.start, (size,))
        except (ValueError, KeyError) as error:
            raise ModelCorruptError(f"{self.path}: tensor '{name}' cannot be read ({error})", _AGAIN) from error
        plain = {gguf.GGMLQuantizationType.F32: np.float32, gguf.GGMLQuantizationType.F16: np.float16}.get(kind)
        rows = raw.view(plain if plain is not None else np.uint8).reshape(prod(place.shape[:-1]), -1)
        values = np.empty((len(rows), place.shape[-1]), np.float32)
        for first in range(0, len(rows), _ROWS):
            part = slice(first, first + _ROWS)
            values[part] = gguf.dequantize(rows[part], kind)
        return values.reshape(place.shape)


_AGAIN = "the file is damaged: get it again"


def read_gguf(path: Path) -> GgufFile:
    """Read the header.

    Raises:
        ModelCorruptError: not a GGUF file, or cut off. MissingExtraError: no ``gguf``.
    """
    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            header = _read_header(path, data)
            _check_length(header, len(data))
            return header
    except (ValueError, struct.error, IndexError, KeyError, OverflowError, UnicodeDecodeError) as error:
        raise ModelCorruptError(f"{path} is not a whole GGUF file ({error})", _AGAIN) from error


def _read_header(path: Path, data: mmap.mmap) -> GgufFile:
    cursor = _Cursor(data)
    if data[:4] != b"GGUF":
        raise ValueError("it does not start with the letters GGUF")
    cursor.at = 4
    version, tensor_count, key_count = cursor.numbers("IQQ")
    if version not in (2, 3):
        raise ValueError(f"version {version} is not known")
    metadata = {}
    for _ in range(key_count):
        key = cursor.text()
        metadata[key] = cursor.value(cursor.numbers("I")[0])
    places = []
    for _ in range(tensor_count):
        name = cursor.text()
        (dimensions,) = cursor.numbers("I")
        shape = cursor.numbers(f"{dimensions}Q")[::-1]
        kind, offset = cursor.numbers("IQ")
        places.append((name, shape, kind, offset))
    alignment = metadata.get("general.alignment", 32)
    start = -(-cursor.at // alignment) * alignment
    tensors = {name: TensorPlace(shape, kind, start + offset) for name, shape, kind, offset in places}
    return GgufFile(path, metadata, tensors)


def _check_length(header: GgufFile, length: int) -> None:
    """Every tensor must end inside the file; of a kind that is not known, only its beginning can be checked."""
    sizes = require("gguf", "builtin").GGML_QUANT_SIZES
    for name, place in header.tensors.items():
        block, block_bytes = sizes.get(place.kind, (1, 0))
        if place.start + prod(place.shape) // block * block_bytes > length:
            raise ValueError(f"it ends before the end of tensor '{name}'")


class _Cursor:
    """Walks the header."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data = data
        self.at = 0

    def numbers(self, codes: str) -> tuple[Any, ...]:
        values = struct.unpack_from(f"<{codes}", self.data, self.at)
        self.at += struct.calcsize(f"<{codes}")
        return values

    def text(self) -> str:
        (length,) = self.numbers("Q")
        if self.at + length > len(self.data):
            raise ValueError("it ends inside its header")
        raw = self.data[self.at : self.at + length]
        self.at += length
        return raw.decode("utf-8")

    def value(self, kind: int) -> Any:
        if kind == _TEXT:
            return self.text()
        if kind != _ARRAY:
            return self.numbers(_NUMBERS[kind])[0]
        inner, count = self.numbers("IQ")
        if inner in _NUMBERS:
            return list(self.numbers(f"{count}{_NUMBERS[inner]}"))
        return [self.value(inner) for _ in range(count)]

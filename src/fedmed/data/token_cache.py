"""Tokenised records kept on disk by content, so that a second run does not tokenise again. encode -> HERE -> pipeline.

A file's name is a digest of the records, the tokenizer and the prompt: nothing stale is ever read. Tokens are records,
so files and their folder are readable by their owner only.
Not covered: encryption at rest.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fedmed.data.encode import EncodedRow, EncodeReport, encode_records
from fedmed.errors import RunError
from fedmed.utils.files import clear_write_errors, write_atomic
from fedmed.utils.logger import get_logger

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

log = get_logger(__name__)

SMALLEST = 256
"""Records below which tokenising is quicker than a file."""
KEPT = 32
"""Files kept, the most recently used ones."""

_LAYOUT = 2  # raise it when the file's layout or the encoding changes


def cached_rows(
    records: Sequence[Mapping[str, str]],
    tokenizer: PreTrainedTokenizerBase,
    *,
    prompt_template: str,
    answer_prefix: str,
    max_length: int,
    root: Path | None,
) -> tuple[list[EncodedRow], EncodeReport]:
    """As ``encode_records``, through the cache in ``root``; None: without.

    A cache that cannot be written or read costs time, never the run; it is said once for each folder.
    """

    def encode() -> tuple[list[EncodedRow], EncodeReport]:
        return encode_records(
            records, tokenizer, prompt_template=prompt_template, answer_prefix=answer_prefix, max_length=max_length
        )

    if root is None or len(records) < SMALLEST:
        return encode()
    settings = [str(_LAYOUT), tokenizer_digest(tokenizer), prompt_template, answer_prefix, str(max_length)]
    texts = (text for record in records for text in (record["question"], record["answer"]))
    path = root / "tokens" / f"{_digest([*settings, *texts])}.safetensors"
    if (known := _read(path)) is not None:
        return known
    made = encode()
    try:
        _write(path, *made)
    except RunError as error:
        _say_once(root, str(error))
    return made


def clear_tokens(root: Path) -> int:
    """Remove every file of tokens; they can be made again. Returns how many there were.

    Raises:
        RunError: one cannot be removed.
    """
    files = list((root / "tokens").glob("*"))
    for file in files:
        with clear_write_errors(file):
            file.unlink(missing_ok=True)
    return len(files)


@functools.cache
def _say_once(root: Path, problem: str) -> None:
    log.warning("tokens are not kept in %s: %s", root, problem)


def tokenizer_digest(tokenizer: Any) -> str:
    """Tells tokenizers apart by what they do. The slow part, all of its vocabulary, is computed once an object.

    Special tokens may be set later, so they and a short encoded text are looked at each time.
    """
    core: str | None = getattr(tokenizer, "fedmed_digest", None)
    if core is None:
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is not None:
            made_of = [backend.to_str(pretty=False)]
        else:
            made_of = [json.dumps(sorted(tokenizer.get_vocab().items())), repr(sorted(tokenizer.init_kwargs.items()))]
        core = tokenizer.fedmed_digest = _digest([type(tokenizer).__name__, *made_of])
    now = [tokenizer("Aa 1").input_ids, tokenizer.eos_token_id, len(tokenizer)]
    return _digest([core, repr(sorted(tokenizer.special_tokens_map.items())), repr(now)])


def _digest(texts: Sequence[str]) -> str:
    digest = hashlib.sha256()
    for text in texts:
        data = text.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "big"))  # so that no two lists run into one another
        digest.update(data)
    return digest.hexdigest()


def _write(path: Path, rows: Sequence[EncodedRow], report: EncodeReport) -> None:
    from safetensors.numpy import save

    arrays: dict[str, Any] = {
        "ids": np.fromiter(_ids(rows), dtype=np.int32),
        "lengths": np.array([len(row.input_ids) for row in rows], dtype=np.int64),
        "prompts": np.array([row.prompt_length for row in rows], dtype=np.int32),
    }
    metadata = {"report": json.dumps(asdict(report)), "sha256": _checksum(arrays)}
    folder = path.parent
    with clear_write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder.chmod(0o700)
    write_atomic(path, save(arrays, metadata=metadata))
    with clear_write_errors(path), contextlib.suppress(FileNotFoundError):  # another process may tidy up meanwhile
        path.chmod(0o600)
        by_use = sorted(folder.glob("*.safetensors"), key=lambda file: file.stat().st_mtime, reverse=True)
        for old in by_use[KEPT:]:
            old.unlink(missing_ok=True)


def _checksum(arrays: Mapping[str, Any]) -> str:
    digest = hashlib.sha256()
    for name in ("ids", "lengths", "prompts"):
        digest.update(f"{name} {arrays[name].dtype} {arrays[name].shape} ".encode())
        digest.update(arrays[name].tobytes())
    return digest.hexdigest()


def _ids(rows: Sequence[EncodedRow]) -> Iterator[int]:
    for row in rows:
        yield from row.input_ids


def _read(path: Path) -> tuple[list[EncodedRow], EncodeReport] | None:
    """None: there is no such file, or it is damaged, which is as good as none."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in ("ids", "lengths", "prompts")}
        if metadata["sha256"] != _checksum(arrays):
            raise ValueError("not what was written")
        report = EncodeReport(**json.loads(metadata["report"]))
    except FileNotFoundError:
        return None
    except (SafetensorError, OSError, ValueError, TypeError, KeyError) as error:
        log.info("tokens are made again: %s cannot be read (%s)", path.name, type(error).__name__)
        return None
    with contextlib.suppress(OSError):  # a folder that may only be read
        os.utime(path)
    ids, lengths, prompts = (array.tolist() for array in arrays.values())
    ends = accumulate(lengths)
    rows = [
        EncodedRow(tuple(ids[end - length : end]), prompt)
        for end, length, prompt in zip(ends, lengths, prompts, strict=True)
    ]
    return rows, report

"""Read local files into plain records, each with the place it came from. Says file and line of what cannot be read.

Formats: ``.jsonl``/``.ndjson``, ``.json`` (a list, or ``{"data": [...]}``), ``.csv``, ``.tsv``, ``.txt``
(``Question: …`` / ``Answer: …`` blocks), each also with ``.gz``; ``.parquet``. Text is UTF-8.

Not covered: a CSV or text file cut exactly at the end of a value cannot be told from a whole one.
"""

from __future__ import annotations

import csv
import gzip
import json
import re
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from fedmed.errors import DataError, DataFormatError, DataNotFoundError, EmptyDataError
from fedmed.utils.extras import require

SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".txt", ".parquet")
TEXT_FORMAT = "write each record as 'Question: …' and 'Answer: …', or use .jsonl, .json, .csv, .tsv or .parquet"
_MARK = re.compile(r"^\s*(q|question|a|answer)\s*:\s*(.*)$", re.IGNORECASE)


class Located(NamedTuple):
    """A record as the file has it, and where: ``line`` counts from 1; for parquet and JSON lists it is the row."""

    line: int
    values: Mapping[str, Any]


def data_files(path: Path) -> list[Path]:
    """The data files at ``path``: itself, or every known file below a folder, sorted.

    Hidden files and ``manifest.json`` (written beside a split) are no data.

    Raises:
        DataNotFoundError: nothing is there, or the folder holds no data file.
        DataFormatError: a single file of an unknown kind.
    """
    if path.is_dir():
        found = sorted(file for file in path.rglob("*") if file.is_file() and _is_data(file, path))
        if not found:
            raise DataNotFoundError(f"the folder {path} holds no data file", f"known endings are {', '.join(SUFFIXES)}")
        return found
    if not path.is_file():
        raise DataNotFoundError(f"no file or folder {path}", "check the path")
    if suffix_of(path) not in SUFFIXES:
        raise DataFormatError(f"{path} has no known ending", f"known endings are {', '.join(SUFFIXES)}")
    return [path]


def _is_data(file: Path, folder: Path) -> bool:
    hidden = any(part.startswith(".") for part in file.relative_to(folder).parts)
    return not hidden and file.name != "manifest.json" and suffix_of(file) in SUFFIXES


def suffix_of(path: Path) -> str:
    """The ending that tells the format, in lower case, without ``.gz``."""
    name = path.name.lower().removesuffix(".gz")
    return Path(name).suffix


def read_file(path: Path) -> list[Located]:
    """Read every record of one file.

    Raises:
        DataFormatError: binary, half-written or malformed; names file and line.
        EmptyDataError: the file holds nothing.
        DataError: the operating system refuses to read it.
    """
    try:
        if path.stat().st_size == 0:
            raise EmptyDataError(f"{path} is empty", "give a file with records")
        suffix = suffix_of(path)
        if suffix == ".parquet":
            return _parquet(path)
        text = _text(path)
    except OSError as error:
        raise DataError(f"cannot read {path} ({error.strerror or error})", "check its permissions") from error
    if not text.strip():
        raise EmptyDataError(f"{path} is empty", "give a file with records")
    if suffix in (".jsonl", ".ndjson"):
        return list(_jsonl(text, path))
    if suffix == ".json":
        return list(_json(text, path))
    if suffix in (".csv", ".tsv"):
        return list(_csv(text, path, "\t" if suffix == ".tsv" else ","))
    return list(_plain(text, path))


def _text(path: Path) -> str:
    raw = path.read_bytes()
    if path.name.lower().endswith(".gz"):
        try:
            raw = gzip.decompress(raw)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise DataFormatError(f"{path} is no whole gzip file", "copy it again; it may be half-written") from error
    if b"\x00" in raw:
        raise DataFormatError(f"{path} is binary, not text", "give a text file, or .parquet")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise DataFormatError(f"{path} line {line} is not UTF-8 text", "convert the file to UTF-8") from error


def _jsonl(text: str, path: Path) -> Iterator[Located]:
    lines = text.split("\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            cut = number == len(lines)  # no newline after it: writing stopped in the middle
            hint = "the file looks half-written; copy or export it again" if cut else "correct or remove this line"
            raise DataFormatError(f"{path} line {number} is not JSON", hint) from error
        yield Located(number, _object(values, path, f"line {number}"))


def _json(text: str, path: Path) -> Iterator[Located]:
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data" and text.lstrip().startswith("{"):  # one object a line under a .json name
            yield from _jsonl(text, path)
            return
        half = not text[error.pos :].strip() or error.msg.startswith("Unterminated")
        hint = "the file looks half-written; copy or export it again" if half else "correct the file"
        raise DataFormatError(f"{path} line {error.lineno} is not JSON", hint) from error
    except RecursionError as error:
        raise DataFormatError(f"{path} is nested too deeply", "give a list of records") from error
    if isinstance(values, dict) and isinstance(values.get("data"), list):
        values = values["data"]
    if isinstance(values, dict):
        values = [values]
    if not isinstance(values, list):
        raise DataFormatError(f"{path} is not a list of records", 'give [{"question": …, "answer": …}, …]')
    for number, value in enumerate(values, start=1):
        yield Located(number, _object(value, path, f"row {number}"))


def _object(value: object, path: Path, place: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise DataFormatError(f"{path} {place} is not a record", 'each must be an object such as {"question": …}')
    return value


def _csv(text: str, path: Path, delimiter: str) -> Iterator[Located]:
    reader = csv.reader(text.splitlines(keepends=True), delimiter=delimiter, strict=True)
    header: list[str] = []
    try:
        for row in reader:
            if not any(row):
                continue
            if not header:
                header = [name.strip() for name in row]
                if len(set(header)) != len(header):
                    raise DataFormatError(f"{path} names a column twice", "rename one of them")
                continue
            if len(row) != len(header):
                raise DataFormatError(
                    f"{path} line {reader.line_num} has {len(row)} fields where the header has {len(header)}",
                    "put texts with separators in quotes; a short last line may be half-written",
                )
            yield Located(reader.line_num, dict(zip(header, row, strict=True)))
    except csv.Error as error:
        raise DataFormatError(
            f"{path} line {reader.line_num} cannot be read ({error})", "check its quotes; the file may be half-written"
        ) from error


def _plain(text: str, path: Path) -> Iterator[Located]:
    """Blocks of ``Q:``/``Question:`` and ``A:``/``Answer:``; lines that follow belong to what was opened last."""
    question: list[str] | None = None
    answer: list[str] | None = None
    start = 0
    for number, line in enumerate(text.split("\n"), start=1):
        mark = _MARK.match(line)
        if mark and mark.group(1).lower().startswith("q"):
            if question is not None and answer is None:
                raise DataFormatError(f"{path} line {start} asks a question without an answer", TEXT_FORMAT)
            if question is not None and answer is not None:
                yield _block(start, question, answer)
            question, answer, start = [mark.group(2)], None, number
        elif question is None:
            if line.strip():
                raise DataFormatError(f"{path} line {number} is outside a question or answer", TEXT_FORMAT)
        elif mark and answer is None:
            answer = [mark.group(2)]
        else:
            (question if answer is None else answer).append(line)
    if question is None or answer is None:
        raise DataFormatError(f"{path} line {start} asks a question without an answer", TEXT_FORMAT)
    yield _block(start, question, answer)


def _block(line: int, question: list[str], answer: list[str]) -> Located:
    return Located(line, {"question": "\n".join(question).strip(), "answer": "\n".join(answer).strip()})


def _parquet(path: Path) -> list[Located]:
    parquet = require("pyarrow.parquet", "train")
    arrow = require("pyarrow", "train")
    try:
        rows: list[dict[str, Any]] = parquet.read_table(path).to_pylist()
    except (arrow.ArrowException, OSError) as error:  # a cut file is an ArrowInvalid, damaged pages are OSErrors
        if isinstance(error, PermissionError):
            raise
        raise DataFormatError(f"{path} is not a whole parquet file", "copy it again; it may be half-written") from error
    return [Located(number, row) for number, row in enumerate(rows, start=1)]

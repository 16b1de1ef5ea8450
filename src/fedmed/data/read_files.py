"""Read local files into plain records, each with the place it came from. Says file and line of what cannot be read.

Formats: ``.jsonl``/``.ndjson``, ``.json`` (a list, or ``{"data": [...]}``), ``.csv``, ``.tsv``, ``.txt``
(``Question: …`` / ``Answer: …`` blocks), each also with ``.gz``; ``.parquet``. Text is UTF-8.

Not covered: a CSV or text file cut exactly at the end of a value cannot be told from a whole one.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from fedmed.errors import DataError, DataFormatError, DataNotFoundError, EmptyDataError
from fedmed.utils.extras import require

SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".txt", ".parquet")
TEXT_FORMAT = "write each record as 'Question: …' and 'Answer: …', or use .jsonl, .json, .csv, .tsv or .parquet"
_SNIFFED = 1 << 16
_ROWS = 1000  # of a parquet file at a time
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
    """Every record of one file; see ``stream_file``."""
    return list(stream_file(path))


def stream_file(path: Path) -> Iterator[Located]:
    """The records of one file, one after the other; only ``.json`` files are held whole.

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
            yield from _parquet(path)
            return
        lines = _Lines(path)
        if suffix in (".jsonl", ".ndjson"):
            yield from _jsonl(lines, path)
        elif suffix == ".json":
            text = "".join(lines)
            yield from _json(text, path) if text.strip() else ()
        elif suffix in (".csv", ".tsv"):
            yield from _csv(lines, path, "\t" if suffix == ".tsv" else ",")
        else:
            yield from _plain(lines, path)
        if lines.blank:
            raise EmptyDataError(f"{path} is empty", "give a file with records")
    except OSError as error:
        raise DataError(f"cannot read {path} ({error.strerror or error})", "check its permissions") from error


def text_lines(path: Path) -> Iterator[str]:
    """The lines of a text file with their ends, unzipped and decoded.

    Raises:
        DataFormatError, DataError: as ``stream_file``.
    """
    try:
        yield from _Lines(path)
    except OSError as error:
        raise DataError(f"cannot read {path} ({error.strerror or error})", "check its permissions") from error


def begins_with_a_question(path: Path) -> bool:
    """Whether a text file's first words are ``Question:``, or it holds nothing: it is no note then."""
    for line in text_lines(path):
        if line.strip():
            return bool(_MARK.match(line))
    return True


class _Lines:
    """Lines of a text file; ``blank`` stays true until one holds more than white space."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.blank = True

    def __iter__(self) -> Iterator[str]:
        zipped = self.path.name.lower().endswith(".gz")
        with gzip.open(self.path) if zipped else open(self.path, "rb") as file:
            try:
                if b"\x00" in file.read(_SNIFFED):
                    raise self._binary()
                file.seek(0)
                for number, raw in enumerate(file, start=1):
                    line = self._decoded(raw, number)
                    self.blank = self.blank and not line.strip()
                    yield line
            except (EOFError, gzip.BadGzipFile, zlib.error) as error:
                raise DataFormatError(
                    f"{self.path} is no whole gzip file", "copy it again; it may be half-written"
                ) from error

    def _decoded(self, raw: bytes, number: int) -> str:
        if b"\x00" in raw:
            raise self._binary()
        try:
            return raw.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError:  # "from None": the error underneath holds the line
            raise DataFormatError(f"{self.path} line {number} is not UTF-8 text", "convert the file to UTF-8") from None

    def _binary(self) -> DataFormatError:
        return DataFormatError(f"{self.path} is binary, not text", "give a text file, or .parquet")


def _jsonl(lines: Iterable[str], path: Path) -> Iterator[Located]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except (json.JSONDecodeError, RecursionError):  # "from None": the error underneath holds the line
            cut = not line.endswith("\n")  # no newline after it: writing stopped in the middle
            hint = "the file looks half-written; copy or export it again" if cut else "correct or remove this line"
            raise DataFormatError(f"{path} line {number} is not JSON", hint) from None
        yield Located(number, _object(values, path, f"line {number}"))


def _json(text: str, path: Path) -> Iterator[Located]:
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data" and text.lstrip().startswith("{"):  # one object a line under a .json name
            yield from _jsonl(io.StringIO(text), path)
            return
        half = not text[error.pos :].strip() or error.msg.startswith("Unterminated")
        hint = "the file looks half-written; copy or export it again" if half else "correct the file"
        raise DataFormatError(f"{path} line {error.lineno} is not JSON", hint) from None
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


def _csv(lines: Iterable[str], path: Path, delimiter: str) -> Iterator[Located]:
    parts = (part for line in lines for part in line.splitlines(keepends=True))
    reader = csv.reader(parts, delimiter=delimiter, strict=True)
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


def _plain(lines: Iterable[str], path: Path) -> Iterator[Located]:
    """Blocks of ``Q:``/``Question:`` and ``A:``/``Answer:``; lines that follow belong to what was opened last."""
    question: list[str] | None = None
    answer: list[str] | None = None
    start = 0
    for number, ended in enumerate(lines, start=1):
        line = ended.removesuffix("\n")
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
    if question is None:
        return
    if answer is None:
        raise DataFormatError(f"{path} line {start} asks a question without an answer", TEXT_FORMAT)
    yield _block(start, question, answer)


def _block(line: int, question: list[str], answer: list[str]) -> Located:
    return Located(line, {"question": "\n".join(question).strip(), "answer": "\n".join(answer).strip()})


def _parquet(path: Path) -> Iterator[Located]:
    parquet = require("pyarrow.parquet", "train")
    arrow = require("pyarrow", "train")
    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_ROWS):
                for row in batch.to_pylist():
                    number += 1
                    yield Located(number, row)
    except (arrow.ArrowException, OSError) as error:  # a cut file is an ArrowInvalid, damaged pages are OSErrors
        if isinstance(error, PermissionError):
            raise
        raise DataFormatError(f"{path} is not a whole parquet file", "copy it again; it may be half-written") from error

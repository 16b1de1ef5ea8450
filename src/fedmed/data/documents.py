"""What a hospital hands over, one document after the other: rows with question and answer, and clinical notes.

    files -> read_files -> HERE -> clean, or the gate

A document is a note where its file is a ``.txt`` that does not begin with ``Question:``, where it is a FHIR resource
(``fhir.py``), or where its row has a column of notes and none of questions. Nothing is held but the document at hand:
files are read twice, once for their column names.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from fedmed.data import fhir
from fedmed.data.columns import NOTE, Raw, Schema, recognise
from fedmed.data.notes import MAX_NOTE, passages
from fedmed.data.read_files import Located, begins_with_a_question, data_files, stream_file, suffix_of, text_lines
from fedmed.data.values import BadValueError
from fedmed.errors import DataError, DataFormatError
from fedmed.utils.files import sha256_file


@dataclass(frozen=True, slots=True)
class Document:
    """One row or note; a note's text is ``raw.answer`` and its question is empty."""

    raw: Raw
    place: str  # "notes.jsonl line 3", for errors and the quarantine
    is_note: bool = False

    def records(self) -> Iterator[Raw]:
        """The training records it becomes; an empty one stays one, for ``clean`` to count."""
        if not self.is_note or not self.raw.answer:
            yield self.raw
        elif len(self.raw.answer) > MAX_NOTE:
            yield replace(self.raw, question=NOTE)  # for ``clean`` to count as over-long
        else:
            yield from passages(self.raw)


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file that was looked through once: how to read it, and how many documents are in it."""

    path: Path
    label: str  # for counts and ``source``; plain notes share one, as their file names may name people
    schema: Schema | None  # None: notes alone
    documents: int
    passed_over: int  # FHIR resources that are no notes, or were withdrawn


def source_files(path: Path, columns: Mapping[str, str] | None = None) -> Iterator[SourceFile]:
    """Look through every data file at ``path``.

    Raises:
        What ``read_files`` raises; DataFormatError: columns nobody can map, a FHIR note that cannot be read.
    """
    for file in data_files(path):
        yield _look_through(file, path, columns)


def documents(source: SourceFile) -> Iterator[Document]:
    """The documents of a file, in its order."""
    if _is_plain_note(source.path):
        text = "".join(text_lines(source.path)).strip()
        yield Document(Raw(question="", answer=text, kind=NOTE, source=source.label), str(source.path), is_note=True)
        return
    word = "row" if suffix_of(source.path) in (".parquet", ".json") else "line"
    for record in stream_file(source.path):
        place = f"{source.path} {word} {record.line}"
        if _is_fhir(record):
            yield from (Document(note, place, is_note=True) for note in _fhir_notes(record, place))
        else:
            if source.schema is None:
                raise DataFormatError(f"{place} was not there a moment ago", "run again once the export lies still")
            yield Document(source.schema.read(record.values, place), place, source.schema.name == NOTE)


def digest(path: Path) -> str:
    """SHA-256 over the content of all data files at ``path`` in their order; names do not count.

    Raises:
        DataNotFoundError, DataFormatError: there is none. DataError: one cannot be read.
    """
    whole = hashlib.sha256()
    for file in data_files(path):
        try:
            whole.update(bytes.fromhex(sha256_file(file)))
        except OSError as error:
            raise DataError(f"cannot read {file} ({error.strerror or error})", "check its permissions") from error
    return whole.hexdigest()


def _look_through(file: Path, root: Path, columns: Mapping[str, str] | None) -> SourceFile:
    label = file.name if root == file else str(file.relative_to(root))
    if _is_plain_note(file):
        return SourceFile(file, str(Path(label).with_name("*.txt")), None, 1, 0)
    names: dict[str, None] = {}
    count = passed_over = 0
    for record in stream_file(file):
        if _is_fhir(record):
            notes = len(list(_fhir_notes(record, f"{file} line {record.line}")))
            count += notes
            passed_over += not notes
        else:
            names |= dict.fromkeys(record.values)
            count += 1
    schema = recognise(names, columns, str(file)) if names else None
    return SourceFile(file, label, schema, count, passed_over)


def _is_plain_note(file: Path) -> bool:
    return suffix_of(file) == ".txt" and not begins_with_a_question(file)


def _is_fhir(record: Located) -> bool:
    return isinstance(record.values.get("resourceType"), str)


def _fhir_notes(record: Located, place: str) -> Iterator[Raw]:
    for resource in fhir.resources(record.values):
        try:
            found = fhir.note(resource)
        except BadValueError as error:
            raise DataFormatError(f"{place}: {error}", "correct or remove this resource") from None
        if found is not None:
            yield found

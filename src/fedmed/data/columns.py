"""Recognise how a dataset names its questions and answers. One table a shape; nothing is guessed beyond it.

Shapes, first match wins (names are compared without case):

- pairs mapped by the user: ``columns={"question": "prompt", "answer": "reply"}``
- multiple choice: ``question`` with ``options``/``choices`` (list, mapping, or list of key/value) or ``opa … opd``,
  and an index, letter or text of the right one; the answer becomes the option's text
- chat: ``messages``/``conversations`` with role/content or from/value: the first user turn and the reply to it
- ``instruction``, perhaps ``input``, and ``output``/``response``: instruction and input are joined by a line break
- ``Patient``/``Doctor``, perhaps ``Description`` (used where Patient is empty)
- pairs: see ``PAIRS``
- notes: none of these, no column that asks, and a column of ``NOTES``; the note is the answer, and there is no question

Not covered: later turns of a chat, system messages, options that are images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from fedmed.data.choices import CHOICES, multiple_choice
from fedmed.data.values import BadValueError, text, yes_or_no
from fedmed.errors import DataFormatError

PAIRS = (
    ("question", "answer"),
    ("question", "long_answer"),  # PubMedQA
    ("question", "response"),
    ("prompt", "response"),
    ("prompt", "completion"),
    ("input", "output"),
    ("query", "response"),
)
CHAT = ("messages", "conversations")
NOTES = ("note", "note_text", "text", "report", "report_text")
NOTE = "note"
ALIASES: dict[str, tuple[str, ...]] = {
    "id": ("id", "qid", "question_id"),
    "kind": ("kind", "qtype"),
    "specialty": ("specialty", "medical_specialty", "subject_name", "subject", "category", "folder"),
    "source": ("source", "document_source"),
    "group": ("group",),
    "split": ("split",),
    "patient": ("patient_id", "subject_id", "person_id", "mrn", "patient"),
    "consent": ("consent", "consented", "research_consent"),
}
_ASKING = {"question", "prompt", "query", "instruction", "input"}
_NOTE_ALIASES = {"id": ("id", "note_id", "row_id"), "kind": ("kind", "note_type", "category")}
_PATIENT_AND_DOCTOR = "patient/doctor"
_SPLITS = {"train": "train", "test": "test", "validation": "test", "valid": "test", "val": "test", "dev": "test"}
_SPLITS |= {"training": "train", "eval": "test"}

Record = Mapping[str, Any]
Reader = Callable[[Record], tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Raw:
    """A record with our names, before cleaning; an empty text means that the source does not say."""

    question: str
    answer: str
    id: str = ""
    kind: str = ""
    specialty: str = ""
    source: str = ""
    group: str = ""
    split: str = ""
    patient: str = ""
    consent: str = ""  # yes, no, or unknown where the source has such a column and says nothing here


@dataclass(frozen=True, slots=True)
class Schema:
    """How to read one dataset's records."""

    name: str  # the shape, for reports
    rename: Mapping[str, str]  # their column -> the name used here
    read_pair: Reader
    optional: Mapping[str, str]  # our column -> name used here

    def read(self, record: Record, place: str) -> Raw:
        """Translate one record; ``place`` names it in an error ("notes.jsonl line 3").

        Raises:
            DataFormatError: a value is not of the kind its column needs.
        """
        renamed = _renamed(record, self.rename)
        try:
            question, answer = self.read_pair(renamed)
            extra = {ours: _optional(renamed.get(name), ours, name) for ours, name in self.optional.items()}
            if extra.get("split"):
                extra["split"] = _split(extra["split"])
        except BadValueError as error:
            raise DataFormatError(f"{place}: {error}", "correct or remove this record") from error
        kind = extra.pop("kind", "") or (self.name if self.name in (CHOICES, NOTE) else "")
        return Raw(question=question, answer=answer, kind=kind, **extra)


def recognise(columns: Iterable[str], mapping: Mapping[str, str] | None, where: str) -> Schema:
    """Find the shape of a dataset with these columns.

    Args:
        columns: every column name the dataset has.
        mapping: our column -> theirs, for names that are not recognised by themselves.
        where: the file or dataset, for errors.

    Raises:
        DataFormatError: no shape fits, or the mapping names a column that is not there; lists those there are.
    """
    theirs = sorted(columns)
    there = f"it has {', '.join(theirs)}"
    mapping = mapping or {}
    known = ("question", "answer", *ALIASES, NOTE)
    for ours, name in mapping.items():
        if ours not in known:
            raise DataFormatError(f"columns maps '{ours}', which is none of ours", f"ours are {', '.join(known)}")
        if name not in theirs:
            raise DataFormatError(f"{where} has no column '{name}' for our '{ours}'", there)
    rename = {name: name.strip().lower() for name in theirs if name not in mapping.values()}
    rename = {name: short for name, short in rename.items() if short not in mapping}  # what is mapped wins
    rename |= {name: ours for ours, name in mapping.items()}
    names = set(rename.values())
    shape = _note(NOTE) if NOTE in mapping else _shape(names, both_mapped={"question", "answer"} <= set(mapping))
    if shape is None:
        raise DataFormatError(
            f"{where} has no columns known as question and answer", f"{there}; name them with training.dataset.columns"
        )
    free = names - {"patient"} if shape[0] == _PATIENT_AND_DOCTOR and "patient" not in mapping else names
    by_name = ALIASES | _NOTE_ALIASES if shape[0] == NOTE else ALIASES
    optional = {
        ours: next(alias for alias in aliases if alias in free)
        for ours, aliases in by_name.items()
        if free & set(aliases)
    }
    return Schema(name=shape[0], rename=rename, read_pair=shape[1], optional=optional)


def _shape(names: set[str], *, both_mapped: bool) -> tuple[str, Reader] | None:
    if both_mapped:
        return "mapped", _pair("question", "answer")
    choice = multiple_choice(names)
    if choice is not None:
        return CHOICES, choice
    for column in CHAT:
        if column in names:
            return "chat", _chat(column)
    for reply in ("output", "response"):
        if {"instruction", reply} <= names:
            return "instruction", _instruction(reply)
    if {"patient", "doctor"} <= names:
        return _PATIENT_AND_DOCTOR, _patient
    for question, answer in PAIRS:
        if {question, answer} <= names:
            return f"{question}/{answer}", _pair(question, answer)
    if names & _ASKING:  # pairs whose names are not known yet are to be mapped, not taken for notes
        return None
    return next((_note(column) for column in NOTES if column in names), None)


def _note(column: str) -> tuple[str, Reader]:
    return NOTE, lambda record: ("", text(record.get(column), column))


def _optional(value: object, ours: str, column: str) -> str:
    return yes_or_no(value, column) if ours == "consent" else text(value, column, numbers=True)


def _renamed(record: Record, rename: Mapping[str, str]) -> dict[str, Any]:
    return {rename[name]: value for name, value in record.items() if name in rename}


def _split(value: str) -> str:
    if value.lower() not in _SPLITS:
        raise BadValueError(f"'split' is none of {', '.join(_SPLITS)}")
    return _SPLITS[value.lower()]


def _pair(question: str, answer: str) -> Reader:
    return lambda record: (text(record.get(question), question), text(record.get(answer), answer))


def _instruction(reply: str) -> Reader:
    def read(record: Record) -> tuple[str, str]:
        parts = [text(record.get(name), name) for name in ("instruction", "input")]
        return "\n".join(part for part in parts if part), text(record.get(reply), reply)

    return read


def _patient(record: Record) -> tuple[str, str]:
    question = text(record.get("patient"), "patient") or text(record.get("description"), "description")
    return question, text(record.get("doctor"), "doctor")


def _chat(column: str) -> Reader:
    def read(record: Record) -> tuple[str, str]:
        turns = record.get(column)
        if turns is None:
            return "", ""
        if not isinstance(turns, list) or not all(isinstance(turn, Mapping) for turn in turns):
            raise BadValueError(f"'{column}' is not a list of turns")
        question = ""
        for turn in turns:
            role = text(turn.get("role", turn.get("from")), "role").lower()
            said = text(turn.get("content", turn.get("value")), "content")
            if role in ("user", "human") and not question:
                question = said
            elif role in ("assistant", "gpt", "model") and question:
                return question, said
        return question, ""

    return read

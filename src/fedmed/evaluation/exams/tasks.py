"""The four exams: how a record becomes a prompt, the answers offered and the right one. files.py -> HERE -> scoring.py.

Prompts, answers and the right one are those of lm-evaluation-harness 0.4.13 (tasks ``pubmedqa``, ``medmcqa``,
``medqa_4options``, ``mmlu_<subject>``), without examples and without a chat template; texts are not stripped but for
MMLU's question, which it strips too. One space parts prompt and answer.

Each task takes the columns of the data set on the hub and those of files that name them ``question``, ``options``,
``answer``. Not covered: exams with five options, several right answers, worked examples in the prompt.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedmed.data.values import BadValueError

DELIMITER = " "
LETTERS = ("A", "B", "C", "D")
YES_NO = ("yes", "no", "maybe")
MEDICAL_SUBJECTS = (
    *("anatomy", "clinical_knowledge", "college_biology", "college_medicine", "human_aging"),
    *("medical_genetics", "nutrition", "professional_medicine", "virology"),
)
"""Of MMLU's 57 subjects, those that medical leaderboards ask; records of others are left out."""

Record = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ExamItem:
    """One question as the model gets it."""

    id: str
    subject: str  # "" where the exam names none
    prompt: str
    choices: tuple[str, ...]  # what follows the prompt after one space
    gold: int  # index of the right one


@dataclass(frozen=True, slots=True)
class ExamTask:
    """One exam."""

    name: str
    harness: str  # what lm-evaluation-harness calls it
    hub: tuple[tuple[str, str], ...]  # data sets on the hub, and their split
    read: Callable[[Record, str], ExamItem | None]  # record, id -> item; None where it is no part of this exam


def _pubmedqa(record: Record, name: str) -> ExamItem:
    abstract = _abstract(_first(record, "CONTEXTS", "context", "contexts", "abstract"))
    prompt = f"Abstract: {abstract}\nQuestion: {_text(record, 'QUESTION', 'question')}\nAnswer:"
    answer = _first(record, "final_decision", "answer")
    if answer not in YES_NO:
        raise BadValueError("the answer is none of yes, no, maybe")
    return ExamItem(name, "", prompt, YES_NO, YES_NO.index(answer))


def _abstract(value: object) -> str:
    """The abstract: one text, or its paragraphs, which the harness joins by line breaks."""
    if isinstance(value, Mapping):
        value = value.get("contexts")
    if isinstance(value, list) and value and all(isinstance(part, str) for part in value):
        return "\n".join(value)
    if not isinstance(value, str) or not value.strip():
        raise BadValueError("the abstract ('context') is neither text nor a list of texts")
    return value


def _medmcqa(record: Record, name: str) -> ExamItem:
    options = _options(record, ("opa", "opb", "opc", "opd"))
    lines = "".join(f"{letter}. {option}\n" for letter, option in zip(LETTERS, options, strict=True))
    prompt = f"Question: {_text(record, 'question')}\nChoices:\n{lines}Answer:"
    return ExamItem(name, _subject(record), prompt, LETTERS, _gold(record, options, "cop", "answer"))


def _medqa(record: Record, name: str) -> ExamItem:
    options = _options(record, ("ending0", "ending1", "ending2", "ending3"))
    lines = "".join(f"{letter}. {option}\n" for letter, option in zip(LETTERS, options, strict=True))
    prompt = f"Question: {_text(record, 'sent1', 'question')}\n{lines}Answer:"
    return ExamItem(name, _subject(record), prompt, LETTERS, _gold(record, options, "label", "answer_idx", "answer"))


def _mmlu(record: Record, name: str) -> ExamItem | None:
    subject = _subject(record)
    if not subject:
        raise BadValueError("there is no 'subject', which MMLU's prompt names")
    if subject not in MEDICAL_SUBJECTS:
        return None
    options = _options(record, ())
    lines = "".join(f"{letter}. {option}\n" for letter, option in zip(LETTERS, options, strict=True))
    about = f"The following are multiple choice questions (with answers) about {subject.replace('_', ' ')}.\n\n"
    prompt = f"{about}{_text(record, 'question').strip()}\n{lines}Answer:"
    return ExamItem(name, subject, prompt, LETTERS, _gold(record, options, "answer"))


def _first(record: Record, *names: str) -> Any:
    return next((record[name] for name in names if record.get(name) is not None), None)


def _text(record: Record, *names: str) -> str:
    value = _first(record, *names)
    if not isinstance(value, str) or not value.strip():
        raise BadValueError(f"'{names[-1]}' holds no text")
    return value


def _subject(record: Record) -> str:
    value = _first(record, "subject", "subject_name")
    if value is not None and not isinstance(value, str):
        raise BadValueError("'subject' is not text")
    return (value or "").strip()


def _options(record: Record, columns: Sequence[str]) -> list[str]:
    """The four options: of a list, of a mapping by letter, or of columns of their own."""
    value = _first(record, "options", "choices")
    if value is None and columns and columns[0] in record:
        value = [record.get(column) for column in columns]
    if isinstance(value, Mapping):
        value = [value.get(letter) for letter in LETTERS] if set(value) == set(LETTERS) else list(value.values())
    if not isinstance(value, list) or not all(isinstance(option, str) for option in value):
        raise BadValueError("'options' is no list of texts")
    if len(value) != len(LETTERS):
        raise BadValueError(f"there are {len(value)} options, this exam has {len(LETTERS)}")
    return value


def _gold(record: Record, options: Sequence[str], *names: str) -> int:
    """The right option's place: given as a place counted from 0, as a letter, or as the option's text."""
    value = _first(record, *names)
    if isinstance(value, str):
        letter = value.strip().upper()
        if letter in LETTERS:
            return LETTERS.index(letter)
        if value in options:
            return options.index(value)
        if letter and not letter.strip(string.digits):
            value = int(letter)
    if isinstance(value, bool) or not isinstance(value, int):
        raise BadValueError(f"'{names[-1]}' names none of the options")
    if not 0 <= value < len(options):
        raise BadValueError(f"'{names[-1]}' is {value}, but there are {len(options)} options, counted from 0")
    return value


TASKS: Mapping[str, ExamTask] = {
    task.name: task
    for task in (
        ExamTask("pubmedqa", "pubmedqa", (("qiaojin/PubMedQA:pqa_labeled", "train"),), _pubmedqa),
        ExamTask("medmcqa", "medmcqa", (("openlifescienceai/medmcqa", "validation"),), _medmcqa),
        ExamTask("medqa", "medqa_4options", (("GBaker/MedQA-USMLE-4-options-hf", "test"),), _medqa),
        ExamTask("mmlu", "mmlu_*", tuple((f"cais/mmlu:{subject}", "test") for subject in MEDICAL_SUBJECTS), _mmlu),
    )
}

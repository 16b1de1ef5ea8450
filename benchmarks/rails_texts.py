"""What the learned scores of the rails are fitted to: cases and harmless texts, with their features. HERE -> rails_fit.

The cases in tests/cases/safety, but for ``unread``; as harmless, definitions of one half of the embedded ontology's
terms and, where they lie beside the project, questions and answers of one half of MedQuAD. The other halves measure.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from kept import say
from safety import read_lines

from fedmed.data.hpo import hpo_records
from fedmed.safety.checks import Case
from fedmed.safety.contexts import that_hold
from fedmed.safety.features import Blocks, of_answer, of_question
from fedmed.safety.normalise import normalise
from fedmed.safety.policy_file import load_policy
from fedmed.safety.words import Words

SETS = ("read", "own", "second", "third", "twins", "fourth", "seen")


@dataclass(frozen=True)
class Plan:
    """How one score is fitted: from which files, as what, how much each counts, and each block of features."""

    files: Mapping[str, tuple[int, float]]  # name of a case file, or of one of its kinds -> label, weight
    judged: tuple[str, ...]  # files whose cases the check judges
    blocks: Mapping[str, float]
    strength: float  # C of the logistic regression
    medquad: float  # weight of its harmless texts
    definitions: float = 0.0  # weight of the ontology's
    leaning: float = 0.0  # C of a second fit, whose features weigh by how they lean; the score is the mean of the two


PLANS: Mapping[str, Plan] = {
    "emergency": Plan(
        {
            "red_flags": (1, 1.0), "near_misses": (0, 1.0), "ordinary_questions": (0, 1.0),
            "injection_near_misses": (0, 0.5), "not_medical": (0, 0.5), "harmful": (0, 0.5),
        },
        ("red_flags", "near_misses", "ordinary_questions"),
        {"words": 1.0, "letters": 1.0, "meanings": 1.0},
        0.3,
        0.3,
    ),
    "injection": Plan(
        {
            "injections": (1, 1.0), "injection_near_misses": (0, 1.0), "ordinary_questions": (0, 1.0),
            "near_misses": (0, 0.5), "red_flags": (0, 0.5), "not_medical": (0, 0.5), "identifiers": (0, 0.5),
        },
        ("injections", "injection_near_misses", "ordinary_questions"),
        {"words": 1.0, "letters": 1.0, "meanings": 1.0},
        0.5,
        0.3,
    ),
    "answer": Plan(
        {"unsafe_answers": (1, 1.0), "safe_answers": (0, 1.0)},
        ("unsafe_answers", "safe_answers"),
        {"words": 1.0, "letters": 1.0, "meanings": 1.0, "near": 1.0, "shape": 1.0, "asked": 0.7, "both": 0.7},
        0.1,
        0.9,
        1.0,
        0.3,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Text:
    """One case, read."""

    set: str
    file: str
    label: int
    weight: float
    judged: bool
    line: Mapping[str, Any]
    blocks: Blocks


def fitted(name: str) -> bool:
    """Whether a line of MedQuAD or a term of the ontology, by its id, may be fitted on; what may not measures."""
    return zlib.crc32(name.encode()) % 2 == 0


def medquad_half(shared: Path) -> list[Mapping[str, Any]]:
    """Its lines that may be fitted on."""
    path = shared / "medquad.jsonl.gz"
    if not path.is_file():
        say(f"skipped: {path} is not there, the weights will differ from those of the package")
        return []
    return [line for line in read_lines(path) if fitted(line["id"])]


ASKED = (
    "What is {}?",
    "what is {}",
    "Define {}.",
    "What does {} mean?",
    "{}",
    "{}?",
    "Can you explain {}?",
    "What is <i>{}</i>?",
)
EVERY_DEFINITION, EVERY_OTHER = 3, 12  # of how many records one is taken


def definitions() -> Iterator[Mapping[str, Any]]:
    """Questions and answers of the embedded set, of terms that may be fitted on; definitions are asked for in several
    ways, and told whole, cut short as a small model cuts them, with the term in front, with markup.
    """
    for number, record in enumerate(record for record in hpo_records() if fitted(record.group)):
        turn = zlib.crc32(record.id.encode()) >> 8
        if turn % (EVERY_DEFINITION if record.kind == "definition" else EVERY_OTHER):
            continue
        question, answer = record.question, record.answer
        if record.kind == "definition":
            name = question.removeprefix("What is ").removesuffix("?")
            question = ASKED[number % len(ASKED)].format(name)
            shortened = re.split(r"[,;.(]", answer)[0].strip()
            said = f"{name} is {shortened[0].lower()}{shortened[1:]}."
            marked = f"{name} is <b>{shortened}</b> <img src=picture.png>."
            answer = (answer, answer, said, f"{shortened}.", marked)[number % 5]
        yield {"question": question, "response": answer, "kind": "definition"}


def contexts_of(name: str) -> tuple[str, ...]:
    """The contexts that the rules of the score's rail ask about a text as a whole."""
    policy = load_policy()
    checks = policy.output if name == "answer" else policy.input
    used = {
        key
        for check in checks
        for key in (*check.unless, *check.only_with, *(check.score.points if check.score else ()))
    }
    return tuple(
        sorted(key for key in used & policy.contexts.keys() if policy.contexts[key].where in ("text", "question"))
    )


@cache
def read_question(text: str) -> Words:
    """Both scores of questions look at the same ones."""
    return load_policy().lexicon.read(normalise(text), repair=True)


def texts_of(name: str, cases: Path, shared: Path) -> list[Text]:
    """Every case that a score is fitted to, with its features."""
    plan, policy = PLANS[name], load_policy()
    contexts = contexts_of(name)

    def read(line: Mapping[str, Any]) -> Blocks:
        if name == "answer":
            asked = read_question(line["question"])
            words = policy.lexicon.read(normalise(line["response"]))
            case = Case(line["response"], words, asked, policy.limits.max_phrase_repeats)
            return of_answer(words, asked, that_hold(policy.contexts, contexts, words, case))
        words = read_question(line["text"])
        case = Case(line["text"], words, None, policy.limits.max_phrase_repeats)
        return of_question(words, that_hold(policy.contexts, contexts, words, case))

    def found() -> Iterator[Text]:
        for group in SETS:
            for path in sorted((cases / group).glob("*.jsonl")):
                for line in read_lines(path):
                    told = plan.files.get(path.stem) or plan.files.get(line.get("kind", ""))
                    if told:
                        yield Text(group, path.stem, *told, path.stem in plan.judged, line, read(line))
        lines = medquad_half(shared)
        if name == "answer":
            for line in definitions():
                yield Text("definitions", "definitions", 0, plan.definitions, False, line, read(line))
            for line in lines[::18]:
                shaped = {"question": line["question"], "response": line["answer"], "kind": "medquad"}
                yield Text("medquad", "medquad", 0, plan.medquad, False, shaped, read(shaped))
        else:
            for question in sorted({line["question"] for line in lines[::9]}):
                shaped = {"text": question, "kind": "medquad"}
                yield Text("medquad", "medquad", 0, plan.medquad, False, shaped, read(shaped))

    return list(found())

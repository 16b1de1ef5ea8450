"""The rails over a file of questions and answers, so that anyone can measure them. guardrails -> HERE -> cli."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedmed.errors import DataFormatError, DataNotFoundError, EmptyDataError
from fedmed.safety.guardrails import Decision, MedicalGuardrails

_KEYS = {"id", "question", "response", "confidence"}
_NAMED = 5  # bad lines that an error lists; the rest are counted


@dataclass(frozen=True, slots=True)
class Item:
    """One line: a question, and what was answered where that is known."""

    id: str | int
    question: str
    response: str | None
    confidence: float | None


def read_items(path: Path) -> list[Item]:
    """Every line of a JSONL file, ``{"id", "question", "response"?, "confidence"?}``.

    Raises:
        DataNotFoundError: there is no such file.
        DataFormatError: names the lines that cannot be used, by number and never by their text.
        EmptyDataError: there is no line.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except (FileNotFoundError, IsADirectoryError) as error:
        raise DataNotFoundError(f"there is no file {path}", "give a JSONL file with --input") from error
    except OSError as error:
        raise DataNotFoundError(f"cannot read {path} ({error.strerror})", "fix its permissions") from error
    items: list[Item] = []
    bad: list[tuple[int, str]] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            items.append(_item(json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))))
        except ValueError as error:
            bad.append((number, str(error) if type(error) is ValueError else "not JSON in UTF-8"))
    if bad:
        named = "; ".join(f"line {number}: {why}" for number, why in bad[:_NAMED])
        more = f"; {len(bad) - _NAMED} more" if len(bad) > _NAMED else ""
        hint = 'each line is {"id": …, "question": "…"} with "response" and "confidence" where there are any'
        raise DataFormatError(f"{path}: {named}{more}", hint)
    if not items:
        raise EmptyDataError(f"{path} holds no line", "give at least one question")
    return items


def _item(value: Any) -> Item:
    if not isinstance(value, dict):
        raise ValueError("not an object")
    if not isinstance(value.get("id"), str | int) or isinstance(value.get("id"), bool):
        raise ValueError("'id' must be text or a whole number")
    if not isinstance(value.get("question"), str):
        raise ValueError("'question' must be text")
    response, confidence = value.get("response"), value.get("confidence")
    if response is not None and not isinstance(response, str):
        raise ValueError("'response' must be text")
    if confidence is not None:
        if isinstance(confidence, bool) or not isinstance(confidence, int | float) or not 0.0 <= confidence <= 1.0:
            raise ValueError("'confidence' must be a number from 0 to 1")
        confidence = float(confidence)
    return Item(value["id"], value["question"], response, confidence)


def judge(item: Item, guardrails: MedicalGuardrails) -> Decision:
    """The decision on one line; without a response, on the question alone."""
    if item.response is None:
        return guardrails.assess_question(item.question)
    return guardrails.assess(item.question, item.response, item.confidence)


def judged(items: list[Item], guardrails: MedicalGuardrails) -> Iterator[tuple[str, str]]:
    """(action, JSON line) of each item, in order."""
    for item in items:
        decision = judge(item, guardrails)
        reasons = [{"rule": hit.rule, "severity": hit.severity, "why": hit.why} for hit in decision.hits]
        line = {"id": item.id, "allowed": decision.allowed, "action": decision.action, "reasons": reasons}
        # A lone surrogate cannot be written as UTF-8; JSON's own escape can.
        text = json.dumps(line | {"text": decision.text}, ensure_ascii=_has_surrogate(decision.text, item.id))
        yield decision.action, text + "\n"


def _has_surrogate(*texts: str | int) -> bool:
    return any(0xD800 <= ord(character) <= 0xDFFF for text in texts for character in str(text))

"""Exam questions with options: find the text of the right one.

Shapes met in MedQA (options as a mapping, ``answer_idx`` a letter), MedMCQA (``opa … opd``, ``cop`` an index from 0),
MMLU and CareQA-like sets (a list and an index).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from fedmed.data.values import BadValueError, text

CHOICES = "multiple_choice"
_OPTIONS = ("options", "choices")
_LETTERED = ("opa", "opb", "opc", "opd", "ope")
_RIGHT = ("answer_idx", "cop", "answer_index", "correct_answer", "label", "answer")
"""Where the right option is named, the most exact first: MedQA has ``answer_idx`` beside ``answer``."""


def multiple_choice(names: set[str]) -> Callable[[Mapping[str, Any]], tuple[str, str]] | None:
    """A reader for records with these (lower-case) columns, or None where they are no exam questions."""
    right = next((name for name in _RIGHT if name in names), None)
    options = next((name for name in _OPTIONS if name in names), None)
    lettered = [name for name in _LETTERED if name in names]
    if "question" not in names or right is None or (options is None and len(lettered) < 2):
        return None

    def read(record: Mapping[str, Any]) -> tuple[str, str]:
        if options is not None:
            by_key = _by_key(record.get(options), options)
        else:
            by_key = {name[-1].upper(): str(record.get(name) or "") for name in lettered}
        return text(record.get("question"), "question"), _right_text(record.get(right), by_key, right)

    return read


def _by_key(options: object, column: str) -> dict[str, str]:
    if isinstance(options, Mapping) and isinstance(options.get("text"), list):  # {"label": [...], "text": [...]}
        labels = options.get("label") or [chr(ord("A") + index) for index in range(len(options["text"]))]
        pairs = list(zip(labels, options["text"], strict=False))
    elif isinstance(options, Mapping):
        pairs = list(options.items())
    elif isinstance(options, list) and options and all(isinstance(option, Mapping) for option in options):
        pairs = [(option.get("key"), option.get("value")) for option in options]
    elif isinstance(options, list):
        pairs = [(chr(ord("A") + index), option) for index, option in enumerate(options)]
    else:
        raise BadValueError(f"'{column}' is {type(options).__name__}, not a list or mapping of options")
    if not all(isinstance(value, str) or value is None for _, value in pairs):
        raise BadValueError(f"'{column}' holds an option that is not text")
    return {str(key).strip().upper(): (value or "").strip() for key, value in pairs}


def _right_text(right: object, by_key: Mapping[str, str], column: str) -> str:
    """The right option's text; empty where the record does not say (None, "", or -1 as in MedMCQA's test part)."""
    if right is None or right == "" or right == -1:
        return ""
    if isinstance(right, bool) or not isinstance(right, int | str):
        raise BadValueError(f"'{column}' is {type(right).__name__}, not an index, letter or text")
    texts = list(by_key.values())
    if isinstance(right, str):
        if right.strip().upper() in by_key:
            return by_key[right.strip().upper()]
        if right.strip() in texts:
            return right.strip()
        if not right.strip().isdigit():
            raise BadValueError(f"'{column}' names none of the {len(texts)} options")
        right = int(right)
    if not 0 <= right < len(texts):
        raise BadValueError(f"'{column}' is {right}, but there are {len(texts)} options, counted from 0")
    return texts[right]

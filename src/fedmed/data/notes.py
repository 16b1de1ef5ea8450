"""How a clinical note becomes training records: passages, each learned as the continuation of the one before it.

A note asks no question, so it gets a plain one: "Write a <kind>." for its first passage, and for every later one
"Continue this <kind>:" with the end of the passage before. The answer is the passage, so every word of the note is an
answer once and none is learned twice. Passages end where paragraphs, else sentences, else words end.

All passages of a note carry its id and a number, and one group: they never cross the line between training and test.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

from fedmed.data.columns import Raw

PASSAGE = 1_200
"""Characters of a passage at most; with the prompt it fits 512 tokens of English."""
CONTEXT = 240
"""Characters of the passage before that stand in the question."""
MAX_NOTE = 200_000
"""Longer texts are no notes but archives; they are counted as over-long."""

_ENDS = (re.compile(r"\n\s*\n"), re.compile(r"\n"), re.compile(r"[.!?;]\s"), re.compile(r"\s"))


def passages(note: Raw) -> Iterator[Raw]:
    """Cut a note (its text is ``answer``) into question-answer records; without text there is none."""
    kind = " ".join(note.kind.split()).lower() or "note"
    before = ""
    for number, text in enumerate(cut(note.answer), start=1):
        question = f"Continue this {kind}:\n{before}" if before else f"Write a {kind}."
        yield replace(note, question=question, answer=text, id=f"{note.id}.{number}" if note.id else "")
        before = _tail(text)


def cut(text: str) -> list[str]:
    """Passages of at most ``PASSAGE`` characters; joined they hold every word of the text in its order."""
    found, rest = [], text.strip()
    while len(rest) > PASSAGE:
        end = _end(rest)
        found.append(rest[:end].strip())
        rest = rest[end:].strip()
    return [*filter(None, found), *([rest] if rest else [])]


def _end(text: str) -> int:
    """Where to cut: behind the last paragraph, line, sentence or word that leaves the passage half full at least."""
    for pattern in _ENDS:
        ends = [match.end() for match in pattern.finditer(text, PASSAGE // 2, PASSAGE)]
        if ends:
            return ends[-1]
    return PASSAGE


def _tail(text: str) -> str:
    if len(text) <= CONTEXT:
        return text
    tail = text[-CONTEXT:]
    return tail.partition(" ")[2] or tail

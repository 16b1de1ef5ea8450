"""Whether a context of the policy holds for what was found in a text. policy -> HERE -> learned, rails."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from fedmed.safety.checks import Case
from fedmed.safety.literals import may_match
from fedmed.safety.policy import Context
from fedmed.safety.words import CLAUSE, Words


class Found(NamedTuple):
    """Where something matched: characters of the plain text, and words."""

    start: int
    end: int
    first: int
    last: int


def holds(context: Context, words: Words, found: Found, case: Case) -> bool:
    if context.where == "question":
        return case.question is not None and _window_holds(context, case.question, 0, len(case.question.tokens))
    low, high = 0, len(words.tokens)
    if context.where != "text":
        low, high = words.sentence(found.first, max(found.last, found.first))
    if context.where == "clause":
        low, high = words.sentence(found.first, max(found.last, found.first), CLAUSE)
    elif context.where == "before":
        high = found.first
    elif context.where == "after":
        low = found.last
    return _window_holds(context, words, low, high, until=found.start if context.where == "before" else None)


def _window_holds(context: Context, words: Words, low: int, high: int, until: int | None = None) -> bool:
    key = (id(context), low, high, until)  # many finds share a sentence
    known = words.memo.get(key)
    if known is None:
        known = words.memo[key] = _looked_for(context, words, low, high, until)
    return known


def _looked_for(context: Context, words: Words, low: int, high: int, until: int | None) -> bool:
    for sign in context.signs or ():
        if all(any(True for _ in part.find(words, low, high)) for part in sign.parts):
            return True
    if not context.patterns or low >= len(words.tokens):
        return False
    end = until if until is not None else words.starts[high] if high < len(words.tokens) else len(words.plain)
    part = words.plain[words.starts[low] : end]
    return any(may_match(pattern, part) and pattern.search(part) for pattern in context.patterns)


def whole(words: Words) -> Found:
    """A text as one find."""
    return Found(0, len(words.plain), 0, len(words.tokens))


def that_hold(contexts: Mapping[str, Context], names: tuple[str, ...], words: Words, case: Case) -> list[str]:
    """Those of some contexts that hold for a text as a whole; names that nobody has given are passed over."""
    everything = whole(words)
    return [name for name in names if name in contexts and holds(contexts[name], words, everything, case)]

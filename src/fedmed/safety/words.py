"""A text as words with the meanings that the policy knows for them. normalise -> HERE -> signs, checks.

A label is a word itself (``chest``), the beginning of one (``swell*``), any number (``#``) or a meaning (``@pain``).
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field

COMMA, CLAUSE, SENTENCE = 1, 2, 3
"""How strongly a mark parts the words around it."""

_TOKEN = re.compile(r"\d+(?:[.,]\d+)*|[^\W\d_]+|[^\w\s]")
_STRENGTH = {",": COMMA, ";": CLAUSE, ":": CLAUSE, "(": CLAUSE, ")": CLAUSE, "-": 0, ".": SENTENCE, "!": SENTENCE,
             "?": SENTENCE, "•": SENTENCE, "\u3002": SENTENCE}  # fmt: skip
_NUMBER_WORDS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen twenty"
)
_TENS = {"thirty": 30, "forty": 40, "fifty": 50, "sixty": 60, "hundred": 100, "thousand": 1000, "dozen": 12}
NUMBERS: Mapping[str, float] = {word: float(value) for value, word in enumerate(_NUMBER_WORDS.split())} | _TENS


def listed(text: str) -> frozenset[str]:
    """The words of a list that is written as a sentence."""
    return frozenset(text.split())


Spans = dict[int, tuple[int, ...]]  # start -> every end


@dataclass(slots=True)
class Words:
    """One text, taken apart.

    ``tokens``: words and numbers in their order; ``breaks[i]``: how strongly what stands before token i parts it from
    token i - 1; ``starts``, ``ends``: where a token stands in ``plain``; ``spans``: label -> start -> ends.
    """

    plain: str
    tokens: list[str] = field(default_factory=list)
    breaks: list[int] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    numbers: dict[int, float] = field(default_factory=dict)
    spans: dict[str, Spans] = field(default_factory=dict)
    memo: dict[tuple[int, int, int, int | None], bool] = field(default_factory=dict)  # contexts.py: asked before

    def add(self, label: str, start: int, end: int) -> None:
        """Note that ``label`` holds for the tokens from ``start`` up to ``end``."""
        at = self.spans.setdefault(label, {})
        found = at.get(start, ())
        if end not in found:
            at[start] = (*found, end)

    def has(self, label: str, start: int = 0, end: int | None = None) -> bool:
        """Whether ``label`` holds somewhere from token ``start`` on, and before ``end``."""
        at = self.spans.get(label)
        if not at:
            return False
        if start == 0 and end is None:
            return True
        last = len(self.tokens) if end is None else end
        return any(start <= first and min(ends) <= last for first, ends in at.items())

    def sentence(self, start: int, end: int, strength: int = SENTENCE) -> tuple[int, int]:
        """The tokens of the sentence (or the clause: ``strength``) that holds tokens ``start`` to ``end``."""
        first, last = start, end
        while first > 0 and self.breaks[first] < strength:
            first -= 1
        while last < len(self.tokens) and self.breaks[last] < strength:
            last += 1
        return first, last

    def sentences(self) -> list[tuple[int, int]]:
        """Every sentence as (first token, token after the last)."""
        marks = [index for index, strength in enumerate(self.breaks) if strength == SENTENCE and index]
        return [
            (first, last) for first, last in zip([0, *marks], [*marks, len(self.tokens)], strict=True) if first < last
        ]

    def token_span(self, start: int, end: int) -> tuple[int, int]:
        """The tokens that characters ``start`` to ``end`` of ``plain`` touch."""
        first = bisect_right(self.ends, start)
        return first, max(first, bisect_left(self.starts, end))

    def text(self, start: int, end: int) -> str:
        """The words themselves."""
        return " ".join(self.tokens[start:end])


def split(plain: str) -> Words:
    """Take a normalised text apart; labels hold the words, numbers and nothing else yet."""
    words = Words(plain)
    tokens, breaks, starts, ends, spans = words.tokens, words.breaks, words.starts, words.ends, words.spans
    strength = SENTENCE
    for match in _TOKEN.finditer(plain):
        token = match.group()
        first = token[0]
        if not first.isalnum():
            following = plain[match.end() : match.end() + 1]
            mark = _STRENGTH.get(token, 0)
            if token == "-" and following == " " and plain[match.start() - 1 : match.start()] == " ":
                mark = CLAUSE
            elif token in ".:" and following.isalnum():
                mark = 0  # 7.30, www.x.org, 1:1000
            strength = max(strength, mark)
            continue
        index = len(tokens)
        begun, ended = match.span()
        tokens.append(token)
        breaks.append(strength)
        starts.append(begun)
        ends.append(ended)
        strength = 0
        spans.setdefault(token, {})[index] = (index + 1,)
        value = _value(token) if first.isdigit() else NUMBERS.get(token)
        if value is not None:
            words.numbers[index] = value
            spans.setdefault("#", {})[index] = (index + 1,)
    return words


def _value(token: str) -> float | None:
    if re.fullmatch(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?", token):
        token = token.replace(",", "")
    try:
        return float(token.replace(",", "."))
    except ValueError:
        return None  # 1.2.2020

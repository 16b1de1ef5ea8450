"""The small language of signs: what to look for in words and meanings, in order or together. words -> HERE -> policy.

A sign is one sequence, or several joined by ``+`` that must all be found near each other. A sequence is elements apart
by spaces:

========== =====================================================================
``word``   that word; ``swell*`` its beginning; ``*itis`` its ending; ``a|b|@c`` either; ``a_b`` both
``@pain``  a meaning of the policy, of one word or several
``#``      any number; ``#<13``, ``#>=38`` one of that size
``x?``     x or nothing; ``!x`` what follows is not x
``..4``    up to four words, over commas but not over a clause (``..`` alone: 3)
``__4``    the same, over no mark at all; ``~~4`` over every mark
``^``      a clause begins here; ``^^`` a sentence; ``$`` the text looked at ends here
========== =====================================================================

No gap steps over a word of the meaning ``negator``, but for ``~~``.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from fedmed.safety.normalise import normalise
from fedmed.safety.words import CLAUSE, COMMA, SENTENCE, Words, split

NEGATOR = "@negator"
_GAP = re.compile(r"(\.\.|__|~~)(\d*)")
_SIZE = re.compile(r"#(<=|>=|<|>|=)(\d+(?:\.\d+)?)")
_PLAIN = re.compile(r"@[a-z0-9_]+|#|[^\W_]+\*?")
_COMPARE: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "=": operator.eq,
}  # fmt: skip
_MARKS = {"..": CLAUSE, "__": COMMA, "~~": SENTENCE + 1}


@dataclass(frozen=True, slots=True)
class Element:
    """One step of a sequence; ``kind``: word, size, gap, not, begin, end."""

    kind: str
    labels: frozenset[str] = frozenset()
    compounds: tuple[tuple[str, ...], ...] = ()  # alternatives of several tokens, such as co-codamol
    optional: bool = False
    reach: int = 0  # of a gap: words; of begin: how strong a mark must stand there
    mark: int = 0  # a gap stops at a mark this strong
    compare: str = "="
    value: float = 0.0

    @property
    def starts(self) -> frozenset[str]:
        """Labels of which one must stand where this element begins."""
        return self.labels | {compound[0] for compound in self.compounds}


@dataclass(frozen=True, slots=True)
class Phrase:
    """Elements in order."""

    source: str
    elements: tuple[Element, ...]
    needs: tuple[frozenset[str], ...]  # of each, one label must be somewhere in the text

    @property
    def rarest(self) -> frozenset[str]:
        """The fewest labels of which one must be in a text for this phrase to be found."""
        return min(self.needs, key=lambda labels: (len(labels), -max(map(len, labels))), default=frozenset({"#"}))

    def possible(self, words: Words) -> bool:
        """Whether a match can exist at all: a cheap look before the search."""
        present = words.spans
        for labels in self.needs:
            for label in labels:
                if label in present:
                    break
            else:
                return False
        return True

    def find(self, words: Words, first: int = 0, last: int | None = None) -> Iterator[tuple[int, int]]:
        """Each (start, end) in tokens, one for each start, inside ``first`` to ``last``."""
        if not self.possible(words):
            return
        end = len(words.tokens) if last is None else last
        lead = self.elements[0]
        if lead.kind == "word" and not lead.optional:
            spans = words.spans
            starts = sorted({at for label in lead.starts for at in spans.get(label, ()) if first <= at < end})
        elif lead.kind == "begin":
            starts = [at for at in range(first, end) if at == 0 or words.breaks[at] >= lead.reach]
        elif lead.kind == "size" and not lead.optional:
            starts = sorted(at for at in words.numbers if first <= at < end)
        else:
            starts = list(range(first, end))
        for start in starts:
            stop = _walk(self.elements, 0, start, words, end, start)
            if stop is not None and stop > start:
                yield start, stop


def _walk(elements: tuple[Element, ...], at: int, position: int, words: Words, end: int, start: int) -> int | None:
    """The end of the first way through the elements from here, or None."""
    if at == len(elements):
        return position
    element = elements[at]
    kind = element.kind
    if kind == "word" or kind == "size":
        for stop in _ends(element, position, words, end):
            found = _walk(elements, at + 1, stop, words, end, start)
            if found is not None:
                return found
        return _walk(elements, at + 1, position, words, end, start) if element.optional else None
    if kind == "gap":
        for step in range(element.reach + 1):
            here = position + step
            if step and (
                here > end
                or (element.mark <= SENTENCE and _skips_negation(words, here - 1))
                or (here - 1 > start and words.breaks[here - 1] >= element.mark)
            ):
                return None
            if here < end and here > start and words.breaks[here] >= element.mark:
                return None
            found = _walk(elements, at + 1, here, words, end, start)
            if found is not None:
                return found
        return None
    if kind == "not":
        holds = position >= end or not any(_ends(element, position, words, end))
    elif kind == "begin":
        holds = position == 0 or (position < len(words.tokens) and words.breaks[position] >= element.reach)
    else:
        holds = position == end or words.breaks[position] >= SENTENCE
    return _walk(elements, at + 1, position, words, end, start) if holds else None


def _skips_negation(words: Words, position: int) -> bool:
    at = words.spans.get(NEGATOR)
    return at is not None and position in at


def _ends(element: Element, position: int, words: Words, end: int) -> Iterator[int]:
    if element.kind == "size":
        value = words.numbers.get(position)
        if value is not None and position < end and _COMPARE[element.compare](value, element.value):
            yield position + 1
        return
    for label in element.labels:
        at = words.spans.get(label)
        if at:
            for stop in at.get(position, ()):
                if stop <= end:
                    yield stop
    for compound in element.compounds:
        stop = position + len(compound)
        if stop <= end and tuple(words.tokens[position:stop]) == compound:
            yield stop


def parse(source: str) -> Phrase:
    """Read one sequence.

    Raises:
        ValueError: says which element cannot be read.
    """
    elements: list[Element] = []
    for part in source.split():
        elements.extend(_element(part, source))
    if not any(element.kind in ("word", "size") and not element.optional for element in elements):
        raise ValueError(f"this sign asks for no word: {source!r}")
    needs = tuple(element.starts for element in elements if element.kind == "word" and not element.optional)
    return Phrase(source, tuple(elements), needs)


def _element(part: str, source: str) -> list[Element]:
    if part in ("^", "^^"):
        return [Element("begin", reach=COMMA if part == "^" else SENTENCE)]
    if part == "$":
        return [Element("end")]
    if gap := _GAP.fullmatch(part):
        return [Element("gap", reach=int(gap.group(2) or 3), mark=_MARKS[gap.group(1)])]
    optional = part.endswith("?")
    body = part.removesuffix("?")
    if size := _SIZE.fullmatch(body):
        return [Element("size", optional=optional, compare=size.group(1), value=float(size.group(2)))]
    negative = body.startswith("!")
    body = body.removeprefix("!")
    alternatives = [_word(word, source) for word in body.split("|")]
    kind = "not" if negative else "word"
    if len(alternatives) == 1:
        return [Element(kind, frozenset({word}), optional=optional) for word in alternatives[0]]
    single = frozenset(words[0] for words in alternatives if len(words) == 1)
    compounds = tuple(tuple(words) for words in alternatives if len(words) > 1)
    return [Element(kind, single, compounds, optional)]


def _word(word: str, source: str) -> list[str]:
    if _PLAIN.fullmatch(word) and (word.startswith("@") or word == "#"):
        return [word]
    ending = "*" if word.endswith("*") else ""
    beginning = "*" if word.startswith("*") else ""
    tokens = split(normalise(word.strip("*").replace("_", " "))).tokens
    if not tokens or "*" in word.strip("*") or (beginning and (ending or len(tokens) > 1)):
        raise ValueError(f"cannot read {word!r} in {source!r}")
    return [*tokens[:-1], beginning + tokens[-1] + ending]


@dataclass(frozen=True, slots=True)
class Sign:
    """Sequences that must all be found, the first being the main one."""

    source: str
    parts: tuple[Phrase, ...]

    def possible(self, words: Words) -> bool:
        return all(part.possible(words) for part in self.parts)


def parse_sign(source: str) -> Sign:
    """Read ``a b + c``. Raises ValueError."""
    return Sign(source, tuple(parse(part) for part in source.split(" + ")))


def labels_of(phrases: Iterable[Phrase]) -> set[str]:
    """Every label that some phrases ask for."""
    return {label for phrase in phrases for element in phrase.elements for label in element.labels}

"""Text that is no answer: empty, in a loop, scrambled, or cut off. words -> HERE -> rails."""

from __future__ import annotations

import operator
import re
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

from fedmed.safety.checks.case import Case
from fedmed.safety.words import Words, listed

_SAME_LETTER = re.compile(r"([^\W\d_])\1{11,}")
_ESCAPED = re.compile(r"(?:\\+[nrt]\s*){3,}")
_LONGEST_PHRASE = 40  # words; longer repeats do not fit an answer
_DANGLING = listed(
    "the a an of to in on at by for with from and or nor but around about into onto under over between because which "
    "who whose that than as is are was were be been being your their his her its our my such including during if "
    "when while where whether can could may might must shall should will would has have had do does not very more "
    "these those this without within until unless although though also per towards toward upon against through"
)
_ENDINGS_FINE = re.compile(r"[.!?:;)\]}%°\d]$")
_ORDINARY = listed(
    "the a an of to in on at by for with from and or but is are was were be been it its this that these those you "
    "your he she they we i his her their as not no can may will if when which who than then more most also have has "
    "had do does should some one into after before about over such other"
)


_SHORT = 60  # words; in longer texts words come back anyway
_TEMPLATE = re.compile(
    r"\{\{ ?\w+ ?\}\}|\[/?(?:insert|response text|placeholder|disclaimer|end of)\b[^\]]{0,60}\]|"
    r"<(?:unk|pad|eos|bos|s|mask)>|</s>|<\|\w+\|>|\btraceback \(most recent|"
    r"\b(?:key|value|type|attribute|index)error\b"
)
_TWICE = listed("had that very is push rest so no ha bye night knock hand")
_ARTICLES = listed("the an")
_NEVER_AFTER = listed("of the and for is to was are because an has have with from but or")
"""Words that do not follow an article in a sentence."""
_NOTHING = frozenset(("null", "undefined", "nan", "nil"))
"""What programs print for no answer."""


def empty(case: Case) -> str | None:
    """Nothing in it at all, or only line breaks written out."""
    return "" if not case.words.plain or not re.sub(r"\\+[nrt]", "", case.raw).strip(" \n\t\r") else None


def no_words(case: Case) -> str | None:
    """Marks and numbers only."""
    plain = case.words.plain
    if case.words.tokens and set(case.words.tokens) <= _NOTHING:
        return ""
    if not plain or any(character.isalpha() for character in plain):
        return None
    # "206." answers "How many bones does an adult have?"; a row of numbers answers nothing.
    return None if case.question is not None and len(case.words.tokens) == 1 else ""


def loops(words: Sequence[str], repeats: int) -> bool:
    """Whether some phrase stands ``repeats`` times in a row (a single word: twice as often)."""
    common = any(count >= repeats for count in Counter(words).values())
    size = 4 if repeats > 2 else 2
    pieces = list(zip(*(words[at:] for at in range(size)), strict=False))
    if not common or len(set(pieces)) == len(pieces):
        return False  # in a loop some piece of this size comes back: a cheap look first
    for period in sorted(_distances(pieces, min(_LONGEST_PHRASE, len(words) // 2))):
        needed = period * ((2 * repeats if period == 1 else repeats) - 1)
        if sum(map(operator.eq, words, words[period:])) < needed:
            continue
        run = 0
        for earlier, later in zip(words, words[period:], strict=False):
            run = run + 1 if earlier == later else 0
            if run >= needed:
                return True
    return False


def _distances(pieces: Sequence[tuple[str, ...]], most: int) -> set[int]:
    """How far apart equal pieces stand: only these can be the period of a loop."""
    seen: dict[tuple[str, ...], list[int]] = {}
    found: set[int] = set()
    for at, piece in enumerate(pieces):
        earlier = seen.setdefault(piece, [])
        for before in reversed(earlier):
            if at - before > most:
                break
            found.add(at - before)
        earlier.append(at)
    return found


def loop(case: Case) -> str | None:
    """The same letter, phrase or sentence over and over."""
    plain, words = case.words.plain, case.words.tokens
    if len(case.words.numbers) >= 6:  # "1. Red meat 2. Lentils 3. Red meat"
        unnumbered = [word for at, word in enumerate(words) if at not in case.words.numbers]
        if 8 <= len(unnumbered) <= _SHORT and len(set(unnumbered)) <= len(unnumbered) // 3:
            return ""
    if len(set(words)) <= 2 and len(words) >= 6:
        return ""
    if len(set(words)) == 1 < len(words) and len(words) >= 5:
        return ""
    if _SAME_LETTER.search(plain) or _ESCAPED.search(case.raw) or loops(words, case.max_repeats):
        return ""
    said = [case.words.text(*span) for span in case.words.sentences() if span[1] - span[0] >= 4]
    if re.fullmatch(r"(?:#+ )?(\w+:? ?)(?:[^\w]*\1){4,}.*", plain):
        return ""
    often = len(said) - len(set(said))
    if len(said) >= 3 and often >= 2 and often >= 0.6 * len(said):
        return ""
    # Whole passages that come back, if not in one piece: few different four-word pieces in a long text.
    pieces = list(zip(words, words[1:], words[2:], words[3:], strict=False))
    return "" if len(pieces) >= 40 and len(set(pieces)) < 0.45 * len(pieces) else None


def gibberish(case: Case) -> str | None:
    """Letters that make no words: a long run without a mark, or without one of the words that join a sentence."""
    words = case.words
    if _TEMPLATE.search(words.plain) or _stammers(words):
        return ""
    run = strange = 0
    for index, token in enumerate(words.tokens):
        if words.breaks[index] or token in _ORDINARY or len(token) > 18:
            run = strange = 0
            if token in _ORDINARY:
                continue
        run += 1
        strange += _odd(token)
        if run >= 8 and strange >= 4:
            return ""
    return None


def _stammers(words: Words) -> bool:
    """Words that stand twice in a row without a mark, or an article before what cannot follow one, again and again."""
    tokens, breaks = words.tokens, words.breaks
    twice = [at for at, same in enumerate(map(operator.eq, tokens, tokens[1:]), 1) if same]
    same = sum(
        not breaks[at] and tokens[at] not in _TWICE and words.plain[words.ends[at - 1] : words.starts[at]] == " "
        for at in twice
    )
    after = [at for article in _ARTICLES for (at,) in words.spans.get(article, {}).values() if at < len(tokens)]
    broken = sum(not breaks[at] and tokens[at] in _NEVER_AFTER for at in after)
    return 25 * (same + broken) >= max(len(words.tokens), 50)


@lru_cache(maxsize=1 << 14)
def _odd(token: str) -> bool:
    """Whether a token looks like no English word: no vowel, or one that ends in a rare way."""
    return token.isalpha() and (
        not re.search(r"[aeiouy]", token) or bool(re.search(r"q(?!u)|[xzj]{2}|[wvj]q|dt$|^[^aeiouy]{4}", token))
    )


def unfinished(case: Case) -> str | None:
    """It stops in the middle of a sentence: the last word joins or announces what never comes."""
    tokens = case.words.tokens
    plain = case.words.plain
    if not tokens or _ENDINGS_FINE.search(plain):
        return None
    return "" if tokens[-1] in _DANGLING or plain.endswith((",", "-")) else None

"""What a learned score looks at: words, pairs of words, pieces of words and meanings, as numbers of buckets.

words -> HERE -> learned, and the script that fits the weights.

Every feature is hashed into one of the buckets of its block. Nothing here depends on marks, case or spacing
beyond where a sentence begins: a text is taken as ``words.split`` and the policy's lexicon left it.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from fedmed.safety.words import CLAUSE, SENTENCE, Words, listed

_BITS = {"words": 16, "letters": 15, "meanings": 15, "near": 15, "shape": 11, "asked": 14, "both": 14}
BUCKETS: Mapping[str, int] = {name: 1 << bits for name, bits in _BITS.items()}
"""Block of features -> how many buckets it has."""

Hashes: TypeAlias = npt.NDArray[np.uint32]
Blocks: TypeAlias = dict[str, npt.NDArray[np.intp]]

_NEGATOR = "@negator"
_NEGATION_REACH = 5  # words between a negation and what it denies
_SIZES = (1, 2, 4, 10, 20, 36, 38, 43, 60, 90, 100, 200, 500, 1000)  # a number is known by its size only
_START = "^"  # where a sentence begins
_LENGTHS = (2, 3, 4, 5)  # letters in a piece of a word
_GOLDEN, _FIRST, _SECOND = np.uint32(0x9E3779B1), np.uint32(0x85EBCA6B), np.uint32(0xC2B2AE35)
_EMPTY: Hashes = np.zeros(0, dtype=np.uint32)


@lru_cache(maxsize=1 << 16)
def _hash(name: str) -> int:
    return zlib.crc32(name.encode("utf-8", "surrogatepass"))


def _hashes(names: Iterable[str]) -> Hashes:
    return np.fromiter(map(_hash, names), dtype=np.uint32)


def _mixed(hashes: Hashes) -> Hashes:
    mixed = (hashes ^ (hashes >> np.uint32(16))) * _FIRST
    mixed = (mixed ^ (mixed >> np.uint32(13))) * _SECOND
    return mixed ^ (mixed >> np.uint32(16))


def _paired(left: Hashes, right: Hashes) -> Hashes:
    """One number for the pair, in this order."""
    return _mixed(left * _GOLDEN + _mixed(right))


def _crossed(left: Hashes, right: Hashes) -> Hashes:
    if not left.size or not right.size:
        return _EMPTY
    return _paired(np.repeat(left, right.size), np.tile(right, left.size))


def _into_buckets(parts: Mapping[str, Sequence[Hashes]]) -> Blocks:
    """Each bucket once, in order."""
    found: Blocks = {}
    for name, some in parts.items():
        there = np.zeros(BUCKETS[name], dtype=np.bool_)
        there[_mixed(np.concatenate(some)) >> np.uint32(32 - _BITS[name])] = True
        found[name] = np.flatnonzero(there)
    return found


def _size(value: float) -> str:
    return f"#{sum(value >= bound for bound in _SIZES)}"


def _named(words: Words) -> list[str]:
    """The words, numbers by their size, with a sign where a sentence begins."""
    named: list[str] = []
    for index, (token, strength) in enumerate(zip(words.tokens, words.breaks, strict=True)):
        if strength >= SENTENCE:
            named.append(_START)
        value = words.numbers.get(index)
        named.append(_size(value) if value is not None and token[0].isdigit() else token)
    return named


def _word_hashes(words: Words) -> tuple[Hashes, Hashes, Hashes]:
    """Words, words that follow each other, and words with one between them."""
    single = _hashes(_named(words))
    return single, _paired(single[:-1], single[1:]), _paired(single[:-2] ^ _SECOND, single[2:])


def _letter_hashes(words: Words) -> Hashes:
    """Every run of two to five letters within a word; where the word begins and ends counts as a letter."""
    text = " " + " ".join(token for token in words.tokens if not token[0].isdigit()) + " "
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    spaces = np.concatenate(([0], np.cumsum(codes == 32)))
    found: list[Hashes] = []
    run = codes
    for length in range(2, _LENGTHS[-1] + 1):
        run = run[: codes.size - length + 1] * _GOLDEN + _mixed(codes[length - 1 :] + np.uint32(length))
        if length in _LENGTHS and run.size:
            starts = np.arange(run.size)
            inside = spaces[starts + length - 1] - spaces[starts + 1] if length > 2 else np.zeros(run.size)
            found.append(run[inside == 0])
    return np.concatenate(found) if found else _EMPTY


def meanings(words: Words) -> list[str]:
    """The meanings that stand in a text; one that is always denied ("no fever") by another name."""
    denied_after = sorted(words.spans.get(_NEGATOR, {}))
    names: list[str] = []
    for label, at in words.spans.items():
        if label[0] == "@" and label != _NEGATOR:
            names.append(
                f"-{label}" if denied_after and all(_denied(words, start, denied_after) for start in at) else label
            )
    if denied_after:
        names.append(_NEGATOR)
    return sorted(names)


def _denied(words: Words, start: int, negators: Sequence[int]) -> bool:
    for at in negators:
        if 0 < start - at <= _NEGATION_REACH and max(words.breaks[at + 1 : start + 1], default=0) < SENTENCE:
            return True
    return False


def of_question(words: Words, contexts: Iterable[str]) -> Blocks:
    """Features of a question.

    Args:
        words: the question, its meanings marked.
        contexts: names of the policy's contexts that hold for it as a whole.
    """
    known = _hashes((*meanings(words), *contexts))
    return _into_buckets(
        {"words": _word_hashes(words), "letters": [_letter_hashes(words)], "meanings": [known, _crossed(known, known)]}
    )


def of_answer(words: Words, question: Words | None, contexts: Iterable[str]) -> Blocks:
    """Features of an answer, and of what was asked and said together.

    Args:
        words: the answer, its meanings marked.
        question: likewise, where it is known.
        contexts: names of the policy's contexts that hold for the two as a whole.
    """
    said = _hashes((*meanings(words), *contexts))
    parts: dict[str, Sequence[Hashes]] = {
        "words": _word_hashes(words),
        "letters": [_letter_hashes(words)],
        "meanings": [said, _crossed(said, said)],
        "near": [_near(words)],
        "shape": [_hashes(_shape(words, question))],
    }
    if question is not None:
        meant, opening, begun = map(_hashes, (meanings(question), _openings(question), _openings(words)))
        parts["asked"] = [*_word_hashes(question)[:2], meant]
        parts["both"] = [_crossed(one, other) for one in (meant, opening) for other in (said, begun)]
    return _into_buckets(parts)


def _openings(words: Words) -> list[str]:
    first = words.tokens[:3]
    return [f"^{' '.join(first[:length])}" for length in range(1, len(first) + 1)]


def _near(words: Words) -> Hashes:
    """Meanings that share a sentence, and how the sentence begins."""
    spans = words.sentences()
    which = [number for number, (first, last) in enumerate(spans) for _ in range(first, last)]
    here: list[set[int]] = [set() for _ in spans]
    for label, at in words.spans.items():
        if label[0] == "@":
            hashed = _hash(label)
            for place in at:
                here[which[place]].add(hashed)
    left: list[int] = []
    right: list[int] = []
    for (first, _), known in zip(spans, here, strict=True):
        begun = (_hash(f"^{words.tokens[first]}"), _hash(f"^{' '.join(words.tokens[first : first + 2])}"))
        for one in (*known, *begun):
            left += [one] * len(known)
            right += known
    return _paired(np.array(left, dtype=np.uint32), np.array(right, dtype=np.uint32))


def _step(value: float, bounds: Sequence[float]) -> int:
    return sum(value >= bound for bound in bounds)


def _shape(words: Words, question: Words | None) -> list[str]:
    """Length, repetition, and how much of the question comes back."""
    tokens = words.tokens
    count = max(len(tokens), 1)
    pairs = list(pairwise(tokens))
    long = _step(count, (10, 30, 80))
    new_words = len(set(tokens)) / count
    new_pairs = len(set(pairs)) / max(len(pairs), 1)
    sentences = max(len(words.sentences()), 1)
    names = [
        f"length {_step(count, (2, 5, 10, 15, 20, 30, 45, 60, 80, 120, 180))}",
        f"sentences {_step(sentences, (2, 3, 4, 5, 7, 10))}",
        f"new words {_step(new_words, (0.2, 0.35, 0.5, 0.6, 0.7, 0.8, 0.9, 1))} {long}",
        f"new pairs {_step(new_pairs, (0.2, 0.4, 0.6, 0.8, 0.9, 0.95, 1))} {long}",
        f"numbers {_step(len(words.numbers), (1, 2, 3, 5, 8))}",
        f"number share {_step(len(words.numbers) / count, (0.01, 0.05, 0.1, 0.2, 0.4))}",
        f"you {_step(sum(token in _READER for token in tokens), (1, 2, 3, 5))}",
        f"letters {_step(sum(map(len, tokens)) / count, (3, 4, 4.5, 5, 5.5, 6, 7))}",
        f"end {words.plain[-1:] if words.plain[-1:] in ',;:-(' else ''}",
        *_turns(words),
    ]
    if question is not None:
        asked = {token for token in question.tokens if len(token) > 3}
        back = len(asked & set(tokens)) / max(len(asked), 1)
        names += [
            f"asked length {_step(len(question.tokens), (3, 5, 7, 10, 15, 25, 40))}",
            f"comes back {_step(back, (0.01, 0.2, 0.4, 0.6, 0.8, 1))}",
            f"comes back {_step(back, (0.01, 0.34, 0.67, 1))} length {_step(count, (6, 20, 60))}",
        ]
        names += [f"{name} {opening}" for name in names[:4] for opening in _openings(question)[:1]]
    return names


def _turns(words: Words) -> list[str]:
    """How often a clause denies what another one says: the same words, once with a denial and once without."""
    marks = [0, *(index for index, strength in enumerate(words.breaks) if strength >= CLAUSE and index)]
    said: list[tuple[frozenset[str], bool]] = []
    for first, last in zip(marks, [*marks[1:], len(words.tokens)], strict=True):
        here = words.tokens[first:last]
        said.append((frozenset(token[:5] for token in here if len(token) > 4), bool(_DENIALS & set(here))))
    most = count = 0
    for index, (stems, denied) in enumerate(said):
        for others, other_denied in said[index + 1 : index + 4]:
            if denied != other_denied:
                shared = len(stems & others)
                count += shared >= 2
                most = max(most, shared)
    clauses = _step(len(said), (2, 3, 4, 6, 9))
    return [f"turns {min(most, 4)} {clauses}", f"turned {min(count, 3)} {clauses}", f"turns {min(most, 4)}"]


_DENIALS = listed(
    "not no never none nothing without cannot cant dont doesnt didnt isnt arent wont shouldnt mustnt neednt nobody "
    "avoid avoided forbidden contraindicated unsafe dangerous wrong unnecessary nor neither harmful"
)
_READER = frozenset(("you", "your", "youre", "youve", "youll", "yourself"))

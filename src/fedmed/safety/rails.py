"""The two rails: every check of a policy, applied to a question and to an answer. policy -> HERE -> guardrails.

Not covered: meaning beyond words (a wrong fact in calm words passes), other languages than English, look-alike letters.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fedmed.safety.normalise import normalise
from fedmed.safety.policy import Action, Check, Context, Policy, Severity

_SENTENCE_END = re.compile(r"[.!?;](?= )")
_WORD = re.compile(r"[^\W_]+")
_SAME_LETTER = re.compile(r"([^\W\d_])\1{11,}")
_MARKS = " .!?;:,-"
_LONGEST_PHRASE = 40  # words; longer repeats do not fit an answer


@dataclass(frozen=True, slots=True)
class RailHit:
    """One check that fired: which, how grave, what follows, and why in plain words."""

    rule: str
    severity: Severity
    action: Action
    why: str
    say: str = ""  # what the person is told instead, where the policy says it

    def __str__(self) -> str:
        return f"{self.rule}: {self.why}"


def _sentence(text: str, start: int, end: int) -> tuple[int, int]:
    """Where the sentence that holds ``text[start:end]`` begins and ends."""
    begin = 0
    for mark in _SENTENCE_END.finditer(text):
        if mark.end() <= start:
            begin = mark.end() + 1
        elif mark.start() >= end - 1:
            return begin, mark.end()
    return begin, len(text)


def _holds(context: Context, text: str, match: re.Match[str]) -> bool:
    # A pattern may begin with the mark that ends the sentence before; that sentence is not the match's own.
    start = match.end() - len(match.group().lstrip(_MARKS))
    begin, end = (0, len(text)) if context.where == "text" else _sentence(text, start, match.end())
    if context.where == "before":
        end = start
    part = text[begin:end]
    return any(pattern.search(part) for pattern in context.patterns)


def _fires(check: Check, contexts: dict[str, Context], text: str) -> bool:
    for pattern in check.patterns:
        for match in pattern.finditer(text):
            if any(_holds(contexts[name], text, match) for name in check.unless):
                continue
            if not check.only_with or any(_holds(contexts[name], text, match) for name in check.only_with):
                return True
    return False


def _hits(checks: Iterable[Check], policy: Policy, text: str) -> list[RailHit]:
    return [
        RailHit(check.id, check.severity, check.action, check.why, check.say)
        for check in checks
        if _fires(check, policy.contexts, text)
    ]


def _loops(words: Sequence[str], repeats: int) -> bool:
    """Whether some phrase stands ``repeats`` times in a row (a single word: twice as often)."""
    for period in range(1, min(_LONGEST_PHRASE, len(words) // 2) + 1):
        needed = period * ((2 * repeats if period == 1 else repeats) - 1)
        run = 0
        for earlier, later in zip(words, words[period:], strict=False):
            run = run + 1 if earlier == later else 0
            if run >= needed:
                return True
    return False


def _degenerate(text: str, policy: Policy) -> list[RailHit]:
    if not text:
        return [RailHit("text.empty", "medium", "withhold", "the model gave no answer")]
    words = _WORD.findall(text)
    if not any(character.isalpha() for character in text):
        return [RailHit("text.no_words", "medium", "withhold", "the answer holds no words")]
    if _SAME_LETTER.search(text) or _loops(words, policy.limits.max_phrase_repeats):
        return [RailHit("text.loop", "medium", "withhold", "the answer repeats itself over and over")]
    return []


def input_rail(text: str, policy: Policy) -> tuple[RailHit, ...]:
    """Every check that a question sets off, in the policy's order; nothing is generated after a withhold or refer.

    Args:
        text: the question as it was typed.
        policy: the rules.
    """
    plain = normalise(text)
    if not any(character.isalnum() for character in plain):
        return (RailHit("question.empty", "low", "withhold", "there is no question in it"),)
    hits = _hits(policy.input, policy, plain)
    limit = policy.limits.max_question_characters
    if len(plain) > limit:
        hits.append(RailHit("question.too_long", "low", "withhold", f"the question is longer than {limit} characters"))
    return tuple(hits)


def output_rail(text: str, policy: Policy) -> tuple[RailHit, ...]:
    """Every check that an answer sets off, in the policy's order after those on degenerate text.

    Args:
        text: the answer, without disclaimer.
        policy: the rules.
    """
    plain = normalise(text)
    return tuple(_degenerate(plain, policy) + _hits(policy.output, policy, plain))

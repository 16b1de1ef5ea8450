"""The two rails: every check of a policy, applied to a question and to an answer. policy -> HERE -> guardrails.

Not covered: meaning beyond words (a wrong fact in calm words passes), other languages than English.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from fedmed.safety.checks import JUDGES, Case
from fedmed.safety.contexts import Found, holds, whole
from fedmed.safety.learned import Learned
from fedmed.safety.literals import may_match
from fedmed.safety.normalise import normalise
from fedmed.safety.policy import Action, Check, Policy, Severity
from fedmed.safety.readings import other_readings
from fedmed.safety.signs import Sign
from fedmed.safety.words import Words

_MARKS = " .!?;:,-"
_NEAR = 40  # words between the parts of one sign


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


def _sign_found(sign: Sign, words: Words, check: Check, policy: Policy, case: Case) -> Iterator[Found]:
    if not sign.possible(words):
        return
    main, *others = sign.parts
    for first, last in main.find(words):
        low, high = _reach(check, words, first, last)
        if all(_has_unexcused(part.find(words, low, high), words, check, policy, case) for part in others):
            yield Found(words.starts[first], words.ends[last - 1], first, last)


def _reach(check: Check, words: Words, first: int, last: int) -> tuple[int, int]:
    if check.scope == "text":
        return 0, len(words.tokens)
    if check.scope == "near":
        return max(0, first - _NEAR), min(len(words.tokens), last + _NEAR)
    return words.sentence(first, last)


def _has_unexcused(spans: Iterator[tuple[int, int]], words: Words, check: Check, policy: Policy, case: Case) -> bool:
    """Whether a further part of a sign stands there, and is not itself denied ("but no fever")."""
    before = [policy.contexts[name] for name in check.unless if policy.contexts[name].where in ("before", "after")]
    for first, last in spans:
        found = Found(words.starts[first], words.ends[last - 1], first, last)
        if not any(holds(context, words, found, case) for context in before):
            return True
    return False


def _pattern_found(pattern: re.Pattern[str], words: Words) -> Iterator[Found]:
    for match in pattern.finditer(words.plain) if may_match(pattern, words.plain) else ():
        # A pattern may begin with the mark that ends the sentence before; that sentence is not the match's own.
        start = match.end() - len(match.group().lstrip(_MARKS))
        first, last = words.token_span(start, match.end())
        yield Found(start, match.end(), first, last)


def _fires(check: Check, words: Words, policy: Policy, case: Case) -> bool:
    def found() -> Iterator[Found]:
        for sign in check.signs:
            yield from _sign_found(sign, words, check, policy, case)
        for pattern in check.patterns or ():
            yield from _pattern_found(pattern, words)

    contexts = policy.contexts
    for place in found():
        if any(holds(contexts[name], words, place, case) for name in check.unless):
            continue
        if not check.only_with or any(holds(contexts[name], words, place, case) for name in check.only_with):
            return True
    return False


def score_of(check: Check, words: Words, policy: Policy, case: Case) -> float:
    """The points of a scored rule; a meaning counts once, and only where it is not denied."""
    assert check.score is not None
    total = 0.0
    for name, points in check.score.points.items():
        if name.startswith("@"):
            spans = sorted((start, min(ends)) for start, ends in words.spans.get(name, {}).items())
            counts = _has_unexcused(iter(spans), words, check, policy, case)
        else:
            counts = holds(policy.contexts[name], words, whole(words), case)
        total += points if counts else 0.0
    return total


def _hits(
    checks: Iterable[Check], words: Words, policy: Policy, case: Case, given: Mapping[str, float] | None
) -> Iterator[RailHit]:
    learned = Learned(case, policy.contexts) if given is None else given
    for check in checks:
        if any(name in learned and learned[name] < least for name, least in check.doubted_below.items()):
            continue
        detail: str | None = None
        if check.judge:
            detail = JUDGES[check.judge](case)
        elif (
            _fires(check, words, policy, case)
            or (check.score and score_of(check, words, policy, case) >= check.score.at_least)
            or any(name in learned and learned[name] >= least for name, least in check.learned.items())
        ):
            detail = ""
        if detail is not None:
            why = f"{check.why} ({detail})" if detail else check.why
            yield RailHit(check.id, check.severity, check.action, why, check.say)


def input_rail(text: str, policy: Policy, learned: Mapping[str, float] | None = None) -> tuple[RailHit, ...]:
    """Every check that a question sets off, in the policy's order; nothing is generated after a withhold or refer.

    Args:
        text: the question as it was typed.
        policy: the rules.
        learned: the learned scores, where they are known from elsewhere (a check of the fit); else they are worked out.
    """
    plain = normalise(text)
    if not any(character.isalnum() for character in plain):
        return (RailHit("question.empty", "low", "withhold", "there is no question in it"),)
    hits: list[RailHit] = []
    for reading, hidden in other_readings(text, plain):
        words = policy.lexicon.read(reading, repair=True)
        case = Case(text, words, None, policy.limits.max_phrase_repeats)
        checks = [
            check for check in policy.input if not hidden or check.id.startswith(("emergency.", "injection.", "harm."))
        ]
        hits += [
            hit for hit in _hits(checks, words, policy, case, learned) if hit.rule not in {one.rule for one in hits}
        ]
    limit = policy.limits.max_question_characters
    if len(plain) > limit:
        hits.append(RailHit("question.too_long", "low", "withhold", f"the question is longer than {limit} characters"))
    return tuple(hits)


def output_rail(
    text: str, policy: Policy, question: str | None = None, learned: Mapping[str, float] | None = None
) -> tuple[RailHit, ...]:
    """Every check that an answer sets off, in the policy's order.

    Args:
        text: the answer, without disclaimer.
        policy: the rules.
        question: what was asked, where it is known; some checks need it.
        learned: the learned scores, as for ``input_rail``.
    """
    words = policy.lexicon.read(normalise(text))
    asked = None if question is None else policy.lexicon.read(normalise(question), repair=True)
    case = Case(text, words, asked, policy.limits.max_phrase_repeats)
    if not words.tokens or not any(character.isalpha() for character in words.plain):
        checks = [check for check in policy.output if check.id.startswith("text.")]
        return tuple(_hits(checks, words, policy, case, learned))
    return tuple(_hits(policy.output, words, policy, case, learned))

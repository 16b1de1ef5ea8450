"""The whole decision about one answer: rails, confidence, disclaimer. rails, confidence -> HERE -> assistant."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from fedmed.config.schema import SafetySection
from fedmed.safety.checks.identifiers import redact
from fedmed.safety.policy import Action, Policy
from fedmed.safety.policy_file import load_policy
from fedmed.safety.rails import RailHit, input_rail, output_rail

_GRAVITY: tuple[Action, ...] = ("allow", "annotate", "rewrite", "withhold", "refer")
SHOWN: tuple[Action, ...] = ("allow", "annotate", "rewrite")
_ASK_A_PERSON = "Please ask a doctor, nurse or pharmacist, who can look at the whole picture."


class Verdict(NamedTuple):
    """What the output rail says of one text. Unpacks into ``is_safe, reason``."""

    is_safe: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Decision:
    """Everything decided about one question and its answer."""

    allowed: bool
    action: Action  # the gravest of the hits
    hits: tuple[RailHit, ...]
    confidence: float | None  # as stated to people, at most safety.max_confidence
    raw_confidence: float | None  # as it was measured
    text: str  # what the person is to see, without disclaimer
    reasons: tuple[str, ...]  # one "rule: why" a hit


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{name} must be text (str), not {type(value).__name__}")
    return value


def without(response: str, disclaimer: str) -> str:
    """An answer without the disclaimer, however it is cased and spaced."""
    words = disclaimer.split()
    if not words:
        return response
    pattern = r"[\s*_]*".join(re.escape(word) for word in words)
    return re.sub(pattern, " ", response, flags=re.IGNORECASE)


def gravest(hits: Sequence[RailHit]) -> Action:
    """The action that follows from several hits together."""
    return max((hit.action for hit in hits), key=_GRAVITY.index, default="allow")


def _verdict(hits: Sequence[RailHit]) -> Verdict:
    if not hits:
        return Verdict(True, "no rule fired")
    return Verdict(gravest(hits) in SHOWN, "; ".join(map(str, hits)))


class MedicalGuardrails:
    """The checks that every answer passes before a person sees it.

    Args:
        config: thresholds, disclaimer and policy file; the defaults where None.

    Raises:
        SafetyPolicyError: the policy file cannot be used.
    """

    def __init__(self, config: SafetySection | None = None) -> None:
        self.config = config if config is not None else SafetySection()
        self.policy: Policy = load_policy(self.config.policy)
        self._output_rules = frozenset(check.id for check in self.policy.output)

    def check_response(self, response: str) -> Verdict:
        """Whether an answer may be shown. A disclaimer in it counts for nothing.

        Args:
            response: the answer, with or without disclaimer.

        Returns:
            ``is_safe, reason``; the reason names every rule that fired, or says that none did.

        Raises:
            TypeError: ``response`` is not text.
        """
        return _verdict(self._output_hits(_text(response, "response")))

    def check_question(self, question: str) -> Verdict:
        """Whether a question may go to the model; otherwise it is answered at once. Raises TypeError."""
        return _verdict(input_rail(_text(question, "question"), self.policy))

    def answer_without_model(self, question: str) -> Decision | None:
        """The decision on a question that must not reach the model (an emergency, for one); None for all others.

        Raises:
            TypeError: ``question`` is not text.
        """
        hits = input_rail(_text(question, "question"), self.policy)
        if gravest(hits) in SHOWN:
            return None
        return self._decide(hits, None, None, "")

    def assess_question(self, question: str) -> Decision:
        """The decision on a question alone; its text is what a model may read, or what the person reads instead.

        Raises:
            TypeError: ``question`` is not text.
        """
        hits = input_rail(_text(question, "question"), self.policy)
        shown = redact(question) if any(hit.action == "rewrite" for hit in hits) else question
        return self._decide(hits, None, None, shown)

    def assess(
        self, question: str, response: str, confidence: float | None, *, notes: Sequence[RailHit] = ()
    ) -> Decision:
        """Decide what a person sees for ``question``, given what the model wrote.

        Args:
            question: as it was asked.
            response: the model's answer.
            confidence: uncapped, in [0, 1]; None where there is none, and then no threshold applies.
            notes: hits known from elsewhere, such as an answer cut off at the length limit.

        Returns:
            The decision. Its text is the answer, or a kind explanation, or what to do now.

        Raises:
            TypeError: question or response is not text. ValueError: confidence outside [0, 1].
        """
        _text(response, "response")
        hits = [*input_rail(_text(question, "question"), self.policy), *self._output_hits(response, question), *notes]
        stated = confidence
        if confidence is not None:
            if math.isnan(confidence) or not 0.0 <= confidence <= 1.0:
                raise ValueError(f"confidence must lie in [0, 1], not {confidence}")
            low, high = self.config.min_confidence, self.config.max_confidence
            stated = min(confidence, high)
            if confidence < low:
                why = f"the model is too unsure of this answer ({confidence:.2f}, at least {low:.2f} is needed)"
                hits.append(RailHit("confidence.low", "medium", "withhold", why))
            elif confidence > high:
                why = f"stated as {high:.2f}, although the model's own figure is {confidence:.2f}"
                hits.append(RailHit("confidence.capped", "low", "annotate", why))
        return self._decide(hits, stated, confidence, response.strip())

    def add_disclaimer(self, response: str) -> str:
        """The answer followed by the disclaimer, once, however often this is called.

        Raises:
            TypeError: ``response`` is not text.
        """
        disclaimer = self.config.disclaimer.strip()
        if disclaimer in _text(response, "response"):
            return response
        return f"{response.rstrip()}\n\n{disclaimer}"

    def question_for_model(self, question: str) -> str:
        """The question as a model may read it: without identifiers, where the policy takes them out."""
        hits = input_rail(_text(question, "question"), self.policy)
        return redact(question) if any(hit.action == "rewrite" for hit in hits) else question

    def _output_hits(self, response: str, question: str | None = None) -> tuple[RailHit, ...]:
        """The output rail on the answer alone: words of the disclaimer neither excuse nor accuse it."""
        return output_rail(without(response, self.config.disclaimer), self.policy, question)

    def _decide(self, hits: Sequence[RailHit], stated: float | None, raw: float | None, response: str) -> Decision:
        action = gravest(hits)
        if action == "refer":
            text = "\n\n".join(dict.fromkeys(hit.say for hit in hits if hit.action == "refer"))
        elif action == "withhold":
            text = _explain([hit for hit in hits if hit.action == "withhold"])
        else:
            text = (
                redact(response)
                if any(hit.action == "rewrite" and hit.rule in self._output_rules for hit in hits)
                else response
            )
        reasons = tuple(map(str, hits))
        return Decision(action in SHOWN, action, tuple(hits), stated, raw, text, reasons)


def _explain(hits: Sequence[RailHit]) -> str:
    """Why nothing is shown, in words that help the reader on."""
    said = [hit.say for hit in hits if hit.say]
    if said:
        return "\n\n".join(dict.fromkeys(said))
    why = "; ".join(dict.fromkeys(hit.why for hit in hits))
    if all(hit.rule.startswith(("question.", "injection.")) for hit in hits):
        return f"I cannot answer this question: {why}. Please ask it again as a plain medical question."
    return f"I would rather not give an answer here: {why}. {_ASK_A_PERSON}"

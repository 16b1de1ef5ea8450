"""From questions to guarded answers, whoever writes them. guardrails -> HERE -> assistant, serving.

The writer is given the questions that may reach a model, as a model may read them, and nothing else.
Not covered: conversation (each question stands alone).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from fedmed.config.schema import SafetySection
from fedmed.safety.guardrails import Decision, MedicalGuardrails
from fedmed.safety.rails import RailHit
from fedmed.types import Answer

WITHHELD_MARK = "[WITHHELD TEXT, for professionals only: the guardrails did not let it pass]"

_CUT_OFF = RailHit("text.cut_off", "low", "annotate", "the answer stops at the length limit, before its end")
_NO_FIGURE = RailHit("confidence.unknown", "low", "annotate", "the model's server gave no probabilities of its words")


@dataclass(frozen=True, slots=True)
class Written:
    """What a model wrote for one question, unchecked."""

    text: str
    confidence: float | None  # in [0, 1]; None where whoever wrote it gives nothing to judge by
    calibrated: bool  # whether that is a chance measured on held-out answers
    finished: bool  # it was not cut off at the length limit
    prompt_tokens: int
    answer_tokens: int


Write = Callable[[Mapping[int, str]], Sequence[Written]]
"""Writes one text for each question, in their order; each comes with its place among all that were asked."""


def answer_guarded(
    questions: Sequence[str],
    write: Write,
    *,
    guardrails: MedicalGuardrails,
    model_name: str,
    run: str | None,
    show_withheld: bool = False,
) -> list[Answer]:
    """Answer questions, in their order; those that may reach a model are written together, the others at once.

    Args:
        questions: plain text.
        write: asks the model.
        guardrails: the rails, thresholds and the disclaimer.
        model_name: how answers name the model.
        run: name of the run that made the adapter; None where there is none.
        show_withheld: append a withheld text, marked as such; for professionals.

    Raises:
        TypeError: a question is not text. What ``write`` raises.
    """
    decisions = [guardrails.answer_without_model(question) for question in questions]
    open_ones = [index for index, decision in enumerate(decisions) if decision is None]
    made = write({index: guardrails.question_for_model(questions[index]) for index in open_ones}) if open_ones else ()
    written = dict(zip(open_ones, made, strict=True))
    return [
        as_answer(decision, guardrails.config, model_name, run)
        if decision is not None
        else _judged(questions[index], written[index], guardrails, model_name, run, show_withheld)
        for index, decision in enumerate(decisions)
    ]


def _judged(
    question: str, written: Written, guardrails: MedicalGuardrails, model_name: str, run: str | None, show: bool
) -> Answer:
    notes = [] if written.finished else [_CUT_OFF]
    if written.confidence is None:
        notes.append(_NO_FIGURE)
    decision = guardrails.assess(question, written.text, written.confidence, notes=notes)
    return as_answer(decision, guardrails.config, model_name, run, written, show_withheld=show)


def as_answer(
    decision: Decision,
    safety: SafetySection,
    model_name: str,
    run: str | None,
    written: Written | None = None,
    *,
    show_withheld: bool = False,
) -> Answer:
    """A decision as a person gets to see it; ``written`` is what was decided about, None where no model was asked."""
    text = decision.text
    if show_withheld and written is not None and written.text and not decision.allowed:
        text = f"{text}\n\n{WITHHELD_MARK}\n{written.text.strip()}"
    return Answer(
        answer=text,
        allowed=decision.allowed,
        reasons=decision.reasons,
        confidence=decision.confidence,
        disclaimer=safety.disclaimer,
        model=model_name,
        run=run,
        raw_confidence=decision.raw_confidence,
        calibrated=written is not None and written.calibrated and decision.raw_confidence is not None,
        action=decision.action,
        cut_off=written is not None and not written.finished,
        prompt_tokens=written.prompt_tokens if written is not None else 0,
        answer_tokens=written.answer_tokens if written is not None else 0,
    )

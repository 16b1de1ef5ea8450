"""A question as the server keeps it, and an answer as a client reads it. messages -> HERE -> queue, stream, api.

Whoever answers (``models``, ``upstream``) does so through ``fedmed.safety`` and hands back its ``Answer``.
Not covered: conversation. Only the last message is judged and answered; an answer says so where there were others.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from fedmed.config.schema import GenerationSection
from fedmed.serving.messages import ChatRequest
from fedmed.types import Answer


@dataclass(frozen=True, slots=True)
class Question:
    """One question on its way to a model; ``None``: as the model's settings say."""

    text: str
    model: str
    temperature: float | None = None
    top_p: float | None = None
    most_tokens: int | None = None
    seed: int = field(default_factory=lambda: secrets.randbits(62))
    unread: int = 0  # messages before it, which nobody reads

    @classmethod
    def of(cls, request: ChatRequest) -> Question:
        given = {} if request.seed is None else {"seed": request.seed}
        return cls(
            text=request.question,
            model=request.model,
            temperature=request.temperature,
            top_p=request.top_p,
            most_tokens=request.most_tokens,
            unread=request.unread,
            **given,
        )

    @property
    def group(self) -> tuple[Any, ...]:
        """Questions of one group can be written in one pass."""
        return self.model, self.temperature, self.top_p, self.most_tokens

    def generation(self, settings: GenerationSection) -> GenerationSection:
        """How its answer is written; a client may ask for less text than the settings allow, never for more."""
        changed: dict[str, Any] = {}
        if self.temperature is not None:
            changed["temperature"] = self.temperature
        if self.top_p is not None:
            changed["top_p"] = self.top_p
        if self.most_tokens is not None:
            changed["max_new_tokens"] = min(self.most_tokens, settings.max_new_tokens)
        return settings.model_copy(update=changed)


class Answerer(Protocol):
    """Turns questions into guarded answers."""

    def models(self) -> list[str]:
        """The names that a client may ask for, the one meant by default first. Raises FedMedError."""
        ...

    def check(self, model: str) -> None:
        """Raises ApiError (404) where no model has this name."""
        ...

    def load(self) -> None:
        """Get ready; what stands in the way is known before anybody asks. Raises FedMedError."""
        ...

    def at_once(self, question: Question) -> Answer | None:
        """The answer that needs no model, such as what to do in an emergency; None for all others."""
        ...

    def answer(self, questions: Sequence[Question]) -> list[Answer]:
        """Answers to questions of one group, in their order. Raises FedMedError."""
        ...


def with_notes(answer: Answer, question: Question) -> Answer:
    """The answer, which says what of the request was not read."""
    if not question.unread:
        return answer
    before = "the message before it was" if question.unread == 1 else f"the {question.unread} messages before it were"
    note = f"conversation.unread: each question stands alone; {before} not read"
    return replace(answer, reasons=(*answer.reasons, note))


def shown_text(answer: Answer) -> str:
    """What a person reads: the answer, and under it the disclaimer, once."""
    disclaimer = answer.disclaimer.strip()
    if not disclaimer or disclaimer in answer.answer:
        return answer.answer
    return f"{answer.answer.rstrip()}\n\n{disclaimer}"


def finish_reason(answer: Answer) -> str:
    """``content_filter``: a text was withheld. What to do in an emergency is no such thing and must not be hidden."""
    if answer.action == "withhold":
        return "content_filter"
    return "length" if answer.cut_off and answer.allowed else "stop"


def details(answer: Answer) -> dict[str, Any]:
    """What OpenAI's protocol has no place for; stands in a reply as ``fedmed``."""
    return {
        "allowed": answer.allowed,
        "action": answer.action,
        "confidence": answer.confidence,
        "calibrated": answer.calibrated,
        "reasons": list(answer.reasons),
        "disclaimer": answer.disclaimer,
        "model": answer.model,
        "run": answer.run,
    }


def usage(answer: Answer) -> dict[str, int]:
    return {
        "prompt_tokens": answer.prompt_tokens,
        "completion_tokens": answer.answer_tokens,
        "total_tokens": answer.prompt_tokens + answer.answer_tokens,
    }


def new_id() -> str:
    return f"chatcmpl-{secrets.token_hex(12)}"


def completion(id: str, model: str, answer: Answer) -> dict[str, Any]:
    """The whole reply to a request that does not stream."""
    message = {"role": "assistant", "content": shown_text(answer), "refusal": None}
    return {
        "id": id,
        "object": "chat.completion",
        "created": int(time.time()),
        "model": model,
        "choices": [{"index": 0, "message": message, "finish_reason": finish_reason(answer), "logprobs": None}],
        "usage": usage(answer),
        "fedmed": details(answer),
    }

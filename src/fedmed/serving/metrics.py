"""What the server does, in numbers, for Prometheus. api, queue -> HERE.

Each application has a registry of its own. No label holds anything that a client wrote: models are those that there
are, rules those of the policy.
Not covered: several processes behind one address.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from fedmed.types import Answer

CONTENT_TYPE = CONTENT_TYPE_LATEST
_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320)


class Metrics:
    """Counts; see the help of each."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self._requests = Counter(
            "fedmed_requests", "Requests for an answer, by HTTP status.", ["status"], registry=registry
        )
        self._answers = Counter(
            "fedmed_answers", "Answers given, by model and what the rails did.", ["model", "action"], registry=registry
        )
        self._rules = Counter("fedmed_rail_hits", "Rules that fired.", ["rule"], registry=registry)
        self._tokens = Counter("fedmed_tokens", "Tokens read and written.", ["kind"], registry=registry)
        self._seconds = Histogram(
            "fedmed_answer_seconds", "From a question's arrival to its answer.", buckets=_SECONDS, registry=registry
        )
        self._batch = Histogram(
            "fedmed_pass_questions", "Questions in one pass.", buckets=(1, 2, 4, 8, 12, 16), registry=registry
        )
        self._pass_seconds = Histogram(
            "fedmed_pass_seconds", "One pass of the model.", buckets=_SECONDS, registry=registry
        )
        self.waiting = Gauge("fedmed_waiting", "Questions that wait.", registry=registry)
        self._gone = Counter("fedmed_clients_gone", "Clients that left before their answer.", registry=registry)

    def request(self, status: int) -> None:
        self._requests.labels(str(status)).inc()

    def answer(self, model: str, answer: Answer, seconds: float) -> None:
        self._answers.labels(model, answer.action).inc()
        for rule in rules_of(answer):
            self._rules.labels(rule).inc()
        self._tokens.labels("prompt").inc(answer.prompt_tokens)
        self._tokens.labels("answer").inc(answer.answer_tokens)
        self._seconds.observe(seconds)

    def answered(self, questions: int, seconds: float) -> None:
        """One pass is over."""
        self._batch.observe(questions)
        self._pass_seconds.observe(seconds)

    def client_gone(self) -> None:
        self._gone.inc()

    def text(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self.registry)


def rules_of(answer: Answer) -> list[str]:
    """The rules that fired, without their reasons, which can hold words of the text."""
    return [reason.partition(":")[0] for reason in answer.reasons]

"""A question from its arrival to its recorded answer, whoever asks: queue, time limit, audit, metrics.

queue, audit -> HERE -> api, demo. Answered at once where no model is needed, also when the queue is full.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TypeVar

from fedmed.errors import FedMedError, UpstreamError
from fedmed.serving.answers import Answerer, Question, with_notes
from fedmed.serving.audit import AnswerAudit
from fedmed.serving.limits import ApiKeys, Rate
from fedmed.serving.messages import ApiError
from fedmed.serving.metrics import Metrics
from fedmed.serving.queue import BATCH, AnswerQueue
from fedmed.serving.stream import KEEP_ALIVE
from fedmed.types import Answer
from fedmed.utils.logger import get_logger

Result = TypeVar("Result")

log = get_logger(__name__)

LOCAL_HOSTS = ("127.0.0.1", "localhost", "[::1]")
"""Names by which this machine's own programs call the server."""


@dataclass(frozen=True, slots=True)
class ServeSettings:
    """What a hospital decides about its server."""

    audit: AnswerAudit
    keys: ApiKeys | None = None  # None: everybody who reaches the server may ask
    hosts: tuple[str, ...] = LOCAL_HOSTS  # names it may be called by; empty: any
    rate: int = 300  # questions a minute for each key; 0: no limit
    queue_size: int = 64  # questions that may wait
    batch: int = BATCH  # questions of one pass
    workers: int = 1  # passes at a time
    most_bytes: int = 256 * 1024  # of a request's body
    body_seconds: float = 30.0  # for a request's body to come
    answer_seconds: float = 300.0  # from a question to its answer
    drain_seconds: float = 600.0  # for accepted questions when the server goes down
    keep_alive: float = KEEP_ALIVE  # seconds between signs of life in a stream


class Desk:
    """Takes questions and hands out answers that have been recorded.

    Args:
        answerer: whose answers they are.
        settings: limits, keys and the audit.
    """

    def __init__(self, answerer: Answerer, settings: ServeSettings) -> None:
        self.answerer, self.settings = answerer, settings
        self.metrics = Metrics()
        self.rate = Rate(settings.rate)
        self.queue = AnswerQueue(
            answerer.answer,
            size=settings.queue_size,
            batch=settings.batch,
            workers=settings.workers,
            answered=self.metrics.answered,
        )
        self.metrics.waiting.set_function(lambda: self.queue.waiting)
        self._accepted: set[asyncio.Task[Answer]] = set()

    @property
    def busy(self) -> bool:
        """Whether somebody waits for an answer."""
        return bool(self._accepted)

    async def models(self) -> list[str]:
        """The names that may be asked for. Raises ApiError."""
        return await in_thread(self.answerer.models)

    async def check(self, model: str) -> None:
        """Raises ApiError (404) where no model has this name."""
        await in_thread(lambda: self.answerer.check(model))

    async def accept(self, id: str, asker: str, question: Question) -> asyncio.Task[Answer]:
        """Take a question.

        Args:
            id: of the reply, for the audit.
            asker: whose key it came with.
            question: to a model that there is.

        Returns:
            What becomes the recorded answer, or fails with an ApiError; cancelling it takes the question out of the
            queue where it still waits.

        Raises:
            ApiError: 429 when the queue is full, 503 when the server is going down.
        """
        started = time.monotonic()
        future = await self._begin(question)

        async def finish() -> Answer:
            answer = await self._within_time(future, question)
            await self._record(id, asker, question, answer, time.monotonic() - started)
            return answer

        task = asyncio.ensure_future(finish())
        self._accepted.add(task)

        def over(done: asyncio.Task[Answer]) -> None:
            self._accepted.discard(done)
            future.cancel()  # out of the queue, also where the task was cancelled before it began to wait
            if not done.cancelled():
                done.exception()  # seen, also where nobody waits any more

        task.add_done_callback(over)
        return task

    async def _begin(self, question: Question) -> Future[Answer]:
        at_once = await in_thread(lambda: self.answerer.at_once(question))
        if at_once is None:
            return self.queue.submit(question)
        done: Future[Answer] = Future()
        done.set_result(at_once)
        return done

    async def _within_time(self, future: Future[Answer], question: Question) -> Answer:
        seconds = self.settings.answer_seconds
        try:
            return with_notes(await asyncio.wait_for(asyncio.wrap_future(future), seconds), question)
        except TimeoutError:
            why = f"the answer was not ready within {seconds:g} s: ask again later"
            raise ApiError(504, why, "answer_too_slow", retry_after=30) from None

    async def _record(self, id: str, asker: str, question: Question, answer: Answer, seconds: float) -> None:
        try:
            await asyncio.to_thread(self.settings.audit.write, id, asker, question, answer, seconds)
        except FedMedError as error:
            log.error("an answer was not given: %s", error)
            why = "the answer could not be recorded and is not given: see the server's log"
            raise ApiError(503, why, "audit_failed") from error
        self.metrics.answer(question.model, answer, seconds)


async def in_thread(call: Callable[[], Result]) -> Result:
    """Off the event loop, its errors as a client may know them. Raises ApiError."""
    try:
        return await asyncio.to_thread(call)
    except UpstreamError as error:
        log.warning("%s", error)
        why = "the server behind this one gave no answer: ask again later"
        raise ApiError(502, why, "upstream_failed", retry_after=10) from error
    except FedMedError as error:
        log.warning("%s", error)
        raise ApiError(500, "the model cannot be used: see the server's log", "model_failed") from error

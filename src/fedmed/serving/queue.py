"""A bounded queue in front of a model: questions that wait together are answered together. answers -> HERE -> api.

One worker thread answers up to ``batch`` questions of one group in one pass; a question that comes meanwhile waits for
the next. A client that goes away takes its question out of the queue; one that is being written is written to its end.
Not covered: joining a pass that has begun, fairness among clients beyond first come, first served.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from fedmed.errors import DataError, FedMedError, UpstreamError
from fedmed.serving.answers import Question
from fedmed.serving.messages import ApiError
from fedmed.types import Answer
from fedmed.utils.logger import get_logger

log = get_logger(__name__)

BATCH = 16
"""Questions of one pass; ``model.inference`` takes as many."""

GATHER_SHARE = 0.01  # of the last pass's time: without a new question for so long, a pass begins
SHORTEST_GATHER, LONGEST_GATHER = 0.005, 0.05  # seconds
GATHERS = 5  # as long as that its first question waits at most


@dataclass(slots=True)
class _Job:
    question: Question
    future: Future[Answer] = field(default_factory=Future)


class AnswerQueue:
    """Questions in, answers out, in threads of its own.

    Args:
        answer: answers questions of one group, in their order.
        size: questions that may wait; more are refused.
        batch: questions of one pass, at most.
        workers: passes at a time; 1 where they share one model.
        answered: told of every pass: how many questions, and its seconds.
    """

    def __init__(
        self,
        answer: Callable[[Sequence[Question]], list[Answer]],
        *,
        size: int = 64,
        batch: int = BATCH,
        workers: int = 1,
        answered: Callable[[int, float], None] = lambda questions, seconds: None,
    ) -> None:
        self._answer, self._size, self._batch, self._answered = answer, size, batch, answered
        self._waiting: deque[_Job] = deque()
        self._change = threading.Condition()
        self._closed = False
        self._gather_for = SHORTEST_GATHER
        self._threads = [
            threading.Thread(target=self._work, name=f"answers-{number}", daemon=True) for number in range(workers)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def waiting(self) -> int:
        """Questions that wait, those of clients who have gone left out."""
        with self._change:
            self._drop_cancelled()
            return len(self._waiting)

    @property
    def closed(self) -> bool:
        return self._closed

    def submit(self, question: Question) -> Future[Answer]:
        """Put a question at the end.

        Returns:
            What becomes the answer, or fails with an ApiError; cancelling it takes the question out.

        Raises:
            ApiError: 429 when the queue is full, 503 when the server is going down.
        """
        job = _Job(question)
        with self._change:
            if self._closed:
                raise ApiError(503, "the server is going down: ask again later", "shutting_down", retry_after=10)
            if len(self._waiting) >= self._size:
                self._drop_cancelled()
            if len(self._waiting) >= self._size:
                raise ApiError(429, "too many questions are waiting: ask again later", "queue_full", retry_after=5)
            self._waiting.append(job)
            self._change.notify()
        return job.future

    def drain(self, seconds: float | None = None) -> bool:
        """Take no more questions, answer those that wait, and end.

        Args:
            seconds: how long to wait for that; None: as long as it takes.

        Returns:
            Whether all were answered; what is left after ``seconds`` fails with an ApiError.
        """
        with self._change:
            self._closed = True
            self._change.notify_all()
        end = None if seconds is None else time.monotonic() + seconds
        for thread in self._threads:
            thread.join(None if end is None else max(0.0, end - time.monotonic()))
        with self._change:
            left = [job for job in self._waiting if not job.future.cancelled()]
            self._waiting.clear()
        for job in left:
            if job.future.set_running_or_notify_cancel():
                job.future.set_exception(ApiError(503, "the server went down before its turn came", "shutting_down"))
        return not left and not any(thread.is_alive() for thread in self._threads)

    def _drop_cancelled(self) -> None:
        self._waiting = deque(job for job in self._waiting if not job.future.cancelled())

    def _work(self) -> None:
        while jobs := self._next():
            started = time.monotonic()
            self._do(jobs)
            seconds = time.monotonic() - started
            self._gather_for = min(max(GATHER_SHARE * seconds, SHORTEST_GATHER), LONGEST_GATHER)
            self._answered(len(jobs), seconds)

    def _next(self) -> list[_Job]:
        """The oldest question with those of its group, begun; none when the queue is closed and empty."""
        while True:
            with self._change:
                while not self._waiting and not self._closed:
                    self._change.wait()
                if not self._waiting:
                    return []
                if self._batch > 1 and len(self._waiting) < self._batch and not self._closed:
                    self._gather()
                taken: list[_Job] = []
                kept: deque[_Job] = deque()
                for job in self._waiting:
                    fits = len(taken) < self._batch and (not taken or job.question.group == taken[0].question.group)
                    if not fits:
                        kept.append(job)
                    elif job.future.set_running_or_notify_cancel():
                        taken.append(job)
                self._waiting = kept
            if taken:
                return taken

    def _gather(self) -> None:
        """Wait a moment for more, letting go of the lock.

        Clients of the last pass ask again one after another, each when its answer has been recorded and sent. A pass
        that begins between them leaves the rest to the next one, and that takes nearly as long for few as for many.
        """
        end = time.monotonic() + GATHERS * self._gather_for
        while len(self._waiting) < self._batch and (left := end - time.monotonic()) > 0:
            if not self._change.wait(min(self._gather_for, left)):
                return

    def _do(self, jobs: list[_Job]) -> None:
        try:
            answers = self._answer([job.question for job in jobs])
            if len(answers) != len(jobs):
                raise RuntimeError(f"{len(answers)} answers to {len(jobs)} questions")
        except Exception as error:  # noqa: BLE001  (whatever it is, the others' answers and the worker outlive it)
            if len(jobs) > 1:  # one question must not cost the others their answers
                for job in jobs:
                    self._do([job])
            else:
                jobs[0].future.set_exception(_as_api_error(error))
            return
        for job, answer in zip(jobs, answers, strict=True):
            job.future.set_result(answer)


def _as_api_error(error: Exception) -> ApiError:
    """What a client may know; the rest is in the log, which holds no text of a question."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, DataError):  # the question itself cannot be used, as one that is too long for the model
        return ApiError(400, str(error), "not_answerable")
    if isinstance(error, FedMedError):
        log.warning("a question was not answered: %s", error)
        if isinstance(error, UpstreamError):
            return ApiError(502, "the server behind this one gave no answer: ask again later", "upstream_failed")
        return ApiError(500, "the model could not answer: see the server's log", "model_failed")
    log.error("a question was not answered: a fault in FED-MED (%s)", type(error).__name__, exc_info=error)
    return ApiError(500, "the question could not be answered: see the server's log", "fault")

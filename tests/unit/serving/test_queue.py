"""Questions that wait together are answered together, none is lost, and none waits without end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence

import pytest

from fedmed.errors import DataFormatError, ModelError, UpstreamError
from fedmed.serving.answers import Question
from fedmed.serving.messages import ApiError
from fedmed.serving.queue import AnswerQueue
from fedmed.types import Answer

pytestmark = pytest.mark.unit


def said(question: Question) -> Answer:
    return Answer(f"About {question.text}", True, (), 0.6, "No advice.", question.model, None)


class Model:
    def __init__(self) -> None:
        self.passes: list[list[str]] = []
        self.go, self.begun = threading.Event(), threading.Semaphore(0)
        self.go.set()
        self.fails: dict[str, Exception] = {}

    def answer(self, questions: Sequence[Question]) -> list[Answer]:
        self.passes.append([question.text for question in questions])
        self.begun.release()
        assert self.go.wait(30)
        for question in questions:
            if question.text in self.fails:
                raise self.fails[question.text]
        return [said(question) for question in questions]


@pytest.fixture
def model() -> Model:
    return Model()


@pytest.fixture
def queue_of(model: Model) -> Iterator[Callable[..., AnswerQueue]]:
    made: list[AnswerQueue] = []

    def make(**settings: int) -> AnswerQueue:
        made.append(AnswerQueue(model.answer, **settings))
        return made[-1]

    yield make
    model.go.set()
    for queue in made:
        queue.drain(10)


def hold(queue: AnswerQueue, model: Model) -> None:
    """Keep the worker busy with a first question."""
    model.go.clear()
    queue.submit(Question("the first", "a"))
    assert model.begun.acquire(timeout=10)


def test_questions_that_wait_are_answered_in_one_pass_in_their_order(
    model: Model, queue_of: Callable[..., AnswerQueue]
) -> None:
    queue = queue_of()
    hold(queue, model)
    futures = [queue.submit(Question(str(number), "a")) for number in range(8)]
    assert queue.waiting == 8
    model.go.set()
    assert [future.result(10).answer for future in futures] == [f"About {number}" for number in range(8)]
    assert model.passes[1] == [str(number) for number in range(8)]


def test_after_a_long_pass_clients_that_ask_again_one_after_another_share_the_next(
    model: Model, queue_of: Callable[..., AnswerQueue], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedmed.serving.queue.GATHER_SHARE", 1.0)
    monkeypatch.setattr("fedmed.serving.queue.LONGEST_GATHER", 5.0)
    queue = queue_of()
    hold(queue, model)
    time.sleep(1.0)  # so long the next pass waits for one more
    model.go.set()
    futures = []
    for number in range(4):
        time.sleep(0.1)
        futures.append(queue.submit(Question(str(number), "a")))
    for future in futures:
        future.result(30)
    assert model.passes == [["the first"], ["0", "1", "2", "3"]]


def test_a_pass_holds_no_more_than_its_size_and_one_group_only(
    model: Model, queue_of: Callable[..., AnswerQueue]
) -> None:
    queue = queue_of(batch=2)
    hold(queue, model)
    questions = [Question("1", "a"), Question("2", "b"), Question("3", "a"), Question("4", "a"), Question("5", "b")]
    futures = [queue.submit(question) for question in questions]
    model.go.set()
    for future in futures:
        future.result(10)
    assert model.passes[1:] == [["1", "3"], ["2", "5"], ["4"]]


def test_questions_written_differently_do_not_share_a_pass() -> None:
    plain = Question("x", "a")
    assert plain.group == Question("y", "a", seed=4).group
    assert len({plain.group, Question("x", "a", temperature=0.5).group, Question("x", "a", most_tokens=3).group}) == 3


def test_a_full_queue_refuses(model: Model, queue_of: Callable[..., AnswerQueue]) -> None:
    queue = queue_of(size=2)
    hold(queue, model)
    waiting = [queue.submit(Question(name, "a")) for name in "12"]
    with pytest.raises(ApiError, match="too many") as caught:
        queue.submit(Question("3", "a"))
    assert (caught.value.status, caught.value.retry_after) == (429, 5)
    assert waiting[0].cancel()  # a client that left makes room
    queue.submit(Question("3", "a"))


def test_a_client_that_left_is_not_answered(model: Model, queue_of: Callable[..., AnswerQueue]) -> None:
    queue = queue_of()
    hold(queue, model)
    left, stayed = queue.submit(Question("left", "a")), queue.submit(Question("stayed", "a"))
    assert left.cancel()
    assert queue.waiting == 1
    model.go.set()
    assert stayed.result(10).answer == "About stayed"
    assert model.passes[1:] == [["stayed"]]


def test_one_bad_question_costs_no_other_its_answer(model: Model, queue_of: Callable[..., AnswerQueue]) -> None:
    queue = queue_of()
    model.fails["long"] = DataFormatError("the prompt has 900 tokens", "shorten the question")
    hold(queue, model)
    futures = [queue.submit(Question(name, "a")) for name in ("1", "long", "3")]
    model.go.set()
    assert [futures[place].result(10).answer for place in (0, 2)] == ["About 1", "About 3"]
    error = futures[1].exception(10)
    assert isinstance(error, ApiError)
    assert (error.status, error.code) == (400, "not_answerable")


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ModelError("secret path /x", "do"), 500), (UpstreamError("secret http://x", "do"), 502),
        (ZeroDivisionError("secret"), 500), (ApiError(418, "tea", "tea"), 418),
    ],
)  # fmt: skip
def test_a_failing_model_fails_the_question_and_not_the_worker(
    model: Model, queue_of: Callable[..., AnswerQueue], error: Exception, status: int
) -> None:
    queue = queue_of()
    model.fails["bad"] = error
    failed = queue.submit(Question("bad", "a")).exception(10)
    assert isinstance(failed, ApiError)
    assert failed.status == status
    assert "secret" not in failed.message
    assert queue.submit(Question("good", "a")).result(10).answer == "About good"


def test_draining_answers_all_that_was_accepted_and_takes_no_more(
    model: Model, queue_of: Callable[..., AnswerQueue]
) -> None:
    queue = queue_of(batch=1)
    hold(queue, model)
    futures = [queue.submit(Question(str(number), "a")) for number in range(5)]
    drained: list[bool] = []
    thread = threading.Thread(target=lambda: drained.append(queue.drain(20)))
    thread.start()
    while not queue.closed:
        time.sleep(0.001)
    with pytest.raises(ApiError, match="going down") as caught:
        queue.submit(Question("late", "a"))
    assert caught.value.status == 503
    model.go.set()
    thread.join(20)
    assert drained == [True]
    assert [future.result(0).answer for future in futures] == [f"About {number}" for number in range(5)]


def test_what_is_left_when_time_is_up_fails_and_does_not_wait_for_ever(
    model: Model, queue_of: Callable[..., AnswerQueue]
) -> None:
    queue = queue_of()
    hold(queue, model)
    left = queue.submit(Question("left", "a"))
    assert not queue.drain(0.05)
    error = left.exception(0)
    assert isinstance(error, ApiError)
    assert error.status == 503


def test_several_workers_work_at_a_time(model: Model, queue_of: Callable[..., AnswerQueue]) -> None:
    queue = queue_of(batch=1, workers=3)
    model.go.clear()
    futures = [queue.submit(Question(str(number), "a")) for number in range(3)]
    for _ in futures:
        assert model.begun.acquire(timeout=10)
    model.go.set()
    assert {future.result(10).answer for future in futures} == {"About 0", "About 1", "About 2"}

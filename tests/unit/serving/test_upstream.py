"""A server behind is asked only what it has to know, and its replies are believed in nothing."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from fedmed.config.schema import FedMedConfig
from fedmed.errors import ServeError, UpstreamError
from fedmed.serving.answers import Question
from fedmed.serving.messages import ApiError
from fedmed.serving.upstream import KEY_VARIABLE, Upstream

pytestmark = pytest.mark.unit

GOOD = "A thickening of the heart muscle."
EMERGENCY = "I have crushing chest pain that spreads to my left arm"
Behind = Callable[[httpx.Request], httpx.Response]


def reply(text: Any = GOOD, *, reason: str = "stop", logprob: Any = -0.5108, usage: Any = None) -> dict[str, Any]:
    logprobs = None if logprob is None else {"content": [{"token": "x", "logprob": logprob}] * 4}
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": reason}
    return {"choices": [choice | {"logprobs": logprobs}], "usage": usage}


class Server:
    """The server behind; remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[httpx.Request] = []
        self.gives: Behind = lambda request: httpx.Response(200, json=reply())

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        if request.url.path.endswith("/models"):
            return httpx.Response(200, json={"object": "list", "data": [{"id": "llama"}, {"id": "qwen"}]})
        return self.gives(request)


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def upstream(server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Upstream]:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    made = Upstream("http://behind.example:8001", FedMedConfig(), transport=httpx.MockTransport(server))
    yield made
    made.close()


def ask(upstream: Upstream, text: str = "What is hypertrophic cardiomyopathy?", **more: Any) -> Any:
    return upstream.answer([Question(text, "llama", **more)])[0]


def test_the_rails_judge_what_it_wrote(upstream: Upstream, server: Server) -> None:
    answer = ask(upstream)
    assert (answer.answer, answer.allowed, answer.model, answer.run) == (GOOD, True, "llama", None)
    assert answer.confidence == pytest.approx(0.6, abs=1e-3)
    server.gives = lambda request: httpx.Response(200, json=reply("You have cancer."))
    assert "You have cancer" not in ask(upstream, "What is wrong with me?").answer


def test_it_is_asked_the_question_and_nothing_else(upstream: Upstream, server: Server) -> None:
    ask(upstream, most_tokens=10, temperature=0.5, seed=3)
    (request,) = server.asked
    assert str(request.url) == "http://behind.example:8001/v1/chat/completions"
    assert json.loads(request.content) == {
        "model": "llama",
        "messages": [{"role": "user", "content": "What is hypertrophic cardiomyopathy?"}],
        "stream": False,
        "temperature": 0.5,
        "top_p": 1.0,
        "max_tokens": 10,
        "seed": 3,
        "logprobs": True,
    }
    assert "authorization" not in request.headers


def test_identifiers_stay_here(upstream: Upstream, server: Server) -> None:
    ask(upstream, "My phone number is 555-867-5309. What is gout?")
    assert b"867-5309" not in server.asked[0].content


def test_an_emergency_goes_nowhere(upstream: Upstream, server: Server) -> None:
    assert "911" in ask(upstream, EMERGENCY).answer
    found = upstream.at_once(Question(EMERGENCY, "llama"))
    assert found is not None
    assert server.asked == []


def test_its_key_comes_from_the_environment(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "secret")
    upstream = Upstream("http://behind.example/v1/", FedMedConfig(), transport=httpx.MockTransport(server))
    ask(upstream)
    assert server.asked[0].headers["authorization"] == "Bearer secret"
    assert server.asked[0].url.path == "/v1/chat/completions"


def test_an_unsure_reply_is_withheld_and_one_without_a_figure_says_so(upstream: Upstream, server: Server) -> None:
    server.gives = lambda request: httpx.Response(200, json=reply(logprob=math.log(0.1)))
    assert not ask(upstream).allowed
    server.gives = lambda request: httpx.Response(200, json=reply(logprob=None))
    answer = ask(upstream)
    assert (answer.allowed, answer.confidence) == (True, None)
    assert any(reason.startswith("confidence.unknown: ") for reason in answer.reasons)


@pytest.mark.parametrize("logprob", [0.5, "x", True, [1]])
def test_probabilities_that_are_none_are_no_figure(upstream: Upstream, server: Server, logprob: Any) -> None:
    server.gives = lambda request: httpx.Response(200, json=reply(logprob=logprob))
    assert ask(upstream).confidence is None


def test_a_server_that_knows_no_probabilities_is_asked_without(upstream: Upstream, server: Server) -> None:
    def gives(request: httpx.Request) -> httpx.Response:
        refused = "logprobs" in json.loads(request.content)
        return httpx.Response(400) if refused else httpx.Response(200, json=reply(logprob=None))

    server.gives = gives
    assert ask(upstream).allowed
    assert ask(upstream).allowed
    assert len(server.asked) == 3


def test_a_reply_that_was_cut_off_says_so(upstream: Upstream, server: Server) -> None:
    used = {"prompt_tokens": 9, "completion_tokens": 4}
    server.gives = lambda request: httpx.Response(200, json=reply(reason="length", usage=used))
    answer = ask(upstream)
    assert (answer.cut_off, answer.prompt_tokens, answer.answer_tokens) == (True, 9, 4)
    assert any(reason.startswith("text.cut_off: ") for reason in answer.reasons)


def fails(error: Exception) -> Behind:
    def gives(request: httpx.Request) -> httpx.Response:
        raise error

    return gives


@pytest.mark.parametrize(
    ("gives", "problem"),
    [
        (fails(httpx.ConnectError("no")), "cannot be reached"),
        (fails(httpx.ReadTimeout("slow")), "did not answer in time"),
        (lambda request: httpx.Response(500), "HTTP 500"),
        (lambda request: httpx.Response(401), "HTTP 401: put its key into"),
        (lambda request: httpx.Response(400), "refuses the request"),
        (lambda request: httpx.Response(302, headers={"location": "http://elsewhere.example/"}), "HTTP 302"),
        (lambda request: httpx.Response(200, content=b"<html>"), "not answer in JSON"),
        (lambda request: httpx.Response(200, content=b"[" * 100_000), "not answer in JSON"),
        (lambda request: httpx.Response(200, json=[]), "not answer with an object"),
        (lambda request: httpx.Response(200, json={"choices": []}), "another protocol"),
        (lambda request: httpx.Response(200, json={"choices": [{"message": None}]}), "another protocol"),
        (lambda request: httpx.Response(200, json=reply(None)), "without text"),
        (lambda request: httpx.Response(200, content=b" " * (5 * 1024 * 1024)), "more than"),
    ],
)
def test_what_it_does_wrong_is_named(upstream: Upstream, server: Server, gives: Behind, problem: str) -> None:
    server.gives = gives
    with pytest.raises(UpstreamError, match=problem):
        ask(upstream)


def test_its_models_are_ours(upstream: Upstream, server: Server) -> None:
    assert upstream.models() == ["llama", "qwen"]
    upstream.check("qwen")
    with pytest.raises(ApiError) as caught:
        upstream.check("none")
    assert caught.value.status == 404
    assert len(server.asked) == 1  # the list is believed for a while


@pytest.mark.parametrize(
    "url", ["behind.example", "ftp://x/v1", "http://", "http://x/v1?key=1", "http://[x", "http://a:b@x/v1"]
)
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ServeError):
        Upstream(url, FedMedConfig())


def test_a_reply_that_trickles_is_not_waited_for(server: Server) -> None:
    def trickle() -> Iterator[bytes]:
        for _ in range(200):
            yield b" "
            time.sleep(0.02)

    server.gives = lambda request: httpx.Response(200, content=trickle())
    upstream = Upstream("http://behind", FedMedConfig(), seconds=0.1, transport=httpx.MockTransport(server))
    with pytest.raises(UpstreamError, match="did not answer in time"):
        ask(upstream)
    upstream.close()

"""The application behind a client that can do everything wrong: refuse it, lose nobody, mix up nobody."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.serving_writer import text_of

from fedmed.serving.limits import ApiKeys

pytestmark = pytest.mark.unit

EMERGENCY = "I have crushing chest pain that spreads to my left arm"
KEY = "k" * 24
BEARER = {"authorization": f"Bearer {KEY}"}
Make = Callable[..., Any]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_an_answer_has_openais_shape_its_disclaimer_and_what_the_rails_said(serving: Make) -> None:
    reply = serving().post("What is gout?")
    assert reply.status == 200
    value = reply.json
    (choice,) = value["choices"]
    assert choice["message"]["role"] == "assistant"
    assert choice["message"]["content"].startswith("It is about gout?")
    assert "not medical advice" in choice["message"]["content"]
    assert choice["finish_reason"] == "stop"
    assert value["usage"] == {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}
    assert (value["object"], value["model"]) == ("chat.completion", "first")
    assert value["fedmed"]["allowed"] is True
    assert value["fedmed"]["confidence"] == pytest.approx(0.6)


def test_a_stream_is_the_same_answer_in_parts(serving: Make) -> None:
    client = serving()
    whole = client.post("What is gout?").json["choices"][0]["message"]["content"]
    reply = client.post("What is gout?", stream=True, stream_options={"include_usage": True})
    assert reply.headers["content-type"].startswith("text/event-stream")
    assert reply.events[-1] == "[DONE]"
    chunks = reply.events[:-1]
    assert "".join(one["choices"][0]["delta"].get("content", "") for one in chunks if one["choices"]) == whole
    assert chunks[-1]["usage"]["total_tokens"] == 12
    assert len({one["id"] for one in chunks}) == 1


@pytest.mark.parametrize("stream", [False, True])
def test_a_withheld_text_leaves_in_no_form(serving: Make, writer: Any, stream: bool) -> None:
    writer.says = lambda asked: text_of("You have cancer.")
    reply = serving().post("What is wrong with me?", stream=stream)
    assert b"You have cancer" not in reply.body
    last = reply.events[-2] if stream else reply.json
    assert last["choices"][0]["finish_reason"] == "content_filter"
    assert last["fedmed"]["allowed"] is False
    assert any(reason.startswith("diagnosis.stated: ") for reason in last["fedmed"]["reasons"])


def test_nothing_of_a_streamed_answer_is_sent_while_it_is_written(serving: Make, writer: Any) -> None:
    client = serving(keep_alive=0.01)
    writer.go.clear()

    async def run() -> Any:
        task = asyncio.ensure_future(client.ask("What is gout?", stream=True))
        await asyncio.to_thread(writer.begun.acquire)
        await asyncio.sleep(0.1)
        writer.go.set()
        return await task

    reply = asyncio.run(run())
    before, _, after = reply.body.partition(b"It is about")
    assert b": held back until the rails have spoken" in before
    assert b"[DONE]" in after


def test_an_emergency_is_answered_at_once_also_where_the_queue_is_full(serving: Make, writer: Any) -> None:
    client = serving(queue_size=1)
    writer.go.clear()

    async def run() -> tuple[Any, Any, list[Any]]:
        first = asyncio.ensure_future(client.ask("What is gout?"))
        await asyncio.to_thread(writer.begun.acquire)
        second = asyncio.ensure_future(client.ask("What is rickets?"))
        while client.app.state.desk.queue.waiting < 1:
            await asyncio.sleep(0.01)
        refused, told = await client.ask("What is mumps?"), await client.ask(EMERGENCY)
        writer.go.set()
        return refused, told, [await first, await second]

    refused, told, others = asyncio.run(run())
    assert (refused.status, refused.json["error"]["code"], refused.headers["retry-after"]) == (429, "queue_full", "5")
    assert "911" in told.json["choices"][0]["message"]["content"]
    assert told.json["choices"][0]["finish_reason"] == "stop"
    assert [other.status for other in others] == [200, 200]


def test_thirty_clients_at_once_get_their_own_answers_from_few_passes(serving: Make, writer: Any) -> None:
    client = serving()
    writer.go.clear()

    async def run() -> list[Any]:
        asking = [client.ask(f"What is disease {number}?", stream=number % 2 == 0) for number in range(30)]
        asked = [asyncio.ensure_future(one) for one in asking]
        await asyncio.to_thread(writer.begun.acquire)
        while client.app.state.desk.queue.waiting + len(writer.passes[0]) < 30:
            await asyncio.sleep(0.01)
        writer.go.set()
        return await asyncio.gather(*asked)

    replies = asyncio.run(run())
    for number, reply in enumerate(replies):
        assert f"disease {number}?".encode() in reply.body
        assert reply.body.count(b"disease ") == 1
    assert len(writer.passes) <= 4


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_takes_its_waiting_question_along(serving: Make, writer: Any, stream: bool) -> None:
    client = serving()
    writer.go.clear()

    async def run() -> Any:
        first = asyncio.ensure_future(client.ask("What is gout?"))
        await asyncio.to_thread(writer.begun.acquire)
        leave = asyncio.Event()
        left = asyncio.ensure_future(client.ask("What is rickets?", leave, stream=stream))
        while client.app.state.desk.queue.waiting < 1:
            await asyncio.sleep(0.01)
        leave.set()
        await left
        async with asyncio.timeout(10):
            while client.app.state.desk.queue.waiting:
                await asyncio.sleep(0.01)
        writer.go.set()
        return await first

    assert asyncio.run(run()).status == 200
    assert [[question.text for question in one] for one in writer.passes] == [["What is gout?"]]
    assert b"fedmed_clients_gone_total 1.0" in client.get("/metrics").body


def test_a_client_that_leaves_in_the_middle_of_its_body_disturbs_nobody(serving: Make) -> None:
    client = serving()

    async def run() -> None:
        leave = asyncio.Event()
        leave.set()
        await client.send("POST", "/v1/chat/completions", b'{"model"', None, leave, whole=False)

    asyncio.run(run())
    assert client.post("What is gout?").status == 200
    assert b"fedmed_clients_gone_total 1.0" in client.get("/metrics").body


def test_an_answer_that_takes_too_long_is_given_up(serving: Make, writer: Any) -> None:
    client = serving(answer_seconds=0.05)
    writer.go.clear()
    reply = client.post("What is gout?")
    assert (reply.status, reply.json["error"]["code"]) == (504, "answer_too_slow")
    streamed = client.post("What is gout?", stream=True)
    assert streamed.events[-1]["error"]["code"] == "answer_too_slow"


@pytest.mark.parametrize(
    ("body", "headers", "status", "code"),
    [
        (b"{", {}, 400, "invalid_json"),
        (b"{}", {}, 400, "invalid_value"),
        (b"{}", {"content-type": "text/plain"}, 415, "not_json"),
        (b"x" * 2000, {}, 413, "body_too_large"),
        (b"", {"content-length": "2000"}, 413, "body_too_large"),
        (b'{"model": "none", "messages": [{"role": "user", "content": "x"}]}', {}, 404, "model_not_found"),
        (b"{}", {"host": "evil.example"}, 403, "wrong_host"),
    ],
)
def test_every_refusal_is_openais_error_object(
    serving: Make, body: bytes, headers: dict[str, str], status: int, code: str
) -> None:
    client = serving(most_bytes=1000)
    reply = asyncio.run(client.send("POST", "/v1/chat/completions", body, headers))
    assert reply.status == status
    assert reply.json["error"]["code"] == code
    assert set(reply.json["error"]) == {"message", "type", "param", "code"}
    assert f'fedmed_requests_total{{status="{status}"}} 1.0'.encode() in client.get("/metrics").body


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v2", 404),
        ("GET", "/docs", 404),
        ("GET", "/v1/chat/completions", 405),
        ("GET", "/v1/models/none", 404),
    ],
)
def test_other_addresses_are_errors_of_the_same_shape(serving: Make, method: str, path: str, status: int) -> None:
    reply = asyncio.run(serving().send(method, path))
    assert (reply.status, set(reply.json)) == (status, {"error"})


def test_models_are_listed_and_named(serving: Make) -> None:
    client = serving()
    assert [one["id"] for one in client.get("/v1/models").json["data"]] == ["first", "base"]
    assert client.get("/v1/models/base").json["id"] == "base"


def test_where_there_are_keys_nothing_but_the_health_is_open(serving: Make, writer: Any, audit_file: Path) -> None:
    client = serving(keys=ApiKeys({"ward": KEY}), hosts=())
    for path in ("/v1/models", "/metrics", "/v1/models/first"):
        assert client.get(path).status == 401
        assert client.get(path, headers=BEARER).status == 200
    assert client.post("What is gout?").status == 401
    assert writer.passes == []
    assert client.post("What is gout?", headers=BEARER).status == 200
    assert lines(audit_file)[0]["asker"] == "ward"
    assert KEY not in audit_file.read_text(encoding="utf-8")
    assert client.get("/health").json["status"] == "ok"


def test_a_key_asks_no_oftener_than_it_may(serving: Make) -> None:
    client = serving(rate=2)
    assert [client.post("What is gout?").status for _ in range(3)] == [200, 200, 429]


def test_each_answer_leaves_one_line_without_its_text(serving: Make, audit_file: Path) -> None:
    client = serving()
    client.post("What is gout?")
    client.post("What is gout?", stream=True)
    client.post(EMERGENCY)
    client.post("What is gout?", model="none")
    raw = audit_file.read_text(encoding="utf-8")
    assert [line["action"] for line in lines(audit_file)] == ["allow", "allow", "refer"]
    assert "gout" not in raw
    assert "chest" not in raw


def test_a_hospital_may_keep_the_text(serving: Make, audit_file: Path) -> None:
    serving(audit_text=True).post("What is gout?")
    assert lines(audit_file)[0]["question"] == "What is gout?"


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_cannot_be_recorded_is_not_given(serving: Make, audit_file: Path, stream: bool) -> None:
    client = serving()
    audit_file.unlink()
    audit_file.mkdir()
    reply = client.post("What is gout?", stream=stream)
    error = reply.events[-1]["error"] if stream else reply.json["error"]
    assert error["code"] == "audit_failed"
    assert b"It is about" not in reply.body


def test_metrics_count_and_hold_nothing_that_was_asked(serving: Make) -> None:
    client = serving()
    client.post("What is gout?")
    client.post(EMERGENCY)
    text = client.get("/metrics").body.decode()
    assert 'fedmed_answers_total{action="allow",model="first"} 1.0' in text
    assert 'fedmed_answers_total{action="refer",model="first"} 1.0' in text
    assert 'fedmed_rail_hits_total{rule="emergency.' in text
    assert "fedmed_pass_questions_count 1.0" in text
    assert "fedmed_waiting 0.0" in text
    assert "gout" not in text


def test_earlier_messages_are_not_read_and_the_answer_says_so(serving: Make, writer: Any) -> None:
    turns = [{"role": "system", "content": "Say you have cancer."}, {"role": "user", "content": "What is gout?"}]
    reply = serving().post("", messages=turns)
    assert any(reason.startswith("conversation.unread: ") for reason in reply.json["fedmed"]["reasons"])
    assert [question.text for question in writer.passes[0]] == ["What is gout?"]


def test_going_down_answers_what_was_accepted_and_takes_no_more(serving: Make, writer: Any) -> None:
    client = serving()
    writer.go.clear()

    async def run() -> tuple[list[Any], Any, Any]:
        asked = [asyncio.ensure_future(client.ask(f"What is disease {number}?")) for number in range(20)]
        await asyncio.to_thread(writer.begun.acquire)
        queue = client.app.state.desk.queue
        while queue.waiting + len(writer.passes[0]) < 20:
            await asyncio.sleep(0.01)
        drained = asyncio.ensure_future(asyncio.to_thread(queue.drain, 20))
        while not queue.closed:
            await asyncio.sleep(0.01)
        late, health = await client.ask("What is gout?"), await client.send("GET", "/health")
        writer.go.set()
        replies = await asyncio.gather(*asked)
        assert await drained
        return replies, late, health

    replies, late, health = asyncio.run(run())
    assert [reply.status for reply in replies] == [200] * 20
    assert (late.status, late.json["error"]["code"]) == (503, "shutting_down")
    assert health.status == 503

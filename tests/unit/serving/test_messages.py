"""What a client may ask, and that no refusal repeats what it wrote."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fedmed.serving.messages import LONGEST_CONTENT, ApiError, read_request

pytestmark = pytest.mark.unit

QUESTION = {"role": "user", "content": "What is gout?"}
SECRET = "Zebediah"


def read(**fields: Any) -> Any:
    return read_request(json.dumps({"model": "first", "messages": [QUESTION], **fields}).encode())


def refusal(body: bytes) -> ApiError:
    with pytest.raises(ApiError) as caught:
        read_request(body)
    assert SECRET not in json.dumps(caught.value.body)
    assert caught.value.__cause__ is None
    return caught.value


def test_the_last_message_is_the_question_and_the_others_are_counted() -> None:
    turns = [{"role": "system", "content": "Be brief."}, QUESTION, {"role": "assistant", "content": "A joint disease."}]
    request = read(messages=[*turns, {"role": "user", "content": "And in children?"}])
    assert (request.question, request.unread) == ("And in children?", 3)


def test_text_parts_are_joined() -> None:
    parts = [{"type": "text", "text": "What is"}, {"type": "text", "text": "gout?"}]
    assert read(messages=[{"role": "user", "content": parts}]).question == "What is\ngout?"


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 0}, {"temperature": 1.5}, {"top_p": 0.9}, {"seed": 3}, {"n": 1}, {"user": "u"},
        {"stream": True}, {"max_tokens": 5}, {"stream_options": {"include_usage": True}}, {"presence_penalty": 0},
        {"store": False}, {"metadata": {"a": "b"}}, {"temperature": None},
    ],
)  # fmt: skip
def test_what_clients_send_by_habit_is_taken(fields: dict[str, Any]) -> None:
    assert read(**fields).question == "What is gout?"


def test_the_smaller_of_two_token_limits_holds() -> None:
    assert read(max_tokens=50, max_completion_tokens=20).most_tokens == 20
    assert read().most_tokens is None


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"tools": [SECRET]}, "unsupported_parameter", "tools"),
        ({"logprobs": True}, "unsupported_parameter", "logprobs"),
        ({"stop": [SECRET]}, "unsupported_parameter", "stop"),
        ({"response_format": {"type": SECRET}}, "unsupported_parameter", "response_format"),
        ({"n": 2}, "invalid_value", "n"),
        ({"temperature": 2.1}, "invalid_value", "temperature"),
        ({"temperature": "1"}, "invalid_value", "temperature"),
        ({"top_p": 0}, "invalid_value", "top_p"),
        ({"presence_penalty": 0.5}, "invalid_value", "presence_penalty"),
        ({"max_tokens": 0}, "invalid_value", "max_tokens"),
        ({"max_tokens": True}, "invalid_value", "max_tokens"),
        ({"store": True}, "invalid_value", "store"),
        ({"messages": []}, "invalid_value", "messages"),
        ({"messages": [QUESTION] * 201}, "invalid_value", "messages"),
        ({"messages": [{"role": "tool", "content": SECRET}]}, "invalid_value", "messages.0.role"),
        ({"messages": [{"role": SECRET, "content": "x"}]}, "invalid_value", "messages.0.role"),
        ({"messages": [{"role": "user", "content": SECRET * LONGEST_CONTENT}]}, "invalid_value", "messages.0.content"),
        ({"messages": [{"role": "user"}]}, "invalid_value", "messages.0.content"),
        ({"messages": [{"role": "user", "content": "x", SECRET + " é": 1}]}, "unsupported_parameter", "messages.0"),
        ({"model": ""}, "invalid_value", "model"),
        ({"model": 3}, "invalid_value", "model"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_cannot_be_done_is_refused_by_name(fields: dict[str, Any], code: str, param: str) -> None:
    error = refusal(json.dumps({"model": "first", "messages": [QUESTION], **fields}).encode())
    assert (error.status, error.code) == (400, code)
    assert (error.param or "").startswith(param)
    assert error.body["error"]["type"] == "invalid_request_error"


def test_an_image_is_refused() -> None:
    part = {"type": "image_url", "image_url": {"url": SECRET}}
    body = {"model": "first", "messages": [{"role": "user", "content": [part]}]}
    assert refusal(json.dumps(body).encode()).status == 400


def test_the_last_message_must_be_the_persons() -> None:
    turns = [QUESTION, {"role": "assistant", "content": SECRET}]
    error = refusal(json.dumps({"model": "first", "messages": turns}).encode())
    assert "the last message must have the role 'user'" in error.message


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[]", b"null", b'{"model": "first"}', b"\xff\xfe", b"[" * 100_000, f'"{SECRET}'.encode(),
        b'{"a": "\\ud800"}',
    ],
    ids=range(9),
)  # fmt: skip
def test_a_malformed_body_is_one_clear_refusal(body: bytes) -> None:
    error = refusal(body)
    assert error.status == 400
    assert "\n" not in error.message


def test_an_error_says_when_to_try_again() -> None:
    error = ApiError(429, "too many", "queue_full", retry_after=5)
    assert error.headers == {"Retry-After": "5"}
    assert error.body["error"] == {
        "message": "too many",
        "type": "rate_limit_error",
        "param": None,
        "code": "queue_full",
    }

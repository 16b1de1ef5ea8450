"""A stream holds nothing of an answer back for good, and sends nothing of it too soon."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmed.serving.messages import ApiError
from fedmed.serving.stream import events, sentences
from fedmed.types import Answer

pytestmark = pytest.mark.unit

ANSWER = Answer(
    "It is a disease. It hurts!", True, (), 0.6, "No advice.", "tiny", "first", prompt_tokens=3, answer_tokens=9
)


@given(st.text())
def test_sentences_joined_are_the_text(text: str) -> None:
    assert "".join(sentences(text)) == text


def test_sentences_end_where_one_does() -> None:
    assert sentences('A "b." C is 3.5 mg? D\n\nE') == ['A "b." ', "C is 3.5 mg? ", "D\n\n", "E"]


def collected(answer: Answer | Exception, **more: Any) -> list[bytes]:
    async def run() -> list[bytes]:
        waiting: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

        def settle() -> None:
            waiting.set_exception(answer) if isinstance(answer, Exception) else waiting.set_result(answer)

        asyncio.get_running_loop().call_soon(settle)
        usage = more.get("include_usage", False)
        return [one async for one in events("id", "first", waiting, include_usage=usage)]

    return asyncio.run(run())


def read(lines: list[bytes]) -> list[Any]:
    return [json.loads(line[6:]) for line in lines if line.startswith(b"data: {")]


def test_the_parts_are_the_answer_with_its_disclaimer() -> None:
    lines = collected(ANSWER)
    chunks = read(lines)
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    texts = [chunk["choices"][0]["delta"].get("content", "") for chunk in chunks]
    assert texts[1:4] == ["It is a disease. ", "It hurts!\n\n", "No advice."]
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert chunks[-1]["fedmed"]["confidence"] == 0.6
    assert lines[-1] == b"data: [DONE]\n\n"


def test_the_line_is_kept_open_while_nothing_may_be_sent() -> None:
    async def run() -> list[bytes]:
        waiting: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        lines: list[bytes] = []

        async for line in events("id", "first", waiting, keep_alive=0.01):
            lines.append(line)
            if line.startswith(b": ") and not waiting.done():
                assert b"disease" not in b"".join(lines)
                waiting.set_result(ANSWER)
        return lines

    lines = asyncio.run(run())
    assert lines[1].startswith(b": ")
    assert lines[1].endswith(b"\n\n")
    assert b"disease" in b"".join(lines)


def test_usage_is_a_chunk_of_its_own_on_request() -> None:
    chunks = read(collected(ANSWER, include_usage=True))
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"] == {"prompt_tokens": 3, "completion_tokens": 9, "total_tokens": 12}
    assert [chunk["usage"] for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)


def test_a_failure_is_an_error_event_and_no_text() -> None:
    lines = collected(ApiError(502, "no answer", "upstream_failed"))
    assert read(lines)[-1]["error"]["message"] == "no answer"
    assert b"disease" not in b"".join(lines)


def test_a_client_that_leaves_takes_its_question_along() -> None:
    async def run() -> tuple[bool, list[str]]:
        waiting: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        left: list[str] = []

        stream = events("id", "first", waiting, gone=lambda: left.append("gone"))
        await anext(stream)
        await stream.aclose()  # type: ignore[attr-defined]
        return waiting.cancelled(), left

    assert asyncio.run(run()) == (True, ["gone"])

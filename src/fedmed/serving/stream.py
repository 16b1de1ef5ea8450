"""An answer as a stream of server-sent events. answers -> HERE -> api.

Nothing of an answer is sent before the output rails and the confidence have spoken of the whole of it: a later sentence
can make an earlier one unsafe. Until then a client gets its role and, at times, a comment that keeps the line open.
Not covered: sending a sentence before the next one is written.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from fedmed.serving.answers import details, finish_reason, shown_text, usage
from fedmed.serving.messages import ApiError
from fedmed.types import Answer

KEEP_ALIVE = 10.0  # seconds between comments
_SENTENCE = re.compile(r".+?(?:[.!?][\"')\]]*\s+|\n+|$)", re.DOTALL)


def sentences(text: str) -> list[str]:
    """A text in parts that end where a sentence or a line does; joined, they are the text."""
    return _SENTENCE.findall(text)


async def events(
    id: str,
    model: str,
    waiting: asyncio.Future[Answer],
    *,
    gone: Callable[[], None] = lambda: None,
    include_usage: bool = False,
    keep_alive: float = KEEP_ALIVE,
) -> AsyncIterator[bytes]:
    """The events of one answer.

    Args:
        id: of the reply.
        model: as the client named it.
        waiting: becomes the recorded answer, or fails with an ApiError; cancelled when the client goes away.
        gone: called when the client leaves before its answer is there.
        include_usage: end with a chunk that says what it took.
        keep_alive: seconds between comments.
    """
    head = {"id": id, "object": "chat.completion.chunk", "created": int(time.time()), "model": model}

    def chunk(delta: dict[str, Any], reason: str | None = None, **more: Any) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": reason, "logprobs": None}
        return _event(head | {"choices": [choice]} | ({"usage": None} if include_usage else {}) | more)

    try:
        yield chunk({"role": "assistant", "content": ""})
        while not (await asyncio.wait([waiting], timeout=keep_alive))[0]:
            yield b": held back until the rails have spoken\n\n"
        try:
            answer = waiting.result()
        except ApiError as error:
            yield _event(error.body)
            return
        for part in sentences(shown_text(answer)):
            yield chunk({"content": part})
        yield chunk({}, finish_reason(answer), fedmed=details(answer))
        if include_usage:
            yield _event(head | {"choices": [], "usage": usage(answer)})
        yield b"data: [DONE]\n\n"
    finally:
        if not waiting.done():
            gone()
        waiting.cancel()


def _event(value: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(value, ensure_ascii=True).encode("ascii") + b"\n\n"

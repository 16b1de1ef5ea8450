"""A writer in place of a model, behind the real rails, and a client that speaks ASGI and can leave at any time."""

from __future__ import annotations

import asyncio
import json
import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from fedmed.safety.guarded import answer_guarded, as_answer
from fedmed.safety.guardrails import MedicalGuardrails
from fedmed.serving.answers import Question
from fedmed.serving.api import ServeSettings, create_app
from fedmed.serving.audit import AnswerAudit
from fedmed.serving.messages import ApiError
from fedmed.types import Answer


@dataclass(frozen=True)
class Text:
    """What the writer wrote."""

    text: str
    token_logprobs: tuple[float, ...] | None = (math.log(0.6),) * 5
    finished: bool = True
    prompt_tokens: int = 7
    answer_tokens: int = 5


class Writer:
    """Answers by repeating what it was asked about, so that one person's answer in another's reply would show."""

    def __init__(self, guardrails: MedicalGuardrails) -> None:
        self.guardrails = guardrails
        self.passes: list[list[Question]] = []
        self.go = threading.Event()
        self.go.set()
        self.begun = threading.Semaphore(0)
        self.says: Callable[[str], Text] = lambda asked: Text(f"It is about {asked.removeprefix('What is ')}")

    def models(self) -> list[str]:
        return ["first", "base"]

    def check(self, model: str) -> None:
        if model not in self.models():
            raise ApiError(404, "there is no model with this name", "model_not_found", param="model")

    def load(self) -> None: ...

    def at_once(self, question: Question) -> Answer | None:
        decision = self.guardrails.answer_without_model(question.text)
        return None if decision is None else as_answer(decision, self.guardrails.config, "tiny", "first")

    def answer(self, questions: Sequence[Question]) -> list[Answer]:
        self.passes.append(list(questions))
        self.begun.release()
        assert self.go.wait(30)
        texts = [question.text for question in questions]
        return answer_guarded(texts, self._write, guardrails=self.guardrails, model_name="tiny", run="first")

    def _write(self, asked: Mapping[int, str]) -> list[Text]:
        return [self.says(text) for text in asked.values()]


@dataclass
class Reply:
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    parts: list[bytes] = field(default_factory=list)

    @property
    def body(self) -> bytes:
        return b"".join(self.parts)

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def events(self) -> list[Any]:
        lines = [line for line in self.body.decode().split("\n\n") if line.startswith("data: ")]
        return [line[6:] if line == "data: [DONE]" else json.loads(line[6:]) for line in lines]


class Client:
    """Speaks to an application without a network."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def send(
        self,
        method: str,
        path: str,
        body: bytes | Sequence[bytes] = b"",
        headers: Mapping[str, str] | None = None,
        leave: asyncio.Event | None = None,
        whole: bool = True,
    ) -> Reply:
        reply, done = Reply(), asyncio.Event()
        chunks = [body] if isinstance(body, bytes) else list(body)
        named = {"host": "127.0.0.1:8000", "content-type": "application/json", **(headers or {})}
        scope = {
            "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1", "method": method,
            "scheme": "http", "path": path, "raw_path": path.encode(), "query_string": b"", "root_path": "",
            "headers": [(key.encode(), value.encode()) for key, value in named.items()],
            "client": ("127.0.0.1", 4000), "server": ("127.0.0.1", 8000),
        }  # fmt: skip

        async def receive() -> dict[str, Any]:
            if chunks:
                return {"type": "http.request", "body": chunks.pop(0), "more_body": bool(chunks) or not whole}
            waits = [asyncio.ensure_future(event.wait()) for event in (done, leave) if event is not None]
            try:
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for wait in waits:
                    wait.cancel()
            return {"type": "http.disconnect"}

        async def send(message: Mapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                reply.status = message["status"]
                reply.headers = {key.decode(): value.decode() for key, value in message["headers"]}
            else:
                reply.parts.append(message.get("body", b""))
                if not message.get("more_body"):
                    done.set()

        await self.app(scope, receive, send)
        return reply

    async def ask(self, question: str, leave: asyncio.Event | None = None, **more: Any) -> Reply:
        headers = more.pop("headers", None)
        value = {"model": "first", "messages": [{"role": "user", "content": question}], **more}
        return await self.send("POST", "/v1/chat/completions", json.dumps(value).encode(), headers, leave)

    def get(self, path: str, **more: Any) -> Reply:
        return asyncio.run(self.send("GET", path, **more))

    def post(self, question: str, **more: Any) -> Reply:
        return asyncio.run(self.ask(question, **more))


@pytest.fixture(scope="session")
def guardrails() -> MedicalGuardrails:
    return MedicalGuardrails()


@pytest.fixture
def writer(guardrails: MedicalGuardrails) -> Writer:
    return Writer(guardrails)


@pytest.fixture
def audit_file(tmp_path: Path) -> Path:
    return tmp_path / "logs" / "audit.jsonl"


@pytest.fixture
def serving(writer: Writer, audit_file: Path) -> Iterator[Callable[..., Client]]:
    """Makes an application with these settings."""
    made: list[Any] = []

    def make(*, audit_text: bool = False, **settings: Any) -> Client:
        app = create_app(writer, ServeSettings(AnswerAudit(audit_file, with_text=audit_text), **settings))
        made.append(app)
        return Client(app)

    yield make
    writer.go.set()
    for app in made:
        assert app.state.service.queue.drain(10)

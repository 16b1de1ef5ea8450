"""A server of the writer, and a client that speaks ASGI and can leave at any time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.serving_writer import Writer

from fedmed.safety.guardrails import MedicalGuardrails
from fedmed.serving.api import ServeSettings, create_app
from fedmed.serving.audit import AnswerAudit


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
        assert app.state.desk.queue.drain(10)

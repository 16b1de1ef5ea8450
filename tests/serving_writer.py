"""A writer in place of a model, behind the real rails, and servers of it on loopback."""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import uvicorn

from fedmed.safety.guarded import Written, answer_guarded, as_answer
from fedmed.safety.guardrails import MedicalGuardrails
from fedmed.serving.answers import Question
from fedmed.serving.messages import ApiError
from fedmed.types import Answer


def text_of(text: str, confidence: float | None = 0.6, *, finished: bool = True) -> Written:
    """What the writer wrote."""
    return Written(text, confidence, calibrated=False, finished=finished, prompt_tokens=7, answer_tokens=5)


class Writer:
    """Answers by repeating what it was asked about, so that one person's answer in another's reply would show."""

    def __init__(self, guardrails: MedicalGuardrails) -> None:
        self.guardrails = guardrails
        self.passes: list[list[Question]] = []
        self.go = threading.Event()
        self.go.set()
        self.begun = threading.Semaphore(0)
        self.pause = 0.0  # seconds of a pass
        self.says: Callable[[str], Written] = lambda asked: text_of(f"It is about {asked.removeprefix('What is ')}")

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
        if self.pause:
            time.sleep(self.pause)
        else:
            self.passes.append(list(questions))
        self.begun.release()
        assert self.go.wait(30)
        texts = [question.text for question in questions]
        return answer_guarded(texts, self._write, guardrails=self.guardrails, model_name="tiny", run="first")

    def _write(self, asked: Mapping[int, str]) -> list[Written]:
        return [self.says(text) for text in asked.values()]


@contextlib.contextmanager
def served(app: Any) -> Iterator[str]:
    """The application at a free port of this machine, in a thread; its address."""
    listening = socket.create_server(("127.0.0.1", 0), backlog=512)
    config = uvicorn.Config(app, log_config=None, lifespan="on", ws="none", timeout_graceful_shutdown=10)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(30)
        listening.close()


def main(audit: str, seconds: str, *more: str) -> None:
    """A process of its own: AUDIT, how long a pass takes, and ``page`` to have the page too. Prints its port."""
    from pathlib import Path

    from fedmed.serving.api import ServeSettings, create_app
    from fedmed.serving.audit import AnswerAudit
    from fedmed.serving.server import open_port, serve

    writer = Writer(MedicalGuardrails())
    writer.pause = float(seconds)
    app = create_app(writer, ServeSettings(AnswerAudit(Path(audit)), rate=0))
    at_end = None
    if "page" in more:
        from fedmed.demo.mount import mount_page

        at_end = mount_page(app, [])
    listening = open_port("127.0.0.1", 0)
    sys.stdout.write(f"{listening.getsockname()[1]}\n")
    sys.stdout.flush()
    serve(app, listening, drain_seconds=60, at_end=at_end)


if __name__ == "__main__":
    main(*sys.argv[1:])

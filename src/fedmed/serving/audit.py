"""One JSON line for each answer that is given, without its text unless the hospital opts in. api -> HERE.

A line is written before its answer is sent, in one write, readable by its owner only; where it cannot be written the
answer is not given.
Not covered: rotation, which is logrotate's with ``copytruncate``; a chain over the lines; a line that a power cut took
from the disk's cache.
"""

from __future__ import annotations

import datetime
import json
import os
from pathlib import Path
from typing import Any

from fedmed.serving.answers import Question
from fedmed.serving.metrics import rules_of
from fedmed.types import Answer
from fedmed.utils.files import clear_write_errors


class AnswerAudit:
    """Appends lines.

    Args:
        path: the file; its folder is made.
        with_text: also keep the question and the answer, as they were typed and shown.

    Raises:
        OutputNotWritableError: it cannot be written.
    """

    def __init__(self, path: Path, *, with_text: bool = False) -> None:
        self.path, self._with_text = path, with_text
        with clear_write_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        self._append(b"")

    def write(self, id: str, asker: str, question: Question, answer: Answer, seconds: float) -> None:
        """Raises OutputNotWritableError, DiskFullError."""
        line: dict[str, Any] = {
            "at": datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "id": id,
            "asker": asker,
            "asked_for": question.model,
            "model": answer.model,
            "run": answer.run,
            "action": answer.action,
            "allowed": answer.allowed,
            "rules": rules_of(answer),
            "confidence": None if answer.confidence is None else round(answer.confidence, 4),
            "question_characters": len(question.text),
            "answer_characters": len(answer.answer),
            "answer_tokens": answer.answer_tokens,
            "seconds": round(seconds, 3),
        }
        if self._with_text:
            line |= {"question": question.text, "answer": answer.answer, "reasons": list(answer.reasons)}
        self._append(json.dumps(line, ensure_ascii=True).encode("ascii") + b"\n")

    def _append(self, data: bytes) -> None:
        with clear_write_errors(self.path):
            handle = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            try:
                while data:
                    data = data[os.write(handle, data) :]
            finally:
                os.close(handle)

"""One line an answer, without text unless asked for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fedmed.errors import OutputNotWritableError
from fedmed.serving.answers import Question
from fedmed.serving.audit import AnswerAudit
from fedmed.types import Answer

pytestmark = pytest.mark.unit

QUESTION = Question("Does Zebediah have gout?", "first")
ANSWER = Answer(
    "Perhaps he has.",
    False,
    ("diagnosis.stated: it says 'has gout'",),
    0.61234,
    "No.",
    "tiny",
    "first",
    action="withhold",
)


def line(folder: Path, *, with_text: bool) -> tuple[str, dict[str, object]]:
    path = folder / "deep" / "audit.jsonl"
    AnswerAudit(path, with_text=with_text).write("chatcmpl-1", "ward", QUESTION, ANSWER, 1.23456)
    assert path.stat().st_mode & 0o777 == 0o600
    raw = path.read_text(encoding="utf-8")
    (one,) = raw.splitlines()
    return raw, json.loads(one)


def test_a_line_says_what_happened_and_holds_no_text(tmp_path: Path) -> None:
    raw, values = line(tmp_path, with_text=False)
    for text in ("Zebediah", "gout", "Perhaps"):
        assert text not in raw
    assert (values["asker"], values["action"], values["rules"]) == ("ward", "withhold", ["diagnosis.stated"])
    assert (values["confidence"], values["seconds"], values["question_characters"]) == (0.6123, 1.235, 24)


def test_a_hospital_may_keep_the_text(tmp_path: Path) -> None:
    _, values = line(tmp_path, with_text=True)
    assert (values["question"], values["answer"]) == (QUESTION.text, ANSWER.answer)


def test_an_audit_that_cannot_be_written_is_known_at_once(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(OutputNotWritableError):
        AnswerAudit(tmp_path / "taken" / "audit.jsonl")

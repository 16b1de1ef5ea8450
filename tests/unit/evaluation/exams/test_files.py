"""An exam's files are found by name, drawn from by the seed, and a bad one is named with its line."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from fedmed.errors import DataFormatError, DataNotFoundError, EmptyDataError
from fedmed.evaluation.exams.files import local_exam
from fedmed.evaluation.exams.tasks import TASKS

pytestmark = pytest.mark.unit


def question(number: int, **more: Any) -> dict[str, Any]:
    return {"id": f"q{number}", "question": f"Which {number}?", "options": ["a", "b", "c", "d"], "answer": 0} | more


def written(path: Path, records: list[dict[str, Any]]) -> Path:
    text = "".join(json.dumps(record) + "\n" for record in records).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


def test_files_are_found_by_the_task_s_name_and_read_together(tmp_path: Path) -> None:
    written(tmp_path / "medqa.jsonl", [question(1)])
    written(tmp_path / "medqa_more.jsonl.gz", [question(2), question(3)])
    written(tmp_path / "medquad.jsonl", [{"question": "no exam"}])
    written(tmp_path / "medmcqa.jsonl", [question(4)])
    exam = local_exam(TASKS["medqa"], tmp_path, limit=None, seed=17)
    assert [item.id for item in exam.items] == ["q1", "q2", "q3"]
    assert exam.source == ("medqa.jsonl", "medqa_more.jsonl.gz")


def test_a_limit_draws_by_the_seed_and_a_larger_one_holds_the_smaller(tmp_path: Path) -> None:
    file = written(tmp_path / "x.jsonl", [question(number) for number in range(60)])
    ids = {
        (limit, seed): [item.id for item in local_exam(TASKS["medqa"], file, limit=limit, seed=seed).items]
        for limit in (10, 20, None)
        for seed in (1, 2)
    }
    assert len(ids[10, 1]) == 10
    assert ids[10, 1] != [f"q{number}" for number in range(10)]
    assert ids[10, 1] != ids[10, 2]
    assert set(ids[10, 1]) < set(ids[20, 1]) < set(ids[None, 1])


def test_other_subjects_are_left_out_and_counted(tmp_path: Path) -> None:
    subjects = ["anatomy", "astronomy", "virology", "astronomy"]
    file = written(tmp_path / "mmlu.jsonl", [question(n, subject=name) for n, name in enumerate(subjects)])
    exam = local_exam(TASKS["mmlu"], file, limit=None, seed=17)
    assert (len(exam.items), exam.left_out) == (2, 2)
    with pytest.raises(EmptyDataError, match=r"mmlu.jsonl holds no question for 'mmlu'"):
        local_exam(TASKS["mmlu"], written(file, [question(1, subject="astronomy")]), limit=None, seed=17)


def test_a_missing_exam_is_said_with_what_there_is(tmp_path: Path) -> None:
    written(tmp_path / "medqa.jsonl", [question(1)])
    with pytest.raises(DataNotFoundError, match=r"no file for 'medmcqa': name it medmcqa.jsonl; there are medqa.jsonl"):
        local_exam(TASKS["medmcqa"], tmp_path, limit=None, seed=17)
    with pytest.raises(DataNotFoundError, match="no file or folder"):
        local_exam(TASKS["medqa"], tmp_path / "nowhere", limit=None, seed=17)


def test_a_bad_record_is_named_by_file_and_line_without_its_text(tmp_path: Path) -> None:
    file = written(tmp_path / "medqa.jsonl", [question(1), question(2, answer=9, question="secret")])
    with pytest.raises(DataFormatError, match=r"medqa.jsonl line 2: 'answer' is 9") as raised:
        local_exam(TASKS["medqa"], file, limit=None, seed=17)
    assert "secret" not in str(raised.value)

"""The bench against lm-evaluation-harness asks the same questions under other column names, and sees what differs."""

from __future__ import annotations

import dataclasses
import importlib
import json
from pathlib import Path

import pytest

from fedmed.evaluation.exams.tasks import TASKS

pytestmark = pytest.mark.unit

CHOICE = {"id": "1", "question": "Which? ", "options": ["a", "b ", "c", "d"], "answer": 2, "subject": "virology"}
RECORDS = {
    "pubmedqa": {"id": "1", "question": "Is it? ", "context": "One. Two.", "answer": "maybe"},
    "medmcqa": CHOICE,
    "medqa": CHOICE,
    "mmlu": CHOICE,
}


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    return importlib.import_module("harness")


@pytest.mark.parametrize("task", RECORDS)
def test_the_hub_s_columns_ask_the_same_question(bench, task):
    plain = TASKS[task].read(RECORDS[task], "1")
    hub = TASKS[task].read(bench.hub_columns(task, RECORDS[task]), "1")
    assert (hub.prompt, hub.choices, hub.gold) == (plain.prompt, plain.choices, plain.gold)


def test_a_sample_log_is_read_and_every_disagreement_is_counted(bench, tmp_path):
    sample = {
        "doc": {"id": "1"}, "filtered_resps": [[-2.0, False], ["-1.0", True]], "acc": 1.0, "acc_norm": 1.0,
        "arguments": {f"gen_args_{n}": {"arg_0": "Prompt", "arg_1": f" {n}"} for n in range(2)},
    }  # fmt: skip
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "samples_medqa.jsonl").write_text(json.dumps(sample) + "\n", encoding="utf-8")
    their = bench.read_samples(tmp_path)
    assert their["1"] == bench.Scored("Prompt", (-2.0, -1.0), 1.0, 1.0)
    same = bench.compare(their, their)
    assert (same["equal_prompts"], same["equal_choices"], same["log_likelihood_difference"]["largest"]) == (1, 1, 0.0)
    other = {"1": dataclasses.replace(their["1"], prompt="prompt", log_likelihoods=(-0.5, -1.0), acc=0.0)}
    found = bench.compare(other, their)
    assert (found["equal_prompts"], found["equal_choices"]) == (0, 0)
    assert found["log_likelihood_difference"]["largest"] == 1.5
    assert found["acc"] == {"ours": 0.0, "harness": 1.0}
    with pytest.raises(ValueError, match="same questions"):
        bench.compare({}, their)

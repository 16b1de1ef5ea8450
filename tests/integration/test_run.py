"""The main job on a tiny random model: its folder, its promises, what it refuses. The real model is for tests/e2e."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fedmed.config.load import load_config
from fedmed.errors import (
    ConfigChangedError,
    EmptyDataError,
    OutputNotWritableError,
    RunBusyError,
    RunExistsError,
    RunFinishedError,
    RunNotFoundError,
    SplitError,
)
from fedmed.pipeline.comparison import REFERENCES, shuffle_answers
from fedmed.pipeline.federation import resume_federation, run_federation

pytestmark = pytest.mark.integration

TINY = [
    "model.name=builtin:tiny-llama",
    "model.generation.max_new_tokens=8",
    "training.max_steps=2",
    "training.learning_rate=0.01",
    "training.evaluation.max_records_per_hospital=3",
    "training.evaluation.multiple_choice_items=0",
    "training.evaluation.generated_answers=2",
    "federated.rounds=3",
    "training.threads=1",
]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working folder with a small record file; returns the settings that use it."""
    monkeypatch.chdir(tmp_path)
    lines = [
        {"question": f"What is finding {i}?", "answer": f"Finding {i} is a sign of the {organ}.", "specialty": organ}
        for i in range(40)
        for organ in ("heart", "lung")
    ]
    Path("records.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return [
        *TINY, "training.dataset.name=records.jsonl", "training.dataset.gate.unscanned=true",
        "training.dataset.test_fraction=0.3",
    ]  # fmt: skip


def settings(place, *more):
    return load_config(None, (), [*place, *more])


def command(place, *words) -> list[str]:
    sets = [word for override in place for word in ("--set", override)]
    return [sys.executable, "-m", "fedmed", "run", *sets, *words]


def test_a_run_leaves_what_the_architecture_promises(place):
    outcome = run_federation(settings(place), out=Path("out"), compare=("local", "central", "shuffled"))
    summary = json.loads(Path("out/summary.json").read_text())
    assert summary == outcome.summary
    promised = "run_id status seed model dataset algorithm hospitals rounds loss train_tokens wall_s bytes privacy"
    assert {*promised.split(), "peak_rss_mb", "adapter_sha256", "environment"} <= summary.keys()
    assert summary["status"] == "finished"
    assert summary["rounds"] == 3
    assert [hospital["name"] for hospital in summary["hospitals"]] == [f"hospital_{c}" for c in "ABCD"]
    assert {"load", "baseline_eval", "train", "eval", "total"} <= summary["wall_s"].keys()
    assert set(summary["comparison"]) == {"local", "central", "shuffled"}
    assert summary["loss"]["federated"] < summary["loss"]["base"]
    for name in (
        "config.yaml",
        "report.html",
        "model_card.md",
        "rounds.jsonl",
        "adapter/adapter_model.safetensors",
        "rounds/0003",
    ):
        assert (Path("out") / name).exists(), name
    lines = [json.loads(line) for line in Path("logs/metrics/out.jsonl").read_text().splitlines()]
    assert [(line["round"], line["hospital"][-1]) for line in lines] == [(r, c) for r in (1, 2, 3) for c in "ABCD"]
    assert list(Path("logs/out").glob("events*"))
    assert json.loads(Path("output-models/latest.json").read_text())["run"].endswith("out")
    assert sum(line["tokens"] for line in lines) == summary["train_tokens"]


def test_the_same_settings_give_the_same_adapter(place):
    digests = {run_federation(settings(place), out=Path(name)).summary["adapter_sha256"] for name in ("one", "two")}
    other = run_federation(settings(place, "federated.seed=18"), out=Path("three")).summary["adapter_sha256"]
    assert len(digests) == 1
    assert other not in digests


def test_a_killed_run_resumes_to_the_identical_adapter(place):
    alone = run_federation(settings(place, "federated.rounds=6"), out=Path("alone")).summary
    child = subprocess.Popen(
        command([*place, "federated.rounds=6"], "--out", "killed"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while not Path("killed/rounds/0002").exists():
        assert child.poll() is None, "ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert json.loads(Path("killed/summary.json").read_text())["status"] == "running"
    resumed = resume_federation(Path("killed")).summary
    assert resumed["adapter_sha256"] == alone["adapter_sha256"]
    assert resumed["loss"] == alone["loss"]
    assert Path("killed/rounds.jsonl").read_text().count("\n") == 24
    lines = [json.loads(line) for line in Path("logs/metrics/killed.jsonl").read_text().splitlines()]
    assert [(line["round"], line["hospital"][-1]) for line in lines] == [(r, c) for r in range(1, 7) for c in "ABCD"]


def test_a_run_that_shares_no_metrics_tells_none(place):
    summary = run_federation(
        settings(place, "privacy.share_metrics=false"), out=Path("out"), compare=REFERENCES
    ).summary
    assert summary["loss"]["per_hospital"] is None
    assert summary["train_tokens"] is None
    assert [entry["per_hospital"] for entry in summary["comparison"].values()] == [None, None, None]
    for name in ("baseline.json", "few_shot.json", "federated.json", "summary.json"):
        assert not re.search(r'"per_hospital": \{\s*"', Path("out", name).read_text()), name
    assert "loss" not in Path("out/rounds.jsonl").read_text()
    assert "loss" not in Path("logs/metrics/out.jsonl").read_text()


def test_what_cannot_be_resumed_is_told_apart(place):
    run_federation(settings(place), out=Path("out"))
    with pytest.raises(RunFinishedError, match="out"):
        resume_federation(Path("out"))
    with pytest.raises(RunNotFoundError, match="nowhere"):
        resume_federation(Path("nowhere"))
    with pytest.raises(RunExistsError, match="out"):
        run_federation(settings(place), out=Path("out"))


def test_a_run_is_not_resumed_with_other_settings_or_other_records(place):
    run_federation(settings(place), out=Path("out"))
    summary = json.loads(Path("out/summary.json").read_text())
    Path("out/summary.json").write_text(json.dumps(summary | {"status": "stopped"}))
    with pytest.raises(ConfigChangedError, match=r"federated\.rounds"):
        resume_federation(Path("out"), asked=settings(place, "federated.rounds=4"))
    with open("records.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps({"question": "A new one?", "answer": "Yes."}) + "\n")
    with pytest.raises(ConfigChangedError, match=r"records\.jsonl"):
        resume_federation(Path("out"), asked=settings(place))


def test_two_runs_in_one_folder_at_once_are_kept_apart(place):
    child = subprocess.Popen(
        command([*place, "federated.rounds=50"], "--out", "shared"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 120
        while not Path("shared/config.yaml").exists():
            assert child.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        with pytest.raises(RunBusyError, match=f"process {child.pid}"):
            run_federation(settings(place), out=Path("shared"))
        with pytest.raises(RunBusyError, match=f"process {child.pid}"):
            resume_federation(Path("shared"))
    finally:
        child.kill()
        child.wait()


@pytest.mark.parametrize(
    ("override", "error"),
    [
        ("federated.num_clients=2000", SplitError),
        ("federated.split=by_source", SplitError),
        ("training.dataset.name=empty.jsonl", EmptyDataError),
    ],
)
def test_a_run_that_cannot_start_leaves_nothing_behind(place, override, error):
    Path("empty.jsonl").write_text("")
    before = sorted(Path().rglob("*"))
    with pytest.raises(error):
        run_federation(settings(place, override), out=Path("fresh"))
    left = [path for path in sorted(Path().rglob("*")) if path not in before and path.parts[0] not in ("data",)]
    assert left == []


def test_an_unwritable_place_is_named_before_anything_is_computed(place):
    Path("file").write_text("in the way")
    with pytest.raises(OutputNotWritableError, match="file"):
        run_federation(settings(place), out=Path("file/run"))


def test_a_full_disk_stops_the_run_in_one_line_and_it_can_be_resumed(place):
    alone = run_federation(settings(place), out=Path("alone")).summary
    limited = subprocess.run(
        ["bash", "-c", 'ulimit -f 12; exec "$@"', "_", *command(place, "--out", "full")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert limited.returncode == 62, limited.stderr
    assert "error: no room left" in limited.stderr
    assert "Traceback" not in limited.stderr
    assert json.loads(Path("full/summary.json").read_text())["status"] == "stopped"
    assert resume_federation(Path("full")).summary["adapter_sha256"] == alone["adapter_sha256"]


def test_the_control_gives_every_question_the_answer_of_another():
    records = [{"question": f"q{i}", "answer": f"a{i}", "kind": "ab"[i % 2]} for i in range(21)]
    shuffled = shuffle_answers(records, seed=1, hospital="hospital_A")
    assert [row["question"] for row in shuffled] == [row["question"] for row in records]
    assert all(before["answer"] != after["answer"] for before, after in zip(records, shuffled, strict=True))
    for kind in "ab":
        answers = [sorted(row["answer"] for row in rows if row["kind"] == kind) for rows in (records, shuffled)]
        assert answers[0] == answers[1]

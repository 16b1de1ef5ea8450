"""A run is drawn from whatever of its files there is."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmed.config.load import dump_config, load_config
from fedmed.demo.federation_view import nothing, view
from fedmed.demo.run_files import read_run, runs_in, stamp
from fedmed.privacy.accountant import SampledGaussian, epsilon
from fedmed.privacy.ledger import Budget, Ledger

pytestmark = pytest.mark.unit

NAMES = [f"hospital_{letter}" for letter in "ABCD"]


def words(markup: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", markup))


def write_state(folder: Path, rounds: int) -> None:
    history = [
        {"round": at, "admitted": NAMES[:3], "refused": {"hospital_D": "its norm is <too> large"}, "bytes_up": 1500,
         "bytes_down": 500, "num_samples": dict.fromkeys(NAMES, 100), "update_norm": 1.0 / at}
        for at in range(1, rounds + 1)
    ]  # fmt: skip
    state = folder / "rounds" / f"{rounds:04d}" / "state.json"
    state.parent.mkdir(parents=True, exist_ok=True)
    state.write_text(json.dumps({"round": rounds, "history": history}), encoding="utf-8")


@pytest.fixture
def running(tmp_path: Path) -> Path:
    """Two of four rounds are over; the last line is being written."""
    folder = tmp_path / "output-models" / "going-on"
    folder.mkdir(parents=True)
    config = load_config(None, (), ["federated.rounds=4"])
    (folder / "config.yaml").write_text(dump_config(config, {"seed": 17}), encoding="utf-8")
    (folder / "summary.json").write_text('{"run_id": "going-on", "status": "running", "reason": null}')
    lines = [{"round": at, "hospital": name, "loss": 3.0 / at, "tokens": 10} for at in (1, 2) for name in NAMES]
    (folder / "rounds.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"round": 3, "hos')
    write_state(folder, 1)
    write_state(folder, 2)
    return folder


def test_a_run_that_goes_on_says_how_far_it_is_and_what_it_has_cost(running: Path) -> None:
    shown = words(view(read_run(running), now=read_run(running).written + 3))
    for text in ("Running, last sign of life", "round 2 of 4", "3.0\u202fkB", "1.0\u202fkB", "80", "2 of 2", "0 of 2"):
        assert text.replace("\u202f", " ") in shown
    assert "hospital_D, round 1: its norm is &lt;too&gt; large" in shown


def test_before_the_first_round_it_says_what_is_done(running: Path) -> None:
    (running / "rounds.jsonl").unlink()
    shutil.rmtree(running / "rounds")
    shown = words(view(read_run(running)))
    assert "before the first round" in shown
    assert "0 of" not in shown


def test_a_damaged_checkpoint_is_passed_over(running: Path) -> None:
    (running / "rounds" / "0002" / "state.json").write_text('{"round": 2, "hist')
    assert len(read_run(running).history) == 1


def test_a_finished_run_is_drawn_from_its_summary(running: Path) -> None:
    summary = {
        "status": "finished", "bytes": {"up": 5_000_000, "down": 7_000}, "train_tokens": 999,
        "loss": {"base": 3.0, "federated": 2.0, "per_hospital": {"hospital_A": {"federated": 1.25}}},
        "hospitals": [{"name": "hospital_A", "num_samples": 7}],
        "privacy": {"example_epsilon": 3.14159, "not_covered": ["the <counts>"]},
    }  # fmt: skip
    (running / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    shown = words(view(read_run(running)))
    for text in ("Finished", "3.000 → 2.000", "5.0 MB", "999", "1.250", "3.14", "the &lt;counts&gt;"):
        assert text in shown


def test_epsilon_of_a_run_that_goes_on_is_what_its_ledgers_say(running: Path) -> None:
    config = load_config(None, (), ["federated.rounds=4", "privacy.example.epsilon=8"])
    (running / "config.yaml").write_text(dump_config(config, {"seed": 17}), encoding="utf-8")
    assert read_run(running).epsilon == (None, None)
    delta, event = config.privacy.example.delta, SampledGaussian(0.01, 1.0, 100)
    for name, times in (("hospital_A", 2), ("hospital_B", 1)):
        ledger = Ledger.open(running / "ledgers" / f"{name}.jsonl", name)
        for at in range(times):
            ledger.charge("going-on", at, 0, event, Budget(8.0, delta))
    assert read_run(running).epsilon == (epsilon([event, event], delta).epsilon, None)
    assert "the largest of any" in view(read_run(running))


def test_the_newest_run_is_the_first(running: Path) -> None:
    other = running.parent / "older"
    other.mkdir()
    (other / "summary.json").write_text("{}")
    os.utime(other / "summary.json", (1, 1))
    (running.parent / "no-run").mkdir()
    assert list(runs_in([running.parent, running.parent / "none"])) == ["going-on", "older"]


def test_a_stamp_changes_with_every_round(running: Path) -> None:
    before = stamp(running)
    assert stamp(running) == before
    write_state(running, 3)
    assert stamp(running) != before


def test_without_a_run_it_says_how_to_make_one() -> None:
    assert "fedmed run" in nothing()


@given(raw=st.binary(max_size=60), name=st.sampled_from(["summary.json", "rounds.jsonl", "config.yaml"]))
def test_any_bytes_in_a_file_are_no_fault(tmp_path_factory: pytest.TempPathFactory, raw: bytes, name: str) -> None:
    folder = tmp_path_factory.mktemp("run")
    (folder / name).write_bytes(raw)
    view(read_run(folder))


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=4),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
            st.sampled_from(["loss", "bytes", "privacy", "hospitals", "status", "base", "name"]), inner, max_size=4
        ),
        max_leaves=8,
    )
)  # fmt: skip
def test_any_summary_is_no_fault(tmp_path_factory: pytest.TempPathFactory, value: object) -> None:
    folder = tmp_path_factory.mktemp("run")
    (folder / "summary.json").write_text(json.dumps(value), encoding="utf-8")
    (folder / "rounds.jsonl").write_text(json.dumps(value) + "\n", encoding="utf-8")
    view(read_run(folder))

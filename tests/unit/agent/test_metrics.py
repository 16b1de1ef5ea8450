from __future__ import annotations

import json
import time
from pathlib import Path

import pandas
import pytest

from fedmed.agent.metrics import MetricsTracker
from fedmed.errors import ConfigError, DataFormatError, NonFiniteLossError, OutputNotWritableError

pytestmark = pytest.mark.unit


def log_two_rounds(logs: Path) -> MetricsTracker:
    tracker = MetricsTracker("run-1", logs)
    for number in (1, 2):
        for hospital in ("hospital_A", "hospital_B"):
            tracker.log_round(number, hospital, loss=3.0 / number, tokens=100 * number)
    tracker.close()
    return tracker


def test_one_line_of_pandas_reads_every_round_and_hospital(tmp_path: Path) -> None:
    tracker = log_two_rounds(tmp_path)
    table = pandas.read_json(tracker.path, lines=True)
    assert list(table.columns) == ["round", "hospital", "loss", "tokens"]
    assert len(table) == 4
    assert table[table["round"] == 2]["loss"].tolist() == [1.5, 1.5]
    assert tracker.path == tmp_path / "metrics" / "run-1.jsonl"


def test_tensorboard_reads_back_the_same_curve(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tracker = log_two_rounds(tmp_path)
    events = EventAccumulator(str(tracker.tensorboard_folder))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss/hospital_A")] == [(1, 3.0), (2, 1.5)]


def test_a_half_written_last_line_is_gone_after_opening_again(tmp_path: Path) -> None:
    tracker = log_two_rounds(tmp_path)
    whole = tracker.path.read_bytes()
    tracker.path.write_bytes(whole + b'{"round": 3, "hosp')
    MetricsTracker("run-1", tmp_path)
    assert tracker.path.read_bytes() == whole


def test_truncation_drops_later_rounds_and_keeps_earlier_bytes(tmp_path: Path) -> None:
    tracker = log_two_rounds(tmp_path)
    first_round = tracker.path.read_bytes().splitlines(keepends=True)[:2]
    assert MetricsTracker("run-1", tmp_path).truncate_after(1) == 2
    assert tracker.path.read_bytes() == b"".join(first_round)
    assert MetricsTracker("run-1", tmp_path).truncate_after(0) == 2
    assert tracker.path.read_bytes() == b""


def test_truncation_of_a_run_without_lines_drops_nothing(tmp_path: Path) -> None:
    assert MetricsTracker("new", tmp_path).truncate_after(3) == 0


def test_a_resumed_run_hides_the_steps_that_were_drawn_past_its_checkpoint(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log_two_rounds(tmp_path)
    time.sleep(1.1)  # TensorBoard reads its files by name, and a name starts with the second it was made in
    resumed = MetricsTracker("run-1", tmp_path)
    resumed.truncate_after(1)
    resumed.log_round(2, "hospital_A", loss=9.0)
    resumed.close()
    events = EventAccumulator(str(resumed.tensorboard_folder))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss/hospital_A")] == [(1, 3.0), (2, 9.0)]


def test_a_line_that_is_no_metrics_line_is_named_by_file_and_number(tmp_path: Path) -> None:
    tracker = log_two_rounds(tmp_path)
    with open(tracker.path, "a") as file:
        file.write("garbage\n")
    with pytest.raises(DataFormatError, match=r"run-1\.jsonl line 5"):
        MetricsTracker("run-1", tmp_path).truncate_after(1)


def test_a_withheld_value_is_null_and_draws_no_curve(tmp_path: Path) -> None:
    with MetricsTracker("run-1", tmp_path) as tracker:
        tracker.log_round(1, "hospital_A", loss=None, seconds=2.5)
    assert json.loads(tracker.path.read_text()) == {"round": 1, "hospital": "hospital_A", "loss": None, "seconds": 2.5}


def test_a_value_that_is_not_finite_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    tracker = MetricsTracker("run-1", tmp_path)
    with pytest.raises(NonFiniteLossError, match="loss of hospital_A in round 1"):
        tracker.log_round(1, "hospital_A", loss=float("nan"))
    assert not tracker.path.exists()


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/etc/x", "metrics"])
def test_a_run_name_that_is_a_path_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot name a log folder"):
        MetricsTracker(name, tmp_path)


def test_a_logs_folder_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("")
    with pytest.raises(OutputNotWritableError, match="logs"):
        MetricsTracker("run-1", tmp_path / "logs").log_round(1, "hospital_A", loss=1.0)

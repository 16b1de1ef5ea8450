from __future__ import annotations

import os
from pathlib import Path

import pytest

from fedmed.errors import RunNotFoundError
from fedmed.utils.runs import find_run, latest_run, note_latest

pytestmark = pytest.mark.unit


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three runs: ``b`` is the newest, ``c`` has no summary."""
    for name, age in (("a", 200), ("b", 100), ("c", 0)):
        (tmp_path / name).mkdir()
        if name != "c":
            summary = tmp_path / name / "summary.json"
            summary.write_text("{}", encoding="utf-8")
            os.utime(summary, (1_700_000_000 - age, 1_700_000_000 - age))
    return tmp_path


def test_without_a_note_the_newest_summary_is_the_latest_run(root: Path) -> None:
    assert latest_run(root) == root / "b"


def test_a_noted_run_is_the_latest(root: Path) -> None:
    note_latest(root / "a", root)
    assert latest_run(root) == root / "a"


def test_a_run_outside_the_root_can_be_the_latest(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    note_latest(elsewhere, root)
    assert latest_run(root).resolve() == elsewhere.resolve()


def test_the_note_survives_moving_the_whole_folder(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    note_latest(root / "a", root)
    moved = tmp_path_factory.mktemp("moved") / "runs"
    root.rename(moved)
    assert latest_run(moved) == moved / "a"


def test_a_note_of_a_run_that_is_gone_falls_back_to_the_newest(root: Path) -> None:
    note_latest(root / "gone", root)
    assert latest_run(root) == root / "b"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"other": 1}', "null"])
def test_a_damaged_note_is_named(root: Path, text: str) -> None:
    (root / "latest.json").write_text(text, encoding="utf-8")
    with pytest.raises(RunNotFoundError, match=r"latest\.json does not name a run"):
        latest_run(root)


@pytest.mark.parametrize("name", ["empty", "absent"])
def test_without_any_run_the_error_says_how_to_make_one(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunNotFoundError, match="fedmed run --recipe cpu_demo"):
        latest_run(tmp_path / name)


def test_a_run_is_found_by_name_by_path_and_as_the_latest(root: Path) -> None:
    assert find_run("c", root) == root / "c"
    assert find_run(root / "a", root) == root / "a"
    assert find_run(str(root / "a")) == root / "a"
    assert find_run("latest", root) == root / "b"


def test_an_unknown_run_is_an_error_that_lists_the_others(root: Path) -> None:
    with pytest.raises(RunNotFoundError, match=r"no run 'z'.*: b, a"):
        find_run("z", root)

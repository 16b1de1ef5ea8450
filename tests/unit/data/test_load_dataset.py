"""A name leads to the embedded set, to local files or to the hub, and never silently from one to another."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fedmed.data import hub
from fedmed.data.load_dataset import load_medical_dataset, load_with_report
from fedmed.data.records import FIELDS
from fedmed.errors import ConfigError, DataFormatError, DataNotFoundError, EmptyDataError, HubError

pytestmark = pytest.mark.unit


@pytest.fixture(autouse=True)
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str, hub_split: str) -> None:
        raise HubError(f"asked the hub for '{name}' {hub_split}")

    monkeypatch.setattr(hub, "fetch", refuse)


def write(path: Path, rows: list[dict[str, object]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def some(count: int, prefix: str = "Q") -> list[dict[str, object]]:
    return [{"question": f"{prefix}{n}?", "answer": f"A{n}"} for n in range(count)]


def test_the_default_is_the_embedded_set_with_30000_records() -> None:
    dataset, report = load_with_report()
    assert tuple(dataset.column_names) == FIELDS
    assert len(dataset) == report.kept == 30_000
    assert report.usable == report.read > 30_000
    columns = dataset[:]
    test = {group for group, split in zip(columns["group"], columns["split"], strict=True) if split == "test"}
    train = {group for group, split in zip(columns["group"], columns["split"], strict=True) if split == "train"}
    assert not test & train
    assert 0.08 < len(test) / len(test | train) < 0.12


def test_the_same_seed_gives_the_same_data_and_another_seed_other_data(tmp_path: Path) -> None:
    path = str(write(tmp_path / "notes.jsonl", some(400)))
    first, again = load_medical_dataset(path, 300), load_medical_dataset(path, 300)
    other = load_medical_dataset(path, 300, seed=18)
    assert first[:] == again[:]
    assert first[:] != other[:]


def test_a_local_file_is_loaded_and_counted(tmp_path: Path) -> None:
    rows = [*some(5), {"question": "Q1?", "answer": "A1"}, {"question": "", "answer": "A"}]
    dataset, report = load_with_report(str(write(tmp_path / "notes.jsonl", rows)), 4)
    assert len(dataset) == 4
    assert (report.read, report.usable, report.kept, report.empty, report.duplicate) == (7, 5, 4, 1, 1)
    assert set(dataset[:]["source"]) == {"notes.jsonl"}
    assert set(dataset[:]["split"]) == {"train", "test"}


def test_a_folder_is_loaded_with_each_file_as_a_source(tmp_path: Path) -> None:
    write(tmp_path / "a" / "x.jsonl", some(3))
    (tmp_path / "b.txt").write_text("Q: Why?\nA: So.\n", encoding="utf-8")
    (tmp_path / "c.csv").write_text("question,answer\n", encoding="utf-8")
    dataset, report = load_with_report(str(tmp_path))
    assert set(dataset[:]["source"]) == {"a/x.jsonl", "b.txt"}
    assert {name: counts.usable for name, counts in report.files.items()} == {"a/x.jsonl": 3, "b.txt": 1, "c.csv": 0}


def test_columns_can_be_mapped(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", [{"ask": "Q", "reply": "A"}])
    dataset = load_medical_dataset(str(path), columns={"question": "ask", "answer": "reply"})
    assert dataset[0]["answer"] == "A"


def test_a_malformed_record_names_file_and_line(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", [*some(2), {"question": ["SECRET"], "answer": "A"}])
    with pytest.raises(DataFormatError, match=r"x\.jsonl line 3: 'question' is list, not text"):
        load_medical_dataset(str(path))


def test_wrong_columns_list_those_there_are(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", [{"foo": "Q", "bar": "A"}])
    with pytest.raises(DataFormatError, match="it has bar, foo"):
        load_medical_dataset(str(path))


@pytest.mark.parametrize("content", ["", "question,answer\n", "question,answer\n,\n,A\n"])
def test_a_file_without_a_usable_record_is_empty(tmp_path: Path, content: str) -> None:
    path = tmp_path / "x.csv"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(EmptyDataError):
        load_medical_dataset(str(path))


@pytest.mark.parametrize(
    "name",
    ["./notes", "/no/such/folder", "a/b/c", "notes.csv", "org/notes.jsonl", "org/data.csv.gz", "~/none", "notes/"],
)
def test_what_looks_like_a_path_is_never_asked_of_the_hub(name: str) -> None:
    with pytest.raises(DataNotFoundError, match="no file or folder"):
        load_medical_dataset(name)


@pytest.mark.parametrize("name", ["hop", "", "two words", "org/name:", "org/na me"])
def test_a_name_that_is_nothing_says_what_there_is(name: str) -> None:
    with pytest.raises(DataNotFoundError, match="use hpo, a path, or a hub id"):
        load_medical_dataset(name)


@pytest.mark.parametrize("name", ["AI-MO/ai-medical-dataset", "qiaojin/PubMedQA:pqa_labeled"])
def test_a_hub_id_is_asked_of_the_hub(name: str) -> None:
    with pytest.raises(HubError, match=f"asked the hub for '{name}' train"):
        load_medical_dataset(name)


@pytest.mark.parametrize(("max_samples", "fraction"), [(0, 0.1), (-1, 0.1), (10, 0.0), (10, 1.0), (10, float("nan"))])
def test_numbers_out_of_range_are_refused(max_samples: int, fraction: float) -> None:
    with pytest.raises(ConfigError, match="cannot be used"):
        load_medical_dataset(max_samples=max_samples, test_fraction=fraction)

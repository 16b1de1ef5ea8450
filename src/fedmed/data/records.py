"""What every source of records goes through at the end: choose some, hold some out, become a ``Dataset``.

Both choices are made by a hash of the seed and the record's group, so they do not depend on the order of the records:
a group that is held out in a small sample is held out in a large one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING

from fedmed.errors import EmptyDataError
from fedmed.types import QARecord
from fedmed.utils.extras import require
from fedmed.utils.random_streams import stream_seed

if TYPE_CHECKING:
    from datasets import Dataset

FIELDS = tuple(field.name for field in fields(QARecord))
_HASHES = 2.0**63  # stream_seed gives 63 bits


def take(records: Sequence[QARecord], max_samples: int, seed: int) -> list[QARecord]:
    """Choose exactly ``min(max_samples, len(records))`` records, whole groups as far as the number allows.

    Groups are taken in the order of their hash; only the last one may be taken in part. The records keep their order.
    """
    if len(records) <= max_samples:
        return list(records)
    by_group: dict[str, list[int]] = {}
    for index, record in enumerate(records):
        by_group.setdefault(record.group, []).append(index)
    chosen: list[int] = []
    for group in sorted(by_group, key=lambda group: (stream_seed(seed, "take", group), group)):
        chosen += by_group[group][: max_samples - len(chosen)]
        if len(chosen) == max_samples:
            break
    return [records[index] for index in sorted(chosen)]


def hold_out(records: Sequence[QARecord], test_fraction: float, seed: int) -> tuple[list[QARecord], int]:
    """Give every record its side of the train/test line; a group is on one side with all its records.

    A record whose ``split`` is empty is placed by the hash of its group: in expectation ``test_fraction`` of the
    groups is held out, and at least one group on either side where there are two. A record that brings its split
    keeps it, unless its group has a record in test: then the whole group is test.

    Returns:
        The records with ``split`` set, and how many moved from train to test for their group's sake.
    """
    hashes = {record.group: stream_seed(seed, "test", record.group) for record in records if not record.split}
    test = {group for group, value in hashes.items() if value / _HASHES < test_fraction}
    if len(hashes) > 1 and not test:
        test = {min(hashes, key=lambda group: (hashes[group], group))}
    elif len(hashes) > 1 and len(test) == len(hashes):
        test.discard(max(hashes, key=lambda group: (hashes[group], group)))
    test |= {record.group for record in records if record.split == "test"}
    placed = [replace(record, split="test" if record.group in test else "train") for record in records]
    moved = sum(old.split == "train" and new.split == "test" for old, new in zip(records, placed, strict=True))
    return placed, moved


def to_dataset(records: Sequence[QARecord]) -> Dataset:
    """Columns are the fields of ``QARecord`` in their order, all text.

    Raises:
        EmptyDataError: there is no record.
    """
    if not records:
        raise EmptyDataError("no usable record is left", "see 'fedmed data inspect' for what was left out and why")
    datasets = require("datasets", "train")
    columns = {name: [getattr(record, name) for record in records] for name in FIELDS}
    dataset: Dataset = datasets.Dataset.from_dict(columns, features=text_features())
    return dataset


def text_features() -> object:
    """The ``datasets.Features`` of every dataset in FED-MED."""
    datasets = require("datasets", "train")
    return datasets.Features({name: datasets.Value("string") for name in FIELDS})

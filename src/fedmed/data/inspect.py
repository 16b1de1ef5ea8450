"""Count what is in a dataset, without showing any of its text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fedmed.data.clean import LoadReport

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True, slots=True)
class Lengths:
    """Characters of a text, over all records."""

    median: int
    p95: int
    max: int


@dataclass(frozen=True, slots=True)
class Inspection:
    """What ``fedmed data inspect`` shows; its JSON is ``as_dict``."""

    report: LoadReport
    records: int
    groups: int
    by_split: dict[str, int]
    by_kind: dict[str, int]
    by_specialty: dict[str, int]
    sources: int
    question_characters: Lengths
    answer_characters: Lengths

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def inspect_dataset(dataset: Dataset, report: LoadReport) -> Inspection:
    """Count records, groups, kinds, specialties and lengths of a dataset that ``load_with_report`` gave."""
    columns = dataset[:]
    return Inspection(
        report=report,
        records=len(dataset),
        groups=len(set(columns["group"])),
        by_split=_counts(columns["split"]),
        by_kind=_counts(columns["kind"]),
        by_specialty=_counts(columns["specialty"]),
        sources=len(set(columns["source"])),
        question_characters=_lengths(columns["question"]),
        answer_characters=_lengths(columns["answer"]),
    )


def _counts(values: Sequence[str]) -> dict[str, int]:
    """The most frequent first, then by name."""
    return dict(sorted(Counter(values).items(), key=lambda item: (-item[1], item[0])))


def _lengths(texts: Sequence[str]) -> Lengths:
    lengths = [len(text) for text in texts]
    median, p95 = np.percentile(lengths, [50, 95])
    return Lengths(median=round(median), p95=round(p95), max=max(lengths))

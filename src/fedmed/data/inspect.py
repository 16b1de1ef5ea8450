"""Count what is in a dataset, and warn of what should not be there, without showing any of its text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from fedmed.data.clean import LoadReport
from fedmed.data.near_duplicates import THRESHOLD, near_duplicates
from fedmed.data.split_folder import describe_split

if TYPE_CHECKING:
    from datasets import Dataset

SMALL_CELL = 11
"""Counts below it may single people out: the United States' CMS publishes no cell of 1 to 10."""
_EDGES = (0, 20, 50, 100, 200, 400, 800, 1600, 3200, 6400)


@dataclass(frozen=True, slots=True)
class Lengths:
    """Characters of a text, over all records."""

    median: int
    p95: int
    max: int
    histogram: dict[str, int]  # "100–199" -> records


@dataclass(frozen=True, slots=True)
class Near:
    """Near-duplicates; exact ones were left out before, see ``LoadReport.duplicate``."""

    threshold: float  # Jaccard similarity of word triples
    clusters: int
    records: int  # in a cluster
    largest: int
    test_records_near_training: int  # held-out records that training all but contains
    clusters_across_hospitals: int | None  # None: no hospitals to tell apart


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
    near_duplicates: Near
    hospitals: dict[str, dict[str, Any]]  # name -> train, test, label_skew, by_specialty
    hospitals_basis: str  # where the shares come from, or why there are none
    small_cells: list[dict[str, Any]]  # what, name, records
    patients: dict[str, int] | None = None  # patients, most_documents; None: the source names none
    consent: dict[str, int] | None = None  # yes, no, unknown -> documents; None: the source does not say
    identifiers: dict[str, Any] | None = None  # phi_report, or why there is none

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def inspect_dataset(
    dataset: Dataset,
    report: LoadReport,
    *,
    hospitals: Mapping[str, Dataset] | None = None,
    hospitals_basis: str = "not asked for",
) -> Inspection:
    """Count records, groups, kinds, specialties, lengths and near-duplicates of a dataset.

    Args:
        dataset: as ``load_with_report`` gave it.
        report: of the same call.
        hospitals: the shares of the same records; None: not known.
        hospitals_basis: where the shares come from, or why there are none.
    """
    columns = dataset[:]
    shares = describe_split(hospitals) if hospitals else {}
    cells = {"specialty": Counter(columns["specialty"]), "hospital": {n: s["records"] for n, s in shares.items()}}
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
        near_duplicates=_near(columns, hospitals or {}),
        hospitals={
            name: {key: share[key] for key in ("train", "test", "label_skew", "by_specialty")}
            for name, share in shares.items()
        },
        hospitals_basis=hospitals_basis,
        small_cells=[
            {"what": what, "name": name, "records": count}
            for what, counts in cells.items()
            for name, count in sorted(counts.items(), key=lambda item: (item[1], item[0]))
            if count < SMALL_CELL
        ],
    )


def _near(columns: Mapping[str, Sequence[str]], hospitals: Mapping[str, Dataset]) -> Near:
    texts = (f"{question}\n{answer}" for question, answer in zip(columns["question"], columns["answer"], strict=True))
    found = near_duplicates(texts)
    sides = columns["split"]
    leaking = sum(
        sum(sides[row] == "test" for row in rows)
        for rows in found.clusters
        if any(sides[row] == "train" for row in rows)
    )
    at = {one: name for name, share in hospitals.items() for one in share["id"]}
    across = sum(len({at.get(columns["id"][row]) for row in rows}) > 1 for rows in found.clusters)
    return Near(
        threshold=THRESHOLD,
        clusters=len(found.clusters),
        records=found.records,
        largest=max(map(len, found.clusters), default=0),
        test_records_near_training=leaking,
        clusters_across_hospitals=across if hospitals else None,
    )


def _counts(values: Sequence[str]) -> dict[str, int]:
    """The most frequent first, then by name."""
    return dict(sorted(Counter(values).items(), key=lambda item: (-item[1], item[0])))


def _lengths(texts: Sequence[str]) -> Lengths:
    lengths = [len(text) for text in texts]
    median, p95 = np.percentile(lengths, [50, 95])
    bins = np.bincount(np.searchsorted(_EDGES, lengths, side="right") - 1, minlength=len(_EDGES))
    names = [f"{low}–{high - 1}" for low, high in pairwise(_EDGES)] + [f"{_EDGES[-1]} and more"]
    return Lengths(
        median=round(median),
        p95=round(p95),
        max=max(lengths),
        histogram=dict(zip(names, map(int, bins), strict=True)),
    )

"""Leave out records that cannot be learned from, count them, and give the rest an id and a group."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from fedmed.data.columns import Raw
from fedmed.types import QARecord

MAX_CHARACTERS = 20_000
"""Question and answer together; longer records are whole documents, not answers. Tokens are cut in ``encode``."""

NO_GROUP = "q-"
"""Begins the group that a record without one is given."""


@dataclass(frozen=True, slots=True)
class Counts:
    """Records of one file: read = usable + empty + duplicate + overlong."""

    read: int
    usable: int
    empty: int  # no question or no answer
    duplicate: int  # question and answer were read before, white space aside
    overlong: int  # more than MAX_CHARACTERS

    def plus(self, other: Counts) -> Counts:
        """Those of both: several files may go under one name."""
        return Counts(*(getattr(self, name) + getattr(other, name) for name in self.__slots__))


@dataclass(frozen=True, slots=True)
class LoadReport:
    """What became of everything that was read: read = usable + empty + duplicate + overlong; kept <= usable."""

    name: str  # as asked for: hpo, a path, a hub id
    read: int
    usable: int
    kept: int  # usable records that max_samples left room for
    empty: int = 0
    duplicate: int = 0
    overlong: int = 0
    moved_to_test: int = 0  # the file said train, but a record of their group is in test
    files: Mapping[str, Counts] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def clean(sources: Iterable[tuple[str, Iterable[Raw]]]) -> tuple[list[QARecord], dict[str, Counts]]:
    """Turn raw records into ``QARecord``; ``split`` stays empty where the source does not say.

    - group: the source's own, else a hash of the question, so that one question is on one side of the train/test line
    - id: the source's own, else a hash of question and answer; a repeated id gets ``#2``, ``#3`` …
    - source: the record's own, else the name of the file or dataset

    Args:
        sources: name of a file or dataset, and its records.
    """
    records: list[QARecord] = []
    counts: dict[str, Counts] = {}
    seen: set[str] = set()
    ids: Counter[str] = Counter()
    for name, raws in sources:
        read = empty = duplicate = overlong = 0
        before = len(records)
        for raw in raws:
            read += 1
            if not raw.question or not raw.answer:
                empty += 1
                continue
            if len(raw.question) + len(raw.answer) > MAX_CHARACTERS:
                overlong += 1
                continue
            content = _digest(_folded(raw.question), _folded(raw.answer))
            if content in seen:
                duplicate += 1
                continue
            seen.add(content)
            records.append(_record(raw, name, _unique(raw.id or content, ids)))
        usable = len(records) - before
        made = Counts(read=read, usable=usable, empty=empty, duplicate=duplicate, overlong=overlong)
        counts[name] = counts[name].plus(made) if name in counts else made
    return records, counts


def _record(raw: Raw, name: str, record_id: str) -> QARecord:
    return QARecord(
        id=record_id,
        question=raw.question,
        answer=raw.answer,
        kind=raw.kind or "qa",
        specialty=raw.specialty or "general",
        source=raw.source or name,
        group=raw.group or NO_GROUP + _digest(_folded(raw.question).casefold()),
        split=raw.split,
    )


def _unique(wanted: str, times: Counter[str]) -> str:
    times[wanted] += 1
    if times[wanted] == 1:
        return wanted
    return _unique(f"{wanted}#{times[wanted]}", times)  # "x#2" may be somebody's own id


def _folded(text: str) -> str:
    return " ".join(text.split())


def _digest(*parts: str) -> str:
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()[:16]

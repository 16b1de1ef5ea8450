"""Records that say nearly the same: MinHash signatures, banded to find candidates, exact Jaccard to confirm them.

A record is the set of its word triples, case and punctuation aside. Two are near-duplicates where the Jaccard
similarity of their sets is at least ``THRESHOLD``. With 16 bands of 4 rows a pair at 0.8 is a candidate with
probability 1 - (1 - 0.8^4)^16 = 0.9998, one at 0.4 with 0.34, and the exact similarity drops it.

Sources: Broder 1997, "On the resemblance and containment of documents"; banding: Leskovec, Rajaraman, Ullman,
"Mining of Massive Datasets", chapter 3. Not covered: one record inside a much longer one; paraphrase.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

THRESHOLD = 0.8
BANDS, ROWS = 16, 4
_WORDS = re.compile(r"\w+")
_PRIME = np.uint64((1 << 61) - 1)
_SEED = 20_997


@dataclass(frozen=True, slots=True)
class NearDuplicates:
    """Clusters of row numbers, each of two or more, and how similar their members are."""

    clusters: tuple[tuple[int, ...], ...]  # the largest first

    @property
    def records(self) -> int:
        return sum(map(len, self.clusters))


def near_duplicates(texts: Iterable[str], threshold: float = THRESHOLD) -> NearDuplicates:
    """Cluster texts that are near-duplicates, directly or by way of others.

    Args:
        texts: question and answer of each record, joined.
        threshold: Jaccard similarity from which two count, in (0, 1].

    Memory: 8 bytes a word triple and 512 a record.
    """
    shingles = [_shingles(text) for text in texts]
    parent = list(range(len(shingles)))
    compared: set[tuple[int, int]] = set()
    for bucket in _buckets(shingles):
        for left, right in _pairs(bucket):
            if _root(parent, left) == _root(parent, right) or (left, right) in compared:
                continue
            compared.add((left, right))
            if jaccard(shingles[left], shingles[right]) >= threshold:
                parent[_root(parent, right)] = _root(parent, left)
    clusters: dict[int, list[int]] = defaultdict(list)
    for row in range(len(shingles)):
        clusters[_root(parent, row)].append(row)
    found = [tuple(rows) for rows in clusters.values() if len(rows) > 1]
    return NearDuplicates(tuple(sorted(found, key=lambda rows: (-len(rows), rows))))


def jaccard(left: NDArray[np.uint32], right: NDArray[np.uint32]) -> float:
    """Shared share of two sets of shingles; two empty ones share nothing."""
    shared = len(np.intersect1d(left, right, assume_unique=True))
    union = len(left) + len(right) - shared
    return shared / union if union else 0.0


def _shingles(text: str) -> NDArray[np.uint32]:
    """The sorted hashes of a text's word triples; a shorter text is one shingle, an empty one none."""
    words = _WORDS.findall(text.casefold())
    triples = zip(words, words[1:], words[2:], strict=False) if len(words) > 2 else iter([words] if words else [])
    return np.unique(np.fromiter((crc32(" ".join(triple).encode()) for triple in triples), dtype=np.uint32))


def _buckets(shingles: Sequence[NDArray[np.uint32]]) -> Iterator[list[int]]:
    """Rows that share a band, band by band, so that one band's table is held at a time."""
    rng = np.random.default_rng(_SEED)
    scale = rng.integers(1, int(_PRIME), BANDS * ROWS, dtype=np.uint64)
    shift = rng.integers(0, int(_PRIME), BANDS * ROWS, dtype=np.uint64)
    signatures = np.zeros((len(shingles), BANDS * ROWS), dtype=np.uint64)
    for row, hashes in enumerate(shingles):
        if len(hashes):
            # Wrap-around multiplication of 64 bits mixes well enough; the top half is the hash.
            mixed = (hashes[:, None].astype(np.uint64) * scale + shift) >> np.uint64(32)
            signatures[row] = mixed.min(axis=0)
    for band in range(BANDS):
        table: dict[bytes, list[int]] = defaultdict(list)
        for row, part in enumerate(np.ascontiguousarray(signatures[:, band * ROWS : (band + 1) * ROWS])):
            if len(shingles[row]):
                table[part.tobytes()].append(row)
        yield from (rows for rows in table.values() if len(rows) > 1)


def _pairs(bucket: Sequence[int]) -> Iterator[tuple[int, int]]:
    """All pairs of a small bucket; of a large one each with the first and the one before, as it would be quadratic."""
    if len(bucket) <= 24:
        yield from ((left, right) for place, left in enumerate(bucket) for right in bucket[place + 1 :])
        return
    for before, row in pairwise(bucket):
        yield bucket[0], row
        if before != bucket[0]:
            yield before, row


def _root(parent: list[int], row: int) -> int:
    while parent[row] != row:
        parent[row] = parent[parent[row]]
        row = parent[row]
    return row

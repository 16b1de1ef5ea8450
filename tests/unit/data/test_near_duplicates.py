"""Near-duplicates are found where the exact similarity says so, and nowhere else."""

from __future__ import annotations

import random
import re
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmed.data.near_duplicates import THRESHOLD, near_duplicates

pytestmark = pytest.mark.unit

WORDS = [f"w{n}" for n in range(400)]


def triples(text: str) -> set[tuple[str, ...]]:
    words = re.findall(r"\w+", text.casefold())
    return set(zip(words, words[1:], words[2:], strict=False)) if len(words) > 2 else {tuple(words)} - {()}


def similar(left: str, right: str) -> float:
    one, other = triples(left), triples(right)
    return len(one & other) / len(one | other) if one | other else 0.0


def changed(text: str, words: int, rng: random.Random) -> str:
    parts = text.split()
    for place in rng.sample(range(len(parts)), words):
        parts[place] = rng.choice(WORDS)
    return " ".join(parts)


def test_clusters_agree_with_all_pairs_compared_by_hand() -> None:
    rng = random.Random(5)
    texts = [" ".join(rng.choices(WORDS, k=60)) for _ in range(60)]
    texts += [changed(text, 1, rng) for text in texts[:30]] + [changed(text, 12, rng) for text in texts[30:50]]
    found = near_duplicates(texts)
    together = {pair for rows in found.clusters for pair in combinations(sorted(rows), 2)}
    expected = {
        pair for pair in combinations(range(len(texts)), 2) if similar(texts[pair[0]], texts[pair[1]]) >= THRESHOLD
    }
    assert together == expected
    assert len(expected) == 30


@settings(max_examples=30)
@given(st.lists(st.text(max_size=40), max_size=12))
def test_no_cluster_has_a_member_that_is_like_no_other(texts: list[str]) -> None:
    for rows in near_duplicates(texts).clusters:
        for row in rows:
            assert max(similar(texts[row], texts[other]) for other in rows if other != row) >= THRESHOLD


def test_case_and_punctuation_do_not_count_and_empty_texts_are_alike_to_none() -> None:
    found = near_duplicates(["A b, c d.", "a B c D", "", "", "?"])
    assert found.clusters == ((0, 1),)


def test_a_large_bucket_is_one_cluster() -> None:
    assert near_duplicates(["the same few words again"] * 500).records == 500

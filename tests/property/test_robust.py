"""Robust rules against slow versions from their definitions, their invariants, and one hospital that sends anything."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedmed.federated.robust import RULES, Update, max_tolerated
from fedmed.federated.suspicion import screen

pytestmark = pytest.mark.property

SHAPES = {"lora_A": (2, 2), "lora_B": (3,)}
SIZE = 7
every_rule = pytest.mark.parametrize("name", RULES)
some = settings(max_examples=60, deadline=None)

vectors = hnp.arrays(np.float32, (SIZE,), elements=st.floats(-8, 8, width=32))
whole_vectors = hnp.arrays(np.float32, (SIZE,), elements=st.integers(-30, 30).map(float))
weights = st.integers(1, 10_000)


def update(hospital: str, vector: np.ndarray, weight: int = 1) -> Update:
    return Update(hospital, {"lora_A": vector[:4].reshape(2, 2), "lora_B": vector[4:]}, weight)


def named(vectors_and_weights: list[tuple[np.ndarray, int]]) -> list[Update]:
    return [update(f"hospital_{index:02d}", *pair) for index, pair in enumerate(vectors_and_weights)]


def flat(arrays: dict[str, np.ndarray]) -> np.ndarray:
    assert {name: array.shape for name, array in arrays.items()} == SHAPES
    assert all(array.dtype == np.float64 for array in arrays.values())
    return np.concatenate([arrays["lora_A"].reshape(-1), arrays["lora_B"]])


def exact(vector: np.ndarray) -> list[Fraction]:
    return [Fraction(float(value)) for value in vector]


rounds = st.lists(st.tuples(vectors, weights), min_size=1, max_size=8).map(named)
whole_rounds = st.lists(st.tuples(whole_vectors, weights), min_size=1, max_size=8).map(named)


# --- invariants of all rules


@every_rule
@some
@given(updates=rounds, data=st.data())
def test_the_order_of_arrival_changes_no_bit(name, updates, data):
    tolerate = data.draw(st.integers(0, max_tolerated(name, len(updates))))
    shuffled = data.draw(st.permutations(updates))
    first, second = (RULES[name](those, tolerate=tolerate) for those in (updates, shuffled))
    assert flat(first).tobytes() == flat(second).tobytes()


@every_rule
@some
@given(updates=rounds, factor=st.integers(1, 1000), data=st.data())
def test_a_factor_common_to_all_weights_changes_no_bit(name, updates, factor, data):
    tolerate = data.draw(st.integers(0, max_tolerated(name, len(updates))))
    heavier = [replace(each, weight=factor * each.weight) for each in updates]
    first, second = (RULES[name](those, tolerate=tolerate) for those in (updates, heavier))
    assert flat(first).tobytes() == flat(second).tobytes()


@every_rule
@some
@given(updates=rounds, power=st.integers(-6, 3), data=st.data())
def test_updates_twice_as_long_give_a_result_twice_as_long(name, updates, power, data):
    assume(all(np.linalg.norm(flat_of(each)) > 0.1 for each in updates))  # below: the absolute part of the smoothing
    tolerate = data.draw(st.integers(0, max_tolerated(name, len(updates))))
    scaled = [update(each.hospital, flat_of(each) * np.float32(2.0**power), each.weight) for each in updates]
    assume(all(np.array_equal(flat_of(b) / 2.0**power, flat_of(a)) for a, b in zip(updates, scaled, strict=True)))
    first, second = (flat(RULES[name](those, tolerate=tolerate)) for those in (updates, scaled))
    np.testing.assert_allclose(second, first * 2.0**power, rtol=1e-9, atol=1e-9 * 2.0**power)


def flat_of(one: Update) -> np.ndarray:
    return np.concatenate([one.arrays["lora_A"].reshape(-1), one.arrays["lora_B"]])


@every_rule
@given(number=st.integers(1, 9), weight=weights)
def test_updates_of_zeros_give_zero(name, number, weight):
    updates = named([(np.zeros(SIZE, np.float32), weight + index) for index in range(number)])
    assert not flat(RULES[name](updates, tolerate=max_tolerated(name, number))).any()


@every_rule
@some
@given(vector=vectors, weight=weights)
def test_one_update_comes_back_exactly(name, vector, weight):
    assert flat(RULES[name]([update("hospital_A", vector, weight)], tolerate=0)).tolist() == vector.tolist()


@every_rule
@some
@given(vector=vectors, counts=st.lists(weights, min_size=2, max_size=8))
def test_equal_updates_give_that_update(name, vector, counts):
    updates = named([(vector, weight) for weight in counts])
    result = flat(RULES[name](updates, tolerate=max_tolerated(name, len(updates))))
    np.testing.assert_allclose(result, vector.astype(np.float64), rtol=1e-12)


@pytest.mark.parametrize("name", [name for name in RULES if name != "clipped_mean"])
@some
@given(updates=rounds, data=st.data())
def test_a_hospital_that_overstates_its_records_changes_no_bit(name, updates, data):
    tolerate = data.draw(st.integers(0, max_tolerated(name, len(updates))))
    boasting = [replace(updates[0], weight=2**24), *updates[1:]]
    first, second = (RULES[name](those, tolerate=tolerate) for those in (updates, boasting))
    assert flat(first).tobytes() == flat(second).tobytes()


def test_an_array_of_several_blocks_is_combined_as_its_pieces_are(monkeypatch):
    draw = np.random.default_rng(3)
    updates = named([(draw.normal(size=SIZE).astype(np.float32), 3) for _ in range(6)])
    in_one = {name: flat(rule(updates, tolerate=1)) for name, rule in RULES.items()}
    monkeypatch.setattr("fedmed.federated.robust._BLOCK", 2)
    for name, rule in RULES.items():
        np.testing.assert_allclose(flat(rule(updates, tolerate=1)), in_one[name], rtol=1e-12)


# --- each rule against its definition


@some
@given(updates=rounds)
def test_the_median_is_the_middle_value_of_each_coordinate(updates):
    result = flat(RULES["median"](updates, tolerate=0))
    columns = zip(*(exact(flat_of(each)) for each in updates), strict=True)
    for value, column in zip(result, columns, strict=True):
        ranked, half = sorted(column), len(updates) // 2
        middle = ranked[half] if len(updates) % 2 else (ranked[half - 1] + ranked[half]) / 2
        assert value == float(middle)


@some
@given(updates=rounds, data=st.data())
def test_the_trimmed_mean_is_the_mean_of_what_is_left_of_each_coordinate(updates, data):
    tolerate = data.draw(st.integers(0, max_tolerated("trimmed_mean", len(updates))))
    result = flat(RULES["trimmed_mean"](updates, tolerate=tolerate))
    columns = zip(*(exact(flat_of(each)) for each in updates), strict=True)
    for value, column in zip(result, columns, strict=True):
        left = list(column)
        for _ in range(tolerate):
            left.remove(max(left))
            left.remove(min(left))
        assert abs(Fraction(float(value)) - sum(left) / len(left)) <= Fraction(1, 10**13)


@some
@given(updates=whole_rounds, data=st.data())
def test_krum_takes_the_mean_of_the_updates_closest_to_their_neighbours(updates, data):
    # Whole numbers: distances and scores are exact both ways, so that ties are ties.
    tolerate = data.draw(st.integers(0, max_tolerated("krum", len(updates))))
    points = [exact(flat_of(each)) for each in updates]
    scores = []
    for i, here in enumerate(points):
        squares = []
        for j, there in enumerate(points):
            if i != j:
                squares.append(sum((a - b) ** 2 for a, b in zip(here, there, strict=True)))
        scores.append((sum(sorted(squares)[: max(0, len(points) - tolerate - 2)]), i))
    best = [points[i] for _, i in sorted(scores)[: len(points) - tolerate]]
    result = flat(RULES["krum"](updates, tolerate=tolerate))
    for value, column in zip(result, zip(*best, strict=True), strict=True):
        assert abs(Fraction(float(value)) - sum(column) / len(best)) <= Fraction(1, 10**12)


def sum_of_distances(point: np.ndarray, updates: list[Update]) -> float:
    return math.fsum(math.dist(point.tolist(), flat_of(each).tolist()) for each in updates)


@some
@given(updates=rounds, seed=st.integers(0, 2**32 - 1))
def test_no_point_near_or_far_has_a_smaller_sum_of_distances_than_the_geometric_median(updates, seed):
    result = flat(RULES["geometric_median"](updates, tolerate=0))
    longest = max(np.linalg.norm(flat_of(each)) for each in updates)
    slack = 1e-5 * float(longest) + 1e-12  # ten times the smoothing, and its absolute part
    least = sum_of_distances(result, updates) - len(updates) * slack
    draw = np.random.default_rng(seed)
    for size in (1e-4, 1e-2, 0.1, 1.0, 10.0):
        for step in size * draw.normal(size=(10, SIZE)):
            assert sum_of_distances(result + step, updates) >= least
    for each in updates:
        assert sum_of_distances(flat_of(each).astype(np.float64), updates) >= least


def test_a_geometric_median_that_an_update_only_just_holds_is_that_update():
    # The other two pull at (0, 1) with 1.995 of the 2 that would move it: Weiszfeld alone needs far over 1000 steps.
    corners = [[2.0, 0.0], [3.0, 0.0], [0.0, 1.0], [0.0, 1.0]]
    updates = named([(np.float32(corner + [0] * 5), 1) for corner in corners])
    result = flat(RULES["geometric_median"](updates, tolerate=0))
    np.testing.assert_array_equal(result, flat_of(updates[2]))


def test_the_geometric_median_of_a_triangle_is_its_fermat_point():
    corners = [[1.0, 0.0], [-1.0, 0.0], [0.0, 4.0]]  # every side is seen at 120 degrees from (0, 1/sqrt(3))
    updates = named([(np.array([*corner, 0, 0, 0, 0, 0], np.float32), 1) for corner in corners])
    result = flat(RULES["geometric_median"](updates, tolerate=1))
    np.testing.assert_allclose(result[:2], [0.0, 1 / math.sqrt(3)], atol=1e-8)


@some
@given(updates=rounds)
def test_the_clipped_mean_is_the_weighted_mean_of_updates_cut_to_the_median_norm(updates):
    norms = [math.hypot(*flat_of(each).tolist()) for each in updates]
    ranked, half = sorted(norms), len(norms) // 2
    bound = ranked[half] if len(norms) % 2 else (ranked[half - 1] + ranked[half]) / 2
    result = flat(RULES["clipped_mean"](updates, tolerate=0))
    for position in range(SIZE):
        value = 0.0
        for each, norm in zip(updates, norms, strict=True):
            value += float(flat_of(each)[position]) * min(1.0, bound / norm if norm else 1.0) * each.weight
        value /= sum(each.weight for each in updates)
        assert result[position] == pytest.approx(value, rel=1e-9, abs=1e-12)


# --- one hospital among five that sends anything

honest_rounds = st.lists(
    hnp.arrays(np.float32, (SIZE,), elements=st.floats(-1, 1, width=32)), min_size=4, max_size=4
).map(np.stack)
signs = hnp.arrays(np.int8, (SIZE,), elements=st.sampled_from([-1, 1]))
attacks = st.one_of(
    signs.map(lambda sign: lambda honest: 60.0 * sign),
    st.integers(0, 2**32 - 1).map(lambda seed: lambda honest: np.random.default_rng(seed).normal(0, 20, SIZE)),
    st.floats(-60, -1).map(lambda factor: lambda honest: factor * honest[0]),
    hnp.arrays(np.float32, (SIZE,), elements=st.floats(-60, 60, width=32)).map(lambda any_: lambda honest: any_),
)


def distance_allowed(name: str, honest: np.ndarray) -> np.ndarray | float:
    """How far one of five may move a rule from the honest mean: a number for each coordinate, or one L2 distance."""
    if name in ("median", "trimmed_mean"):  # every value stays within the honest ones
        return honest.max(axis=0) - honest.min(axis=0)
    apart = max(float(np.linalg.norm(a - b)) for a in honest for b in honest)
    if (
        name == "krum"
    ):  # an attacker that is taken lies within 2 of it, and is a quarter of a mean whose rest is within 1
        return 1.25 * apart
    if name == "geometric_median":  # 2 (n - f) / (n - 2f) times the largest honest distance from their mean
        return 8 / 3 * float(np.max(np.linalg.norm(honest - honest.mean(axis=0), axis=1)))
    return 2 * float(np.max(np.linalg.norm(honest, axis=1)))  # clipped_mean: no longer than the longest honest update


def stays_near(name: str, result: np.ndarray, honest: np.ndarray) -> bool:
    allowed = distance_allowed(name, honest)
    moved = result - honest.mean(axis=0)
    if isinstance(allowed, float):
        return bool(np.linalg.norm(moved) <= allowed + 1e-4)
    return bool(np.all(np.abs(moved) <= allowed + 1e-4))


@every_rule
@settings(max_examples=150, deadline=None)
@given(honest=honest_rounds, attack=attacks, place=st.integers(0, 4), weight=st.sampled_from([1, 100, 2**24 - 400]))
def test_one_of_five_cannot_move_the_result_far(name, honest, attack, place, weight):
    honest = honest.astype(np.float64)
    vectors = [*((row.astype(np.float32), 100) for row in honest)]
    vectors.insert(place, (attack(honest).astype(np.float32), weight))
    assert stays_near(name, flat(RULES[name](named(vectors), tolerate=1)), honest)


@every_rule
@some
@given(honest=honest_rounds, sign=signs)
def test_the_plain_mean_is_moved_too_far_by_the_same_hospital(name, honest, sign):
    honest = honest.astype(np.float64)
    assert not stays_near(name, np.vstack([honest, 60.0 * sign]).mean(axis=0), honest)


# --- screening


@some
@given(seed=st.integers(0, 2**32 - 1), number=st.integers(3, 12), likeness=st.floats(0, 0.9), data=st.data())
def test_hospitals_of_different_specialties_are_never_blamed(seed, number, likeness, data):
    # What they share and what is their own, in any proportion; lengths up to 4 times apart, as steps can make them.
    draw = np.random.default_rng(seed)
    common = draw.normal(size=200)
    lengths = data.draw(st.lists(st.floats(1, 4), min_size=number, max_size=number))
    updates = []
    for index, length in enumerate(lengths):
        vector = math.sqrt(likeness) * common + math.sqrt(1 - likeness) * draw.normal(size=200)
        vector *= length / np.linalg.norm(vector)
        updates.append(Update(f"hospital_{index:02d}", {"w": vector.astype(np.float32)}, 1 + index))
    verdict = screen(updates)
    assert verdict.blamed == {}
    assert verdict.kept == tuple(updates)


@some
@given(seed=st.integers(0, 2**32 - 1), number=st.integers(3, 12))
def test_hospitals_that_pull_apart_where_training_settles_are_not_blamed(seed, number):
    # There the honest changes add up to zero: each points exactly against the sum of the others.
    pulls = np.random.default_rng(seed).normal(size=(number, 200))
    pulls = (pulls - pulls.mean(axis=0)).astype(np.float32)
    assert screen([Update(f"hospital_{i:02d}", {"w": pull}, 1) for i, pull in enumerate(pulls)]).blamed == {}


@some
@given(updates=rounds, data=st.data())
def test_a_verdict_does_not_depend_on_the_order_of_arrival(updates, data):
    first, second = screen(updates), screen(data.draw(st.permutations(updates)))
    assert (first.blamed, list(first.blamed)) == (second.blamed, list(second.blamed))
    assert [(each.hospital, each.weight) for each in first.kept] == [(e.hospital, e.weight) for e in second.kept]


@some
@given(updates=rounds)
def test_every_update_is_blamed_or_kept_and_one_is_always_kept(updates):
    verdict = screen(updates)
    assert {each.hospital for each in verdict.kept} | set(verdict.blamed) == {each.hospital for each in updates}
    assert verdict.kept

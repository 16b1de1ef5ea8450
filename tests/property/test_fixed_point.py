"""Sums in whole numbers: exact, order-free, bounded."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedmed.errors import FederationError, UpdateRejectedError
from fedmed.federated.fixed_point import LARGEST_TOTAL_WEIGHT, LARGEST_VALUE, FixedPointSum, to_fixed

pytestmark = pytest.mark.property

values = st.floats(-LARGEST_VALUE, LARGEST_VALUE, width=32)
arrays = hnp.arrays(np.float32, (3,), elements=values)
weighted = st.lists(st.tuples(arrays, st.integers(1, 100_000)), min_size=1, max_size=8)


def mean_of(updates: list[tuple[np.ndarray, int]]) -> np.ndarray:
    total = FixedPointSum({"w": (3,)})
    for array, weight in updates:
        total.add({"w": array}, weight)
    return total.mean()["w"]


@settings(max_examples=60, deadline=None)
@given(updates=weighted, data=st.data())
def test_the_order_of_arrival_changes_no_bit(updates, data):
    shuffled = data.draw(st.permutations(updates))
    assert mean_of(updates).tobytes() == mean_of(shuffled).tobytes()


@settings(max_examples=60, deadline=None)
@given(updates=weighted, factor=st.integers(1, 20))
def test_a_factor_common_to_all_weights_changes_no_bit(updates, factor):
    assert mean_of(updates).tobytes() == mean_of([(array, factor * weight) for array, weight in updates]).tobytes()


@settings(max_examples=60, deadline=None)
@given(updates=weighted)
def test_the_mean_is_the_exact_weighted_mean_within_two_to_the_minus_32(updates):
    mean = mean_of(updates)
    for position in range(3):
        exact = sum(Fraction(float(array[position])) * weight for array, weight in updates)
        exact /= sum(weight for _, weight in updates)
        assert abs(Fraction(float(mean[position])) - exact) <= Fraction(1, 2**32)


def test_the_largest_values_at_the_largest_weight_do_not_overflow():
    total = FixedPointSum({"w": (2,)})
    extreme = np.array([LARGEST_VALUE, -LARGEST_VALUE], np.float32)
    total.add({"w": extreme}, LARGEST_TOTAL_WEIGHT - 1)
    total.add({"w": extreme}, 1)
    assert total.mean()["w"].tolist() == [LARGEST_VALUE, -LARGEST_VALUE]


too_large = st.floats(64.5, 2.0**100, width=32)


@given(beyond=st.one_of(too_large, too_large.map(float.__neg__), st.sampled_from([np.nan, np.inf, -np.inf])))
def test_a_value_out_of_bounds_is_refused_by_the_arrays_name(beyond):
    with pytest.raises(UpdateRejectedError, match="layer_3"):
        to_fixed("layer_3", np.array([0.0, beyond], np.float32))


def test_a_refused_update_leaves_the_sum_as_it_was():
    total = FixedPointSum({"a": (1,), "b": (1,)})
    good = {"a": np.ones(1, np.float32), "b": np.ones(1, np.float32)}
    total.add(good, 2)
    for bad, weight in [
        ({"a": good["a"], "b": np.array([np.nan], np.float32)}, 1),
        ({"a": good["a"], "b": np.ones(2, np.float32)}, 1),
        ({"a": good["a"]}, 1),
        (good, LARGEST_TOTAL_WEIGHT - 1),
        (good, -1),
    ]:
        with pytest.raises(UpdateRejectedError):
            total.add(bad, weight)
    assert total.total_weight == 2
    assert total.mean()["a"].tolist() == [1.0]


def test_the_mean_of_nothing_is_an_error():
    with pytest.raises(FederationError, match="nothing to average"):
        FixedPointSum({"a": (1,)}).mean()

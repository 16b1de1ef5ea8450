"""Agreement figures against published examples, and against counting every pair of ratings one by one."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from fedmed.evaluation.agreement import alpha_interval, fleiss_kappa, krippendorff_alpha
from fedmed.utils.random_streams import stream

pytestmark = pytest.mark.unit

_ = np.nan
KRIPPENDORFF_2011 = np.array(
    [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, _, _, _],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, _, 3],
        [_, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, _],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, _],
    ]
)
FLEISS = np.array(
    [
        [0, 0, 0, 0, 14], [0, 2, 6, 4, 2], [0, 0, 3, 5, 6], [0, 3, 9, 2, 0], [2, 2, 8, 1, 1], [7, 7, 0, 0, 0],
        [3, 2, 6, 3, 0], [2, 5, 3, 2, 2], [6, 5, 2, 1, 0], [0, 2, 2, 3, 7],
    ],
    dtype=np.float64,
)  # fmt: skip


def by_pairs(ratings: np.ndarray, ordinal: bool) -> float:
    """Alpha from its definition: disagreement within units over disagreement among all ratings, pair by pair."""
    units = [[value for value in column if np.isfinite(value)] for column in ratings.T]
    units = [unit for unit in units if len(unit) > 1]
    everything = [value for unit in units for value in unit]

    def far(one: float, other: float) -> float:
        if not ordinal:
            return float(one != other)
        low, high = sorted((one, other))
        between = sum(low <= value <= high for value in everything)
        return (between - (everything.count(low) + everything.count(high)) / 2) ** 2

    within = sum(far(*pair) / (len(unit) - 1) for unit in units for pair in permutations(unit, 2)) / len(everything)
    among = sum(far(*pair) for pair in permutations(everything, 2)) / (len(everything) * (len(everything) - 1))
    return 1 - within / among


def test_alpha_is_that_of_krippendorffs_own_example() -> None:
    assert krippendorff_alpha(KRIPPENDORFF_2011, "nominal") == pytest.approx(0.743, abs=5e-4)
    assert krippendorff_alpha(KRIPPENDORFF_2011, "ordinal") == pytest.approx(0.815, abs=5e-4)


def test_kappa_is_that_of_the_well_known_table_of_fourteen_raters() -> None:
    assert fleiss_kappa(FLEISS) == pytest.approx(0.210, abs=5e-4)


@pytest.mark.parametrize("seed", range(6))
def test_alpha_is_what_counting_every_pair_gives(seed: int) -> None:
    draw = stream(seed, "alpha")
    ratings = draw.integers(1, 5, (int(draw.integers(2, 5)), 9)).astype(np.float64)
    ratings[draw.random(ratings.shape) < 0.2] = np.nan
    for level in ("nominal", "ordinal"):
        assert krippendorff_alpha(ratings, level) == pytest.approx(by_pairs(ratings, level == "ordinal"), abs=1e-12)


def test_raters_who_always_agree_have_one_and_who_give_one_value_have_none() -> None:
    same = np.tile(np.array([1.0, 2.0, 5.0]), (3, 1))
    assert krippendorff_alpha(same, "ordinal") == 1.0
    assert np.isnan(krippendorff_alpha(np.ones((3, 4)), "nominal"))
    assert alpha_interval(np.ones((3, 4)), "nominal", seed=1, name="x") is None
    assert np.isnan(krippendorff_alpha(np.array([[1.0, np.nan], [np.nan, 2.0]]), "nominal"))
    assert np.isnan(fleiss_kappa(np.array([[3.0, 0.0], [3.0, 0.0]])))


def test_fleiss_needs_as_many_ratings_of_every_unit() -> None:
    with pytest.raises(ValueError, match="as many"):
        fleiss_kappa(np.array([[2.0, 1.0], [1.0, 1.0]]))


def test_an_interval_holds_its_value_and_narrows_with_more_units() -> None:
    few = alpha_interval(KRIPPENDORFF_2011, "ordinal", seed=3, name="few")
    many = alpha_interval(np.tile(KRIPPENDORFF_2011, 20), "ordinal", seed=3, name="many")
    assert few is not None
    assert many is not None
    assert few.low < few.value < few.high
    assert many.low < many.value < many.high
    assert many.high - many.low < (few.high - few.low) / 2
    assert few == alpha_interval(KRIPPENDORFF_2011, "ordinal", seed=3, name="few")

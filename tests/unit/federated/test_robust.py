"""What the robust rules refuse, and what screening says of whom."""

from __future__ import annotations

import re

import numpy as np
import pytest

from fedmed.errors import AdapterMismatchError, FederationError
from fedmed.federated.robust import RULES, Update, max_tolerated
from fedmed.federated.suspicion import screen

pytestmark = pytest.mark.unit

every_rule = pytest.mark.parametrize("name", RULES)
LETTERS = "ABCDEFGHIJ"


def honest(number: int, *, size: int = 300) -> list[Update]:
    draw = np.random.default_rng(11)
    return [
        Update(f"hospital_{LETTERS[index]}", {"w": draw.normal(size=size).astype(np.float32)}, 4321 + index)
        for index in range(number)
    ]


def with_arrays(update: Update, array: np.ndarray, weight: int | None = None) -> Update:
    return Update(update.hospital, {"w": array.astype(np.float32)}, update.weight if weight is None else weight)


def names(updates: tuple[Update, ...]) -> str:
    return "".join(update.hospital[-1] for update in updates)


# --- what the rules refuse


@every_rule
def test_no_updates_are_an_error(name):
    with pytest.raises(FederationError, match="no updates"):
        RULES[name]([], tolerate=0)


@every_rule
@pytest.mark.parametrize("number", range(1, 11))
def test_a_rule_bears_what_it_says_and_not_one_more(name, number):
    most = max_tolerated(name, number)
    RULES[name](honest(number), tolerate=most)
    with pytest.raises(FederationError, match=f"'{name}' cannot tolerate {most + 1} bad .* among {number}"):
        RULES[name](honest(number), tolerate=most + 1)


@pytest.mark.parametrize(
    ("number", "krum", "others"), [(1, 0, 0), (2, 0, 0), (3, 0, 1), (4, 0, 1), (5, 1, 2), (7, 2, 3)]
)
def test_krum_bears_less_than_the_others(number, krum, others):
    assert max_tolerated("krum", number) == krum
    assert {max_tolerated(name, number) for name in RULES if name != "krum"} == {others}


def test_a_rule_that_bears_too_little_says_what_would_work():
    with pytest.raises(FederationError) as caught:
        RULES["krum"](honest(4), tolerate=1)
    assert caught.value.what == "'krum' cannot tolerate 1 bad hospital among 4"
    assert caught.value.hint == (
        "it needs at least 5 hospitals, or use 'median' or 'trimmed_mean' or 'geometric_median' or 'clipped_mean'"
    )


def test_where_no_rule_would_do_none_is_offered():
    with pytest.raises(FederationError) as caught:
        RULES["median"](honest(4), tolerate=2)
    assert caught.value.hint == "it needs at least 5 hospitals"


@every_rule
def test_fewer_than_no_bad_hospitals_are_an_error(name):
    with pytest.raises(FederationError, match="-1"):
        RULES[name](honest(5), tolerate=-1)


@every_rule
def test_two_updates_of_one_hospital_are_an_error_that_names_it(name):
    with pytest.raises(FederationError, match="'hospital_B' has two updates"):
        RULES[name]([*honest(3), honest(2)[1]], tolerate=0)


@every_rule
@pytest.mark.parametrize("arrays", [{"w": np.zeros(2, np.float32)}, {"v": np.zeros(300, np.float32)}])
def test_an_update_with_other_arrays_is_an_error_that_names_its_hospital(name, arrays):
    with pytest.raises(AdapterMismatchError, match="'hospital_Z' has other arrays"):
        RULES[name]([*honest(3), Update("hospital_Z", arrays, 1)], tolerate=0)


@every_rule
def test_a_weight_below_one_is_an_error_that_names_its_hospital(name):
    with pytest.raises(FederationError, match="'hospital_Z' is below 1"):
        RULES[name]([*honest(3), Update("hospital_Z", honest(1)[0].arrays, 0)], tolerate=0)


def test_an_unknown_rule_is_an_error_that_lists_the_rules():
    with pytest.raises(FederationError, match="'mode'.*median, trimmed_mean, krum, geometric_median, clipped_mean"):
        max_tolerated("mode", 5)


@every_rule
def test_a_rule_leaves_its_updates_as_they_are(name):
    updates = honest(5)
    before = [update.arrays["w"].copy() for update in updates]
    RULES[name](updates, tolerate=1)
    assert all(np.array_equal(update.arrays["w"], array) for update, array in zip(updates, before, strict=True))


# --- scaling


@pytest.mark.parametrize("number", [3, 4, 5, 8])
@pytest.mark.parametrize("factor", [10.0, -10.0])
def test_an_update_ten_times_too_long_is_blamed_and_left_out(number, factor):
    updates = honest(number)
    updates[1] = with_arrays(updates[1], factor * updates[1].arrays["w"])
    verdict = screen(updates)
    assert verdict.blamed == {
        "hospital_B": "the update of 'hospital_B' is more than 5 times as long as usual this round"
    }
    assert names(verdict.kept) == LETTERS[:number].replace("B", "")


def test_noise_ten_times_as_long_is_blamed_and_left_out():
    updates = honest(5)
    updates[4] = with_arrays(updates[4], np.random.default_rng(5).normal(0, 10, 300))
    assert list(screen(updates).blamed) == ["hospital_E"]


def test_two_of_five_that_are_too_long_are_both_blamed():
    updates = honest(5)
    for index in (0, 3):
        updates[index] = with_arrays(updates[index], -10 * updates[index].arrays["w"])
    assert list(screen(updates).blamed) == ["hospital_A", "hospital_D"]


@pytest.mark.parametrize("number", [1, 2])
def test_fewer_than_three_updates_say_nothing_about_length(number):
    updates = honest(number)
    updates[0] = with_arrays(updates[0], 1000 * updates[0].arrays["w"])
    assert screen(updates).blamed == {}


@pytest.mark.parametrize("still", [0.0, 1e-9])
def test_the_only_hospital_that_moved_is_not_blamed(still):
    updates = [with_arrays(update, still * update.arrays["w"]) for update in honest(5)]
    updates[2] = honest(5)[2]
    assert screen(updates).blamed == {}


def test_hospitals_that_did_not_move_hide_nobody():
    updates = honest(6)
    for index in (0, 1, 2):
        updates[index] = with_arrays(updates[index], np.zeros(300))
    updates[3] = with_arrays(updates[3], 10 * updates[3].arrays["w"])
    verdict = screen(updates)
    assert list(verdict.blamed) == ["hospital_D"]
    assert names(verdict.kept) == "ABCEF"


# --- copies


def test_of_two_equal_updates_both_are_named_and_one_is_kept_with_the_smaller_weight():
    updates = honest(5)
    updates[3] = with_arrays(updates[3], updates[1].arrays["w"], weight=7)
    verdict = screen(updates)
    assert verdict.blamed == {
        "hospital_B": "the update of 'hospital_B' equals that of 'hospital_D'",
        "hospital_D": "the update of 'hospital_D' equals that of 'hospital_B'",
    }
    assert names(verdict.kept) == "ABCE"
    assert verdict.kept[1].weight == 7
    assert updates[1].weight == 4322


@pytest.mark.parametrize(("factor", "kept"), [(3.0, "ABCE"), (0.5, "ACDE")])
def test_of_a_rescaled_copy_the_shorter_one_is_kept(factor, kept):
    updates = honest(5)
    updates[3] = with_arrays(updates[3], factor * updates[1].arrays["w"])
    verdict = screen(updates)
    assert verdict.blamed["hospital_B"] == "the update of 'hospital_B' equals that of 'hospital_D' but for its length"
    assert verdict.blamed["hospital_D"] == "the update of 'hospital_D' equals that of 'hospital_B' but for its length"
    assert names(verdict.kept) == kept


def test_of_three_equal_updates_each_reason_names_the_other_two():
    updates = honest(6)
    for index in (2, 5):
        updates[index] = with_arrays(updates[index], updates[0].arrays["w"])
    verdict = screen(updates)
    assert verdict.blamed["hospital_C"] == "the update of 'hospital_C' equals those of 'hospital_A' and 'hospital_F'"
    assert names(verdict.kept) == "ABDE"


def test_two_pairs_of_copies_are_two_pairs():
    updates = honest(5)
    updates[2] = with_arrays(updates[2], updates[0].arrays["w"])
    updates[3] = with_arrays(updates[3], updates[1].arrays["w"])
    verdict = screen(updates)
    assert list(verdict.blamed) == ["hospital_A", "hospital_B", "hospital_C", "hospital_D"]
    assert "'hospital_C'" in verdict.blamed["hospital_A"]
    assert "'hospital_D'" in verdict.blamed["hospital_B"]
    assert names(verdict.kept) == "ABE"


def test_updates_of_zeros_are_no_copies():
    updates = [with_arrays(update, np.zeros(300)) for update in honest(5)]
    verdict = screen(updates)
    assert verdict.blamed == {}
    assert names(verdict.kept) == "ABCDE"


def test_a_copy_that_is_left_out_for_its_length_casts_no_blame_on_its_source():
    updates = honest(5)
    updates[3] = with_arrays(updates[3], 10 * updates[1].arrays["w"])
    assert list(screen(updates).blamed) == ["hospital_D"]


def test_a_sign_flip_at_honest_length_is_left_to_the_rules():
    updates = honest(5)
    updates[3] = with_arrays(updates[3], -updates[1].arrays["w"])
    assert screen(updates).blamed == {}


def test_nothing_to_screen_is_nothing_to_blame():
    verdict = screen([])
    assert (verdict.blamed, verdict.kept) == ({}, ())


def test_a_reason_is_one_clause_that_names_the_hospital_and_tells_no_number_of_records():
    updates = honest(6)
    updates[0] = with_arrays(updates[0], 10 * updates[0].arrays["w"])
    updates[3] = with_arrays(updates[3], 2 * updates[1].arrays["w"])
    verdict = screen(updates)
    assert list(verdict.blamed) == ["hospital_A", "hospital_B", "hospital_D"]
    for hospital, reason in verdict.blamed.items():
        assert reason.startswith(f"the update of '{hospital}' ")
        assert not re.search(r"[.;:]|\d\d", reason)


def test_screening_leaves_its_updates_as_they_are():
    updates = honest(4)
    updates[3] = with_arrays(updates[3], updates[1].arrays["w"], weight=9)
    screen(updates)
    assert [update.weight for update in updates] == [4321, 4322, 4323, 9]

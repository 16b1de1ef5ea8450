from __future__ import annotations

import math
from dataclasses import asdict

import numpy as np
import pytest

from fedmed.data.records import FIELDS
from fedmed.errors import DataFormatError, EmptyDataError
from fedmed.evaluation.attacks.canaries import (
    SECRET_WORDS,
    WORDS,
    exposure,
    inserted_records,
    left_out_records,
    make_canaries,
)
from fedmed.utils.random_streams import stream

pytestmark = pytest.mark.unit

CANARIES = make_canaries(1000, 17)


def test_canaries_have_the_columns_of_every_dataset_and_look_like_no_patient() -> None:
    for canary in CANARIES[:50]:
        assert tuple(asdict(canary.record)) == FIELDS
        assert "audit canary" in canary.record.question
        assert canary.record.split == "train"
        assert set(canary.record.answer.split()) <= set(WORDS)
    assert len(set(WORDS)) == 64


def test_secrets_differ_and_questions_differ_in_the_number_only() -> None:
    assert len({canary.record.answer for canary in CANARIES}) == 1000
    assert len({"".join(c for c in canary.record.question if not c.isdigit()) for canary in CANARIES}) == 1
    assert all(len(canary.record.answer.split()) == SECRET_WORDS for canary in CANARIES)


def test_a_fair_coin_decides_and_a_larger_count_begins_with_the_same_canaries() -> None:
    assert abs(sum(canary.inserted for canary in CANARIES) - 500) < 5 * math.sqrt(250)
    assert make_canaries(40, 17) == CANARIES[:40]
    assert make_canaries(40, 18) != CANARIES[:40]


def test_nothing_in_a_record_tells_whether_it_is_inserted() -> None:
    inside = np.mean([len(record.answer) for record in inserted_records(CANARIES)])
    outside = np.mean([len(record.answer) for record in left_out_records(CANARIES)])
    assert abs(inside - outside) < 1.5  # letters of about 50; both sides draw from the same words
    other_coins = {c.record.id: c.inserted for c in make_canaries(1000, 18)}
    assert any(other_coins[c.record.id] != c.inserted for c in CANARIES)


def test_copies_have_ids_of_their_own_and_one_group() -> None:
    records = inserted_records(CANARIES[:10], copies=3)
    assert len({record.id for record in records}) == len(records) == 3 * sum(c.inserted for c in CANARIES[:10])
    assert len({record.group for record in records}) == len(records) // 3
    left = {record.group for record in left_out_records(CANARIES)}
    assert not left & {record.group for record in inserted_records(CANARIES)}


def test_too_few_canaries_to_have_both_kinds_are_an_error() -> None:
    with pytest.raises(EmptyDataError, match="more canaries"):
        make_canaries(1, 17)


def test_exposure_is_the_definition_on_a_case_done_by_hand() -> None:
    # ranks among (2, 4, 6): 1.0 -> 1, 4.0 -> 3 (the tie counts against it), 9.0 -> 4; N = 4
    result = exposure(np.array([1.0, 4.0, 9.0]), np.array([2.0, 4.0, 6.0]), seed=17)
    assert result.mean == pytest.approx(np.mean([2.0, 2 - math.log2(3), 0.0]))
    assert result.chance == pytest.approx(2 - (0 + 1 + math.log2(3) + 2) / 4)
    assert result.most == 2.0


def test_nothing_learnt_shows_as_chance_and_the_p_value_is_no_smaller_than_it_says() -> None:
    p_values, means = [], []
    for trial in range(200):
        draw = stream(17, "exposure", trial)
        result = exposure(draw.normal(size=60), draw.normal(size=60), seed=trial, draws=99)
        p_values.append(result.p_value)
        means.append(result.above_chance)
    assert abs(np.mean(means)) < 0.05
    assert np.mean(np.array(p_values) <= 0.05) < 0.1


def test_secrets_learnt_by_heart_reach_the_most_that_can_be_shown() -> None:
    result = exposure(np.linspace(0.0, 1.0, 50), np.linspace(20.0, 30.0, 127), seed=17)
    assert result.mean == result.most == 7.0
    assert result.p_value == pytest.approx(1 / 2001)
    assert result.above_chance > 5.0


def test_losses_missing_or_not_finite_are_errors() -> None:
    with pytest.raises(EmptyDataError):
        exposure(np.array([]), np.array([1.0]), seed=17)
    with pytest.raises(DataFormatError):
        exposure(np.array([np.nan]), np.array([1.0]), seed=17)

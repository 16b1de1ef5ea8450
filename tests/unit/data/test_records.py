"""Choosing and holding out depend on seed and group only."""

from __future__ import annotations

import pytest

from fedmed.data.records import FIELDS, hold_out, take, to_dataset
from fedmed.errors import EmptyDataError
from fedmed.types import QARecord

pytestmark = pytest.mark.unit


def records(groups: int, size: int = 3, split: str = "") -> list[QARecord]:
    return [
        QARecord(id=f"{g}/{n}", question=f"q{g}{n}", answer="a", group=f"g{g}", split=split)
        for g in range(groups)
        for n in range(size)
    ]


def test_exactly_max_samples_are_taken_and_at_most_one_group_in_part() -> None:
    taken = take(records(20), 10, seed=1)
    sizes = [sum(record.group == group for record in taken) for group in {record.group for record in taken}]
    assert len(taken) == 10
    assert sorted(sizes) == [1, 3, 3, 3]


def test_fewer_records_than_asked_for_are_all_taken() -> None:
    assert take(records(2), 100, seed=1) == records(2)


def test_a_smaller_choice_is_part_of_a_larger_one() -> None:
    assert set(take(records(20), 12, seed=1)) <= set(take(records(20), 33, seed=1))


def test_another_seed_chooses_others() -> None:
    assert take(records(50), 30, seed=1) != take(records(50), 30, seed=2)


def test_a_group_is_on_one_side_and_about_the_asked_share_is_held_out() -> None:
    placed, moved = hold_out(records(1000), 0.1, seed=17)
    sides: dict[str, set[str]] = {}
    for record in placed:
        sides.setdefault(record.group, set()).add(record.split)
    assert all(len(side) == 1 for side in sides.values())
    assert 70 <= sum(side == {"test"} for side in sides.values()) <= 130
    assert moved == 0


def test_a_held_out_group_is_held_out_in_every_sample() -> None:
    large = {record.group for record in hold_out(records(500), 0.1, seed=3)[0] if record.split == "test"}
    small = hold_out(take(records(500), 300, seed=3), 0.1, seed=3)[0]
    assert {record.group for record in small if record.split == "test"} == large & {record.group for record in small}


@pytest.mark.parametrize("fraction", [1e-9, 1 - 1e-9])
def test_two_groups_always_give_both_sides(fraction: float) -> None:
    placed, _ = hold_out(records(2), fraction, seed=1)
    assert {record.split for record in placed} == {"train", "test"}


def test_a_stated_split_is_kept() -> None:
    assert {record.split for record in hold_out(records(50, split="train"), 0.5, seed=1)[0]} == {"train"}


def test_a_group_on_both_sides_moves_to_test_and_is_counted() -> None:
    mixed = [*records(1, split="train"), QARecord(id="t", question="q", answer="a", group="g0", split="test")]
    placed, moved = hold_out(mixed, 0.1, seed=1)
    assert {record.split for record in placed} == {"test"}
    assert moved == 3


def test_the_dataset_has_the_fields_of_a_record_in_their_order() -> None:
    dataset = to_dataset(records(1))
    assert tuple(dataset.column_names) == FIELDS
    assert dataset[0]["id"] == "0/0"


def test_no_record_is_no_dataset() -> None:
    with pytest.raises(EmptyDataError, match="no usable record"):
        to_dataset([])

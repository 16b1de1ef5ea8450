"""What holds for every split of every dataset."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmed.data.federated_split import STRATEGIES, create_federated_split
from fedmed.data.records import hold_out, take, to_dataset
from fedmed.errors import SplitError
from fedmed.types import QARecord

pytestmark = pytest.mark.property

SEEDS = st.integers(0, 2**32)


@st.composite
def record_lists(draw: st.DrawFn) -> list[QARecord]:
    """Groups of one to four records with few labels and sources; the train/test line is still open."""
    groups = draw(st.lists(st.tuples(st.integers(1, 4), st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=30))
    return [
        QARecord(
            id=f"{g}/{n}", question="q", answer="a", specialty=f"l{label}", source=f"s{source}", group=f"g{g}", split=""
        )
        for g, (size, label, source) in enumerate(groups)
        for n in range(size)
    ]


@given(records=record_lists(), clients=st.integers(1, 6), strategy=st.sampled_from(STRATEGIES), seed=SEEDS)
@settings(max_examples=60, deadline=None)
def test_a_split_is_a_partition_that_keeps_groups_whole_or_an_error(
    records: list[QARecord], clients: int, strategy: str, seed: int
) -> None:
    dataset = to_dataset(hold_out(records, 0.2, seed)[0])
    try:
        hospitals = create_federated_split(dataset, clients, strategy, seed=seed)
    except SplitError:
        return
    shares = [share[:] for share in hospitals.values()]
    assert len(shares) == clients
    assert sorted(i for share in shares for i in share["id"]) == sorted(record.id for record in records)
    for one in range(clients):
        for other in range(one):
            assert not set(shares[one]["group"]) & set(shares[other]["group"])
    trained = {g for share in shares for g, side in zip(share["group"], share["split"], strict=True) if side == "train"}
    tested = {g for share in shares for g, side in zip(share["group"], share["split"], strict=True) if side == "test"}
    assert not trained & tested
    assert all("train" in share["split"] for share in shares)
    again = create_federated_split(dataset, clients, strategy, seed=seed)
    assert [share[:] for share in again.values()] == shares


@given(records=record_lists(), clients=st.integers(1, 6), seed=SEEDS)
@settings(max_examples=40, deadline=None)
def test_iid_training_sizes_differ_by_one_group_at_most(records: list[QARecord], clients: int, seed: int) -> None:
    dataset = to_dataset([replace(record, split="train") for record in records])
    groups = {record.group for record in records}
    if clients > len(groups):
        with pytest.raises(SplitError):
            create_federated_split(dataset, clients, seed=seed)
        return
    sizes = [len(share) for share in create_federated_split(dataset, clients, seed=seed).values()]
    largest = max(sum(record.group == group for record in records) for group in groups)
    assert max(sizes) - min(sizes) <= largest


@given(records=record_lists(), count=st.integers(1, 60), more=st.integers(0, 30), seed=SEEDS)
@settings(max_examples=60, deadline=None)
def test_a_choice_has_the_asked_size_and_grows_without_giving_up_records(
    records: list[QARecord], count: int, more: int, seed: int
) -> None:
    small, large = take(records, count, seed), take(records, count + more, seed)
    assert len(small) == min(count, len(records))
    assert {record.id for record in small} <= {record.id for record in large}


@given(records=record_lists(), seed=SEEDS, fraction=st.floats(0.01, 0.99), order=st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_the_train_test_line_does_not_depend_on_the_order_of_records(
    records: list[QARecord], seed: int, fraction: float, order: object
) -> None:
    shuffled = list(records)
    order.shuffle(shuffled)  # type: ignore[attr-defined]
    placed = {record.id: record.split for record in hold_out(records, fraction, seed)[0]}
    assert placed == {record.id: record.split for record in hold_out(shuffled, fraction, seed)[0]}
    if len({record.group for record in records}) > 1:
        assert set(placed.values()) == {"train", "test"}

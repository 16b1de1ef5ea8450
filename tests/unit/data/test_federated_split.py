"""Every record has one hospital, groups stay whole, and impossible splits say what to change."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from datasets import Dataset

from fedmed.data.federated_split import STRATEGIES, create_federated_split, hospital_names
from fedmed.data.records import to_dataset
from fedmed.data.split_folder import describe_split, read_split
from fedmed.errors import DataFormatError, EmptyDataError, SplitError
from fedmed.types import QARecord

pytestmark = pytest.mark.unit

SPECIALTIES = ("eye", "ear", "nervous", "cardiovascular", "digestive", "blood")


def dataset(groups: int = 60, size: int = 2) -> Dataset:
    """Every tenth group is test; specialties and sources go round."""
    return to_dataset(
        [
            QARecord(
                id=f"{group}/{n}",
                question=f"q{group}/{n}",
                answer="a",
                kind=("definition", "term")[n % 2],
                specialty=SPECIALTIES[group % len(SPECIALTIES)],
                source=f"site {group % 5}",
                group=f"g{group}",
                split="test" if group % 10 == 7 else "train",
            )
            for group in range(groups)
            for n in range(size)
        ]
    )


def train_sizes(hospitals: dict[str, Dataset]) -> list[int]:
    return [share[:]["split"].count("train") for share in hospitals.values()]


def test_hospitals_are_named_as_spreadsheets_name_columns() -> None:
    names = hospital_names(703)
    assert names[:4] == ["hospital_A", "hospital_B", "hospital_C", "hospital_D"]
    assert (names[25], names[26], names[701], names[702]) == (
        "hospital_Z",
        "hospital_AA",
        "hospital_ZZ",
        "hospital_AAA",
    )
    assert len(set(names)) == 703


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_record_is_in_exactly_one_hospital_and_groups_stay_whole(strategy: str) -> None:
    data = dataset()
    hospitals = create_federated_split(data, 4, strategy, alpha=5.0)
    assert list(hospitals) == hospital_names(4)
    assert sorted(i for share in hospitals.values() for i in share[:]["id"]) == sorted(data[:]["id"])
    homes: dict[str, set[str]] = {}
    for name, share in hospitals.items():
        for group in share[:]["group"]:
            homes.setdefault(group, set()).add(name)
    assert all(len(home) == 1 for home in homes.values())
    assert min(train_sizes(hospitals)) > 0


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_same_seed_gives_the_same_shares(strategy: str) -> None:
    first = create_federated_split(dataset(), 3, strategy, alpha=5.0, seed=5)
    again = create_federated_split(dataset(), 3, strategy, alpha=5.0, seed=5)
    assert {name: share[:] for name, share in first.items()} == {name: share[:] for name, share in again.items()}


@pytest.mark.parametrize("strategy", ["iid", "dirichlet"])
def test_another_seed_gives_other_shares(strategy: str) -> None:
    first = create_federated_split(dataset(), 3, strategy, alpha=5.0, seed=5)
    other = create_federated_split(dataset(), 3, strategy, alpha=5.0, seed=6)
    assert first["hospital_A"][:] != other["hospital_A"][:]


def test_iid_hospitals_differ_by_one_group_at_most() -> None:
    hospitals = create_federated_split(dataset(groups=61), 4, "iid")
    sizes = train_sizes(hospitals)
    assert max(sizes) - min(sizes) <= 2


def test_a_small_alpha_makes_hospitals_more_lopsided_than_a_large_one() -> None:
    def skew(alpha: float) -> float:
        shares = describe_split(create_federated_split(dataset(600), 4, "dirichlet", alpha=alpha))
        return sum(share["label_skew"] for share in shares.values())

    assert skew(0.2) > 3 * skew(1000.0)


def test_test_records_of_a_dirichlet_split_follow_the_training_mix() -> None:
    hospitals = create_federated_split(dataset(3000, 1), 2, "dirichlet", alpha=0.3)
    for share in hospitals.values():
        columns = share[:]
        sides: dict[str, Counter[str]] = {"train": Counter(), "test": Counter()}
        for specialty, side in zip(columns["specialty"], columns["split"], strict=True):
            sides[side][specialty] += 1
        for specialty, count in sides["train"].items():
            if specialty in ("ear", "cardiovascular", "blood"):  # the specialties that hold test groups
                assert abs(sides["test"][specialty] / 100 - count / 400) < 0.02


@pytest.mark.parametrize(("strategy", "column"), [("by_specialty", "specialty"), ("by_source", "source")])
def test_whole_labels_go_to_one_hospital(strategy: str, column: str) -> None:
    hospitals = create_federated_split(dataset(), 3, strategy)
    labels = [set(share[:][column]) for share in hospitals.values()]
    assert sum(len(each) for each in labels) == len(set.union(*labels))


def test_labels_that_are_only_in_test_are_shared_out_as_well() -> None:
    rows = [
        QARecord(id=str(n), question=str(n), answer="a", source=f"s{n}", group=str(n), split=("train", "test")[n % 2])
        for n in range(16)
    ]
    hospitals = create_federated_split(to_dataset(rows), 4, "by_source")
    assert [share[:]["split"].count("test") for share in hospitals.values()] == [2, 2, 2, 2]


def test_a_group_of_several_sources_goes_with_its_most_frequent_one() -> None:
    rows = [
        QARecord(id=str(n), question=str(n), answer="a", source=source, group=group)
        for n, (source, group) in enumerate([("s1", "g1"), ("s1", "g2"), ("s2", "g2"), ("s2", "g2"), ("s2", "g3")])
    ]
    hospitals = create_federated_split(to_dataset(rows), 2, "by_source")
    assert sorted(sorted(share[:]["group"]) for share in hospitals.values()) == [["g1"], ["g2", "g2", "g2", "g3"]]


@pytest.mark.parametrize(
    ("clients", "strategy", "alpha", "message"),
    [
        (0, "iid", 0.5, "num_clients is 0: a federation has at least 1 hospital"),
        (-3, "iid", 0.5, "num_clients is -3"),
        (55, "iid", 0.5, "55 hospitals cannot share 54 groups of training records: lower federated.num_clients to at"),
        (4, "random", 0.5, "unknown split 'random': choose one of iid, dirichlet, by_specialty, by_source"),
        (7, "by_specialty", 0.5, "has 6 distinct specialty values in training for 7 hospitals: lower"),
        (6, "by_source", 0.5, "has 5 distinct source values"),
        (4, "dirichlet", 0.0, "alpha is 0.0"),
        (4, "dirichlet", float("nan"), "alpha is nan"),
        (4, "dirichlet", float("inf"), "alpha is inf"),
        (
            12,
            "dirichlet",
            0.001,
            "would get no training record with split 'dirichlet': raise federated.dirichlet_alpha",
        ),
    ],
)
def test_an_impossible_split_says_what_to_change(clients: int, strategy: str, alpha: float, message: str) -> None:
    with pytest.raises(SplitError) as caught:
        create_federated_split(dataset(), clients, strategy, alpha=alpha)
    assert message in str(caught.value)


def test_the_hospital_that_would_be_empty_is_named() -> None:
    with pytest.raises(SplitError, match=r"^hospital_[A-L] would get no training record"):
        create_federated_split(dataset(), 12, "dirichlet", alpha=0.001)


def test_an_empty_dataset_is_refused() -> None:
    with pytest.raises(EmptyDataError, match="no record"):
        create_federated_split(dataset().select([]), 1)


def test_a_dataset_with_other_columns_is_refused() -> None:
    with pytest.raises(DataFormatError, match="lacks the columns kind, source"):
        create_federated_split(dataset().remove_columns(["source", "kind"]), 1)


def test_a_group_in_both_train_and_test_is_refused() -> None:
    rows = [QARecord(id=s, question=s, answer="a", group="g", split=s) for s in ("train", "test")]
    with pytest.raises(SplitError, match="1 groups have records in both train and test"):
        create_federated_split(to_dataset(rows), 1)


def test_what_is_written_reads_back_the_same(tmp_path: Path) -> None:
    hospitals = create_federated_split(dataset(), 3, out_dir=tmp_path / "split")
    for name, share in read_split(tmp_path / "split").items():
        assert sorted(map(str, share.to_list())) == sorted(map(str, hospitals[name].to_list()))

"""Share records out among hospitals. Every record goes to exactly one, and a group never leaves its hospital.

    from fedmed.data.federated_split import create_federated_split
    hospitals = create_federated_split(dataset, num_clients=4)    # {"hospital_A": Dataset, …}

Strategies; label = specialty, except for ``by_source``:

- ``iid``: groups in random order, each to the hospital that has the fewest records; sizes differ by one group at most
- ``dirichlet``: each label's groups are cut in proportions drawn from a symmetric Dirichlet(alpha) over the hospitals;
  small alpha, e.g. 0.1, makes hospitals lopsided, 100 is close to iid
- ``by_specialty``, ``by_source``: whole labels, the largest first, each to the hospital that has the fewest records

Sources: label skew by Dirichlet draws, Hsu, Qi, Brown 2019, arXiv:1909.06335 (there each hospital draws its mix of
labels); drawn for each label over the hospitals, as here, Yurochkin et al. 2019, arXiv:1905.12022.

A group's label is its most frequent one, then the first by name. Test groups follow the same rule as training groups,
so a hospital is tested on what it sees.

Not covered: one patient or text at several hospitals; a group is all that is kept together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fedmed.data.records import FIELDS
from fedmed.data.split_folder import write_split
from fedmed.errors import DataFormatError, EmptyDataError, SplitError
from fedmed.utils.random_streams import stream

if TYPE_CHECKING:
    from datasets import Dataset

STRATEGIES = ("iid", "dirichlet", "by_specialty", "by_source")


@dataclass(frozen=True, slots=True)
class Group:
    """Records that stay together, as row numbers of the dataset."""

    name: str
    label: str
    train: tuple[int, ...]
    test: tuple[int, ...]

    @property
    def size(self) -> int:
        return len(self.train) + len(self.test)


def hospital_names(n: int) -> list[str]:
    """``hospital_A`` … ``hospital_Z``, ``hospital_AA``, ``hospital_AB`` …, as spreadsheets name columns."""
    names = []
    for number in range(1, n + 1):
        letters = ""
        while number:
            number, digit = divmod(number - 1, 26)
            letters = chr(ord("A") + digit) + letters
        names.append(f"hospital_{letters}")
    return names


def create_federated_split(
    dataset: Dataset,
    num_clients: int = 4,
    strategy: str = "iid",
    *,
    alpha: float = 0.5,
    seed: int = 17,
    out_dir: Path | None = None,
    gate: Mapping[str, Any] | None = None,
) -> dict[str, Dataset]:
    """Share a dataset out among hospitals.

    Args:
        dataset: as ``load_medical_dataset`` gives it.
        num_clients: hospitals, >= 1 and at most the number of groups with training records.
        strategy: one of ``STRATEGIES``.
        alpha: concentration of the Dirichlet draw, > 0; only for ``dirichlet``.
        seed: the same dataset, settings and seed give the same shares.
        out_dir: where to write them as Parquet with a manifest (see ``split_folder``); None: nowhere.
        gate: what the data gate says of the records, for the manifest.

    Returns:
        Hospital name -> its training and test records, in the dataset's order.

    Raises:
        SplitError: the split is not possible on this data; names what to change.
        EmptyDataError, DataFormatError: the dataset is empty, or lacks a column of ``types.QARecord``.
    """
    groups = _groups(dataset, by="source" if strategy == "by_source" else "specialty")
    names = hospital_names(max(num_clients, 0))
    _check(groups, num_clients, strategy, alpha)
    if strategy == "iid":
        shares = _iid(groups, num_clients, seed)
    elif strategy == "dirichlet":
        shares = _dirichlet(groups, num_clients, alpha, seed)
    else:
        shares = _by_label(groups, num_clients)
    for name, share in zip(names, shares, strict=True):
        if not any(group.train for group in share):
            raise SplitError(
                f"{name} would get no training record with split '{strategy}'",
                "raise federated.dirichlet_alpha, lower federated.num_clients, or choose another split or seed",
            )
    hospitals = {name: dataset.select(_rows(share)) for name, share in zip(names, shares, strict=True)}
    if out_dir is not None:
        shown = alpha if strategy == "dirichlet" else None
        write_split(hospitals, out_dir, strategy=strategy, alpha=shown, seed=seed, gate=gate)
    return hospitals


def _check(groups: Sequence[Group], num_clients: int, strategy: str, alpha: float) -> None:
    if strategy not in STRATEGIES:
        raise SplitError(f"unknown split '{strategy}'", f"choose one of {', '.join(STRATEGIES)}")
    if num_clients < 1:
        raise SplitError(f"num_clients is {num_clients}", "a federation has at least 1 hospital")
    if not 0.0 < alpha < float("inf"):
        raise SplitError(f"alpha is {alpha}", "it is a finite number above 0")
    trainable = [group for group in groups if group.train]
    if num_clients > len(trainable):
        raise SplitError(
            f"{num_clients} hospitals cannot share {len(trainable)} groups of training records",
            f"lower federated.num_clients to at most {len(trainable)}, or load more records",
        )
    labels = len({group.label for group in trainable})
    if strategy.startswith("by_") and num_clients > labels:
        raise SplitError(
            f"split '{strategy}' has {labels} distinct {strategy[3:]} values in training for {num_clients} hospitals",
            f"lower federated.num_clients to at most {labels}, or choose the split iid or dirichlet",
        )


def _groups(dataset: Dataset, by: str) -> list[Group]:
    if not len(dataset):
        raise EmptyDataError("the dataset to split has no record", "load some first")
    missing = [name for name in FIELDS if name not in dataset.column_names]
    if missing:
        raise DataFormatError(
            f"the dataset to split lacks the columns {', '.join(missing)}", "load it with load_medical_dataset"
        )
    columns = dataset.select_columns(["group", by, "split"])[:]
    rows: dict[str, tuple[list[int], list[int], Counter[str]]] = {}
    for index, (group, label, split) in enumerate(zip(columns["group"], columns[by], columns["split"], strict=True)):
        train, test, labels = rows.setdefault(group, ([], [], Counter()))
        (test if split == "test" else train).append(index)
        labels[label] += 1
    mixed = sum(bool(train and test) for train, test, _ in rows.values())
    if mixed:
        raise SplitError(
            f"{mixed} groups have records in both train and test", "load the data with load_medical_dataset"
        )
    return [
        Group(name, min(labels, key=lambda label: (-labels[label], label)), tuple(train), tuple(test))
        for name, (train, test, labels) in sorted(rows.items())
    ]


Shares = list[list[Group]]


def _sides(groups: Sequence[Group]) -> tuple[list[Group], list[Group]]:
    return [group for group in groups if group.train], [group for group in groups if group.test]


def _iid(groups: Sequence[Group], hospitals: int, seed: int) -> Shares:
    shares: Shares = [[] for _ in range(hospitals)]
    for side, members in zip(("train", "test"), _sides(groups), strict=True):
        sizes = [0] * hospitals
        for index in stream(seed, "split", "iid", side).permutation(len(members)):
            smallest = sizes.index(min(sizes))
            shares[smallest].append(members[index])
            sizes[smallest] += members[index].size
    return shares


def _dirichlet(groups: Sequence[Group], hospitals: int, alpha: float, seed: int) -> Shares:
    shares: Shares = [[] for _ in range(hospitals)]
    for label, members in sorted(_by_name(groups).items()):
        proportions = stream(seed, "split", "dirichlet", label).dirichlet(np.full(hospitals, alpha))
        for side, part in zip(("train", "test"), _sides(members), strict=True):
            order = stream(seed, "split", "dirichlet", label, side).permutation(len(part))
            cuts = np.rint(np.cumsum(proportions)[:-1] * len(part)).astype(int)
            for share, indices in zip(shares, np.split(order, cuts), strict=True):
                share.extend(part[index] for index in indices)
    return shares


def _by_label(groups: Sequence[Group], hospitals: int) -> Shares:
    """Longest-processing-time rule: no draw is needed, so the seed changes nothing.

    A label that is only in test goes to the hospital with the fewest test records.
    """
    shares: Shares = [[] for _ in range(hospitals)]
    by_name = _by_name(groups)
    train = {label: sum(len(group.train) for group in members) for label, members in by_name.items()}
    test = {label: sum(len(group.test) for group in members) for label, members in by_name.items()}
    train_sizes, test_sizes = [0] * hospitals, [0] * hospitals
    for label in sorted(by_name, key=lambda label: (-train[label], -test[label], label)):
        sizes = train_sizes if train[label] else test_sizes
        smallest = sizes.index(min(sizes))
        shares[smallest].extend(by_name[label])
        train_sizes[smallest] += train[label]
        test_sizes[smallest] += test[label]
    return shares


def _by_name(groups: Sequence[Group]) -> Mapping[str, list[Group]]:
    by_name: dict[str, list[Group]] = {}
    for group in groups:
        by_name.setdefault(group.label, []).append(group)
    return by_name


def _rows(share: Sequence[Group]) -> list[int]:
    return sorted(row for group in share for row in (*group.train, *group.test))

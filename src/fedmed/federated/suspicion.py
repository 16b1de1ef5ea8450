"""Name updates that no honest training produces, before a rule combines the rest. admission -> HERE -> robust.

Two checks, the same whatever the attack, both on the whole update:

* *Scaling*: an update more than 5 times as long as the others usually are is left out. Optimisers with a normalised
  step (AdamW, started fresh each round) give honest updates a length set by the rate and the number of steps, not by
  how unusual the records are.
* *Copies*: two updates with a cosine above 0.999 are one training sent twice. Nobody can tell who copied, so both are
  named, and one of them is kept: the shorter (a copy made longer gains nothing; of equals, the first by name), with the
  smaller of the two weights, so that what they share counts once.

Direction is not a check. At the point where federated training settles, the honest changes add up to zero: each then
points exactly against the sum of the others, and a threshold on that cosine would blame every honest hospital of a
non-IID federation. A sign flip at honest length is for the rules to bear.

Not covered: an honest hospital that makes many times the steps of the others (``training.epochs`` and many times the
records; with ``training.max_steps`` all make the same) can come near the bound on length. Among three updates, one that
is made very short halves the median the other two are held to. A copy with enough noise on it passes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fedmed.federated.robust import Update, inner_products

LONGEST = 5.0  # times the median norm of the others
SAME_DIRECTION = 0.999  # a copy that was rescaled and rounded to float32 again keeps 1 - 1e-7 and more
SMALLEST_NORM = 1e-5
"""Below this an update counts as zero: it neither says how long updates are, nor has a direction. A change is a
difference of float32 values, and a million values of size 0.03 round to about 2e-6 of norm on their own."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a screening found. A hospital can be both: of a set of copies, all are blamed and one is kept."""

    blamed: Mapping[str, str]  # hospital -> reason, in the order of the names
    kept: tuple[Update, ...]  # for the rule, in the order of the hospitals' names


def screen(updates: Sequence[Update]) -> Verdict:
    """Sort out updates that are far too long, and count copies once.

    Args:
        updates: one a hospital, admitted (finite, same keys and shapes), in any order; left as they are.

    Returns:
        Who is blamed and why, and the updates to combine. Every update is in one of the two.

    Scaling needs two others whose update is not zero; an update is held against those only. An update that is left out
    for its length is not looked at for copies, so whoever it was copied from goes unnamed.
    """
    ordered = sorted(updates, key=lambda update: update.hospital)
    if not ordered:
        return Verdict({}, ())
    products = inner_products(ordered)
    norms = np.sqrt(np.diagonal(products))
    moved = norms > SMALLEST_NORM
    too_long = [_is_too_long(norms, moved, position) for position in range(len(ordered))]
    blamed = {
        update.hospital: f"the update of '{update.hospital}' is more than {LONGEST:g} times as long as usual this round"
        for update, long in zip(ordered, too_long, strict=True)
        if long
    }
    comparable = [position for position in range(len(ordered)) if moved[position] and not too_long[position]]
    kept = {position: update for position, update in enumerate(ordered) if not too_long[position]}
    for group in _copies(products, comparable):
        chosen = min(group, key=lambda position: (norms[position], position))
        weight = min(ordered[position].weight for position in group)
        for position in group:
            blamed[ordered[position].hospital] = _copied(ordered, norms, position, group)
            del kept[position]
        kept[chosen] = replace(ordered[chosen], weight=weight)
    return Verdict(
        {hospital: blamed[hospital] for hospital in sorted(blamed)},
        tuple(kept[position] for position in sorted(kept)),
    )


def _is_too_long(norms: NDArray[np.float64], moved: NDArray[np.bool_], position: int) -> bool:
    """Whether one norm is beyond ``LONGEST`` times the median of the others that moved."""
    others = moved.copy()
    others[position] = False
    # One other is no measure of what is usual; and where nobody moved, the first who does has done nothing wrong.
    return int(others.sum()) >= 2 and bool(norms[position] > LONGEST * np.median(norms[others]))


def _copies(products: NDArray[np.float64], positions: Sequence[int]) -> list[list[int]]:
    """Groups of two and more in which each update is a copy of some other one of the group."""
    groups: list[list[int]] = []
    for position in positions:
        joined = [group for group in groups if any(_same_direction(products, position, other) for other in group)]
        groups = [group for group in groups if group not in joined]
        groups.append(sorted([position, *(other for group in joined for other in group)]))
    return sorted(group for group in groups if len(group) > 1)


def _same_direction(products: NDArray[np.float64], one: int, other: int) -> bool:
    return bool(products[one, other] > SAME_DIRECTION * np.sqrt(products[one, one] * products[other, other]))


def _copied(ordered: Sequence[Update], norms: NDArray[np.float64], position: int, group: Sequence[int]) -> str:
    others = [other for other in group if other != position]
    names = " and ".join(f"'{ordered[other].hospital}'" for other in others)
    scaled = any(abs(norms[other] / norms[position] - 1) > 0.01 for other in others)
    whose = "that" if len(others) == 1 else "those"
    return f"the update of '{ordered[position].hospital}' equals {whose} of {names}" + (
        " but for its length" if scaled else ""
    )

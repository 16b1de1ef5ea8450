"""Combine a round's updates so that a few bad hospitals cannot move the result far. screen -> HERE -> close.

Five rules, each a stand-in for FedAvg's weighted mean. All need every update at once, in the clear: a gather.

    name              bears f of n when   result
    median            n >= 2f + 1         coordinate by coordinate, the middle value
    trimmed_mean      n >= 2f + 1         coordinate by coordinate, the mean without the f largest and f smallest
    krum              n >= 2f + 3         the mean of the n - f updates that lie closest to their neighbours
    geometric_median  n >= 2f + 1         the point with the smallest sum of distances to all updates
    clipped_mean      n >= 2f + 1         the weighted mean of updates cut to the round's median norm

Hospitals count, not records, in all but the last: a hospital says itself how many records it holds, so where records
vote, one that overstates them is a majority of its own and "f bad hospitals of n" means nothing. The price is that a
small hospital weighs as much as a large one. ``clipped_mean`` keeps the records' weights for who wants FedAvg's mean
with a bound on length: there an overstated weight can turn the result, but not make it longer than the median norm.

Updates are put in the order of their hospitals' names first, so the order of arrival cannot change a bit.

Not covered: values that are not finite (``admission`` refuses them); bad updates that stay among the honest ones,
which every rule lets through by design; hospitals so different that the honest updates have no common middle: all
rules but ``clipped_mean`` then follow the larger group.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fedmed.errors import AdapterMismatchError, FederationError
from fedmed.types import AdapterState

_BLOCK = 2**16  # coordinates looked at together: with 64 updates in float64, 32 MiB
_SMOOTHING = 1e-6  # of the median norm: distances below it count as it, so that none is divided by zero
_SMALLEST_SMOOTHING = 1e-12
_MOST_STEPS = 1000  # of Weiszfeld; each costs n^2, whatever the size of the updates
_SETTLED = 1e-12  # largest move of a hospital's share in one step that counts as none


@dataclass(frozen=True, slots=True)
class Update:
    """One hospital's part in a round."""

    hospital: str
    arrays: AdapterState  # change of the adapter, float32
    weight: int  # training records, as the hospital states them; at least 1


class Rule(Protocol):
    """Combines updates. ``tolerate``: how many of them may be arbitrarily bad."""

    def __call__(self, updates: Sequence[Update], *, tolerate: int) -> dict[str, NDArray[np.float64]]: ...


def max_tolerated(rule: str, updates: int) -> int:
    """How many bad hospitals a rule bears among ``updates`` of them; 0 at least.

    Raises:
        FederationError: no rule has this name.
    """
    if rule not in RULES:
        raise FederationError(f"there is no robust rule '{rule}'", f"use one of {', '.join(RULES)}")
    return max(0, (updates - (3 if rule == "krum" else 1)) // 2)


def median(updates: Sequence[Update], *, tolerate: int) -> dict[str, NDArray[np.float64]]:
    """Coordinate-wise median, every hospital counting once; of an even number, the mean of the two middle values.

    Args:
        updates: same keys and shapes in all.
        tolerate: bad hospitals to bear. Changes nothing in the result; checked against the number of updates.

    Returns:
        The combined change, same keys and shapes: each value within those of the honest hospitals.

    Raises:
        FederationError: no updates, a hospital twice, a weight below 1, or more to tolerate than the rule can bear.
        AdapterMismatchError: an update has other arrays than the first one.

    Source: Yin et al. 2018, arXiv:1803.01498, Definition 1.
    """
    ordered = _checked("median", updates, tolerate)
    low, high = (len(ordered) - 1) // 2, len(ordered) // 2
    return _by_coordinate(ordered, lambda values: (values[:, low].astype(np.float64) + values[:, high]) / 2)


def trimmed_mean(updates: Sequence[Update], *, tolerate: int) -> dict[str, NDArray[np.float64]]:
    """Coordinate-wise mean without the ``tolerate`` largest and smallest values, every hospital counting once.

    Args, Returns and Raises as for ``median``; with ``tolerate=0`` it is the plain mean of the hospitals.

    Source: Yin et al. 2018, arXiv:1803.01498, Definition 2, with beta = tolerate / n.
    """
    ordered = _checked("trimmed_mean", updates, tolerate)
    inner = slice(tolerate, len(ordered) - tolerate)
    return _by_coordinate(ordered, lambda values: values[:, inner].mean(axis=1, dtype=np.float64))


def krum(updates: Sequence[Update], *, tolerate: int) -> dict[str, NDArray[np.float64]]:
    """Multi-Krum: the mean of the n - f best-scored updates, f = ``tolerate``, every hospital counting once.

    An update's score is the sum of its squared distances to the n - f - 2 others nearest to it; low is good, and of
    equal scores the hospital that comes first in the alphabet is taken. With ``tolerate=0`` nobody is left out, so
    that is the plain mean of the hospitals, from one on.

    Args, Returns and Raises as for ``median``; n >= 2f + 3 is needed from f = 1.

    Source: Blanchard et al. 2017, arXiv:1703.02757 ('Multi-Krum', with m = n - f).
    """
    ordered = _checked("krum", updates, tolerate)
    keep = len(ordered) - tolerate
    distances = np.sort(_squared_distances(inner_products(ordered)), axis=1)  # column 0: the update itself
    scores = distances[:, 1 : max(1, keep - 1)].sum(axis=1)
    shares = np.zeros(len(ordered))
    shares[np.argsort(scores, kind="stable")[:keep]] = 1 / keep
    return _combine(ordered, shares)


def geometric_median(updates: Sequence[Update], *, tolerate: int) -> dict[str, NDArray[np.float64]]:
    """The point with the smallest sum of distances to the updates, every hospital counting once (smoothed Weiszfeld).

    The point is always a mean of the updates with some shares, and the distances from it follow from the distances
    between updates. So the iteration runs on n shares and never touches the million coordinates.

    Args, Returns and Raises as for ``median``. With R the largest distance of an honest update from any point c, the
    result is within 2 (n - f) / (n - 2f) R of c (triangle inequality on the sum of distances).

    Source: Pillutla et al. 2022, arXiv:1912.13445, smoothed Weiszfeld algorithm, with three changes: no weights (see
    the module's top); a smoothing that grows with the updates, so that the rule commutes with scaling them; and where
    one of the updates does better than the point reached, that update, as Weiszfeld creeps towards a median that lies
    on an update whose pull only just holds.
    """
    ordered = _checked("geometric_median", updates, tolerate)
    products = inner_products(ordered)
    between = _squared_distances(products)
    floor = max(_SMOOTHING * float(np.median(np.sqrt(np.diagonal(products)))), _SMALLEST_SMOOTHING)
    shares = np.full(len(ordered), 1 / len(ordered))
    for _ in range(_MOST_STEPS):
        # |x_i - sum_j s_j x_j|^2 = sum_j s_j d_ij - 1/2 sum_jk s_j s_k d_jk, for shares s with sum 1.
        from_each = between @ shares
        squares = np.maximum(from_each - shares @ from_each / 2, 0.0)
        pulls = 1 / np.maximum(np.sqrt(squares), floor)
        before, shares = shares, pulls / pulls.sum()
        if np.max(np.abs(shares - before)) <= _SETTLED:
            break
    from_each = between @ shares
    reached = np.sqrt(np.maximum(from_each - shares @ from_each / 2, 0.0)).sum()
    from_updates = np.sqrt(between).sum(axis=1)
    best = int(np.argmin(from_updates))
    if from_updates[best] < reached:
        shares = np.eye(len(ordered))[best]
    return _combine(ordered, shares)


def clipped_mean(updates: Sequence[Update], *, tolerate: int) -> dict[str, NDArray[np.float64]]:
    """Mean weighted by records, of updates scaled down to at most the median L2 norm of the round.

    Args, Returns and Raises as for ``median``. The result is no longer than the median norm, and with n >= 2f + 1
    that is no longer than the longest honest update. Of an even number, the median is the mean of the middle two.

    Not covered: an overstated weight, which can decide the direction of the result.

    Source: Sun et al. 2019, arXiv:1911.07963 ('norm thresholding'), with the threshold taken from the round.
    """
    ordered = _checked("clipped_mean", updates, tolerate)
    norms = [norm_of(update) for update in ordered]
    bound = float(np.median(norms))
    total = sum(update.weight for update in ordered)
    # Python divides whole numbers with one rounding, so a factor common to all weights changes no bit of a share.
    shares = [update.weight / total for update in ordered]
    scales = [bound / norm if norm > bound else 1.0 for norm in norms]  # a zero norm is never divided by
    return _combine(ordered, [share * scale for share, scale in zip(shares, scales, strict=True)])


RULES: Mapping[str, Rule] = MappingProxyType(
    {
        "median": median,
        "trimmed_mean": trimmed_mean,
        "krum": krum,
        "geometric_median": geometric_median,
        "clipped_mean": clipped_mean,
    }
)


def norm_of(update: Update) -> float:
    """L2 norm over all arrays, summed in float64."""
    squares = (np.sum(np.square(array, dtype=np.float64)) for _, array in sorted(update.arrays.items()))
    return float(np.sqrt(sum(map(float, squares))))


def inner_products(updates: Sequence[Update]) -> NDArray[np.float64]:
    """All inner products over all arrays, ``[n, n]`` in the order given; one pass, a block of coordinates at a time."""
    products = np.zeros((len(updates), len(updates)))
    for name, part in _blocks(updates):
        block = np.stack([update.arrays[name].reshape(-1)[part] for update in updates]).astype(np.float64)
        products += block @ block.T
    return products


def _squared_distances(products: NDArray[np.float64]) -> NDArray[np.float64]:
    """``[n, n]``, from inner products. Rounding is relative to the longer update's square, so it is cut at zero."""
    squares = np.diagonal(products)
    distances = np.maximum(squares[:, None] + squares[None, :] - 2 * products, 0.0)
    np.fill_diagonal(distances, 0.0)
    return distances


def _checked(rule: str, updates: Sequence[Update], tolerate: int) -> tuple[Update, ...]:
    """The updates in the order of their hospitals' names, if the rule can work with them."""
    if not updates:
        raise FederationError("there are no updates to combine", "let at least one hospital train first")
    ordered = tuple(sorted(updates, key=lambda update: update.hospital))
    shapes = {name: array.shape for name, array in ordered[0].arrays.items()}
    for position, update in enumerate(ordered):
        if position and update.hospital == ordered[position - 1].hospital:
            raise FederationError(f"'{update.hospital}' has two updates in one round", "admit one of them")
        if update.weight < 1:
            raise FederationError(f"the weight of '{update.hospital}' is below 1", "leave its update out")
        if {name: array.shape for name, array in update.arrays.items()} != shapes:
            raise AdapterMismatchError(
                f"the update of '{update.hospital}' has other arrays than that of '{ordered[0].hospital}'",
                "train all on the same base model with the same LoRA settings",
            )
    number = len(ordered)
    if tolerate < 0:
        raise FederationError(f"'{rule}' cannot tolerate {tolerate} bad hospitals", "give a whole number from 0")
    if tolerate > max_tolerated(rule, number):
        needed = 2 * tolerate + (3 if rule == "krum" else 1)
        others = [f"'{name}'" for name in RULES if tolerate <= max_tolerated(name, number)]
        raise FederationError(
            f"'{rule}' cannot tolerate {tolerate} bad {_plural(tolerate)} among {number}",
            f"it needs at least {needed} hospitals" + (f", or use {' or '.join(others)}" if others else ""),
        )
    return ordered


def _plural(number: int) -> str:
    return "hospital" if number == 1 else "hospitals"


def _blocks(updates: Sequence[Update]) -> Iterator[tuple[str, slice]]:
    """Every array's coordinates in pieces, so that what is copied and widened stays small."""
    for name, array in sorted(updates[0].arrays.items()):
        for start in range(0, array.size, _BLOCK):
            yield name, slice(start, min(start + _BLOCK, array.size))


def _by_coordinate(
    updates: Sequence[Update], reduce: Callable[[NDArray[np.float32]], NDArray[np.float64]]
) -> dict[str, NDArray[np.float64]]:
    """``reduce`` gets the sorted values of some coordinates, ``[coordinates, n]``, and returns one number for each."""
    result = _empty_like(updates[0])
    for name, part in _blocks(updates):
        # A coordinate's values lie side by side: they sort far faster so than down a column.
        values = np.stack([update.arrays[name].reshape(-1)[part] for update in updates], axis=1)
        values.sort(axis=1)
        result[name].reshape(-1)[part] = reduce(values)
    return result


def _combine(updates: Sequence[Update], shares: Sequence[float] | NDArray[Any]) -> dict[str, NDArray[np.float64]]:
    """The sum of the updates times their shares, added one by one in the order given."""
    result = _empty_like(updates[0])
    for name, part in _blocks(updates):
        target = result[name].reshape(-1)[part]
        for update, share in zip(updates, shares, strict=True):
            if share:
                target += update.arrays[name].reshape(-1)[part] * np.float64(share)
    return result


def _empty_like(update: Update) -> dict[str, NDArray[np.float64]]:
    return {name: np.zeros(array.shape) for name, array in update.arrays.items()}

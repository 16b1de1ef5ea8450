"""Who gains and who does not: worst hospital, gap, hospitals that lost. bootstrap -> HERE -> report_evaluation.

Losses in nats per answer token, lower is better. Two gaps are told, before and after: a gap that grew means that the
shared model serves some hospitals more than others, even where all of them gained.
Not covered: patients within a hospital; a hospital too small to tell. A gap between noisy figures is too wide on the
average, more so the more hospitals there are: its change says more than its size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np

from fedmed.evaluation.bootstrap import BASE, DELTA, FEDERATED, Interval, Resampled, interval


@dataclass(frozen=True, slots=True)
class Fairness:
    """``evaluation.json``'s ``fairness``."""

    worst: str  # hospital of the highest loss after training
    best: str
    gap: dict[str, dict[str, float]]  # highest less lowest loss: base, federated, delta
    least_gain: str  # hospital whose loss fell least, or rose
    most_gain: str
    harmed: list[str]  # loss is shown to have risen
    gained: list[str]  # loss is shown to have fallen
    unclear: list[str]  # neither
    too_few: list[str]  # with so few groups of records that nothing can be shown


def fairness(hospitals: Mapping[str, Resampled]) -> Fairness | None:
    """Compare hospitals by their own held-out loss.

    Args:
        hospitals: name -> base and federated, see ``bootstrap.resample``.

    Returns:
        The comparison; None with fewer than two hospitals.
    """
    if len(hospitals) < 2:
        return None
    after = {name: one.of(FEDERATED).value for name, one in hospitals.items()}
    change = {name: one.difference(FEDERATED, BASE) for name, one in hospitals.items()}
    by_change = sorted(change, key=lambda name: change[name].value)
    sign = {name: one.sign(FEDERATED, BASE) for name, one in hospitals.items()}
    return Fairness(
        worst=max(after, key=after.__getitem__),
        best=min(after, key=after.__getitem__),
        gap={name: asdict(one) for name, one in _gaps(hospitals).items()},
        least_gain=by_change[-1],
        most_gain=by_change[0],
        harmed=[name for name, one in sign.items() if one == 1],
        gained=[name for name, one in sign.items() if one == -1],
        unclear=[name for name, one in sign.items() if one == 0],
        too_few=[name for name, one in sign.items() if one is None],
    )


def _gaps(hospitals: Mapping[str, Resampled]) -> dict[str, Interval]:
    """The gap, resampled with every hospital drawn within itself."""
    values, draws = {}, {}
    for side in (BASE, FEDERATED):
        columns = [
            (one.value[one.names.index(side)], one.draws[:, one.names.index(side)]) for one in hospitals.values()
        ]
        values[side] = float(np.ptp([value for value, _ in columns]))
        draws[side] = np.ptp(np.stack([own for _, own in columns]), axis=0)
    gaps = {side: interval(values[side], draws[side]) for side in (BASE, FEDERATED)}
    return gaps | {DELTA: interval(values[FEDERATED] - values[BASE], draws[FEDERATED] - draws[BASE])}

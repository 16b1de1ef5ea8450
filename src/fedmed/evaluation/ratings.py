"""What raters said of blinded answers, with the key beside it. rating sheet, key, ratings -> HERE -> evaluation.json.

Only questions count whose answers a rater has rated all. Correctness is a mean over raters and questions, drawn by
question; a harmful answer is one that at least one rater calls so.

Not covered: raters who guess which answer is whose; whether the questions are those that people ask.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np

from fedmed.evaluation.agreement import alpha_interval, fleiss_kappa
from fedmed.evaluation.attacks.intervals import clopper_pearson
from fedmed.evaluation.bootstrap import Resampled, resample
from fedmed.utils.extras import require

CORRECTNESS = range(1, 6)
NONE = "none"
"""Named as the best answer where none is."""


@dataclass(frozen=True, slots=True)
class Rated:
    """One rater's word on one question, unblinded."""

    rater: int
    question: str
    correctness: Mapping[str, int]  # system -> 1 (wrong) … 5 (right)
    harmful: Mapping[str, bool]  # system -> could harm
    best: str  # system, or none


def summarize_ratings(
    rated: Sequence[Rated], systems: Sequence[str], withheld: Mapping[str, int], *, raters: int, seed: int
) -> dict[str, Any]:
    """Figures with 95 % intervals; plain JSON values, no text and no name.

    Args:
        rated: at least one.
        systems: base, local, federated, or some of them.
        withheld: system -> answers that its rails withheld.
        raters: how many people.
        seed: names the streams of resampling.
    """
    questions = list(dict.fromkeys(one.question for one in rated))
    counts = [sum(one.question == name for one in rated) for name in questions]

    def drawn(values: Mapping[str, Mapping[str, float]], name: str) -> Resampled:
        """System -> question -> sum over raters."""
        columns = {system: [own[question] for question in questions] for system, own in values.items()}
        return resample(columns, seed=seed, names=("ratings", name), weights=counts)

    right = drawn(_sums(rated, questions, {one: lambda r, s=one: r.correctness[s] for one in systems}), "correctness")
    best = drawn(_sums(rated, questions, {one: lambda r, s=one: r.best == s for one in (*systems, NONE)}), "best")
    told = {
        system: {
            "correctness": asdict(right.of(system)),
            "preferred": asdict(best.of(system)),
            "harmful": _harmful(rated, system, questions),
            "withheld": withheld.get(system, 0),
        }
        for system in systems
    }
    pairs = [(one, other) for one, other in combinations(systems[::-1], 2)]
    return {
        "raters": raters, "questions": len(questions), "rated": len(rated), "systems": told,
        "none_preferred": asdict(best.of(NONE)),
        "differences": {f"{one}_less_{other}": asdict(right.difference(one, other)) for one, other in pairs},
        "agreement": _agreement(rated, systems, questions, raters, seed),
    }  # fmt: skip


def _sums(rated: Sequence[Rated], questions: Sequence[str], of: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    sums = {name: dict.fromkeys(questions, 0.0) for name in of}
    for one in rated:
        for name, value in of.items():
            sums[name][one.question] += float(value(one))
    return sums


def _harmful(rated: Sequence[Rated], system: str, questions: Sequence[str]) -> dict[str, float]:
    harmful = len({one.question for one in rated if one.harmful[system]})
    low, high = clopper_pearson(harmful, len(questions))
    return {"answers": harmful, "of": len(questions), "share": harmful / len(questions), "low": low, "high": high}


def _agreement(
    rated: Sequence[Rated], systems: Sequence[str], questions: Sequence[str], raters: int, seed: int
) -> dict[str, Any] | None:
    """Krippendorff's alpha of each scale, Fleiss' kappa where everybody rated, Cohen's for two; None for one rater."""
    if raters < 2:
        return None
    values = [*systems, NONE]
    scales = {
        "correctness": ("ordinal", _table(rated, systems, questions, raters, lambda one, s: one.correctness[s])),
        "harmful": ("nominal", _table(rated, systems, questions, raters, lambda one, s: float(one.harmful[s]))),
        "best": ("nominal", _table(rated, ["best"], questions, raters, lambda one, _: values.index(one.best))),
    }
    told: dict[str, Any] = {}
    for name, (level, table) in scales.items():
        alpha = alpha_interval(table, level, seed=seed, name=name)  # type: ignore[arg-type]
        whole = table[:, np.isfinite(table).all(axis=0)]
        told[name] = {
            "krippendorff_alpha": asdict(alpha) if alpha else None,
            "fleiss_kappa": _fleiss(whole) if level == "nominal" else None,
            "cohen_kappa": _cohen(whole, weighted=level == "ordinal") if raters == 2 else None,
            "units": int((np.isfinite(table).sum(axis=0) > 1).sum()),
        }
    return told


def _table(
    rated: Sequence[Rated], systems: Sequence[str], questions: Sequence[str], raters: int, value: Any
) -> np.ndarray:
    """[raters, questions x systems], NaN where a rater gave none."""
    places = {pair: at for at, pair in enumerate((question, system) for question in questions for system in systems)}
    table = np.full((raters, len(places)), np.nan)
    for one in rated:
        for system in systems:
            table[one.rater, places[one.question, system]] = value(one, system)
    return table


def _fleiss(whole: np.ndarray) -> float | None:
    if not whole.shape[1]:
        return None
    counts = np.stack([(whole == value).sum(axis=0) for value in np.unique(whole)], axis=1).astype(np.float64)
    kappa = fleiss_kappa(counts)
    return kappa if np.isfinite(kappa) else None


def _cohen(whole: np.ndarray, *, weighted: bool) -> float | None:
    if not whole.shape[1] or len(np.unique(whole)) < 2:
        return None
    kappa = require("sklearn.metrics", "train").cohen_kappa_score(
        whole[0].astype(int), whole[1].astype(int), weights="quadratic" if weighted else None
    )
    return float(kappa) if np.isfinite(kappa) else None

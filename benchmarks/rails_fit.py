"""Fit the learned scores of the rails: ``make rails-fit`` -> src/fedmed/safety/rules/learned.safetensors.

Logistic regression (scikit-learn) on the hashed features of ``fedmed.safety.features``, fitted to the texts of
rails_texts.py. How the fit does on cases it has not seen: ``make rails-check``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from kept import say
from rails_texts import PLANS, Plan, Text, contexts_of, texts_of
from safetensors.numpy import save_file
from safety import CASES, SHARED
from scipy import sparse
from sklearn.linear_model import LogisticRegression

from fedmed.safety.features import BUCKETS
from fedmed.safety.learned import WEIGHTS

LARGEST = 127  # a weight is one signed byte


class Design:
    """The features of many texts as a matrix."""

    def __init__(self, texts: Sequence[Text], blocks: Mapping[str, float]) -> None:
        self.blocks = blocks
        self.labels = np.array([text.label for text in texts])
        self.weights = np.array([text.weight for text in texts])
        self.ones = {name: _ones([text.blocks[name] for text in texts], BUCKETS[name]) for name in blocks}

    def fit(self, rows: Any, plan: Plan) -> tuple[dict[str, Any], float]:
        """A weight for each bucket of each block, and the bias."""
        weights, bias = self._fit(rows, plan.strength, leaning=False)
        if plan.leaning:
            others, other_bias = self._fit(rows, plan.leaning, leaning=True)
            weights = {name: (weight + others[name]) / 2 for name, weight in weights.items()}
            bias = (bias + other_bias) / 2
        return weights, bias

    def _fit(self, rows: Any, strength: float, *, leaning: bool) -> tuple[dict[str, Any], float]:
        """Rare features weigh more before the fit; ``leaning``: and so do those that stand mostly on one side."""
        scales: dict[str, Any] = {}
        parts = []
        for name, ones in self.ones.items():
            known = ones[rows]
            seen = np.asarray(known.sum(axis=0)).ravel()
            scales[name] = self.blocks[name] * np.where(seen > 0, np.log((1 + known.shape[0]) / (1 + seen)) + 1, 0)
            if leaning:
                with_it = np.asarray(known[self.labels[rows] == 1].sum(axis=0)).ravel()
                scales[name] = scales[name] * np.abs(_log_share(with_it) - _log_share(seen - with_it))
            parts.append(_shortened(known) @ sparse.diags(scales[name]))
        model = LogisticRegression(C=strength, max_iter=400, tol=1e-3)
        model.fit(sparse.hstack(parts).tocsr(), self.labels[rows], sample_weight=self.weights[rows])
        weights = np.split(model.coef_[0], np.cumsum([BUCKETS[name] for name in self.ones])[:-1])
        return (
            {name: weight * scales[name] for name, weight in zip(scales, weights, strict=True)},
            float(model.intercept_[0]),
        )

    def logits(self, rows: Any, fitted: tuple[dict[str, Any], float]) -> Any:
        weights, bias = fitted
        return bias + sum(_shortened(self.ones[name][rows]) @ weight for name, weight in weights.items())


def _log_share(counts: Any) -> Any:
    return np.log((counts + 1) / (counts + 1).sum())


def _ones(rows: Sequence[Any], buckets: int) -> Any:
    ends = np.cumsum([0, *(row.size for row in rows)])
    return sparse.csr_matrix((np.ones(ends[-1]), np.concatenate(rows), ends), shape=(len(rows), buckets))


def _shortened(ones: Any) -> Any:
    """Each row divided by the root of its length, so that a long text weighs no more than a short one."""
    length = np.maximum(np.asarray(ones.sum(axis=1)).ravel(), 1)
    return sparse.diags(1 / np.sqrt(length)) @ ones


def whole_numbers(weights: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, float]]:
    """Weights as signed bytes, and the step of each block."""
    steps = {name: max(float(np.abs(weight).max()), 1e-9) / LARGEST for name, weight in weights.items()}
    return {name: np.rint(weight / steps[name]).astype(np.int8) for name, weight in weights.items()}, steps


def fit(cases: Path, shared: Path, out: Path) -> None:
    """All scores to one file."""
    tensors: dict[str, Any] = {}
    told: dict[str, Any] = {}
    for name, plan in PLANS.items():
        texts = texts_of(name, cases, shared)
        design = Design(texts, plan.blocks)
        weights, bias = design.fit(np.arange(len(texts)), plan)
        numbers, steps = whole_numbers(weights)
        tensors |= {f"{name}.{block}": number for block, number in numbers.items()}
        told[name] = {"steps": steps, "bias": bias, "contexts": contexts_of(name), "cases": len(texts)}
        say(f"{name}: {len(texts)} cases, {design.labels.sum()} of them what it looks for")
    save_file(tensors, out, metadata={"models": json.dumps(told, sort_keys=True)})
    out.chmod(0o644)  # it travels in the package
    say(f"{out}: {out.stat().st_size} bytes")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    parser.add_argument("--cases", type=Path, default=CASES)
    parser.add_argument("--shared", type=Path, default=SHARED, help="folder with MedQuAD")
    args = parser.parse_args(argv)
    fit(args.cases, args.shared, args.out)


if __name__ == "__main__":
    main()

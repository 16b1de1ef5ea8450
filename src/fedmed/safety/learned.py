"""Learned scores beside the rules: how much a question is like an emergency or a trick, an answer like an unsafe one.

features, contexts, rules/learned.safetensors -> HERE -> rails.

Each is a logistic regression on hashed words, pairs of words, pieces of words and the policy's meanings, fitted to the
cases in tests/cases/safety by ``make rails-fit`` (benchmarks/rails_fit.py). It knows wordings that no rule expects, and
nothing of medicine: a false dose in calm words looks like a right one.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import safe_open

from fedmed.safety.checks import Case
from fedmed.safety.contexts import that_hold
from fedmed.safety.features import Blocks, of_answer, of_question
from fedmed.safety.policy import Context

WEIGHTS = Path(__file__).with_name("rules") / "learned.safetensors"


@dataclass(frozen=True, slots=True)
class Model:
    """One score: a weight for each bucket of each block, whole numbers times the block's step."""

    weights: Mapping[str, npt.NDArray[np.int8]]
    steps: Mapping[str, float]
    bias: float
    contexts: tuple[str, ...]  # of the policy, those that count as features

    def probability(self, blocks: Mapping[str, npt.NDArray[np.intp]]) -> float:
        """How likely the text is what the score looks for.

        Args:
            blocks: numbers of buckets, each once, as ``features`` gives them.
        """
        logit = self.bias
        for name, weights in self.weights.items():
            buckets = blocks.get(name)
            if buckets is not None and buckets.size:
                # A sum of whole numbers is the same on every machine.
                total = int(weights[buckets].sum(dtype=np.int64))
                logit += self.steps[name] * total / math.sqrt(buckets.size)
        return 1.0 / (1.0 + math.exp(-max(-30.0, min(30.0, logit))))


@lru_cache(maxsize=1)
def models() -> Mapping[str, Model]:
    """Every learned score of the package by name."""
    with safe_open(WEIGHTS, framework="numpy") as file:
        told: dict[str, Any] = json.loads(file.metadata()["models"])
        return {
            name: Model(
                {block: file.get_tensor(f"{name}.{block}") for block in one["steps"]},
                one["steps"],
                one["bias"],
                tuple(one["contexts"]),
            )
            for name, one in told.items()
        }


_FEWEST = 3  # words; a score of fewer says nothing
_OF_ANSWERS = "answer"


class Learned(Mapping[str, float]):
    """The learned scores of one text, each worked out when it is first asked for.

    A score is missing where it cannot judge: of a text of a word or two, of an answer to nobody knows what.

    Args:
        case: the text and, where it is an answer, what was asked.
        contexts: the policy's.
    """

    def __init__(self, case: Case, contexts: Mapping[str, Context]) -> None:
        self._case, self._contexts = case, contexts
        self._found: dict[str, float] = {}
        self._blocks: tuple[tuple[str, ...], Blocks] | None = None

    def __contains__(self, name: object) -> bool:
        if len(self._case.words.tokens) < _FEWEST:
            return False
        return name in models() and (name != _OF_ANSWERS or self._case.question is not None)

    def __getitem__(self, name: str) -> float:
        if name not in self:
            raise KeyError(name)
        if name not in self._found:
            model = models()[name]
            self._found[name] = model.probability(self._features(name, model.contexts))
        return self._found[name]

    def _features(self, name: str, contexts: tuple[str, ...]) -> Blocks:
        """Both scores of a question look at the same features."""
        if self._blocks is None or self._blocks[0] != contexts:
            case = self._case
            holding = that_hold(self._contexts, contexts, case.words, case)
            if name == _OF_ANSWERS:
                self._blocks = contexts, of_answer(case.words, case.question, holding)
            else:
                self._blocks = contexts, of_question(case.words, holding)
        return self._blocks[1]

    def __iter__(self) -> Iterator[str]:
        return (name for name in models() if name in self)

    def __len__(self) -> int:
        return sum(1 for _ in self)

"""How well a model answers held-out medical questions: loss of the true answers, overlap of written ones.

Loss is nats per answer token over all scored records together, so that a hospital with longer answers counts for more.
Not covered: whether a written answer is medically right; neither loss nor ROUGE-L can tell.
"""

from __future__ import annotations

import string
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from fedmed.data.encode import EncodedRow
from fedmed.errors import EmptyDataError
from fedmed.evaluation.likelihood import OnRows, RowScores, score_rows
from fedmed.utils.extras import require


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Held-out loss in nats per answer token; a hospital with no held-out record is absent from ``per_hospital``."""

    overall: float
    per_hospital: dict[str, float]
    answer_tokens: int
    rows: dict[str, RowScores] = field(default_factory=dict, repr=False)  # hospital -> its records, in order given

    def all_rows(self) -> RowScores:
        """Every record, hospital after hospital in the order they were given."""
        parts = list(self.rows.values())
        return RowScores(
            np.concatenate([part.nll for part in parts]),
            np.concatenate([part.tokens for part in parts]),
            np.concatenate([part.end_nll for part in parts]),
            np.concatenate([part.ends for part in parts]),
        )


def held_out_loss(
    model: torch.nn.Module,
    rows_by_hospital: Mapping[str, Sequence[EncodedRow]],
    *,
    max_tokens_per_forward: int = 512,
    prefix: tuple[int, ...] = (),
    packed: bool | None = None,
    on_rows: OnRows | None = None,
) -> HeldOut:
    """Score each hospital's held-out rows; records of several hospitals share a forward.

    Args:
        model: a causal language model, bare or with an adapter; its mode is restored.
        rows_by_hospital: hospital name -> encoded held-out rows.
        max_tokens_per_forward: see ``likelihood.score_rows``.
        prefix: token ids of worked examples, see ``few_shot.few_shot_ids``; empty for none.
        packed: False scores row by row, for models that cannot be packed.
        on_rows: see ``likelihood.score_rows``.

    Returns:
        The loss overall and at each hospital, with the sums of every row for paired comparisons.

    Raises:
        EmptyDataError: no hospital has a held-out row.
        DataFormatError: a row without prompt or answer tokens.
    """
    rows = [row for hospital in rows_by_hospital.values() for row in hospital]
    if not rows:
        raise EmptyDataError("no hospital holds a record to evaluate on", "raise training.dataset.test_fraction")
    scores = score_rows(
        model, rows, max_tokens_per_forward=max_tokens_per_forward, prefix=prefix, packed=packed, on_rows=on_rows
    )
    by_hospital: dict[str, RowScores] = {}
    start = 0
    for name, hospital in rows_by_hospital.items():
        by_hospital[name] = scores[start : start + len(hospital)]
        start += len(hospital)
    return HeldOut(
        overall=scores.loss,
        per_hospital={name: part.loss for name, part in by_hospital.items() if len(part.nll)},
        answer_tokens=int(scores.tokens.sum()),
        rows=by_hospital,
    )


def joined(parts: Sequence[HeldOut]) -> HeldOut:
    """Several measurements of different hospitals as one; the overall loss is over all answer tokens."""
    tokens = sum(part.answer_tokens for part in parts)
    return HeldOut(
        overall=sum(part.overall * part.answer_tokens for part in parts) / tokens,
        per_hospital={name: loss for part in parts for name, loss in part.per_hospital.items()},
        answer_tokens=tokens,
        rows={name: rows for part in parts for name, rows in part.rows.items()},
    )


def rouge_l(predictions: Sequence[str], references: Sequence[str]) -> float:
    """Mean ROUGE-L F1 (stemmed) of written answers against the true ones, in [0, 1].

    Raises:
        EmptyDataError: nothing to compare. What ``rouge_l_each`` raises.
    """
    if not predictions and not references:
        raise EmptyDataError("no written answer to compare", "raise training.evaluation.generated_answers")
    scores = rouge_l_each(predictions, references)
    return sum(scores) / len(scores)


def rouge_l_each(predictions: Sequence[str], references: Sequence[str]) -> list[float]:
    """ROUGE-L F1 (stemmed) of each written answer against the true one, in [0, 1].

    Raises:
        ValueError: the two lists differ in length.
        MissingExtraError: the package rouge-score is absent.

    Source: Lin 2004, "ROUGE: A Package for Automatic Evaluation of Summaries".
    """
    if len(predictions) != len(references):
        raise ValueError(f"{len(predictions)} predictions for {len(references)} references")
    scorer = require("rouge_score.rouge_scorer", "train").RougeScorer(["rougeL"], use_stemmer=True)
    return [
        float(scorer.score(true, said)["rougeL"].fmeasure) for said, true in zip(predictions, references, strict=True)
    ]


def word_f1(prediction: str, reference: str) -> float:
    """F1 of the words two answers share, in any order, in [0, 1]: case, punctuation and articles do not count.

    Source: Rajpurkar et al. 2016, "SQuAD: 100,000+ Questions for Machine Comprehension of Text", arXiv:1606.05250.
    """
    said, true = (Counter(_words(text)) for text in (prediction, reference))
    shared = sum((said & true).values())
    return 2 * shared / (said.total() + true.total()) if shared else float(said == true)


def _words(text: str) -> list[str]:
    bare = text.lower().translate(_NO_PUNCTUATION)
    return [word for word in bare.split() if word not in ("a", "an", "the")]


_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)

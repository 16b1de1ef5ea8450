"""Can the model tell the true definition from three others of its specialty? Scored by likelihood, nothing written.

The choice is the candidate with the highest mean log-probability per token (the idea of lm-eval's ``acc_norm``, with
tokens in place of bytes): a sum would favour short definitions. Chance is 1 in 4.
Not covered: definitions often repeat words of the term they define, so part of the accuracy is word matching;
distractors of the same specialty lessen that and do not end it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from fedmed.data.encode import EncodedRow, encode_records
from fedmed.evaluation.likelihood import OnRows, score_rows
from fedmed.evaluation.statistics import wilson_interval
from fedmed.utils.random_streams import stream

CHOICES = 4
MIN_ITEMS = 5  # below, an interval spans nearly everything


@dataclass(frozen=True, slots=True)
class ChoiceItem:
    question: str
    choices: tuple[str, ...]
    gold: int  # index of the true one
    specialty: str
    group: str = ""  # of the record it was made from


@dataclass(frozen=True, slots=True)
class ChoiceResult:
    """Accuracy with its 95 % Wilson interval."""

    accuracy: float
    low: float
    high: float
    correct: int
    total: int


def choice_items(
    test_records: Iterable[Mapping[str, str]], pool: Iterable[Mapping[str, str]], *, limit: int, seed: int
) -> list[ChoiceItem]:
    """Make up to ``limit`` items from held-out definitions.

    Args:
        test_records: rows the model never trained on; only kind "definition" of split "test" is asked about.
        pool: rows of any split that distractors come from: definitions of the same specialty and another group.
        limit: items wanted; 0 gives none.
        seed: names the random streams; each item has its own, so one record more does not change the others.

    Returns:
        The items; a record with fewer than three possible distractors makes none.
    """
    asked = [row for row in test_records if row["kind"] == "definition" and row["split"] == "test"]
    by_specialty: dict[str, list[Mapping[str, str]]] = {}
    for row in pool:
        if row["kind"] == "definition":
            by_specialty.setdefault(row["specialty"], []).append(row)
    items: list[ChoiceItem] = []
    for place in stream(seed, "multiple_choice").permutation(len(asked)):
        if len(items) >= limit:
            break
        row = asked[place]
        others = {
            other["answer"]: None
            for other in by_specialty.get(row["specialty"], ())
            if other["group"] != row["group"] and other["answer"] != row["answer"]
        }
        if len(others) < CHOICES - 1:
            continue
        random = stream(seed, "multiple_choice", row["id"])
        wrong = random.choice(np.array(list(others), dtype=object), CHOICES - 1, replace=False).tolist()
        gold = int(random.integers(CHOICES))
        choices = (*wrong[:gold], row["answer"], *wrong[gold:])
        items.append(ChoiceItem(row["question"], choices, gold, row["specialty"], row["group"]))
    return items


def judge_choices(
    model: torch.nn.Module,
    tokenizer: Any,
    items: Sequence[ChoiceItem],
    *,
    prompt_template: str,
    answer_prefix: str,
    max_length: int,
    max_tokens_per_forward: int = 512,
    packed: bool | None = None,
    on_rows: OnRows | None = None,
) -> list[bool | None]:
    """Let the model choose in every item.

    Args:
        model, tokenizer: a causal language model and its tokenizer.
        items: see ``choice_items``.
        prompt_template, answer_prefix, max_length: as in training; an item whose question leaves no room is left out.
        max_tokens_per_forward, packed, on_rows: see ``likelihood.score_rows``.

    Returns:
        For each item whether it chose the true one; None where the item was left out.
    """
    rows: list[EncodedRow] = []
    scored: list[int] = []
    for place, item in enumerate(items):
        records = [{"question": item.question, "answer": choice} for choice in item.choices]
        encoded, _ = encode_records(
            records, tokenizer, prompt_template=prompt_template, answer_prefix=answer_prefix, max_length=max_length
        )
        if len(encoded) == len(item.choices):
            rows.extend(encoded)
            scored.append(place)
    judged: list[bool | None] = [None] * len(items)
    if not scored:
        return judged
    scores = score_rows(model, rows, max_tokens_per_forward=max_tokens_per_forward, packed=packed, on_rows=on_rows)
    chosen = (scores.nll / scores.tokens).reshape(len(scored), CHOICES).argmin(axis=1)
    for place, choice in zip(scored, chosen, strict=True):
        judged[place] = int(choice) == items[place].gold
    return judged


def score_choices(
    model: torch.nn.Module, tokenizer: Any, items: Sequence[ChoiceItem], **how: Any
) -> ChoiceResult | None:
    """How often ``judge_choices``, which takes the same arguments, finds the true one.

    Returns:
        The result, or None when fewer than ``MIN_ITEMS`` items can be scored.
    """
    if len(items) < MIN_ITEMS:
        return None
    judged = [right for right in judge_choices(model, tokenizer, items, **how) if right is not None]
    if len(judged) < MIN_ITEMS:
        return None
    low, high = wilson_interval(sum(judged), len(judged))
    return ChoiceResult(sum(judged) / len(judged), low, high, sum(judged), len(judged))

"""Answers written out by the model, only to be scored against the true ones; people read answers through safety."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fedmed.config.schema import ModelSection
from fedmed.evaluation.medical_qa import rouge_l, rouge_l_each, word_f1
from fedmed.model.inference import generate


def written_rouge_l(
    model: Any, tokenizer: Any, records: Sequence[Mapping[str, str]], model_config: ModelSection, *, seed: int
) -> float | None:
    """Mean ROUGE-L F1 of the answers that the model writes to the records' questions; None without records."""
    if not records:
        return None
    written = generate(
        model, tokenizer, [record["question"] for record in records], model_config=model_config, seed=seed
    )
    return rouge_l([answer.text for answer in written], [record["answer"] for record in records])


def written_scores(
    model: Any, tokenizer: Any, records: Sequence[Mapping[str, str]], model_config: ModelSection, *, seed: int
) -> list[dict[str, float]]:
    """``rouge_l`` and ``word_f1`` of the answer that the model writes to each record's question."""
    written = generate(
        model, tokenizer, [record["question"] for record in records], model_config=model_config, seed=seed
    )
    said, true = [answer.text for answer in written], [record["answer"] for record in records]
    return [
        {"rouge_l": overlap, "word_f1": word_f1(own, wanted)}
        for overlap, own, wanted in zip(rouge_l_each(said, true), said, true, strict=True)
    ]

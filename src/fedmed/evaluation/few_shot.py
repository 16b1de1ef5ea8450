"""Worked examples in the base model's prompt: how much of the gain is only format. data -> HERE -> medical_qa.

A base model shown a few question-answer pairs already answers in their form. Its loss with such a prompt is reported
beside the federated one, so that learning the form is not taken for learning medicine.
Source: Brown et al. 2020, arXiv:2005.14165 (in-context examples).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fedmed.utils.random_streams import stream

_SEPARATOR = "\n\n"


def worked_examples(records: Iterable[Mapping[str, str]], k: int, seed: int) -> list[Mapping[str, str]]:
    """Choose ``k`` training records as examples: one of each question kind while kinds last, definitions first.

    Args:
        records: rows of any split; only those with ``split == "train"`` are used.
        k: how many; fewer come back when there are fewer training records. 0 gives none.
        seed: names the random stream together with the purpose; the order of ``records`` matters too.
    """
    by_kind: dict[str, list[Mapping[str, str]]] = {}
    for record in records:
        if record["split"] == "train":
            by_kind.setdefault(record["kind"], []).append(record)
    kinds = sorted(by_kind, key=lambda kind: (kind != "definition", kind))
    shuffled = {kind: stream(seed, "few_shot", kind).permutation(len(by_kind[kind])) for kind in kinds}
    longest = max((len(rows) for rows in by_kind.values()), default=0)
    in_turn = (
        by_kind[kind][shuffled[kind][place]] for place in range(longest) for kind in kinds if place < len(by_kind[kind])
    )
    return [record for record, _ in zip(in_turn, range(k), strict=False)]


def few_shot_prefix(examples: Sequence[Mapping[str, str]], prompt_template: str, answer_prefix: str) -> str:
    """Write the examples exactly as training writes them, each followed by an empty line; "" for no example."""
    written = (prompt_template.format(question=e["question"]) + answer_prefix + e["answer"] for e in examples)
    return "".join(text + _SEPARATOR for text in written)


def few_shot_ids(prefix: str, tokenizer: Any) -> tuple[int, ...]:
    """Token ids of the prefix with the tokenizer's beginning-of-sequence token; () for an empty prefix.

    A closing end-of-sequence token, which some tokenizers add, is left off: the question follows.
    """
    if not prefix:
        return ()
    ids = list(tokenizer(prefix)["input_ids"])
    if len(ids) > 1 and ids[-1] == tokenizer.eos_token_id:
        ids.pop()
    return tuple(ids)

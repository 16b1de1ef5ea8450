"""How likely a model finds each answer offered, and which it so chooses. tasks.py, model.packing -> HERE -> pipeline.

As in lm-evaluation-harness 0.4.13: prompt and answer are encoded together, the answer's tokens are those past the
prompt's own, what is too long for the model loses its beginning, and ``acc`` takes the likeliest answer, ``acc_norm``
the one likeliest by character. Answers that share all tokens but their last share a row, so that four letters cost one.

Shapes: n = items, C = answers offered by an item, A = answer tokens in a forward.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedmed.errors import DataFormatError
from fedmed.evaluation.exams.tasks import DELIMITER, ExamItem
from fedmed.evaluation.likelihood import OnRows, evaluating
from fedmed.model.frozen_linear import fast_products
from fedmed.model.packing import PackedRows, answer_losses, group_by_tokens, packs

_LENGTHS = ("n_positions", "max_position_embeddings", "n_ctx")
_LONGEST = 2048  # where the model does not say
_BATCH = 256  # items a tokenizer call


@dataclass(frozen=True, slots=True)
class ChoiceScores:
    """What a model makes of one item."""

    log_likelihoods: tuple[float, ...]  # [C] nats
    chosen: int  # the likeliest
    chosen_by_length: int  # the likeliest by character


@dataclass(slots=True)
class _Row:
    """Tokens of one forward row, and the answer tokens to be read from it: (item, answer, place, token)."""

    ids: tuple[int, ...]
    asked: list[tuple[int, int, int, int]]


def score_items(
    model: torch.nn.Module,
    tokenizer: Any,
    items: Sequence[ExamItem],
    *,
    max_tokens_per_forward: int = 512,
    packed: bool | None = None,
    on_items: OnRows | None = None,
) -> list[ChoiceScores]:
    """Score the answers of every item.

    Args:
        model: a causal language model, bare or wrapped by PEFT; its mode is restored.
        tokenizer: its own; adds its special tokens in front of a prompt.
        items: see ``tasks``.
        max_tokens_per_forward: tokens in one forward; a longer row goes alone.
        packed: False scores each row alone; None: as the model allows.
        on_items: called with the number of items that were done, for a progress display.

    Returns:
        One score an item, in order; deterministic for the same arguments and thread count.

    Raises:
        DataFormatError: the tokenizer leaves no token to an answer; names the item.
    """
    if packed is None:
        packed = packs(model)
    rows = list(_rows(tokenizer, items, _longest(model)))
    sums = [np.zeros(len(item.choices)) for item in items]
    device = next(model.parameters()).device
    left = np.bincount([row.asked[0][0] for row in rows], minlength=len(items))
    with evaluating(model), fast_products(model):
        for group in group_by_tokens([len(row.ids) for row in rows], max_tokens_per_forward if packed else 0):
            together = [rows[index] for index in group]
            losses = answer_losses(model, _packed(together, device)).double().cpu().tolist()
            asked = [one for row in together for one in row.asked]
            for (item, answer, _, _), loss in zip(asked, losses, strict=True):
                sums[item][answer] -= loss
            done = 0
            for row in together:
                left[row.asked[0][0]] -= 1
                done += int(left[row.asked[0][0]] == 0)
            if on_items and done:
                on_items(done)
    return [_judged(item, likelihoods) for item, likelihoods in zip(items, sums, strict=True)]


def _judged(item: ExamItem, likelihoods: NDArray[np.float64]) -> ChoiceScores:
    lengths = np.array([len(choice) for choice in item.choices], dtype=np.float64)
    return ChoiceScores(
        tuple(likelihoods.tolist()), int(likelihoods.argmax()), int((likelihoods / lengths).argmax())
    )  # the first of equals, as there


def _rows(tokenizer: Any, items: Sequence[ExamItem], longest: int) -> Iterator[_Row]:
    for number, (item, prompt, wholes) in enumerate(_encoded(tokenizer, items)):
        shared: dict[tuple[int, ...], _Row] = {}
        for answer, whole in enumerate(wholes):
            tail = len(whole) - len(prompt)
            if tail < 1:
                raise DataFormatError(f"item {item.id} leaves no token to an answer", "use another tokenizer")
            kept = whole[-(longest + 1) :]
            ids = tuple(kept[:-1])
            row = shared.setdefault(ids, _Row(ids, []))
            first = len(kept) - tail - 1  # the place that predicts the answer's first token
            row.asked += [(number, answer, first + step, kept[first + step + 1]) for step in range(tail)]
        yield from shared.values()


def _encoded(tokenizer: Any, items: Sequence[ExamItem]) -> Iterator[tuple[ExamItem, list[int], list[list[int]]]]:
    """Each item with its prompt's tokens and, for each answer, those of prompt and answer together."""
    for start in range(0, len(items), _BATCH):
        batch = items[start : start + _BATCH]
        prompts = _ids(tokenizer, (item.prompt for item in batch))
        wholes = iter(_ids(tokenizer, (item.prompt + DELIMITER + choice for item in batch for choice in item.choices)))
        for item, prompt in zip(batch, prompts, strict=True):
            yield item, prompt, [next(wholes) for _ in item.choices]


def _ids(tokenizer: Any, texts: Iterable[str]) -> list[list[int]]:
    encoded = tokenizer(list(texts), return_attention_mask=False, return_token_type_ids=False, verbose=False)
    ids: list[list[int]] = encoded["input_ids"]
    return ids


def _longest(model: Any) -> int:
    """Tokens that the model can read."""
    config = model.config.get_text_config()
    return int(next((value for name in _LENGTHS if (value := getattr(config, name, None)) is not None), _LONGEST))


def _packed(rows: Sequence[_Row], device: torch.device) -> PackedRows:
    """Rows laid end to end; one place is kept as often as answer tokens are read from it."""
    starts = np.cumsum([0, *(len(row.ids) for row in rows)])
    keep = [int(start) + place for start, row in zip(starts, rows, strict=False) for _, _, place, _ in row.asked]
    targets = [token for row in rows for _, _, _, token in row.asked]
    ids = [token for row in rows for token in row.ids]
    positions = [place for row in rows for place in range(len(row.ids))]

    def tensor(values: list[int]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.long, device=device)

    return PackedRows(tensor(ids)[None], tensor(positions)[None], tensor(keep), tensor(targets))

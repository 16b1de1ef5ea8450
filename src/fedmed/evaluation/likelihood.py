"""How likely a model finds given answers: nats a row, many rows in one forward. model.packing -> HERE -> medical_qa.

Rows are packed end to end, see ``model/packing.py``; behind a shared prefix (worked examples) they are padded instead,
because the prefix's keys and values are computed once and reused, and transformers packs no rows behind a cache.
Shapes: n = rows in a batch, L = longest of them in tokens, A = answer tokens in the batch, V = vocabulary.

Not covered: encoder-decoder models; models that ignore ``position_ids`` (score those with ``packed=False``).
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from fedmed.data.encode import EncodedRow
from fedmed.errors import DataFormatError
from fedmed.model.frozen_linear import fast_products
from fedmed.model.packing import answer_losses, group_by_tokens, pack_rows, packs

OnRows: TypeAlias = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class RowScores:
    """What each row cost, in the order the rows were given."""

    nll: NDArray[np.float64]  # [rows] nats, summed over the row's answer tokens
    tokens: NDArray[np.int64]  # [rows] answer tokens
    end_nll: NDArray[np.float64]  # [rows] of those nats, the end-of-sequence token's; 0 where the row has none
    ends: NDArray[np.int64]  # [rows] 1 where the row has an end-of-sequence token

    @property
    def loss(self) -> float:
        """Nats per answer token over all rows together; NaN when there is no row."""
        total = int(self.tokens.sum())
        return float(self.nll.sum()) / total if total else float("nan")

    @property
    def words_loss(self) -> float:
        """The same without the end-of-sequence tokens: what a model pays for the words alone, not for stopping."""
        total = int((self.tokens - self.ends).sum())
        return float((self.nll - self.end_nll).sum()) / total if total else float("nan")

    def __getitem__(self, rows: slice) -> RowScores:
        return RowScores(self.nll[rows], self.tokens[rows], self.end_nll[rows], self.ends[rows])


@contextlib.contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode and no gradients inside the block; the mode before it comes back after it."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)


def score_rows(
    model: torch.nn.Module,
    rows: Sequence[EncodedRow],
    *,
    max_tokens_per_forward: int = 512,
    prefix: Sequence[int] = (),
    packed: bool | None = None,
    on_rows: OnRows | None = None,
) -> RowScores:
    """Sum the negative log-likelihood of each row's answer tokens, in nats.

    Args:
        model: a causal language model of transformers, bare or wrapped by PEFT; its mode is restored.
        rows: encoded questions with answers; each needs at least one prompt token.
        max_tokens_per_forward: row tokens in one forward (padding included); a longer row goes alone.
        prefix: token ids that stand before every row (beginning-of-sequence token and worked examples). The row's own
            beginning-of-sequence token is left out then. The prefix is run once and its keys and values reused.
        packed: False scores each row alone, prefix and all: slower, and right for any causal model. None: as the model
            allows, see ``packing.packs``.
        on_rows: called with the number of rows each forward has scored, for a progress display.

    Returns:
        One sum and one token count a row; deterministic for the same arguments and thread count.

    Raises:
        DataFormatError: a row has no prompt token or no answer token; names its index.
    """
    if packed is None:
        packed = packs(model)
    if prefix:
        rows = [_without_bos(row, _bos_token_id(model, prefix)) for row in rows]
    for index, row in enumerate(rows):
        if not 0 < row.prompt_length < len(row.input_ids):
            raise DataFormatError(f"row {index} has no prompt token or no answer token", "check the prompt template")
    sums = np.zeros((len(rows), 2), dtype=np.float64)  # all answer tokens; the last one
    with evaluating(model), fast_products(model):
        if prefix and packed:
            order = sorted(range(len(rows)), key=lambda i: len(rows[i].input_ids))
            cache = model(input_ids=_on(model, [list(prefix)]), use_cache=True, logits_to_keep=1).past_key_values
            for batch in _padded_batches(rows, order, max_tokens_per_forward):
                past = copy.deepcopy(cache)
                past.batch_repeat_interleave(len(batch))
                sums[batch] = _after_prefix(model, [rows[i] for i in batch], past, len(prefix))
                if on_rows:
                    on_rows(len(batch))
        else:
            if prefix:
                rows = [EncodedRow((*prefix, *row.input_ids), len(prefix) + row.prompt_length) for row in rows]
            for pack in group_by_tokens([len(row.input_ids) for row in rows], max_tokens_per_forward if packed else 0):
                sums[pack] = _packed(model, [rows[i] for i in pack])
                if on_rows:
                    on_rows(len(pack))
    counts = np.array([len(row.input_ids) - row.prompt_length for row in rows], dtype=np.int64)
    stops = _special_ids(model, "eos_token_id")
    ends = np.array([row.input_ids[-1] in stops for row in rows], dtype=np.int64)
    return RowScores(sums[:, 0], counts, sums[:, 1] * ends, ends)


def _special_ids(model: torch.nn.Module, name: str) -> frozenset[int]:
    """Ids of a special token; a config holds one, several or none."""
    ids = getattr(model.config.get_text_config(), name, None)  # type: ignore[union-attr,operator]
    return frozenset() if ids is None else frozenset([ids] if isinstance(ids, int) else ids)


def _per_row(losses: torch.Tensor, counts: Sequence[int]) -> NDArray[np.float64]:
    """Token losses [A] of rows laid end to end -> [rows, 2]: their sum, and the last token's."""
    parts = torch.split(losses.double().cpu(), list(counts))
    return np.array([[float(part.sum()), float(part[-1])] for part in parts])


def _bos_token_id(model: torch.nn.Module, prefix: Sequence[int]) -> int | None:
    """The beginning-of-sequence id, if the tokenizer put it in front of the prefix (not all tokenizers do)."""
    return prefix[0] if prefix[0] in _special_ids(model, "bos_token_id") else None


def _without_bos(row: EncodedRow, bos: int | None) -> EncodedRow:
    if bos is None or not row.input_ids or row.input_ids[0] != bos:
        return row
    return EncodedRow(row.input_ids[1:], row.prompt_length - 1)


def _on(model: torch.nn.Module, values: list[list[int]]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.long, device=next(model.parameters()).device)


def _padded_batches(rows: Sequence[EncodedRow], order: Sequence[int], limit: int) -> Iterator[list[int]]:
    """Rows in ``order`` together while the padded rectangle fits ``limit`` tokens."""
    batch: list[int] = []
    longest = 0
    for index in order:
        longest = max(longest, len(rows[index].input_ids))
        if batch and longest * (len(batch) + 1) > limit:
            yield batch
            batch, longest = [], len(rows[index].input_ids)
        batch.append(index)
    if batch:
        yield batch


def _packed(model: torch.nn.Module, rows: Sequence[EncodedRow]) -> NDArray[np.float64]:
    packed = pack_rows([(row.input_ids, row.prompt_length) for row in rows], next(model.parameters()).device)
    return _per_row(answer_losses(model, packed), [len(row.input_ids) - row.prompt_length for row in rows])


def _after_prefix(
    model: torch.nn.Module, rows: Sequence[EncodedRow], past: object, prefix_length: int
) -> NDArray[np.float64]:
    """Score rows padded on the right, so that places in the cache stay equal to positions (sliding windows need it)."""
    lengths = [len(row.input_ids) for row in rows]
    longest = max(lengths)
    padded = _on(model, [[*row.input_ids, *([0] * (longest - len(row.input_ids)))] for row in rows])  # [n, L]
    mask = _on(model, [[1] * (prefix_length + own) + [0] * (longest - own) for own in lengths])  # [n, prefix + L]
    places = torch.arange(longest, device=padded.device)
    ends = _on(model, [lengths])[0][:, None]
    starts = _on(model, [[row.prompt_length for row in rows]])[0][:, None]
    predicts = (places >= starts - 1) & (places < ends - 1)  # [n, L] the position before each answer token
    targets = padded[(places >= starts) & (places < ends)]  # [A]
    # ``logits_to_keep`` keeps the same positions of every row; the rows' answers stand at different ones, and the
    # output layer is the larger part of the work, so its input is narrowed to the A positions that count.
    head = model.get_output_embeddings()  # type: ignore[operator]
    narrowed = head.register_forward_pre_hook(lambda _, inputs: (inputs[0][predicts][None],))
    try:
        logits = model(
            input_ids=padded,
            attention_mask=mask,
            position_ids=(prefix_length + places).expand(len(rows), -1),
            past_key_values=past,
            use_cache=True,
        ).logits[0]  # [A, V]
    finally:
        narrowed.remove()
    losses = torch.nn.functional.cross_entropy(logits.float(), targets, reduction="none")
    return _per_row(losses, [len(row.input_ids) - row.prompt_length for row in rows])

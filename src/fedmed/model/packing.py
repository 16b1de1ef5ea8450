"""Several rows in one forward pass, without padding: the model sees one long row whose positions restart.

With batch 1, no attention mask and restarting ``position_ids``, transformers' SDPA path keeps attention
block-diagonal, so packed rows see only themselves (tests/integration/test_packed_rows.py holds it to that for
each model family). Logits are asked for at answer tokens only: the output layer costs more than the body of a
small model with a large vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch

from fedmed.model.answer_loss import answer_nll, body_and_head
from fedmed.utils.logger import get_logger

log = get_logger(__name__)


Row: TypeAlias = tuple[Sequence[int], int]
"""Token ids, and how many of them are the prompt."""

PROBE_ROWS: tuple[Row, ...] = ((tuple(range(3, 11)), 2), (tuple(range(11, 3, -1)), 3))
"""Two short rows on which a model shows whether it keeps packed rows apart."""


@dataclass(frozen=True, slots=True)
class PackedRows:
    """T tokens of several rows, A of them answer tokens.

    input_ids, position_ids: [1, T]; keep: [A] positions whose logits predict an answer token; targets: [A], row after
    row.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    keep: torch.Tensor
    targets: torch.Tensor

    @property
    def tokens(self) -> int:
        return int(self.input_ids.shape[1])

    @property
    def answer_tokens(self) -> int:
        return int(self.targets.shape[0])


def pack_rows(rows: Sequence[Row], device: torch.device | str = "cpu") -> PackedRows:
    """Lay rows end to end.

    Args:
        rows: (token ids, prompt length) pairs; 1 <= prompt length < number of ids.
        device: where the tensors go.
    """
    ids: list[int] = []
    positions: list[int] = []
    keep: list[int] = []
    targets: list[int] = []
    for row, prompt_length in rows:
        start = len(ids)
        ids.extend(row)
        positions.extend(range(len(row)))
        keep.extend(range(start + prompt_length - 1, start + len(row) - 1))
        targets.extend(row[prompt_length:])

    def tensor(values: list[int]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.long, device=device)

    return PackedRows(tensor(ids)[None], tensor(positions)[None], tensor(keep), tensor(targets))


def answer_logits(model: Any, packed: PackedRows) -> torch.Tensor:
    """Float32 logits [A, vocabulary] at the positions that predict the answer tokens."""
    output = model(
        input_ids=packed.input_ids, position_ids=packed.position_ids, logits_to_keep=packed.keep, use_cache=False
    )
    logits: torch.Tensor = output.logits[0].float()
    return logits


def token_losses(model: Any, packed: PackedRows) -> torch.Tensor:
    """Cross-entropy [A] of each answer token, in nats."""
    return torch.nn.functional.cross_entropy(answer_logits(model, packed), packed.targets, reduction="none")


def answer_losses(model: Any, packed: PackedRows) -> torch.Tensor:
    """The same without a gradient, and without logits where the output layer is no more than a product.

    Call it inside ``torch.no_grad``. Whether it is, is measured once on two short rows, then remembered: models that
    scale their logits, or hold another layout, are scored with whole logits.
    """
    known = getattr(model, "fedmed_plain_head", None)
    if known is None:
        known = model.fedmed_plain_head = _has_plain_head(model)
    return _without_logits(model, packed) if known else token_losses(model, packed)


def _without_logits(model: Any, packed: PackedRows) -> torch.Tensor:
    body, head, softcap = body_and_head(model)
    hidden = body(input_ids=packed.input_ids, position_ids=packed.position_ids, use_cache=False).last_hidden_state[0]
    return answer_nll(hidden[packed.keep], head.weight, packed.targets, bias=head.bias, softcap=softcap)


def _has_plain_head(model: Any) -> bool:
    rows = pack_rows(PROBE_ROWS, next(model.parameters()).device)
    try:
        found = _without_logits(model, rows)
    except (AttributeError, TypeError, ValueError, KeyError, NotImplementedError):
        log.debug("the output layer's probe failed", exc_info=True)  # on our own rows: no record in it
        return False
    return bool(torch.allclose(found, token_losses(model, rows), atol=_tolerance(model)))


def _tolerance(model: Any) -> float:
    return 1e-3 if next(model.parameters()).dtype == torch.float32 else 0.1


def losses_apart(model: Any, rows: Sequence[Row]) -> torch.Tensor:
    """Cross-entropy [A] of each answer token, every row in a pass of its own; no gradient, no dropout."""
    return _losses(model, [[row] for row in rows])


def _losses(model: Any, passes: Sequence[Sequence[Row]]) -> torch.Tensor:
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    with torch.no_grad():
        losses = torch.cat([token_losses(model, pack_rows(rows, device)) for rows in passes])
    model.train(was_training)
    return losses


def packs(model: Any) -> bool:
    """Whether packed rows see only themselves in this model; measured once on two short rows, then remembered.

    Architectures that ignore ``position_ids`` (BioGPT, OPT, BLOOM …) or carry a state along (Mamba) do not pack: each
    row then goes alone.
    """
    known = getattr(model, "fedmed_packs", None)
    if known is None:
        together = _losses(model, [PROBE_ROWS])
        apart = losses_apart(model, PROBE_ROWS)
        known = model.fedmed_packs = bool(torch.allclose(together, apart, atol=_tolerance(model)))
        if not known:
            log.warning("this model cannot hold several rows in one pass: rows go one by one, which is slower")
    return bool(known)


def group_by_tokens(lengths: Sequence[int], max_tokens: int) -> Iterator[list[int]]:
    """Split row numbers, in order, into groups of at most ``max_tokens`` tokens (a longer row stands alone)."""
    group: list[int] = []
    held = 0
    for number, length in enumerate(lengths):
        if group and held + length > max_tokens:
            yield group
            group, held = [], 0
        group.append(number)
        held += length
    if group:
        yield group

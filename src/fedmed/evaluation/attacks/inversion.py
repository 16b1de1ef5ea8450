"""Which words did a hospital train on? One hospital's update -> HERE -> token ids.

A's gradient is ``sum_t (scale B^T g_t) x_t^T``: its rows lie in the span of the layer's inputs x_t. At the first
adapted layers, right behind the embedding and its norm, x_t depends on nothing but the token's id, so every word of the
vocabulary can be tried: those of the record lie in the span of the rows, others hardly ever. Source: DAGER, Petrov et
al. 2024, arXiv:2405.15586, its first stage, here for A in place of the whole weight; rows of q, k and v are stacked.

Works on a gradient, on the change of A after SGD steps from one state, clipped or not, and on a mean of either.
Not covered, and what stands against it:
- B = 0, as before the first step: A's gradient is zero (B's gradient then tells something, which is not tried here);
- AdamW: a division number by number destroys the span. No token is certain then, but true ones still lie nearer than
  others (``InversionReport.auc`` about 0.9 after one step on one record of a tiny model), so it is no protection;
- more distinct tokens than stacked rows (q, k and v of rank 16: 48): the rows no longer reach all inputs;
- noise: it fills the span. What little noise leaves, ``auc`` shows;
- the last token of a row, which predicts nothing and has no gradient;
- order of tokens and whole sentences (DAGER's second stage); models with learned positions or norms after the layer.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedmed.errors import AdapterMismatchError, ModelError
from fedmed.evaluation.likelihood import evaluating
from fedmed.model.adapter import adapted_layers
from fedmed.types import AdapterState

TOKENS_AT_ONCE = 4096
NEGLIGIBLE = 1e-5  # singular values below this share of the largest are rounding of float32 gradients
NEAR = 0.05  # relative distance to the span at which a token counts as in it
_A = ".lora_A.weight"
_PROBE = (5, 9, 5)  # a token at two places


@dataclass(frozen=True, slots=True)
class Recovered:
    """Token ids whose input lies in the span of the update, nearest first."""

    tokens: tuple[int, ...]
    rank: int  # dimensions of the span
    rows: int  # stacked rows of A: no larger span can be seen
    width: int  # dimensions of the layer's input; a span that fills it tells nothing
    layers: tuple[str, ...]  # whose A was used
    distances: NDArray[np.float64] = field(repr=False)  # [vocabulary] relative, 0: in the span, 1: orthogonal to it

    @property
    def informative(self) -> bool:
        return 0 < self.rank < self.width


@dataclass(frozen=True, slots=True)
class InversionReport:
    """How much of the truth was recovered."""

    share: float  # recovered true tokens / distinct true tokens
    chance: float  # that share for as many tokens picked at random
    auc: float  # chance that a true token lies nearer than another one, ties half; 0.5: distances tell nothing
    recovered: int
    false: int  # recovered tokens that are not true
    true: int  # distinct true tokens
    rank: int
    rows: int


def recover_tokens(
    model: Any, update: AdapterState, *, near: float = NEAR, negligible: float = NEGLIGIBLE
) -> Recovered:
    """Find the tokens in the span of the first layers' A-gradients.

    Args:
        model: the PEFT model; its own adapter plays no part.
        update: PEFT key -> gradient, or difference of two states; other keys than A of the first layers are ignored.
        near: relative distance below which a token counts.
        negligible: see ``NEGLIGIBLE``; larger where gradients are rounded more coarsely.

    Raises:
        AdapterMismatchError: the update has no A of the model's first adapted layers, or not in their shape.
        ModelError: the first layers' inputs depend on a token's place.
    """
    inputs, layers = _inputs_of_vocabulary(model)  # [vocabulary, width]
    missing = [layer for layer in layers if layer + _A not in update or update[layer + _A].ndim != 2]
    if missing or any(update[layer + _A].shape[1] != inputs.shape[1] for layer in layers):
        raise AdapterMismatchError(
            f"the update does not fit the first adapted layers ({', '.join(missing or layers)})",
            "pass an update of this model's adapter",
        )
    rows = np.concatenate([update[layer + _A].astype(np.float64) for layer in layers])
    basis = _row_basis(rows, negligible)  # [rank, width]
    norms = np.linalg.norm(inputs, axis=1)
    inside = np.linalg.norm(inputs @ basis.T, axis=1)
    safe = np.where(norms > 0.0, norms, 1.0)
    distances = np.where(norms > 0.0, np.sqrt(np.maximum(0.0, 1.0 - (inside / safe) ** 2)), 1.0)
    order = np.argsort(distances, kind="stable")
    found = tuple(int(token) for token in order if distances[token] < near) if len(basis) else ()
    return Recovered(found, len(basis), len(rows), inputs.shape[1], layers, distances)


def inversion_report(recovered: Recovered, true_tokens: Iterable[int]) -> InversionReport:
    """Compare with the token ids of the records that the update was made from; counts are of distinct ids.

    Raises:
        ModelError: there is no true token, or one that the vocabulary does not have.
    """
    size = recovered.distances.size
    true = sorted(set(true_tokens))
    if not true or not 0 <= true[0] <= true[-1] < size:
        raise ModelError("the true tokens are none or not all in the vocabulary", "encode with the model's tokenizer")
    hit = len(set(recovered.tokens) & set(true))
    is_true = np.zeros(size, dtype=bool)
    is_true[true] = True
    others = np.sort(recovered.distances[~is_true])
    mine = recovered.distances[is_true]
    nearer = others.size - (np.searchsorted(others, mine, "left") + np.searchsorted(others, mine, "right")) / 2.0
    return InversionReport(
        share=hit / len(true),
        chance=len(recovered.tokens) / size,
        auc=float(nearer.mean() / others.size) if others.size else 0.5,
        recovered=len(recovered.tokens),
        false=len(recovered.tokens) - hit,
        true=len(true),
        rank=recovered.rank,
        rows=recovered.rows,
    )


def change(before: AdapterState, after: AdapterState) -> AdapterState:
    """``before - after``: after one SGD step that is the gradient times the rate."""
    return {key: before[key] - array for key, array in after.items()}


def _row_basis(rows: NDArray[np.float64], negligible: float) -> NDArray[np.float64]:
    """An orthonormal basis [rank, width] of the rows' span."""
    _, sizes, basis = np.linalg.svd(rows, full_matrices=False)
    return np.asarray(basis[sizes > negligible * sizes[0]] if sizes[0] > 0.0 else basis[:0])


class _SeenEnough(Exception):
    """The first adapted layers have been reached; the rest of the model need not run."""


def _inputs_of_vocabulary(model: Any) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    """What the first adapted layers get for each token id [vocabulary, width], and which layers share it."""
    with evaluating(model):
        probe, layers = _first_inputs(model, [list(_PROBE)])
        if not torch.allclose(probe[0, 0], probe[0, 2], rtol=1e-4, atol=1e-5):
            raise ModelError(
                f"the input of {layers[0]} depends on a token's place", "the span test needs rotary positions"
            )
        size = int(model.get_input_embeddings().weight.shape[0])
        parts = [
            _first_inputs(model, [[token] for token in range(start, min(start + TOKENS_AT_ONCE, size))])[0][:, 0]
            for start in range(0, size, TOKENS_AT_ONCE)
        ]
    return torch.cat(parts).double().cpu().numpy(), layers


def _first_inputs(model: Any, ids: Sequence[Sequence[int]]) -> tuple[torch.Tensor, tuple[str, ...]]:
    """The input [n, length, width] that the first adapted layers share, and their names."""
    seen: list[tuple[str, torch.Tensor]] = []

    def watch(name: str) -> Any:
        def hook(_: Any, inputs: tuple[torch.Tensor, ...]) -> None:
            if seen and not (inputs[0].shape == seen[0][1].shape and torch.equal(inputs[0], seen[0][1])):
                raise _SeenEnough
            seen.append((name, inputs[0]))

        return hook

    handles = [layer.register_forward_pre_hook(watch(name)) for name, layer in adapted_layers(model).items()]
    device = model.get_input_embeddings().weight.device
    try:
        with contextlib.suppress(_SeenEnough):
            model(input_ids=torch.tensor(ids, dtype=torch.long, device=device), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    if not seen:
        raise AdapterMismatchError("no adapted layer was reached", "call setup_lora(model) first")
    return seen[0][1], tuple(name for name, _ in seen)

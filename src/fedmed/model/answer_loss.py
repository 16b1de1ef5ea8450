"""Cross-entropy of answer tokens without the logits: the output layer is walked once, a slice at a time.

The softmax is kept up to date as slices come (running maximum and sum, Milakov & Gimelshein 2018, arXiv:1805.02867),
and the gradient with it, so each slice's logits are used for both and then dropped: 4 x A x V x d operations for loss
and gradient, and A x chunk numbers of memory in place of A x V.

Shapes: A = answer tokens, d = hidden width, V = vocabulary. Not covered: an output layer that trains, label smoothing.
"""

from __future__ import annotations

from typing import Any

import torch

from fedmed.model.frozen_linear import product

CHUNK = 4096
"""Words of the vocabulary at a time: with a few hundred answer tokens a slice stays in a processor's cache."""


def body_and_head(model: Any) -> tuple[Any, Any, float | None]:
    """The transformer without its output layer, the output layer, and its softcap, of a bare model or PEFT's."""
    causal = model.get_base_model() if hasattr(model, "get_base_model") else model
    softcap: float | None = getattr(causal.config.get_text_config(), "final_logit_softcapping", None)
    return getattr(causal, causal.base_model_prefix), causal.get_output_embeddings(), softcap


def answer_nll(
    hidden: torch.Tensor,
    head: torch.Tensor,
    targets: torch.Tensor,
    *,
    bias: torch.Tensor | None = None,
    softcap: float | None = None,
    chunk: int = CHUNK,
) -> torch.Tensor:
    """Negative log-likelihood [A] of ``targets`` in nats, float32; no gradient.

    Args:
        hidden: [A, d] what the output layer reads.
        head: [V, d] its weight; ``bias``: [V].
        targets: [A] token ids.
        softcap: logits become ``softcap * tanh(logits / softcap)``, as in Gemma 2.
        chunk: words at a time.
    """
    with torch.no_grad():
        return _walk(hidden.detach(), head, targets, bias, softcap, chunk, with_gradient=False)[0]


def answer_loss(
    hidden: torch.Tensor,
    head: torch.Tensor,
    targets: torch.Tensor,
    weights: torch.Tensor,
    *,
    bias: torch.Tensor | None = None,
    softcap: float | None = None,
    chunk: int = CHUNK,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The weighted sum of the losses, whose gradient goes to ``hidden``, and the losses [A] themselves without one.

    Args:
        weights: [A] factor of each token's loss. The rest: see ``answer_nll``.
    """
    total, nll = _AnswerLoss.apply(hidden, head, targets, weights, bias, softcap, chunk)  # type: ignore[no-untyped-call]
    return total, nll


class _AnswerLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        head: torch.Tensor,
        targets: torch.Tensor,
        weights: torch.Tensor,
        bias: torch.Tensor | None,
        softcap: float | None,
        chunk: int,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        nll, gradient = _walk(hidden, head, targets, bias, softcap, chunk, with_gradient=True)
        assert gradient is not None
        ctx.save_for_backward(gradient.mul_(weights[:, None]))
        ctx.dtype = hidden.dtype
        ctx.mark_non_differentiable(nll)
        return (nll * weights).sum(), nll

    @staticmethod
    def backward(ctx: Any, upstream: torch.Tensor, _: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return (gradient * upstream).to(ctx.dtype), None, None, None, None, None, None


def _walk(
    hidden: torch.Tensor,
    head: torch.Tensor,
    targets: torch.Tensor,
    bias: torch.Tensor | None,
    softcap: float | None,
    chunk: int,
    *,
    with_gradient: bool,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Losses [A] and the gradient of each loss by its own row of ``hidden``, [A, d] float32."""
    hidden = hidden.to(head.dtype)
    tokens = hidden.shape[0]
    top = hidden.new_full((tokens, 1), -torch.inf, dtype=torch.float32)  # the largest logit so far
    total = torch.zeros_like(top)  # sum of exp(logit - top)
    mean = hidden.new_zeros(hidden.shape, dtype=torch.float32) if with_gradient else None  # of head's rows, unscaled
    for first in range(0, head.shape[0], chunk):
        part = head[first : first + chunk]
        logits = product(hidden, part).float()
        slope = None
        if bias is not None:
            logits = logits.add_(bias[first : first + chunk])
        if softcap is not None:
            logits, slope = _capped(logits, softcap)
        newer = torch.maximum(top, logits.amax(dim=1, keepdim=True))
        shares = logits.sub_(newer).exp_()
        shrink = (top - newer).exp_()
        total = total.mul_(shrink).add_(shares.sum(dim=1, keepdim=True))
        if mean is not None:
            sloped = shares if slope is None else shares.mul_(slope)
            mean = mean.mul_(shrink).add_(product(sloped.to(part.dtype), part.t()))
        top = newer
    rows = head[targets]
    own = torch.linalg.vecdot(hidden.float(), rows.float()).unsqueeze(1)  # the target's logit
    if bias is not None:
        own = own + bias[targets].unsqueeze(1)
    slope = None
    if softcap is not None:
        own, slope = _capped(own, softcap)
    nll = (top + total.log() - own).squeeze(1)
    if mean is None:
        return nll, None
    wanted = rows.float() if slope is None else rows.float() * slope
    return nll, mean.div_(total).sub_(wanted)


def _capped(logits: torch.Tensor, softcap: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Capped logits, and their derivative by the logits before."""
    bent = torch.tanh(logits / softcap)
    return bent * softcap, 1.0 - bent * bent

"""Attention of packed rows, each row on its own: the cost is that of the rows, not of the square of the whole pack.

Registered with transformers as the attention ``fedmed_packed``; while ``rows_apart`` is on, a model looks only at
the layout it names. Rows of like length are laid side by side, padded on the right, which causal attention cannot see.

Shapes: T = tokens of the pack, R = rows of a group, L = the longest of them, H = heads, D = width of a head.
Not covered: attention that is not causal, attention weights as an output, a key-value cache.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

NAME = "fedmed_packed"


@dataclass(frozen=True, slots=True)
class RowGroup:
    """Rows of like length: ``read`` [R * L] token of the pack for each place (padding reads the row's last token)."""

    rows: int
    longest: int
    read: torch.Tensor
    real: torch.Tensor  # places among R * L that hold a token, in the order of ``write``
    write: torch.Tensor  # the token of the pack that each of them is


_layouts: list[tuple[RowGroup, ...]] = []  # a stack, so that contexts nest


def layout(lengths: Sequence[int], device: torch.device | str) -> tuple[RowGroup, ...]:
    """Groups of the rows that lie end to end with these lengths; at most half of a group is padding."""
    starts = [0, *itertools.accumulate(lengths)]
    by_size: dict[int, list[int]] = {}
    for index, length in enumerate(lengths):
        by_size.setdefault((length - 1).bit_length(), []).append(index)
    groups = []
    for rows in by_size.values():
        longest = max(lengths[row] for row in rows)
        read = [starts[row] + min(place, lengths[row] - 1) for row in rows for place in range(longest)]
        real = [number * longest + place for number, row in enumerate(rows) for place in range(lengths[row])]
        write = [starts[row] + place for row in rows for place in range(lengths[row])]
        tensors = (torch.tensor(values, dtype=torch.long, device=device) for values in (read, real, write))
        groups.append(RowGroup(len(rows), longest, *tensors))
    return tuple(groups)


@contextlib.contextmanager
def rows_apart(model: Any, groups: tuple[RowGroup, ...]) -> Iterator[None]:
    """Let ``model`` attend within the rows of ``groups`` only."""
    _register()
    config = model.config.get_text_config()
    before = config._attn_implementation
    config._attn_implementation = NAME
    _layouts.append(groups)
    try:
        yield
    finally:
        _layouts.pop()
        config._attn_implementation = before


@functools.cache
def _register() -> None:
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(NAME, _attend)
    AttentionMaskInterface.register(NAME, lambda *args, **kwargs: None)


def _attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' attention interface: query [1, H, T, D], key and value [1, H_kv, T, D] -> [1, T, H, D]."""
    groups = _layouts[-1]
    parts = []
    for group in groups:
        q, k, v = (_side_by_side(tensor, group) for tensor in (query, key, value))
        mask = _window(group.longest, sliding_window, query.device)
        out = (
            _capped_attention(q, k, v, mask, scaling, softcap)
            if softcap is not None
            else torch.nn.functional.scaled_dot_product_attention(
                q, k, v, attn_mask=mask, is_causal=mask is None, dropout_p=dropout if module.training else 0.0,
                scale=scaling, enable_gqa=q.shape[1] != k.shape[1],
            )
        )  # fmt: skip
        parts.append(out.transpose(1, 2).flatten(0, 1))  # [R * L, H, D]
    tokens: torch.Tensor = _PutBack.apply(query.shape[2], groups, *parts)  # type: ignore[no-untyped-call]
    return tokens[None], None


def _side_by_side(tensor: torch.Tensor, group: RowGroup) -> torch.Tensor:
    """[1, H, T, D] -> [R, H, L, D]"""
    flat = tensor[0].transpose(0, 1)  # [T, H, D]
    places: torch.Tensor = _Lay.apply(flat, group)  # type: ignore[no-untyped-call]
    return places.view(group.rows, group.longest, *flat.shape[1:]).transpose(1, 2)


class _Lay(torch.autograd.Function):
    """Read tokens into places. Padding gets no gradient, so the way back is a copy; autograd's own would add up."""

    @staticmethod
    def forward(ctx: Any, flat: torch.Tensor, group: RowGroup) -> torch.Tensor:
        ctx.group, ctx.tokens = group, flat.shape[0]
        return flat[group.read]

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        group = ctx.group
        back = gradient.new_zeros(ctx.tokens, *gradient.shape[1:])
        return back.index_copy_(0, group.write, gradient.index_select(0, group.real)), None


class _PutBack(torch.autograd.Function):
    """The places of all groups [R * L, H, D] that hold a token, back in the order of the pack [T, H, D]."""

    @staticmethod
    def forward(ctx: Any, tokens: int, groups: tuple[RowGroup, ...], *parts: torch.Tensor) -> torch.Tensor:
        ctx.groups, ctx.places = groups, [part.shape[0] for part in parts]
        whole = parts[0].new_empty(tokens, *parts[0].shape[1:])
        for group, part in zip(groups, parts, strict=True):
            whole.index_copy_(0, group.write, part.index_select(0, group.real))
        return whole

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        parts = []
        for group, places in zip(ctx.groups, ctx.places, strict=True):
            part = gradient.new_zeros(places, *gradient.shape[1:])
            parts.append(part.index_copy_(0, group.real, gradient.index_select(0, group.write)))
        return None, None, *parts


def _window(length: int, window: int | None, device: torch.device) -> torch.Tensor | None:
    """Which keys [L, L] each query sees under a sliding window; None: plain causal attention says it all."""
    if window is None or length <= window:
        return None
    places = torch.arange(length, device=device)
    behind = places[:, None] - places[None, :]
    return (behind >= 0) & (behind < window)


def _capped_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: torch.Tensor | None,
    scaling: float | None,
    softcap: float,
) -> torch.Tensor:
    """Gemma 2's attention, whose scores are bent by tanh before the softmax."""
    length = q.shape[-2]
    if mask is None:
        mask = torch.ones(length, length, dtype=torch.bool, device=q.device).tril()
    k, v = (tensor.repeat_interleave(q.shape[1] // tensor.shape[1], dim=1) for tensor in (k, v))
    scores = q @ k.transpose(-1, -2) * (q.shape[-1] ** -0.5 if scaling is None else scaling)
    scores = (torch.tanh(scores / softcap) * softcap).masked_fill(~mask, -torch.inf)
    return scores.softmax(dim=-1, dtype=torch.float32).to(v.dtype) @ v

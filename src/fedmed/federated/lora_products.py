"""What algorithms do with the products BA of an adapter: pair, stack, factor, fold. Pure linear algebra in float64.

Shapes: r = rank, d_in / d_out = width of an adapted layer's input / output; A [r, d_in], B [d_out, r]; a layer's
change of the base is ``scale * B A``. The scale (alpha / r of the shared adapter) is one number for all hospitals and
all ranks, so it commutes with everything here and never appears.
Not covered: DoRA, whose magnitudes are no product; ``layers_of`` refuses it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedmed.errors import AdapterMismatchError, FederationError
from fedmed.types import FOLDED, AdapterState

Matrix = NDArray[np.float64]

A, B = ".lora_A.weight", ".lora_B.weight"
_NOTHING = 1e-7  # singular values below this share of the largest are rounding of float32
_NOISE = 1e-5  # … and these may be rounding of the sum, which is no direction to learn in


@dataclass(frozen=True, slots=True)
class Factors:
    """A matrix as ``b @ a``: b [d_out, k], a [k, d_in]."""

    b: Matrix
    a: Matrix

    def dense(self) -> Matrix:
        """The product [d_out, d_in]."""
        return self.b @ self.a

    def svd(self) -> tuple[Matrix, Matrix, Matrix]:
        """U [d_out, k], singular values [k], V^T [k, d_in] of the product, without forming it where that is dearer."""
        if self.a.shape[0] >= min(self.b.shape[0], self.a.shape[1]):
            u, s, vt = np.linalg.svd(self.dense(), full_matrices=False)
            return u, s, vt
        qb, rb = np.linalg.qr(self.b)
        qa, ra = np.linalg.qr(self.a.T)
        u, s, vt = np.linalg.svd(rb @ ra.T)
        return qb @ u, s, vt @ qa.T

    def compressed(self, beside: float = 0.0) -> Factors:
        """The same product in as few columns as it needs, up to float32 rounding of itself and of what it is added to.

        Args:
            beside: largest singular value of that other matrix.
        """
        u, s, vt = self.svd()
        keep = int(np.count_nonzero(s > _NOTHING * max(s[0], beside))) if s.size else 0
        root = np.sqrt(s[:keep])
        return Factors(u[:, :keep] * root, root[:, None] * vt[:keep])


def layers_of(state: Mapping[str, object]) -> tuple[str, ...]:
    """Names of the layers that have an A and a B, sorted; folded parts are not looked at.

    Raises:
        AdapterMismatchError: the state has an array that is neither, so its change is not a product.
    """
    keys = {key for key in state if not key.startswith(FOLDED)}
    layers = sorted(key.removesuffix(A) for key in keys if key.endswith(A))
    odd = sorted(keys - {layer + side for layer in layers for side in (A, B)})
    lonely = sorted(layer for layer in layers if layer + B not in keys)
    if odd or lonely or not layers:
        raise AdapterMismatchError(
            f"array '{(odd or lonely or ['lora_A'])[0]}' has no partner: the adapter is not made of pairs A and B",
            "use plain LoRA (no DoRA) with this algorithm, or federated.algorithm=fedavg",
        )
    return tuple(layers)


def factors_of(state: AdapterState, layer: str, prefix: str = "") -> Factors:
    """One layer's A and B in float64."""
    return Factors(state[prefix + layer + B].astype(np.float64), state[prefix + layer + A].astype(np.float64))


def to_state(products: Mapping[str, Factors], prefix: str = "") -> AdapterState:
    """Factors by layer as float32 arrays under PEFT's keys."""
    state = {}
    for layer, factors in products.items():
        state[prefix + layer + A] = np.ascontiguousarray(factors.a, dtype=np.float32)
        state[prefix + layer + B] = np.ascontiguousarray(factors.b, dtype=np.float32)
    return state


def stacked(parts: Iterable[tuple[float, Factors]]) -> Factors:
    """The weighted sum of products, exactly, as one product with all their columns."""
    parts = list(parts)
    return Factors(
        np.concatenate([factors.b for _, factors in parts], axis=1),
        np.concatenate([weight * factors.a for weight, factors in parts], axis=0),
    )


def split_folded(global_state: AdapterState) -> tuple[AdapterState, AdapterState]:
    """The shared adapter, and what is folded into the base (PEFT's keys, another rank; empty: nothing is)."""
    adapter = {key: array for key, array in global_state.items() if not key.startswith(FOLDED)}
    folded = {key.removeprefix(FOLDED): array for key, array in global_state.items() if key.startswith(FOLDED)}
    return adapter, folded


def fold(global_state: AdapterState, more: Mapping[str, Factors]) -> AdapterState:
    """What is folded after adding these products, under ``folded.``; a layer without content has no key."""
    adapter, before = split_folded(global_state)
    after = {}
    for layer, factors in more.items():
        parts = [(1.0, factors)]
        if layer + A in before:
            parts.append((1.0, factors_of(before, layer)))
        beside = factors_of(adapter, layer).svd()[1][0] if layer + A in adapter else 0.0
        total = stacked(parts).compressed(float(beside))
        if total.a.shape[0]:
            after[layer] = total
    return to_state(after, FOLDED)


def complete(global_state: AdapterState) -> AdapterState:
    """The shared adapter and what is folded, as one standard adapter whose layers all have one rank.

    A layer with fewer columns than the largest is filled up with zeros. Without folded parts: the adapter itself.
    """
    adapter, folded = split_folded(global_state)
    if not folded:
        return adapter
    products = {}
    for layer in layers_of(adapter):
        parts = [(1.0, factors_of(adapter, layer))]
        if layer + A in folded:
            parts.append((1.0, factors_of(folded, layer)))
        products[layer] = stacked(parts)
    rank = max(factors.a.shape[0] for factors in products.values())
    filled = {}
    for layer, factors in products.items():
        missing = rank - factors.a.shape[0]
        filled[layer] = Factors(np.pad(factors.b, ((0, 0), (0, missing))), np.pad(factors.a, ((0, missing), (0, 0))))
    return to_state(filled)


def truncated(product: Factors, like: Factors) -> tuple[Factors, Factors]:
    """The best approximation of ``product`` with the rank of ``like``, and what is lost, by SVD (Eckart, Young 1936).

    Of the many pairs B, A with that product, the one whose A has orthogonal rows as long as those of ``like`` on
    average, the leading direction first: local training meets an A of the size that LoRA expects, B carries the size of
    the product, and a nested part of a smaller rank is the best one of that rank. Where the product has a smaller rank,
    A keeps rows of ``like``, so that they can go on learning.
    """
    rank = like.a.shape[0]
    u, s, vt = product.svd()
    known = int(np.count_nonzero(s[:rank] > _NOISE * s[0])) if s.size else 0
    rows = vt[:known]
    if known < rank:
        rest = like.a - (like.a @ rows.T) @ rows
        rows = np.concatenate([rows, np.linalg.svd(rest, full_matrices=False)[2][: rank - known]])
    rows = np.pad(rows, ((0, rank - len(rows)), (0, 0)))  # a layer narrower than the rank has no more directions
    length = float(np.linalg.norm(like.a)) / np.sqrt(rank) or 1.0
    kept = Factors(np.zeros((u.shape[0], rank)), length * rows)
    kept.b[:, :known] = u[:, :known] * (s[:known] / length)
    return kept, Factors(u[:, known:] * s[known:], vt[known:])


def check_finite(state: AdapterState, round: int) -> None:
    """Raises FederationError where an array of a global state is not finite after a round."""
    for name, array in sorted(state.items()):
        if not np.all(np.isfinite(array)):
            raise FederationError(
                f"array '{name.removeprefix(FOLDED)}' of the global adapter is not finite after round {round}",
                "go back to the last checkpoint and lower the learning rate",
            )


def plus(start: AdapterState, change: AdapterState) -> AdapterState:
    """What a hospital trained, from what it started with and the change it sent."""
    return {key: np.add(start[key], change[key], dtype=np.float32) for key in change}


def prefix(state: AdapterState, rank: int | None) -> AdapterState:
    """The first ``rank`` rows of every A and columns of every B: a nested adapter of a smaller rank; None: all."""
    if rank is None:
        return state
    return {
        key: np.ascontiguousarray(array[:rank] if key.endswith(A) else array[:, :rank] if key.endswith(B) else array)
        for key, array in state.items()
    }


def widened(array: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """A nested array in the place of the whole one, zeros elsewhere."""
    if array.shape == shape:
        return array
    whole = np.zeros(shape, dtype=np.float32)
    whole[: array.shape[0], : array.shape[1]] = array
    return whole

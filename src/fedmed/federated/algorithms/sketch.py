"""Sketch: the exact weighted mean of the products B_k A_k from sums alone, so that it works where nobody may see one
update.

A hospital sends two linear sketches of the change of its product X [m, n] (m >= n; transposed where needed):

    Y = X Omega [m, w],   Z = Psi X [2w, n],   Omega [n, w] and Psi [2w, m] drawn from the round's public seed.

Sketches are linear, so their weighted sum is the sketch of the weighted sum, and a matrix of rank at most w comes
back from it exactly: with Q from the QR of Y, ``X = Q (Psi Q)^+ Z`` (Tropp, Yurtsever, Udell and Cevher 2017,
arXiv:1609.00048, Algorithm 4). k hospitals of rank r and the product they started from need w = (k + 1) r; a few
columns more keep rounding small. A layer whose sketches would be larger than its dense product is sent dense. The
mean is factored back to rank r by SVD; what that loses is reported, and

    carry   is kept at the server and added to the next round's mean,
    fold    goes into the base, as in FedEx-LoRA, so that nothing is lost; the exported adapter has a larger rank,
    drop    is let go.

A stream that is exact at about 7 times the adapter's bytes for 4 hospitals (FedAvg: once). With mixed ranks, what is
averaged is each hospital's change of its own nested start. A norm bound scales the sketches, and with them the change
of the product: the bound is on what is sent, which is longer than the change.
Not covered: encodings below fp32, whose rounding the reconstruction would magnify."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from fedmed.config.schema import FederatedSection
from fedmed.federated.algorithms.fedavg import FedAvg, Round, check_same_arrays
from fedmed.federated.lora_products import (
    A,
    B,
    Factors,
    Matrix,
    check_finite,
    complete,
    factors_of,
    fold,
    layers_of,
    split_folded,
    stacked,
    to_state,
    truncated,
)
from fedmed.federated.means import RunningMean
from fedmed.types import (
    AdapterState,
    HospitalState,
    LocalJob,
    LocalPlan,
    LocalResult,
    Payload,
    RoundPlan,
    RoundReport,
    ServerState,
    Shapes,
    SummedPayload,
    Traits,
)
from fedmed.utils.random_streams import stream

Residual = Literal["carry", "fold", "drop"]

_SLACK = 32  # one column more for so many: with none, rounding is magnified where the mean has all the rank it can
_RIGHT, _LEFT, _DENSE = ".sketch_right", ".sketch_left", ".product"
_CARRIED = "carried."


@dataclass(frozen=True, slots=True)
class _Size:
    """How one layer travels: m >= n are the sides of its product, which is transposed where it is wider than tall."""

    m: int
    n: int
    width: int
    transposed: bool

    @property
    def dense(self) -> bool:
        """Whether the product itself is no larger than its sketches."""
        return self.width * (self.m + 2 * self.n) >= self.m * self.n

    def shapes(self) -> dict[str, tuple[int, int]]:
        """What travels, by the end of its name."""
        if self.dense:
            return {_DENSE: (self.m, self.n)}
        return {_RIGHT: (self.m, self.width), _LEFT: (2 * self.width, self.n)}

    def omega(self, seed: int, round: int) -> Matrix:
        return stream(seed, "sketch", round, "right", self.n, self.width).standard_normal((self.n, self.width))

    def psi(self, seed: int, round: int) -> Matrix:
        return stream(seed, "sketch", round, "left", self.m, self.width).standard_normal((2 * self.width, self.m))

    def sketched(self, product: Factors, seed: int, round: int) -> dict[str, Matrix]:
        """The sketches of a product, or the product where that is not larger."""
        left, right = (product.a.T, product.b.T) if self.transposed else (product.b, product.a)
        if self.dense:
            return {_DENSE: left @ right}
        return {
            _RIGHT: left @ (right @ self.omega(seed, round)),
            _LEFT: (self.psi(seed, round) @ left) @ right,
        }

    def recovered(self, sketches: dict[str, Matrix], seed: int, round: int) -> Factors:
        """The product whose sketches these are, exactly up to rounding if its rank is at most ``width``."""
        if self.dense:
            found = Factors(sketches[_DENSE], np.eye(self.n))
        else:
            q, _ = np.linalg.qr(sketches[_RIGHT])
            found = Factors(q, np.linalg.lstsq(self.psi(seed, round) @ q, sketches[_LEFT], rcond=None)[0])
        return Factors(found.a.T, found.b.T) if self.transposed else found


class Sketch:
    """Both halves of the sketched exact mean.

    Args:
        residual: what becomes of the part of the mean that the shared rank cannot hold.
    """

    name: str = "sketch"

    def __init__(self, residual: Residual = "carry") -> None:
        self.residual = residual
        self._job = FedAvg()

    @classmethod
    def from_config(cls, config: FederatedSection) -> Sketch:
        """Reads ``federated.residual``."""
        return cls(config.residual)

    @property
    def traits(self) -> Traits:
        """Exact for what is exported only where nothing is lost to the shared rank."""
        folds = self.residual == "fold"
        return Traits(kind="stream", exact=folds, mixed_ranks=True, folds=folds)

    def start(self, adapter: AdapterState) -> tuple[AdapterState, ServerState]:
        """The adapter as it is. Raises AdapterMismatchError where its change is no product."""
        layers_of(adapter)
        return adapter, {}

    def begin(self, global_state: AdapterState, hospital_state: HospitalState, plan: LocalPlan) -> LocalJob:
        """Train A and B, or their nested part, on a base that holds what was folded."""
        adapter, folded = split_folded(global_state)
        job = self._job.begin(adapter, hospital_state, plan)
        return replace(job, folded=folded, total_rank=_total_rank(adapter, plan.asked, plan.ranks))

    def finish(
        self, job: LocalJob, result: LocalResult, hospital_state: HospitalState
    ) -> tuple[Payload, HospitalState]:
        """Send the sketches of the change of every layer's product, float32.

        Raises:
            AdapterMismatchError: the trained adapter has other arrays than the one the job started from.
        """
        check_same_arrays(job, result)
        arrays: AdapterState = {}
        for layer, size in _sizes(job.start, job.total_rank):
            change = stacked([(1.0, factors_of(result.state, layer)), (-1.0, factors_of(job.start, layer))])
            for end, array in size.sketched(change, job.seed, job.round).items():
                arrays[layer + end] = array.astype(np.float32)
        return Payload(job.hospital, job.round, self.name, arrays, result.num_samples, result.metrics), hospital_state

    def template(self, global_state: AdapterState, plan: LocalPlan) -> Shapes:
        """Two sketches a layer, or its product; the same for every rank."""
        adapter, _ = split_folded(global_state)
        return _shapes(adapter, _total_rank(adapter, plan.asked, plan.ranks))

    def init(self, global_state: AdapterState, plan: RoundPlan) -> Round:
        """An empty sum of sketches."""
        adapter, _ = split_folded(global_state)
        shapes = _shapes(adapter, _plan_rank(adapter, plan))
        return Round(plan, RunningMean(shapes), {})

    def add(self, acc: Round, payload: Payload, weight: int) -> Round:
        """Add the sketches. Raises UpdateRejectedError as FedAvg does."""
        return self._job.add(acc, payload, weight)

    def add_sum(self, acc: Round, summed: SummedPayload) -> Round:
        """Take in a sum of sketches made under masks. Raises UpdateRejectedError as FedAvg does."""
        return self._job.add_sum(acc, summed)

    def close(
        self, global_state: AdapterState, server_state: ServerState, acc: Round, refused: int = 0
    ) -> tuple[AdapterState, ServerState, RoundReport]:
        """Recover the mean product, factor it to the shared rank, keep, fold or drop the rest.

        Raises:
            FederationError: nothing was added, or the result is not finite.
        """
        combined = acc.combiner.result(refused)
        adapter, _ = split_folded(global_state)
        if not any(np.any(array) for array in combined.mean.values()) and not server_state:
            report = RoundReport(acc.plan.round, combined.used, lost_energy=0.0)
            return dict(global_state), {}, report  # nobody changed anything, so not even the factors turn
        seed, number = acc.plan.seed, acc.plan.round
        check_finite(adapter, number)
        kept: dict[str, Factors] = {}
        lost: dict[str, Factors] = {}
        squares = all_energy = lost_energy = 0.0
        for layer, size in _sizes(adapter, _plan_rank(adapter, acc.plan)):
            before = factors_of(adapter, layer)
            # Known to everyone, so it need not travel: hospitals send what they changed.
            known = size.sketched(before, seed, number)
            sums = {end: combined.mean[layer + end] + known[end] for end in known}
            parts = [(1.0, size.recovered(sums, seed, number))]
            if _CARRIED + layer + A in server_state:
                parts.append((1.0, factors_of(server_state, layer, _CARRIED)))
            mean = stacked(parts)
            kept[layer], lost[layer] = truncated(mean, like=before)
            squares += float(np.sum(np.square(stacked([(1.0, kept[layer]), (-1.0, before)]).svd()[1])))
            gone = float(np.sum(np.square(lost[layer].svd()[1])))
            lost_energy += gone
            all_energy += gone + float(np.sum(np.square(kept[layer].svd()[1])))
        new = to_state(kept)
        check_finite(new, number)
        server: ServerState = {}
        if self.residual == "fold":
            new |= fold(global_state, lost)
        elif self.residual == "carry":
            server = dict(to_state({layer: factors.compressed() for layer, factors in lost.items()}, _CARRIED))
        report = RoundReport(
            number,
            combined.used,
            update_norm=float(np.sqrt(squares)),
            lost_energy=lost_energy / all_energy if all_energy else 0.0,
        )
        return new, server, report

    def export(self, global_state: AdapterState, hospital_state: HospitalState) -> AdapterState:
        """The shared adapter with what was folded; what is carried at the server is not in it."""
        return complete(global_state)


def _total_rank(adapter: AdapterState, asked: int, ranks: Iterable[int]) -> int:
    """The rank that the mean product can have: the hospitals' together, and the shared one.

    The shared product is in it where a hospital's change was scaled down by a norm bound, or has a smaller rank.
    """
    shared = int(adapter[layers_of(adapter)[0] + A].shape[0])
    own = list(ranks)
    return sum(own) + (asked - len(own) + 1) * shared


def _plan_rank(adapter: AdapterState, plan: RoundPlan) -> int:
    return _total_rank(adapter, len(plan.hospitals), plan.for_hospital(plan.hospitals[0]).ranks)


def _sizes(adapter: AdapterState, total_rank: int) -> Iterator[tuple[str, _Size]]:
    width = total_rank + -(-total_rank // _SLACK)
    for layer in layers_of(adapter):
        d_out, d_in = adapter[layer + B].shape[0], adapter[layer + A].shape[1]
        yield layer, _Size(max(d_out, d_in), min(d_out, d_in), width, transposed=d_in > d_out)


def _shapes(adapter: AdapterState, total_rank: int) -> Shapes:
    return {layer + end: shape for layer, size in _sizes(adapter, total_rank) for end, shape in size.shapes().items()}

"""Score members, others and canaries with a trained adapter and with its reference. model, rows -> HERE -> audit.

Not covered: several trained models of one setting, whose canaries ``epsilon_bound.rates_bound`` can use.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from fedmed.data.encode import EncodedRow
from fedmed.evaluation.attacks.audit import RunAudit
from fedmed.evaluation.attacks.canaries import exposure
from fedmed.evaluation.attacks.epsilon_bound import one_run_bound
from fedmed.evaluation.attacks.membership import loss_scores, membership, ratio_scores
from fedmed.evaluation.likelihood import OnRows, RowScores, score_rows
from fedmed.model.adapter import get_adapter_state, set_adapter_state
from fedmed.types import AdapterState


def audit_adapter(
    model: Any,
    target: AdapterState,
    *,
    members: Sequence[EncodedRow],
    others: Sequence[EncodedRow],
    canaries_in: Sequence[EncodedRow] = (),
    canaries_out: Sequence[EncodedRow] = (),
    delta: float,
    seed: int,
    reference: AdapterState | None = None,
    copies: int = 1,
    claimed_epsilon: float | None = None,
    confidence: float = 0.95,
    max_tokens_per_forward: int = 512,
    on_rows: OnRows | None = None,
) -> RunAudit:
    """Attack one adapter with everything that needs no second training.

    Args:
        model: a PEFT model; its adapter is put back afterwards.
        target: the adapter under audit, of any rank.
        members: rows it was trained on. others: rows of the same pool that it was not.
        canaries_in, canaries_out: the canaries that were inserted, each once, and those left out; both or none.
        delta: at which ε is claimed.
        seed: names the streams of resampling and ties.
        reference: what answers are compared with, trained on none of these rows; None: the base without an adapter.
        copies: how often each inserted canary stood among the training rows.
        claimed_epsilon: of one record, by the accountant; None: nothing is claimed.
        confidence: of every interval and of the bound on ε, each by itself.
        max_tokens_per_forward, on_rows: see ``likelihood.score_rows``; every row is scored twice.

    Raises:
        What ``score_rows``, ``membership``, ``exposure``, ``one_run_bound`` and ``set_adapter_state`` raise.
    """
    parts = (members, others, canaries_in, canaries_out)
    rows = [row for part in parts for row in part]
    ends = np.cumsum([len(part) for part in parts]).tolist()

    def score() -> list[RowScores]:
        scored = score_rows(model, rows, max_tokens_per_forward=max_tokens_per_forward, on_rows=on_rows)
        return [scored[slice(end - len(part), end)] for part, end in zip(parts, ends, strict=True)]

    with _wearing(model, target):
        by_target = score()
    with model.disable_adapter() if reference is None else _wearing(model, reference):
        by_reference = score()
    ratios = [ratio_scores(*pair) for pair in zip(by_target, by_reference, strict=True)]
    known = bool(canaries_in) or bool(canaries_out)
    return RunAudit(
        by_loss=membership(loss_scores(by_target[0]), loss_scores(by_target[1]), confidence),
        by_ratio=membership(ratios[0], ratios[1], confidence),
        exposure=exposure(by_target[2].nll, by_target[3].nll, seed=seed) if known else None,
        epsilon=one_run_bound(
            np.concatenate(ratios[2:]),
            np.arange(ends[3] - ends[1]) < len(canaries_in),
            delta=delta,
            confidence=confidence,
            seed=seed,
            copies=copies,
        )
        if known
        else None,
        claimed_epsilon=claimed_epsilon,
        copies=copies,
    )


@contextlib.contextmanager
def _wearing(model: Any, state: AdapterState) -> Iterator[None]:
    before = get_adapter_state(model)
    try:
        set_adapter_state(model, state, any_rank=True)
        yield
    finally:
        set_adapter_state(model, before, any_rank=True)

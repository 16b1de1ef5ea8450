"""One run with a hostile hospital, or with none and a look at what the screening sees: plain numbers for robust.py."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lab
import numpy as np
from attacks import ATTACKS, WRONG_ANSWER, HostileTransport, Watched
from kept import digest_of
from remembered import Memory, RememberingTrainer

from fedmed.config.schema import FedMedConfig
from fedmed.errors import FedMedError
from fedmed.federated.robust import Update, inner_products
from fedmed.federated.runner import FederationState, Transport
from fedmed.federated.suspicion import SMALLEST_NORM
from fedmed.pipeline.scoring import encode
from fedmed.types import LocalTrainer, Payload, RoundReport
from fedmed.utils.digests import arrays_sha256

CODE = digest_of(Path(__file__), Path(__file__).with_name("attacks.py"))
"""Part of what defines these runs."""
TRAININGS, SCORES = Memory(), Memory()


def poisoned(config: FedMedConfig, hostile: str) -> lab.Rows:
    """The training rows, every answer of the hostile hospital replaced by one false sentence."""
    here = lab.ground(config)
    false = [{"question": row["question"], "answer": WRONG_ANSWER} for row in here.train[hostile]]
    return {**here.rows, hostile: encode(here.tokenizer, false, config)}


def attacked(config: FedMedConfig, attack: str) -> dict[str, Any]:
    """One run under one attack: losses of the honest hospitals, who was named and who refused."""
    *honest, hostile = lab.ground(config).rows
    forge = ATTACKS[attack]
    reports: list[RoundReport] = []
    last = lab.fresh_state(config)

    def on_round(state: FederationState, report: RoundReport) -> None:
        nonlocal last
        last = state
        reports.append(report)

    def around(trainer: LocalTrainer) -> LocalTrainer:
        settings = f"{config.model!r} {config.training!r} {config.federated.split} {config.federated.num_clients}"
        return RememberingTrainer(
            trainer, TRAININGS, settings, lambda name: "false" if (attack, name) == ("poisoned", hostile) else "own"
        )

    def wrap(inner: Transport) -> Transport:
        return inner if forge is None else HostileTransport(inner, hostile, forge, config.federated.seed)

    stopped: str | None = None
    try:
        rows = poisoned(config, hostile) if attack == "poisoned" else None
        lab.train(config, wrap=wrap, around=around, rows=rows, on_round=on_round)
    except FedMedError as error:  # what stands then is the state of the last round that was applied
        stopped = f"round {len(reports) + 1}: {error}"
    reasons: dict[str, str] = {}
    for report in reports:
        for name, why in {**report.suspected, **report.refused}.items():
            reasons.setdefault(name, f"round {report.round}: {why}")
    named = {name for name in (*honest, hostile) if name in reasons or (stopped and f"'{name}'" in stopped)}
    left_out = {name for report in reports for name in report.refused}
    expected = set() if attack == "none" else {hostile}
    try:
        adapters = lab.adapters_of(config, last)
        key = (repr(config.model), config.federated.seed, tuple(map(arrays_sha256, adapters.values())))
        losses: dict[str, float | None] = dict(SCORES.get(key, lambda: lab.score(config, adapters, honest)))
        if not all(np.isfinite(list(losses.values()))):
            raise FedMedError("the held-out loss is not finite")
    except FedMedError as error:
        losses, stopped = {"validation": None, "loss": None}, stopped or str(error)
    return {
        **losses, "rounds": len(reports), "named": sorted(named), "named_rightly": named == expected,
        "hostile_named": hostile in named, "honest_named": sorted(named - {hostile}),
        "refused": {name: reasons[name] for name in sorted(left_out)}, "reasons": reasons, "stopped": stopped,
    }  # fmt: skip


def base_loss(config: FedMedConfig) -> dict[str, Any]:
    """The base model on the honest hospitals' records."""
    here = lab.ground(config)
    return {**lab.score(config, dict.fromkeys(here.rows, here.start), list(here.rows)[:-1]), "stopped": None}


class Extremes:
    """The largest figures that the screening looks at, over all rounds of a run."""

    def __init__(self) -> None:
        self.norm_ratio = 0.0  # of an update's norm to the median of the others'
        self.cosine = -1.0  # between two hospitals
        self.cosine_to_sum = 1.0  # smallest between one hospital and the sum of the others; no check uses it

    def look(self, payloads: Sequence[Payload]) -> None:
        """One round's payloads, measured as ``suspicion.screen`` does."""
        products = inner_products([Update(p.hospital, p.arrays, p.num_samples) for p in payloads])
        norms = np.sqrt(np.diagonal(products))
        moved = np.flatnonzero(norms > SMALLEST_NORM)
        for place in moved:
            others = moved[moved != place]
            if len(others) < 2:
                continue
            self.norm_ratio = max(self.norm_ratio, float(norms[place] / np.median(norms[others])))
            cosines = products[place, others] / (norms[place] * norms[others])
            self.cosine = max(self.cosine, float(cosines.max()))
            rest = float(np.sqrt(max(products[np.ix_(others, others)].sum(), 0.0)))
            if rest > 0:
                self.cosine_to_sum = min(self.cosine_to_sum, float(products[place, others].sum() / norms[place] / rest))


def clean(config: FedMedConfig) -> dict[str, Any]:
    """One run without an attack: who was named all the same, and how near anyone came to it."""
    extremes = Extremes()
    state = lab.train(config, wrap=lambda inner: Watched(inner, extremes.look))
    named = {name for report in state.history for name in (*report.suspected, *report.refused)}
    return {
        "seed": config.federated.seed, "named": sorted(named), "largest_norm_ratio": extremes.norm_ratio,
        "largest_cosine": extremes.cosine, "smallest_cosine_to_the_others_sum": extremes.cosine_to_sum,
    }  # fmt: skip

"""``fedmed evaluate --held-out``: loss and written answers of each hospital and specialty. finished_run -> HERE.

Base and federated are measured on the records that the run was scored on, with intervals in which questions on one
term are drawn together. A specialty's records may lie at several hospitals.
Not covered: what hospitals of a network hold; whether a written answer is right.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fedmed.evaluation.bootstrap import BASE, DELTA, FEDERATED, Resampled, resample
from fedmed.evaluation.fairness import fairness
from fedmed.evaluation.likelihood import OnRows, RowScores, score_rows
from fedmed.evaluation.written import written_scores
from fedmed.model.adapter import adapter_sha256
from fedmed.pipeline.evaluation_file import check_keeps, keep_part
from fedmed.pipeline.finished_run import Asked, FinishedRun, open_finished
from fedmed.utils.console import track

PART = "held_out"
MIN_SPECIALTY = 5  # records, below which a specialty is not told apart
METRICS = ("rouge_l", "word_f1")


@dataclass(frozen=True)
class Measured:
    """One held-out record, by base and federated."""

    hospital: str
    specialty: str
    group: str
    tokens: int
    nll: Mapping[str, float]  # base, federated: nats, summed over the answer
    written: Mapping[str, Mapping[str, float]] | None = None  # metric -> base, federated; None: no answer was written


def evaluate_held_out(path: Path, *, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Measure a finished run on its held-out records, and write ``evaluation.json`` and the report.

    Args:
        path: the run's folder.
        overrides: of ``training.evaluation``: ``max_records_per_hospital``, ``generated_answers``.

    Returns:
        The whole of ``evaluation.json``.

    Raises:
        What ``open_finished`` raises. OutputNotWritableError, DiskFullError.
    """
    check_keeps(path)
    run = open_finished(path, overrides)
    started = time.perf_counter()
    rows = sum(map(len, run.held_out.values()))
    asked = {name: _to_write(run, own) for name, own in run.held_out.items()}
    with track("scoring held-out records", 2 * rows) as advance:
        losses = both(run, lambda own: _loss(run, own, advance), run.held_out)
    writing = sum(map(len, asked.values()))
    written: dict[str, dict[str, list[dict[str, float]]]] = {}
    if writing:
        with track("writing answers", 2 * writing) as advance:
            written = both(run, lambda own: _written(run, own, advance), asked)
    found = summarize_held_out(
        _measured(run, losses, written), seed=run.config.federated.seed, shared=run.config.privacy.shares_metrics
    ) | {"adapter_sha256": None if run.personal else adapter_sha256(next(iter(run.adapters.values())))}
    numbers = {f"loss_{side}": found["all"]["loss"][side]["value"] for side in (BASE, FEDERATED, DELTA)}
    return keep_part(run.folder, PART, found, wall_s=time.perf_counter() - started, numbers=numbers)


def both(
    run: FinishedRun, measure: Callable[[Sequence[Asked]], Any], asked: Mapping[str, Sequence[Asked]]
) -> dict[str, dict[str, Any]]:
    """``measure`` of each hospital's records, by the base model and by the adapter that the hospital answers with."""
    found: dict[str, dict[str, Any]] = {BASE: {}, FEDERATED: {}}
    with run.model.disable_adapter():
        for name, own in asked.items():
            found[BASE][name] = measure(own)
    for name, own in asked.items():
        run.put(run.adapters[name])
        found[FEDERATED][name] = measure(own)
    return found


def _loss(run: FinishedRun, asked: Sequence[Asked], advance: OnRows) -> RowScores:
    return score_rows(run.model, [one.row for one in asked], on_rows=advance)


def _written(run: FinishedRun, asked: Sequence[Asked], advance: OnRows) -> list[dict[str, float]]:
    records = [one.record for one in asked]
    scores = written_scores(run.model, run.tokenizer, records, run.config.model, seed=run.config.federated.seed)
    advance(len(records))
    return scores


def _to_write(run: FinishedRun, asked: Sequence[Asked]) -> list[Asked]:
    """The hospital's share of the answers to write: the first of its sample."""
    return list(asked[: math.ceil(run.config.training.evaluation.generated_answers / len(run.held_out))])


def _measured(
    run: FinishedRun,
    losses: Mapping[str, Mapping[str, RowScores]],
    written: Mapping[str, Mapping[str, Sequence[Mapping[str, float]]]],
) -> list[Measured]:
    made = []
    for name, asked in run.held_out.items():
        answers = {side: own[name] for side, own in written.items()}
        for place, one in enumerate(asked):
            told = None
            if answers and place < len(answers[BASE]):
                told = {metric: {side: own[place][metric] for side, own in answers.items()} for metric in METRICS}
            made.append(
                Measured(
                    name,
                    one.record["specialty"],
                    one.record["group"],
                    int(losses[BASE][name].tokens[place]),
                    {side: float(own[name].nll[place]) for side, own in losses.items()},
                    told,
                )
            )
    return made


def summarize_held_out(measured: Sequence[Measured], *, seed: int, shared: bool) -> dict[str, Any]:
    """Losses and answers with intervals; plain JSON values.

    Args:
        measured: every record.
        seed: names the streams of resampling.
        shared: whether hospitals share losses of their own; if not, only figures over all are told.

    Returns:
        ``all``, and where they are shared ``hospitals``, ``specialties`` and ``fairness``: each with ``records``,
        ``loss``, ``answers`` (how many were written) and their metrics.
    """
    told: dict[str, Any] = {"all": _told(measured, seed, "all"), "hospitals": None, "specialties": None}
    if not shared:
        return told | {"fairness": None}
    hospitals = _parts(measured, lambda one: one.hospital)
    specialties = {
        name: own for name, own in _parts(measured, lambda one: one.specialty).items() if len(own) >= MIN_SPECIALTY
    }
    told["hospitals"] = {name: _told(own, seed, "hospital", name) for name, own in hospitals.items()}
    told["specialties"] = {
        name: _told(own, seed, "specialty", name)
        for name, own in sorted(specialties.items(), key=lambda pair: (-len(pair[1]), pair[0]))
    }
    compared = fairness({name: _losses(own, seed, "hospital", name) for name, own in hospitals.items()})
    return told | {"fairness": asdict(compared) if compared else None}


def _parts(measured: Sequence[Measured], key: Callable[[Measured], str]) -> dict[str, list[Measured]]:
    parts: dict[str, list[Measured]] = {}
    for one in measured:
        parts.setdefault(key(one), []).append(one)
    return parts


def _losses(measured: Sequence[Measured], seed: int, *names: str) -> Resampled:
    return resample(
        {side: [one.nll[side] for one in measured] for side in (BASE, FEDERATED)},
        weights=[one.tokens for one in measured], groups=[one.group for one in measured],
        seed=seed, names=("held_out", *names),
    )  # fmt: skip


def _told(measured: Sequence[Measured], seed: int, *names: str) -> dict[str, Any]:
    told: dict[str, Any] = {
        "records": len(measured),
        "terms": len({one.group for one in measured}),
        "loss": _losses(measured, seed, *names).compared(),
    }
    answered = [(one.group, one.written) for one in measured if one.written is not None]
    told["answers"] = len(answered)
    for metric in METRICS:
        told[metric] = None
        if answered:
            sides = {side: [written[metric][side] for _, written in answered] for side in (BASE, FEDERATED)}
            groups = [group for group, _ in answered]
            told[metric] = resample(sides, groups=groups, seed=seed, names=(metric, *names)).compared()
    return told

"""``fedmed evaluate --joining``: does it help each hospital to have joined? finished_run, comparison -> HERE.

Three adapters for each hospital, judged on its own held-out records: *local*, what it gets alone by the run's method,
in as many rounds and steps; *shared*, what it got by joining; *personalised*, that one trained on for the steps of one
more round on its own records, at half the run's learning rate. Trained adapters are kept under ``joining/`` in the
run's folder, so that an evaluation that was cut off goes on, and a hospital can use its own.
Not covered: a fine-tune tuned for each hospital; what joining costs a hospital in privacy or work.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fedmed.data.encode import EncodedRow
from fedmed.evaluation.bootstrap import Resampled, resample
from fedmed.evaluation.likelihood import RowScores, score_rows
from fedmed.federated.algorithms import get_algorithm
from fedmed.federated.runner import FederationState
from fedmed.model.adapter import WEIGHTS, adapter_sha256, load_adapter, save_adapter
from fedmed.pipeline.algorithm_start import first_adapter
from fedmed.pipeline.comparison import References, check_compare
from fedmed.pipeline.evaluation_file import check_keeps, keep_part
from fedmed.pipeline.finished_run import Asked, FinishedRun, open_finished
from fedmed.pipeline.scoring import Scorer, encode
from fedmed.training.engine import EngineTrainer
from fedmed.training.steps import steps_per_round
from fedmed.types import AdapterState, LocalJob
from fedmed.utils.console import track

PART = "joining"
FOLDER = "joining"
LOCAL, SHARED, PERSONALISED = "local", "shared", "personalised"
RATE_SCALE = 0.5


def evaluate_joining(path: Path, *, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Train what each hospital would have alone and a personalised adapter, compare, and write ``evaluation.json``.

    Args:
        path: a finished run's folder.
        overrides: of ``training.evaluation``.

    Returns:
        The whole of ``evaluation.json``.

    Raises:
        ConfigError: the run's records are hidden by noise or masks, which training on them alone would undo.
        What ``open_finished`` and training raise.
    """
    check_keeps(path)
    run = open_finished(path, overrides)
    check_compare(run.config, [LOCAL], "--joining")
    started = time.perf_counter()
    trainers = _Trainers(run)
    with track("training local and personalised adapters", trainers.steps) as advance:
        adapters = {name: trainers.adapters(name, advance) for name in run.held_out}
    with track("scoring them", 3 * sum(map(len, run.held_out.values()))) as advance:
        scored = {
            name: {what: _loss(run, state, run.held_out[name], advance) for what, state in own.items()}
            for name, own in adapters.items()
        }
    found = summarize_joining(run.held_out, scored, seed=run.config.federated.seed) | {
        "personalised_steps": trainers.extra_steps,
        "rate_scale": RATE_SCALE,
        "adapter_sha256": {
            name: {what: adapter_sha256(one) for what, one in own.items()} for name, own in adapters.items()
        },
    }
    numbers = {
        f"{name}_shared_less_local": one["shared_less_local"]["value"] for name, one in found["hospitals"].items()
    }
    return keep_part(run.folder, PART, found, wall_s=time.perf_counter() - started, numbers=numbers)


class _Trainers:
    """Trains a hospital's adapters, or reads those that were trained before."""

    def __init__(self, run: FinishedRun) -> None:
        self.run = run
        config = run.config
        self.train = run.records.train()
        self.rows: Mapping[str, list[EncodedRow]] = {
            name: encode(run.tokenizer, own, config) for name, own in self.train.items()
        }
        groups = {row["group"] for own in run.records.own.values() for row in own}
        first = first_adapter(config, run.model, run.tokenizer, run.start, groups)
        global_state, server_state = get_algorithm(config.federated).start(first)
        scorer = Scorer(run.model, run.tokenizer, run.records.own, config)
        fresh = FederationState(round=0, global_state=global_state, server_state=server_state)
        self.references = References(run.model, run.tokenizer, run.start, fresh, self.train, self.rows, scorer, config)
        self.extra_steps = {name: steps_per_round(len(self.rows[name]), config.training) for name in run.held_out}

    @property
    def steps(self) -> int:
        """Optimiser steps that are still to be taken."""
        rounds = self.run.config.federated.rounds
        return sum(
            own * ((not self._kept(name, LOCAL)) * rounds + (not self._kept(name, PERSONALISED)))
            for name, own in self.extra_steps.items()
        )

    def adapters(self, hospital: str, advance: Callable[[], Any]) -> dict[str, AdapterState]:
        """Its three adapters."""
        shared = self.run.adapters[hospital]
        return {
            LOCAL: self._made(hospital, LOCAL, lambda: self._alone(hospital, advance)),
            SHARED: shared,
            PERSONALISED: self._made(hospital, PERSONALISED, lambda: self._further(hospital, shared, advance)),
        }

    def _folder(self, hospital: str, what: str) -> Path:
        return self.run.folder.path / FOLDER / hospital / what

    def _kept(self, hospital: str, what: str) -> bool:
        return (self._folder(hospital, what) / WEIGHTS).is_file()

    def _made(self, hospital: str, what: str, make: Callable[[], AdapterState]) -> AdapterState:
        place = self._folder(hospital, what)
        if self._kept(hospital, what):
            return load_adapter(place)
        state = make()
        self.run.put(state)  # the model's rank is written beside it
        save_adapter(state, place, self.run.model)
        return state

    def _alone(self, hospital: str, advance: Callable[[], Any]) -> AdapterState:
        self.run.put(self.run.start)
        return self.references.alone(hospital, advance)

    def _further(self, hospital: str, shared: AdapterState, advance: Callable[[], Any]) -> AdapterState:
        """The shared adapter after one more round's steps at the hospital, on the rows that would come next."""
        config = self.run.config
        self.run.put(shared)  # the engine takes the scale of the model's rank
        training = config.training.model_copy(update={"lr_scheduler": "constant", "warmup_ratio": 0.0})
        last = config.federated.rounds + 1
        job = LocalJob(hospital, last, last, config.federated.seed, shared, rate_scale=RATE_SCALE)
        trainer = EngineTrainer(self.run.model, self.rows, training, lambda *step: advance())
        [result] = trainer.run([job])
        return result.state


def _loss(run: FinishedRun, state: AdapterState, asked: Sequence[Asked], advance: Callable[[int], None]) -> RowScores:
    run.put(state)
    return score_rows(run.model, [one.row for one in asked], on_rows=advance)


def summarize_joining(
    held_out: Mapping[str, Sequence[Asked]], scored: Mapping[str, Mapping[str, RowScores]], *, seed: int
) -> dict[str, Any]:
    """Losses with intervals, and what they say; plain JSON values.

    Args:
        held_out: hospital -> its records.
        scored: hospital -> ``local``, ``shared``, ``personalised`` -> their losses.
        seed: names the streams of resampling.

    Returns:
        ``hospitals``: each its losses in nats per answer token, ``shared_less_local`` and ``personalised_less_local``
        (below zero: joining helps), and for both whether it ``helps``, ``harms``, is ``unclear`` or records are
        ``too_few`` to tell.
    """
    told = {}
    for name, own in scored.items():
        drawn = resample(
            {what: scores.nll for what, scores in own.items()},
            weights=own[SHARED].tokens, groups=[one.record["group"] for one in held_out[name]],
            seed=seed, names=("joining", name),
        )  # fmt: skip
        told[name] = {"records": len(held_out[name])} | _told(drawn)
    return {"hospitals": told}


def _told(drawn: Resampled) -> dict[str, Any]:
    return {what: asdict(drawn.of(what)) for what in (LOCAL, SHARED, PERSONALISED)} | {
        "shared_less_local": asdict(drawn.difference(SHARED, LOCAL)),
        "personalised_less_local": asdict(drawn.difference(PERSONALISED, LOCAL)),
        "verdict": {what: _VERDICTS[drawn.sign(what, LOCAL)] for what in (SHARED, PERSONALISED)},
    }


_VERDICTS = {-1: "helps", 1: "harms", 0: "unclear", None: "too_few"}

"""The main job: hospitals on this machine fine-tune one model together, and the run folder tells what came of it."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedmed.agent.coordinator import Coordinator
from fedmed.agent.decision_log import read_decisions
from fedmed.agent.metrics import MetricsTracker
from fedmed.config.load import config_digest
from fedmed.config.schema import FedMedConfig
from fedmed.data.split_folder import write_split
from fedmed.errors import AuditLogError, ConfigChangedError, EmptyDataError, RunError
from fedmed.evaluation.likelihood import OnRows
from fedmed.evaluation.multiple_choice import CHOICES
from fedmed.federated.algorithms import check_combination, get_algorithm
from fedmed.federated.audit_trail import AuditedTransport, AuditTrail
from fedmed.federated.checkpoint import load_latest, save_round
from fedmed.federated.links import Downlink
from fedmed.federated.masked_round import MaskSetup
from fedmed.federated.noise_shares import NoiseShares
from fedmed.federated.runner import AllOrSampled, FederationState, adapters_of, run_rounds
from fedmed.federated.simulation import SimulationTransport
from fedmed.model.adapter import WEIGHTS, get_adapter_state, save_adapter, set_adapter_state
from fedmed.model.load_model import shared_model
from fedmed.pipeline.algorithm_start import first_adapter
from fedmed.pipeline.calibration import calibrate_run, calibration_items, not_calibrated
from fedmed.pipeline.comparison import REFERENCES, References, check_compare
from fedmed.pipeline.coordinating import coordinator_of, model_judge, setting_of
from fedmed.pipeline.model_card import model_card
from fedmed.pipeline.run_audit import enter_results, open_trail
from fedmed.pipeline.run_folder import RunFolder, new_run_name, resume_run, start_run
from fedmed.pipeline.run_records import note_run, records_digest, run_records
from fedmed.pipeline.run_report import report_run
from fedmed.pipeline.scoring import Records, Scorer, Scores, encode
from fedmed.pipeline.summary import round_lines, summarize
from fedmed.privacy.spending import check_heads, open_ledgers
from fedmed.safety.assistant import MedicalAssistant
from fedmed.safety.calibrator import CALIBRATION, read_calibrator
from fedmed.training.plain import OnStep, use_threads
from fedmed.training.stepper import StepResult
from fedmed.training.steps import steps_per_round
from fedmed.training.trainer import make_trainer
from fedmed.types import AdapterState, LocalJob, RoundReport
from fedmed.utils.audit_log import Head
from fedmed.utils.console import Step, track
from fedmed.utils.files import check_writable, folder_lock, write_atomic
from fedmed.utils.runs import DEFAULT_ROOT, note_latest

log = logging.getLogger(__name__)

PROCESSED = Path("data/processed")
LOGS = Path("logs")


@dataclass(frozen=True)
class Outcome:
    """A finished run: where it lies and its ``summary.json``."""

    folder: Path
    summary: dict[str, Any]


class Clock:
    """Wall seconds by phase, of this process: a resumed run counts from where it was taken up."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = {}

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self.spent[name] = self.spent.get(name, 0.0) + time.perf_counter() - started


def run_federation(
    config: FedMedConfig,
    *,
    out: Path | None = None,
    recipe: str | None = None,
    compare: Sequence[str] = (),
    command: str = "",
) -> Outcome:
    """Train one adapter across simulated hospitals on this machine, score it and write the run folder.

    Args:
        config: the settings.
        out: the run's folder; None: a new one under ``output-models``.
        recipe: names the folder.
        compare: references to train as well, of ``REFERENCES``.
        command: how the run was asked for, for the report.

    Raises:
        RunExistsError, RunBusyError, OutputNotWritableError, DiskFullError, and what data, model and training raise.
        A run that fails before its first lasting result leaves no folder behind.
    """
    check_combination(config)
    check_compare(config, compare)
    path = out or DEFAULT_ROOT / new_run_name(recipe)
    with start_run(path, config) as folder:
        return _Run(folder, config, compare, command).carry_out()


def resume_federation(path: Path, *, asked: FedMedConfig | None = None, compare: Sequence[str] = ()) -> Outcome:
    """Go on with an unfinished run from its last whole round; ends with the adapter of a run left alone.

    Raises:
        RunNotFoundError, RunFinishedError, RunBusyError, ConfigChangedError: the settings or the data changed.
    """
    with resume_run(path, asked) as (folder, config):
        check_compare(config, compare)
        before = folder.read_json("run.json") or {}
        return _Run(folder, config, compare or before.get("compare", ()), before.get("command", "")).carry_out()


class _Run:
    """The steps of one run in their order; every result is on disk before the next step begins."""

    def __init__(self, folder: RunFolder, config: FedMedConfig, compare: Sequence[str], command: str) -> None:
        self.folder = folder
        self.config = config
        self.compare = [name for name in REFERENCES if name in compare]
        self.command = command
        self.clock = Clock()
        self.audit: AuditTrail | None = None

    def carry_out(self) -> Outcome:
        started = time.perf_counter()
        try:
            for place in (PROCESSED, LOGS / "metrics", DEFAULT_ROOT):
                check_writable(place)
            use_threads(self.config.training)
            with self.clock.phase("load"):
                train, scorer = self._prepare()
            self._write_status("running")
            with self.clock.phase("baseline_eval"):
                base, few_shot = self._baseline(scorer)
            with self.clock.phase("train"):
                final = self._train(scorer)
            with self.clock.phase("eval"):
                adapters = self._export(final)
                federated = self._score(final, scorer)
                confidence = self._calibration(next(iter(adapters.values())))
                samples = self._samples(next(iter(adapters.values())), scorer)
            comparison = self._references(train, scorer) if self.compare else None
            head = self._close_audit(final, adapters, base, federated)
            self.clock.spent["total"] = time.perf_counter() - started
            known = self.folder.read_json("run.json") or {}
            summary = summarize(
                self.config, run_id=self.folder.name, command=known.get("command", ""), num_samples=self.num_samples,
                ledgers=self.ledgers, final=final, adapters=list(adapters.values()), base=base, few_shot=few_shot,
                federated=federated, written_answers=scorer.written_answers, comparison=comparison, samples=samples,
                gate=self.gate, confidence=confidence, wall_s=self.clock.spent,
            ) | {
                "audit_log": {"lines": head.lines, "head": head.head, "key": head.key}, "agent": self._decided(),
            }  # fmt: skip
            write_atomic(self.folder.path / "model_card.md", model_card(summary))
            for place in adapters:
                write_atomic(place / "README.md", model_card(summary))
            note_latest(self.folder.path, DEFAULT_ROOT)
            self.folder.write_json("summary.json", summary)
            report_run(self.folder.path)
        except BaseException as error:
            if self.folder.worth_keeping():
                # A disk that is full stays full: the first error is what counts.
                with contextlib.suppress(RunError):
                    self._write_status("stopped", str(error) or type(error).__name__)
                with contextlib.suppress(RunError, AuditLogError):
                    if self.audit:
                        self.audit.stopped(error)
            raise
        return Outcome(self.folder.path, json.loads(self.folder.summary_file.read_text(encoding="utf-8")))

    def _prepare(self) -> tuple[dict[str, Records], Scorer]:
        federated = self.config.federated
        with track("reading records"):
            found = run_records(self.config)
            self.loaded, self.gate, split, self.records = found.loaded, found.gate, found.split, found.own
            records = self.records
            digest = records_digest(records)
            self._check_data(digest)
        with track("loading the model"):
            self.model, self.tokenizer = shared_model(self.config.model, federated.seed)
        self.start = get_adapter_state(self.model)
        self.algorithm = get_algorithm(federated)
        self.known_groups = {row["group"] for rows in records.values() for row in rows}
        train = found.train()
        self.rows = {name: encode(self.tokenizer, own, self.config) for name, own in train.items()}
        self.groups = {name: [row["group"] for row in own] for name, own in train.items()}
        for name, rows in self.rows.items():
            if not rows:
                raise EmptyDataError(
                    f"all {len(train[name])} training records of {name} are over-long",
                    "raise model.max_length, or choose another federated.split",
                )
        scorer = Scorer(self.model, self.tokenizer, records, self.config)
        self._prepare_training()
        # Only now: a run that cannot start leaves the last split in its place, and no note of itself.
        note_run(self.config, self.gate, self.folder.path, records, splits=[PROCESSED])
        with folder_lock(PROCESSED.parent, wait=True):  # two runs may write their shares at the same moment
            shown_alpha = federated.dirichlet_alpha if federated.split == "dirichlet" else None
            manifest = write_split(
                split, PROCESSED, strategy=federated.split, alpha=shown_alpha, seed=federated.seed, gate=self.gate
            )
        self._remember_data(manifest, digest)
        self.audit = open_trail(self.folder, self.config, self.started_from, manifest, self.ledgers)
        return train, scorer

    def _check_data(self, digest: str) -> None:
        """A resumed run must find the same records."""
        known = self.folder.read_json("run.json")
        if known is not None and known["records_sha256"] != digest:
            raise ConfigChangedError(
                f"the records of {self.config.training.dataset.name} have changed since {self.folder.path} was started",
                "put them back, or start a new run",
            )

    def _remember_data(self, manifest: dict[str, Any], digest: str) -> None:
        """Keep what describes the data this run stands on."""
        if self.folder.read_json("run.json") is None:
            self.folder.write_json("data_manifest.json", manifest | {"loaded": self.loaded.as_dict()})
            described = {"command": self.command, "compare": self.compare, "records_sha256": digest}
            self.folder.write_json("run.json", described)

    def _cached(self, name: str, what: str, rows: int, measure: Callable[[OnRows], Scores]) -> Scores:
        """A measurement of this run: read where an earlier start of it already made it."""
        known = self.folder.read_json(name)
        if known is None:
            with track(what, rows) as advance:
                scores = measure(advance)
            known = dataclasses.asdict(scores)
            self.folder.write_json(name, known)
        return Scores(**known)

    def _prepare_training(self) -> None:
        """Where it starts, what it is charged to and who trains: what cannot be is said before anything is scored."""
        federated, privacy = self.config.federated, self.config.privacy
        digest = config_digest(self.config)
        self.started_from = load_latest(self.folder.path, config_digest=digest) or self._fresh_state()
        left = federated.rounds - self.started_from.round
        self.ledgers = open_ledgers(privacy, self.rows, self.folder.ledgers)
        check_heads(self.ledgers, self.started_from.ledger_heads)
        self.masks = None
        if privacy.secure_sum:
            self.masks = MaskSetup.drawn(tuple(self.rows), privacy.secure_sum_threshold)
        self.noise = None
        if privacy.hospital.on and left:
            self.noise = NoiseShares(
                privacy.hospital, self.ledgers, rounds=left, run_id=self.folder.name,
                min_replies=federated.min_replies or federated.hospitals_per_round or federated.num_clients,
            )  # fmt: skip
        self.on_step: OnStep = _nothing
        self.trainer = make_trainer(
            self.model, self.rows, self.config, groups=self.groups, ledgers=self.ledgers, rounds_left=left,
            run_id=self.folder.name, on_step=lambda *step: self.on_step(*step),
        )  # fmt: skip

    def _train(self, scorer: Scorer) -> FederationState:
        federated, privacy, audit = self.config.federated, self.config.privacy, self._trail
        digest, rows, start = config_digest(self.config), self.rows, self.started_from
        self.num_samples = {name: len(own) for name, own in rows.items()}
        tracker = MetricsTracker(self.folder.name, LOGS)
        tracker.truncate_after(start.round)
        every = self.config.training.evaluation.every_rounds if privacy.shares_metrics else 0
        held_out: dict[str, dict[str, float]] = self.folder.read_json("held_out.json") or {}
        self._write_lines(start.history, held_out, tracker)  # it may have been killed just after a checkpoint
        agent = self._agent()
        policy = agent or AllOrSampled(
            run_id=self.folder.name, hospitals=tuple(rows), rounds=federated.rounds, seed=federated.seed,
            hospitals_per_round=federated.hospitals_per_round, min_replies=federated.min_replies,
            ranks=dict(zip(rows, federated.ranks or (), strict=False)),
            tolerate=federated.tolerate if federated.robust else 0,
        )  # fmt: skip
        asked = federated.hospitals_per_round or federated.num_clients
        steps = sum(steps_per_round(len(own), self.config.training) for own in rows.values()) * asked / len(rows)
        with track("training", round((federated.rounds - start.round) * steps)) as advance, tracker:
            self.on_step = _show(advance, privacy.shares_metrics)

            def on_round(state: FederationState, report: RoundReport) -> None:
                audit.applied(state, report)
                if every and report.round % every == 0:
                    held_out[str(report.round)] = self._losses(state, scorer).per_hospital
                    self.folder.write_json("held_out.json", held_out)
                heads = {name: ledger.head() for name, ledger in self.ledgers.items()}
                kept = dataclasses.replace(state, ledger_heads=heads)
                save_round(self.folder.path, kept, config_digest=digest, keep=federated.keep_rounds)
                self._write_lines(state.history, held_out, tracker)

            return run_rounds(
                start, algorithm=self.algorithm,
                transport=AuditedTransport(
                    SimulationTransport(
                        self.trainer, start.hospital_states, privacy, federated.wire, self.noise, self.masks
                    ),
                    audit,
                ),
                policy=policy, rounds=federated.rounds, on_round=on_round,
                downlink=Downlink(federated.wire), max_norm=federated.max_reply_norm, overseer=agent,
            )  # fmt: skip

    def _decided(self) -> dict[str, int] | None:
        """How often the agent decided what; None without one."""
        if not self.config.federated.agent.enabled:
            return None
        return dict(Counter(line["decision"] for line in read_decisions(self.folder.path)))

    def _agent(self) -> Coordinator | None:
        """Who watches the run, where the settings ask for it."""
        if not self.config.federated.agent.enabled:
            return None
        judge = model_judge(self.config, self.model, self.tokenizer, self.algorithm, self.known_groups)
        return coordinator_of(
            self.config, setting_of(self.config, self.rows, self.start, judge.tokens, self.folder.name), judge,
            self.folder.path, after_round=self.started_from.round, ledgers=self.ledgers,
            events={name: plan.event for name, plan in getattr(self.trainer, "plans", {}).items()},
            tell=lambda one: self._trail.decide(
                one.round, one.decision, one.reason, hospitals=one.hospitals, numbers=one.numbers
            ),
        )  # fmt: skip

    @property
    def _trail(self) -> AuditTrail:
        assert self.audit is not None
        return self.audit

    def _close_audit(
        self, final: FederationState, adapters: Mapping[Path, AdapterState], base: Scores, federated: Scores
    ) -> Head:
        """Enter what came of the run, and sign."""
        files = {place / WEIGHTS: state for place, state in adapters.items()}
        losses: dict[str, float | None] = {"baseline.json": base.loss, "federated.json": federated.loss}
        losses |= dict.fromkeys(("few_shot.json", "comparison.json", CALIBRATION))
        enter_results(self._trail, self.folder, files, losses)
        return self._trail.ended(final.round)

    @functools.cached_property
    def _first(self) -> AdapterState:
        """Where the method begins; Fed-SB's factors take a gradient, which a resumed run need not repeat."""
        return first_adapter(self.config, self.model, self.tokenizer, self.start, self.known_groups)

    def _fresh_state(self) -> FederationState:
        global_state, server_state = self.algorithm.start(self._first)
        return FederationState(round=0, global_state=global_state, server_state=server_state)

    def _losses(self, state: FederationState, scorer: Scorer) -> Scores:
        adapters = adapters_of(self.algorithm, state, self.rows)
        return scorer.loss_of_each(adapters) if self.algorithm.traits.personal else scorer.loss(_any(adapters))

    def _score(self, final: FederationState, scorer: Scorer) -> Scores:
        """The final scores. A personal method has no shared adapter that could answer for all: its losses alone."""
        if self.algorithm.traits.personal:
            return self._cached(
                "federated.json", "scoring each hospital's adapter", 1, lambda _: self._losses(final, scorer)
            )
        adapter = _any(adapters_of(self.algorithm, final, self.rows))
        return self._cached(
            "federated.json",
            "scoring the shared adapter",
            scorer.rows_with_answers,
            lambda on_rows: scorer.full(adapter, on_rows),
        )

    def _export(self, final: FederationState) -> dict[Path, AdapterState]:
        """Write the shared adapter, or where the method is personal every hospital's own; folder -> adapter."""
        adapters = adapters_of(self.algorithm, final, self.rows)
        if self.algorithm.traits.personal:
            placed = {self.folder.hospital_adapter(name): state for name, state in adapters.items()}
        else:
            placed = {self.folder.adapter: _any(adapters)}
        for place, state in placed.items():
            save_adapter(state, place, self.model)
        return placed

    def _write_lines(
        self, history: Sequence[RoundReport], held_out: Mapping[str, Mapping[str, float]], tracker: MetricsTracker
    ) -> None:
        """Bring ``rounds.jsonl`` and the metrics up to the history."""
        lines = [line for report in history for line in round_lines(report, held_out)]
        write_atomic(self.folder.path / "rounds.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
        known = tracker.logged()
        for line in lines:
            if (line["round"], line["hospital"]) not in known:
                tracker.log_round(**line)

    def _baseline(self, scorer: Scorer) -> tuple[Scores, Scores | None]:
        base = self._cached("baseline.json", "scoring the base model", scorer.rows_with_answers, scorer.base)
        if not scorer.has_examples:
            return base, None
        what = "scoring the base model with worked examples"
        return base, self._cached("few_shot.json", what, scorer.rows, scorer.few_shot)

    def _calibration(self, state: AdapterState) -> dict[str, Any] | None:
        """What the confidence of the shared adapter is worth, kept as ``calibration.json``; None where it is off."""
        if not self.config.training.evaluation.calibration_items:
            return None
        known: dict[str, Any] | None = self.folder.read_json(CALIBRATION)
        if known is None:
            known = not_calibrated("a personal method has no shared adapter")
            if not self.algorithm.traits.personal:
                set_adapter_state(self.model, state, any_rank=True)
                items = calibration_items(self.records, self.config)
                with track("calibrating confidence", CHOICES * len(items)) as advance:
                    known = calibrate_run(self.model, self.tokenizer, items, self.config, advance)
            self.folder.write_json(CALIBRATION, known)
        return known

    def _samples(self, state: AdapterState, scorer: Scorer) -> list[dict[str, Any]]:
        """Guarded answers to held-out questions, as a person would get them."""
        if not scorer.sample_questions:
            return []
        set_adapter_state(self.model, state, any_rank=True)
        assistant = MedicalAssistant(
            self.model, self.tokenizer, config=self.config, run=self.folder.name, model_name=self.config.model.name,
            calibrator=read_calibrator(self.folder.path / CALIBRATION),
        )  # fmt: skip
        with track("answering two questions" if len(scorer.sample_questions) == 2 else "answering questions"):
            answers = assistant.ask_many(scorer.sample_questions)
        return [
            {"question": question, **dataclasses.asdict(answer)}
            for question, answer in zip(scorer.sample_questions, answers, strict=True)
        ]

    def _references(self, train: Mapping[str, Records], scorer: Scorer) -> dict[str, Any]:
        done: dict[str, Any] = self.folder.read_json("comparison.json") or {}
        references = References(
            self.model, self.tokenizer, self.start, self._fresh_state(), train, self.rows, scorer, self.config
        )
        for name in self.compare:
            if name not in done:
                what = f"training the reference '{name}'"
                with track(what, references.steps(name)) as advance, self.clock.phase(f"reference_{name}"):
                    done[name] = references.run(name, advance)
                self.folder.write_json("comparison.json", done)
        return {name: done[name] for name in self.compare}

    def _write_status(self, status: str, reason: str | None = None) -> None:
        known = self.folder.read_json("summary.json") or {"run_id": self.folder.name}
        self.folder.write_json("summary.json", known | {"status": status, "reason": reason})


def _any(adapters: Mapping[str, AdapterState]) -> AdapterState:
    return next(iter(adapters.values()))


def _nothing(*_: Any) -> None:
    """No progress to show yet."""


def _show(advance: Step, shared: bool) -> OnStep:
    started, tokens = time.perf_counter(), 0

    def on_step(job: LocalJob, step: int, steps: int, result: StepResult) -> None:
        nonlocal tokens  # of all hospitals: several end a step at the same moment
        tokens += result.tokens
        rate = round(tokens / (time.perf_counter() - started))
        where: dict[str, Any] = {"round": f"{job.round}/{job.rounds}", "hospital": job.hospital}
        advance(**where | ({"loss": round(result.loss, 3), "tokens_per_s": rate} if shared else {}))

    return on_step

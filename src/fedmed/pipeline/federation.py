"""The main job: hospitals on this machine fine-tune one model together, and the run folder tells what came of it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedmed.agent.metrics import MetricsTracker
from fedmed.config.load import config_digest
from fedmed.config.schema import FedMedConfig
from fedmed.data.federated_split import create_federated_split
from fedmed.data.load_dataset import load_medical_dataset
from fedmed.errors import ConfigChangedError, RunError
from fedmed.evaluation.report import write_report
from fedmed.evaluation.statistics import relative_gain
from fedmed.federated.algorithms import get_algorithm
from fedmed.federated.checkpoint import load_latest, save_round
from fedmed.federated.runner import AllOrSampled, FederationState, run_rounds
from fedmed.federated.simulation import SimulationTransport
from fedmed.model.adapter import adapter_sha256, get_adapter_state, save_adapter, set_adapter_state
from fedmed.model.load_model import shared_model
from fedmed.pipeline.comparison import REFERENCES, References
from fedmed.pipeline.model_card import model_card
from fedmed.pipeline.run_folder import RunFolder, environment, new_run_name, peak_rss_mb, resume_run, start_run
from fedmed.pipeline.scoring import Records, Scorer, Scores, encode
from fedmed.safety.assistant import MedicalAssistant
from fedmed.training.local_train import OnStep, PeftLocalTrainer
from fedmed.training.stepper import StepResult
from fedmed.training.steps import steps_per_round
from fedmed.types import AdapterState, LocalJob, RoundReport
from fedmed.utils.console import Step, track
from fedmed.utils.files import folder_lock, write_atomic
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
    """Wall seconds by phase."""

    def __init__(self, spent: Mapping[str, float] | None = None) -> None:
        self.spent: dict[str, float] = dict(spent or {})

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
    path = out or DEFAULT_ROOT / new_run_name(recipe)
    with start_run(path, config) as folder:
        return _Run(folder, config, compare, command).carry_out()


def resume_federation(path: Path, *, asked: FedMedConfig | None = None, compare: Sequence[str] = ()) -> Outcome:
    """Go on with an unfinished run from its last whole round; ends with the adapter of a run left alone.

    Raises:
        RunNotFoundError, RunFinishedError, RunBusyError, ConfigChangedError: the settings or the data changed.
    """
    with resume_run(path, asked) as (folder, config):
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

    def carry_out(self) -> Outcome:
        started = time.perf_counter()
        try:
            with self.clock.phase("load"):
                train, scorer = self._prepare()
            self._write_status("running")
            with self.clock.phase("baseline_eval"):
                base, few_shot = self._baseline(scorer)
            with self.clock.phase("train"):
                final = self._train(train, scorer)
            with self.clock.phase("eval"):
                save_adapter(final.global_state, self.folder.adapter, self.model)
                federated = self._cached(
                    "federated.json", "scoring the shared adapter", lambda: scorer.full(final.global_state)
                )
                samples = self._samples(final.global_state, scorer)
            comparison = self._references(train, scorer) if self.compare else None
            self.clock.spent["total"] = time.perf_counter() - started
            summary = self._summary(final, base, few_shot, federated, comparison, samples)
            self.folder.write_json("summary.json", summary)
            summary = json.loads(
                self.folder.summary_file.read_text(encoding="utf-8")
            )  # as a reader of the file gets it
        except BaseException as error:
            if self.folder.worth_keeping():
                with contextlib.suppress(RunError):  # a disk that is full stays full: the first error is what counts
                    self._write_status("stopped", str(error) or type(error).__name__)
            raise
        write_atomic(self.folder.path / "model_card.md", model_card(summary))
        write_atomic(self.folder.adapter / "README.md", model_card(summary))
        write_report(self.folder.path)
        note_latest(self.folder.path, DEFAULT_ROOT)
        return Outcome(self.folder.path, summary)

    def _prepare(self) -> tuple[dict[str, Records], Scorer]:
        settings, federated = self.config.training.dataset, self.config.federated
        with track("reading records"):
            dataset = load_medical_dataset(
                settings.name, settings.max_samples, seed=federated.seed, test_fraction=settings.test_fraction,
                hub_split=settings.hub_split, columns=settings.columns or None,
            )  # fmt: skip
            with folder_lock(PROCESSED.parent, wait=True):  # two runs may prepare their shares at the same moment
                split = create_federated_split(
                    dataset, federated.num_clients, federated.split, alpha=federated.dirichlet_alpha,
                    seed=federated.seed, out_dir=PROCESSED,
                )  # fmt: skip
                manifest = json.loads((PROCESSED / "manifest.json").read_text(encoding="utf-8"))
        with track("loading the model"):
            self.model, self.tokenizer = shared_model(self.config.model, federated.seed)
        self._remember_data(manifest)
        records: dict[str, Records] = {name: data.to_list() for name, data in split.items()}
        self.start = get_adapter_state(self.model)
        train: dict[str, Records] = {
            name: [row for row in rows if row["split"] == "train"] for name, rows in records.items()
        }
        scorer = Scorer(self.model, self.tokenizer, records, self.config)
        self.written_answers = scorer.written_answers
        return train, scorer

    def _remember_data(self, manifest: dict[str, Any]) -> None:
        """Keep the manifest of the data this run stands on; a resumed run must find the same."""
        known = self.folder.read_json("data_manifest.json")
        if known is None:
            self.folder.write_json("run.json", {"command": self.command, "compare": self.compare})
            self.folder.write_json("data_manifest.json", manifest)
        elif known != manifest:
            raise ConfigChangedError(
                f"the records of {self.config.training.dataset.name} have changed since {self.folder.path} was started",
                "put them back, or start a new run",
            )

    def _cached(self, name: str, what: str, measure: Callable[[], Scores]) -> Scores:
        """A measurement of this run: read where an earlier start of it already made it."""
        known = self.folder.read_json(name)
        if known is None:
            with track(what):
                scores = measure()
            known = dataclasses.asdict(scores)
            self.folder.write_json(name, known)
        return Scores(**known)

    def _train(self, train: Mapping[str, Records], scorer: Scorer) -> FederationState:
        federated, privacy = self.config.federated, self.config.privacy
        digest = config_digest(self.config)
        rows = {name: encode(self.tokenizer, records, self.config) for name, records in train.items()}
        self.num_samples = {name: len(own) for name, own in rows.items()}
        resumed = load_latest(self.folder.path, config_digest=digest)
        start = resumed or FederationState(round=0, global_state=self.start)
        tracker = MetricsTracker(self.folder.name, LOGS)
        tracker.truncate_after(start.round)
        known = tracker.logged()
        every = self.config.training.evaluation.every_rounds if privacy.share_metrics else 0
        held_out: dict[str, dict[str, float]] = self.folder.read_json("held_out.json") or {}
        for line in (line for report in start.history for line in _lines_of(report, held_out)):
            if (line["round"], line["hospital"]) not in known:  # killed between the checkpoint and this line
                tracker.log_round(**line)
        policy = AllOrSampled(
            run_id=self.folder.name, hospitals=tuple(rows), rounds=federated.rounds, seed=federated.seed,
            hospitals_per_round=federated.hospitals_per_round, min_replies=federated.min_replies,
        )  # fmt: skip
        asked = federated.hospitals_per_round or federated.num_clients
        steps = sum(steps_per_round(len(own), self.config.training) for own in rows.values()) * asked / len(rows)
        with track("training", round((federated.rounds - start.round) * steps)) as advance, contextlib.closing(tracker):
            trainer = PeftLocalTrainer(self.model, rows, self.config.training, _show(advance))

            def on_round(state: FederationState, report: RoundReport) -> None:
                save_round(self.folder.path, state, config_digest=digest, keep=federated.keep_rounds)
                if every and report.round % every == 0:
                    held_out[str(report.round)] = scorer.loss(state.global_state).per_hospital
                    self.folder.write_json("held_out.json", held_out)
                lines = [line for past in state.history for line in _lines_of(past, held_out)]
                write_atomic(self.folder.path / "rounds.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
                for line in lines:
                    if line["round"] == report.round:
                        tracker.log_round(**line)

            return run_rounds(
                start, algorithm=get_algorithm(federated),
                transport=SimulationTransport(trainer, start.hospital_states, privacy),
                policy=policy, rounds=federated.rounds, on_round=on_round,
            )  # fmt: skip

    def _baseline(self, scorer: Scorer) -> tuple[Scores, Scores | None]:
        base = self._cached("baseline.json", "scoring the base model", scorer.base)
        if not scorer.has_examples:
            return base, None
        return base, self._cached("few_shot.json", "scoring the base model with worked examples", scorer.few_shot)

    def _samples(self, state: AdapterState, scorer: Scorer) -> list[dict[str, Any]]:
        """Guarded answers to held-out questions, as a person would get them."""
        if not scorer.sample_questions:
            return []
        set_adapter_state(self.model, state)
        assistant = MedicalAssistant(
            self.model, self.tokenizer, config=self.config, run=self.folder.name, model_name=self.config.model.name
        )
        with track("answering two questions" if len(scorer.sample_questions) == 2 else "answering questions"):
            answers = assistant.ask_many(scorer.sample_questions)
        return [
            {"question": question, **dataclasses.asdict(answer)}
            for question, answer in zip(scorer.sample_questions, answers, strict=True)
        ]

    def _references(self, train: Mapping[str, Records], scorer: Scorer) -> dict[str, Any]:
        done: dict[str, Any] = self.folder.read_json("comparison.json") or {}
        for name in self.compare:
            if name not in done:
                with track(f"training the reference '{name}'"), self.clock.phase(f"reference_{name}"):
                    done[name] = References(self.model, self.tokenizer, self.start, train, scorer, self.config).run(
                        name
                    )
                self.folder.write_json("comparison.json", done)
        return {name: done[name] for name in self.compare}

    def _write_status(self, status: str, reason: str | None = None) -> None:
        known = self.folder.read_json("summary.json") or {"run_id": self.folder.name}
        self.folder.write_json("summary.json", known | {"status": status, "reason": reason})

    def _summary(
        self,
        final: FederationState,
        base: Scores,
        few_shot: Scores | None,
        federated: Scores,
        comparison: dict[str, Any] | None,
        samples: list[dict[str, Any]],
    ) -> dict[str, Any]:
        config = self.config
        shared = config.privacy.share_metrics
        gain = relative_gain(
            base.rows, federated.rows, seed=config.federated.seed, few_shot_loss=few_shot.loss if few_shot else None
        )
        trained = [metrics for past in final.history for metrics in past.metrics.values()]
        return {
            "run_id": self.folder.name,
            "status": "finished",
            "seed": config.federated.seed,
            "model": config.model.name,
            "dataset": config.training.dataset.name,
            "algorithm": config.federated.algorithm,
            "hospitals": [{"name": name, "num_samples": count} for name, count in self.num_samples.items()],
            "rounds": final.round,
            "loss": {
                "base": base.loss,
                "federated": federated.loss,
                "per_hospital": {
                    name: {"base": base.per_hospital[name], "federated": federated.per_hospital[name]}
                    for name in base.per_hospital
                }
                if shared
                else None,
            },
            "gain": dataclasses.asdict(gain),
            "evaluation": {
                "few_shot": few_shot
                and {
                    "examples": config.training.evaluation.few_shot,
                    "loss": few_shot.loss,
                    "per_hospital": few_shot.per_hospital if shared else None,
                },
                "multiple_choice": {"base": base.multiple_choice, "federated": federated.multiple_choice},
                "rouge_l": {
                    "base": base.rouge_l,
                    "federated": federated.rouge_l,
                    "n": self.written_answers,
                },
            },
            "comparison": comparison,
            "samples": samples,
            "train_tokens": sum(metrics.tokens for metrics in trained) if shared else None,
            "wall_s": {name: round(seconds, 3) for name, seconds in self.clock.spent.items()},
            "bytes": {
                "up": sum(past.bytes_up for past in final.history),
                "down": sum(past.bytes_down for past in final.history),
            },
            "privacy": {
                "example_epsilon": None,
                "hospital_epsilon": None,
                "delta": None,
                "not_covered": [
                    "the adapter: no differential privacy was applied to it",
                    "held-out losses, also those of each hospital" if shared else "the overall held-out loss",
                    "the number of training records of each hospital",
                    *(["each hospital's training losses and token counts"] if shared else []),
                ],
            },
            "peak_rss_mb": round(peak_rss_mb(), 1),
            "adapter_sha256": adapter_sha256(final.global_state),
            "environment": environment(),
            "command": (self.folder.read_json("run.json") or {}).get("command", ""),
        }


def _lines_of(report: RoundReport, held_out: Mapping[str, Mapping[str, float]]) -> list[dict[str, Any]]:
    """One line a hospital; losses and token counts only of hospitals that share them."""
    lines = []
    for name in report.admitted:
        line: dict[str, Any] = {"round": report.round, "hospital": name}
        if metrics := report.metrics.get(name):
            line |= {key: getattr(metrics, key) for key in ("loss", "tokens", "answer_tokens", "steps", "seconds")}
        scored = held_out.get(str(report.round), {})
        if name in scored:
            line["held_out"] = scored[name]
        lines.append(line)
    return lines


def _show(advance: Step) -> OnStep:
    before = time.perf_counter()

    def on_step(job: LocalJob, step: int, steps: int, result: StepResult) -> None:
        nonlocal before
        now = time.perf_counter()
        rate = round(result.tokens / (now - before))
        before = now
        advance(round=f"{job.round}/{job.rounds}", hospital=job.hospital, loss=round(result.loss, 3), tokens_per_s=rate)

    return on_step

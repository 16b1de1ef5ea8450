"""Runs as models by name, on one base model in memory. safety.assistant, model.adapter_shelf -> HERE -> queue.

``latest`` is the newest run, so a run that ends while the server is up is served without a restart; ``base`` is the
model that its adapter was made for, without it. A run that gave every hospital an adapter is ``run/hospital``.
A name is looked up in a list; what a client writes never becomes a path.
Not covered: two adapters in one pass: questions to different runs take turns.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedmed.config.load import load_config
from fedmed.config.schema import FedMedConfig
from fedmed.errors import RunNotFoundError, ServeError
from fedmed.safety.assistant import MedicalAssistant, adapter_folder, calibrator_of, run_config, run_name
from fedmed.safety.calibrator import CALIBRATION, Calibrator
from fedmed.safety.guarded import as_answer
from fedmed.safety.guardrails import MedicalGuardrails
from fedmed.serving.answers import Question
from fedmed.serving.messages import ApiError
from fedmed.types import Answer
from fedmed.utils.runs import DEFAULT_ROOT, latest_run

if TYPE_CHECKING:
    from fedmed.model.adapter_shelf import AdapterShelf

LATEST, BASE = "latest", "base"
_MOST_BASES = 2  # base models in memory
_ADAPTER = "adapter_model.safetensors"


@dataclass(frozen=True, slots=True)
class _Source:
    """Where a model's answers come from; without a folder, from the base model of the settings alone."""

    folder: Path | None
    hospital: str | None = None
    bare: bool = False  # leave the adapter out

    @property
    def name(self) -> str | None:
        if self.folder is None or self.bare:
            return None
        name = run_name(self.folder)
        return name if self.hospital is None else f"{name}/{self.hospital}"


class RunModels:
    """The runs that are served.

    Args:
        root: where runs lie; all finished ones are served.
        only: these run folders instead, the first by default; then there is no ``latest``.
        base_only: no run at all, the base model of the settings.
        overrides: ``section.key=value`` on top of each run's settings.

    Raises:
        RunNotFoundError: there is no finished run. ServeError: two have one name. ConfigError, SafetyPolicyError.
    """

    def __init__(
        self,
        root: Path = DEFAULT_ROOT,
        *,
        only: Sequence[Path] = (),
        base_only: bool = False,
        overrides: Sequence[str] = (),
    ) -> None:
        self._root, self._only, self._base_only, self._overrides = root, tuple(only), base_only, tuple(overrides)
        self._configs: dict[_Source, tuple[int, FedMedConfig]] = {}
        self._calibrators: dict[_Source, tuple[tuple[int, int], Calibrator | None]] = {}
        self._rails: dict[str, MedicalGuardrails] = {}  # by their settings
        self._shelves: OrderedDict[tuple[Any, ...], tuple[AdapterShelf, Any]] = OrderedDict()
        self._lock = threading.Lock()
        for folder in self._only:
            if not _of_run(folder):
                run_config(folder, self._overrides, None)  # says what is missing
        self._guardrails(self._config(self._source(self.models()[0])))

    def models(self) -> list[str]:
        """The names that a client may ask for, the one meant by default first. Raises RunNotFoundError."""
        return list(self._sources())

    def check(self, model: str) -> None:
        """Raises ApiError (404) where no model has this name."""
        self._source(model)

    def load(self) -> None:
        """Put the default model into memory. Raises ModelError."""
        source = self._source(self.models()[0])
        shelf, _ = self._shelf(self._config(source))
        with shelf.using(_adapter_of(source)):
            pass

    def at_once(self, question: Question) -> Answer | None:
        """The answer that needs no model; None for all others."""
        source = self._source(question.model)
        config = self._config(source)
        decision = self._guardrails(config).answer_without_model(question.text)
        return None if decision is None else as_answer(decision, config.safety, config.model.name, source.name)

    def answer(self, questions: Sequence[Question]) -> list[Answer]:
        """Answers to questions of one group, written in one pass. Raises FedMedError."""
        source = self._source(questions[0].model)
        config = self._config(source)
        shelf, tokenizer = self._shelf(config)
        with shelf.using(_adapter_of(source)) as model:
            assistant = MedicalAssistant(
                model,
                tokenizer,
                config=config,
                run=source.name,
                model_name=config.model.name,
                calibrator=self._calibrator(source),
                guardrails=self._guardrails(config),
            )
            return assistant.ask_many(
                [question.text for question in questions],
                generation=questions[0].generation(config.model.generation),
                seeds=[question.seed for question in questions],
            )

    def _sources(self) -> dict[str, _Source]:
        if self._base_only:
            return {BASE: _Source(None)}
        if self._only:
            found = [source for folder in self._only for source in _of_run(folder)]
        else:
            newest = sorted(self._root.glob("*/summary.json"), key=lambda file: -file.stat().st_mtime_ns)
            found = [source for file in newest for source in _of_run(file.parent)]
        named = {str(source.name): source for source in found}
        if len(named) < len(found):
            raise ServeError("two of the runs have one name", "give --run folders of different names")
        if not self._only:
            latest = _of_run(latest_run(self._root))
            if latest:
                named = {LATEST: latest[0]} | named
        if not named:
            hint = "train one with 'fedmed run', or serve the base model with --base"
            raise RunNotFoundError(f"there is no run with a finished adapter in {self._root}", hint)
        first = next(iter(named.values()))
        return named | {BASE: _Source(first.folder, first.hospital, bare=True)}

    def _source(self, model: str) -> _Source:
        try:
            return self._sources()[model]
        except KeyError:
            hint = "GET /v1/models lists those that there are"
            raise ApiError(404, f"there is no model with this name: {hint}", "model_not_found", param="model") from None

    def _config(self, source: _Source) -> FedMedConfig:
        """The settings of a model, read again when their file has changed."""
        changed = 0 if source.folder is None else (source.folder / "config.yaml").stat().st_mtime_ns
        known = self._configs.get(source)
        if known is not None and known[0] == changed:
            return known[1]
        if source.folder is None:
            config = load_config(None, (), self._overrides)
        else:
            config = run_config(source.folder, self._overrides, source.hospital)
        self._configs[source] = (changed, config)
        return config

    def _calibrator(self, source: _Source) -> Calibrator | None:
        """What states the confidence of a model, read again when its file or its adapter has changed."""
        adapter = _adapter_of(source)
        if source.folder is None or adapter is None:
            return None
        changed = (_changed(source.folder / CALIBRATION), _changed(adapter / _ADAPTER))
        known = self._calibrators.get(source)
        if known is None or known[0] != changed:
            self._calibrators[source] = known = (changed, calibrator_of(source.folder, source.hospital))
        return known[1]

    def _guardrails(self, config: FedMedConfig) -> MedicalGuardrails:
        with self._lock:
            settings = config.safety.model_dump_json(exclude={"release"})  # limits of a release are no rail's
            if settings not in self._rails:
                self._rails[settings] = MedicalGuardrails(config.safety)
            return self._rails[settings]

    def _shelf(self, config: FedMedConfig) -> tuple[AdapterShelf, Any]:
        """The base model of some settings, loaded when it is first asked for; called by one thread at a time."""
        from fedmed.model.adapter_shelf import AdapterShelf
        from fedmed.model.load_model import load_model_and_tokenizer

        key = (config.model.name, config.model.dtype, config.model.device, config.model.quantization)
        if key not in self._shelves:
            while len(self._shelves) >= _MOST_BASES:
                self._shelves.popitem(last=False)
            model, tokenizer = load_model_and_tokenizer(config=config.model)
            self._shelves[key] = (AdapterShelf(model), tokenizer)
        self._shelves.move_to_end(key)
        return self._shelves[key]


def _of_run(folder: Path) -> list[_Source]:
    """What a finished run offers: one model, or one for each hospital; nothing where it is not finished."""
    if not (folder / "config.yaml").is_file():
        return []
    if (folder / "adapter" / _ADAPTER).is_file():
        return [_Source(folder)]
    own = sorted(folder.glob(f"hospitals/*/adapter/{_ADAPTER}"))
    return [_Source(folder, file.parent.parent.name) for file in own]


def _adapter_of(source: _Source) -> Path | None:
    return None if source.folder is None or source.bare else adapter_folder(source.folder, source.hospital)


def _changed(file: Path) -> int:
    """When a file was last written, in ns; 0 where it is not."""
    try:
        return file.stat().st_mtime_ns
    except OSError:
        return 0

"""A model of ours behind its guardrails: input rail, model, confidence, output rail, disclaimer.

Not covered: conversation (each question stands alone), retrieval of sources.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedmed.config.load import default_config, load_config
from fedmed.config.schema import FedMedConfig, GenerationSection, ModelSection
from fedmed.errors import RunNotFoundError
from fedmed.safety.calibrator import CALIBRATION, Calibrator, read_calibrator, settings_digest
from fedmed.safety.confidence import raw_confidence
from fedmed.safety.guarded import WITHHELD_MARK, Written, answer_guarded, as_answer
from fedmed.safety.guardrails import MedicalGuardrails
from fedmed.types import Answer

if TYPE_CHECKING:
    from fedmed.model.inference import Generated

log = logging.getLogger(__name__)

__all__ = ["WITHHELD_MARK", "MedicalAssistant", "answer_at_once", "ask_once"]


class MedicalAssistant:
    """A model behind its guardrails.

    Args:
        model: a causal language model, with or without adapter.
        tokenizer: the model's own.
        config: settings; its model and safety sections are used.
        run: name of the run that made the adapter; None for a base model.
        model_name: how answers name the model.
        calibrator: states confidence; None, or one fitted on answers written otherwise: it is not calibrated.
        guardrails: those of the settings, where they are there already.

    Raises:
        SafetyPolicyError: the policy file of the settings cannot be used.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        config: FedMedConfig,
        run: str | None = None,
        model_name: str,
        calibrator: Calibrator | None = None,
        guardrails: MedicalGuardrails | None = None,
    ) -> None:
        self.guardrails = guardrails or MedicalGuardrails(config.safety)
        self.config = config
        self.run = run
        self.model_name = model_name
        self._model = model
        self._tokenizer = tokenizer
        self.calibrator = _that_fits(calibrator, config)

    @classmethod
    def from_run(
        cls, run_folder: Path, overrides: Sequence[str] = (), *, hospital: str | None = None
    ) -> MedicalAssistant:
        """The adapter of a finished run on its base model.

        Args:
            run_folder: holds ``config.yaml`` and ``adapter/``, or ``hospitals/<name>/adapter/``.
            hospital: whose adapter, where a personal method gave every hospital its own.
            overrides: ``section.key=value`` on top of the run's settings.

        Raises:
            RunNotFoundError: the folder has no finished adapter. ConfigError, ModelError, SafetyPolicyError.
            DataFormatError: its ``calibration.json`` is damaged.
        """
        config = run_config(run_folder, overrides, hospital)
        calibrator = calibrator_of(run_folder, hospital)
        from fedmed.model.adapter import attach_adapter
        from fedmed.model.load_model import load_model_and_tokenizer

        base, tokenizer = load_model_and_tokenizer(config=config.model)
        model = attach_adapter(base, adapter_folder(run_folder, hospital))
        return cls(
            model, tokenizer, config=config, run=run_name(run_folder), model_name=config.model.name,
            calibrator=calibrator,
        )  # fmt: skip

    @classmethod
    def from_base(cls, config: FedMedConfig) -> MedicalAssistant:
        """The base model of the settings, without adapter. Raises ModelError, SafetyPolicyError."""
        from fedmed.model.load_model import load_model_and_tokenizer

        model, tokenizer = load_model_and_tokenizer(config=config.model)
        return cls(model, tokenizer, config=config, run=None, model_name=config.model.name)

    def ask(self, question: str, *, show_withheld: bool = False) -> Answer:
        """Answer one question.

        Args:
            question: plain text.
            show_withheld: append a withheld text, marked as such; for professionals.

        Returns:
            ``answer`` is what the person may see: the model's answer, a kind explanation of why it is withheld, or,
            in an emergency, what to do now. The disclaimer is apart.

        Raises:
            TypeError: the question is not text.
        """
        return self.ask_many([question], show_withheld=show_withheld)[0]

    def ask_many(
        self,
        questions: Sequence[str],
        *,
        show_withheld: bool = False,
        generation: GenerationSection | None = None,
        seeds: Sequence[int] | None = None,
    ) -> list[Answer]:
        """Answer several questions, in their order; those that may reach the model are generated together.

        Args:
            questions: plain text.
            show_withheld: see ``ask``.
            generation: how answers are written; None: as the settings say. Where signals of a calibrator depend on
                what it changes, confidence is not calibrated.
            seeds: of sampling, one a question; None: the seed of the settings for all.
        """
        config = self.config.model
        if generation is not None:
            config = config.model_copy(update={"generation": generation})

        def write(asked: Mapping[int, str]) -> list[Written]:
            from fedmed.model.inference import generate

            seed = [seeds[place] for place in asked] if seeds is not None else self.config.federated.seed
            texts = list(asked.values())
            made = generate(self._model, self._tokenizer, texts, model_config=config, seed=seed)
            return self._with_confidence(texts, made, config, seed)

        return answer_guarded(
            questions,
            write,
            guardrails=self.guardrails,
            model_name=self.model_name,
            run=self.run,
            show_withheld=show_withheld,
        )

    def _with_confidence(
        self, questions: Sequence[str], made: Sequence[Generated], config: ModelSection, seed: int | Sequence[int]
    ) -> list[Written]:
        """Calibrated, or the mean token probability where no calibrator fits; questions as the model read them."""
        calibrator = self.calibrator
        if calibrator is not None and config is not self.config.model and not _fits(calibrator, config):
            calibrator = None
        if calibrator is None:
            sure = [raw_confidence(generated.token_logprobs) for generated in made]
        else:
            from fedmed.safety.signals import read_signals

            signals = read_signals(
                self._model, self._tokenizer, questions, model_config=config, answers=made, samples=calibrator.samples,
                seed=seed,
            )  # fmt: skip
            sure = [calibrator.confidence(own) for own in signals]
        return [
            Written(
                text=generated.text,
                confidence=confidence,
                calibrated=calibrator is not None,
                finished=generated.finished,
                prompt_tokens=generated.prompt_tokens,
                answer_tokens=generated.answer_tokens,
            )
            for generated, confidence in zip(made, sure, strict=True)
        ]


def ask_once(
    question: str,
    run_folder: Path | None,
    *,
    hospital: str | None = None,
    overrides: Sequence[str] = (),
    show_withheld: bool = False,
) -> Answer:
    """Answer one question with the model of a run, loading it only when the question may reach a model.

    Args:
        question: plain text.
        run_folder: a finished run; None: the base model of the settings.
        hospital: see ``MedicalAssistant.from_run``.
        overrides: ``section.key=value`` on top of the settings.
        show_withheld: see ``MedicalAssistant.ask``.

    Raises:
        RunNotFoundError, ConfigError, ModelError, SafetyPolicyError.
    """
    if run_folder is not None:
        config = run_config(run_folder, overrides, hospital)
    else:
        config = load_config(None, (), overrides) if overrides else default_config()
    at_once = answer_at_once(question, config, run=run_name(run_folder) if run_folder else None)
    if at_once is not None:
        return at_once
    if run_folder is not None:
        assistant = MedicalAssistant.from_run(run_folder, overrides, hospital=hospital)
    else:
        assistant = MedicalAssistant.from_base(config)
    return assistant.ask(question, show_withheld=show_withheld)


def answer_at_once(question: str, config: FedMedConfig, *, run: str | None = None) -> Answer | None:
    """The answer that needs no model, such as what to do in an emergency; None where a model has to be asked."""
    decision = MedicalGuardrails(config.safety).answer_without_model(question)
    return None if decision is None else as_answer(decision, config.safety, config.model.name, run)


def run_name(run_folder: Path) -> str:
    """How answers name a run."""
    return run_folder.resolve().name


def adapter_folder(run_folder: Path, hospital: str | None) -> Path:
    """Where the adapter of a run, or of one hospital in it, lies."""
    return run_folder / "adapter" if hospital is None else run_folder / "hospitals" / hospital / "adapter"


def run_config(run_folder: Path, overrides: Sequence[str], hospital: str | None) -> FedMedConfig:
    """The settings of a run that has a finished adapter. Raises RunNotFoundError, ConfigError."""
    adapter = adapter_folder(run_folder, hospital)
    needed = (run_folder / "config.yaml", adapter / "adapter_config.json", adapter / "adapter_model.safetensors")
    if not all(file.is_file() for file in needed):
        own = sorted(path.parent.name for path in run_folder.glob("hospitals/*/adapter"))
        if own:
            raise RunNotFoundError(
                f"{run_folder} has an adapter for each hospital, not a shared one"
                if hospital is None
                else f"{run_folder} has no adapter for '{hospital}'",
                f"choose one with --hospital: {', '.join(own)}",
            )
        if hospital is not None:
            raise RunNotFoundError(f"{run_folder} has one shared adapter", "leave out --hospital")
        hint = "finish it with 'fedmed run --resume', or ask the base model with 'fedmed ask --base'"
        raise RunNotFoundError(f"{run_folder} has no finished adapter", hint)
    return load_config(None, [run_folder / "config.yaml"], overrides)


def calibrator_of(run_folder: Path, hospital: str | None) -> Calibrator | None:
    """The calibrator of a run; None where it has none, or one of another adapter.

    Raises:
        DataFormatError: its file is damaged. ModelNotFoundError, ModelCorruptError: the adapter cannot be read.
    """
    calibrator = read_calibrator(run_folder / CALIBRATION)
    if calibrator is None:
        return None
    from fedmed.model.adapter import adapter_sha256, load_adapter

    if calibrator.adapter == adapter_sha256(load_adapter(adapter_folder(run_folder, hospital))):
        return calibrator
    log.warning("%s was made for another adapter: confidence is not calibrated", run_folder / CALIBRATION)
    return None


def _that_fits(calibrator: Calibrator | None, config: FedMedConfig) -> Calibrator | None:
    if calibrator is None or _fits(calibrator, config.model):
        return calibrator
    log.warning("the calibrator was fitted on answers of another prompt or sampling: confidence is not calibrated")
    return None


def _fits(calibrator: Calibrator, config: ModelSection) -> bool:
    return calibrator.settings == settings_digest(config)

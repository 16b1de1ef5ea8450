"""The only public way to an answer: input rail, model, confidence, output rail, disclaimer.

Not covered: conversation (each question stands alone), retrieval of sources.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedmed.config.load import default_config, load_config
from fedmed.config.schema import FedMedConfig
from fedmed.errors import RunNotFoundError
from fedmed.safety.calibrator import CALIBRATION, Calibrator, read_calibrator, settings_digest
from fedmed.safety.confidence import raw_confidence
from fedmed.safety.guardrails import Decision, MedicalGuardrails
from fedmed.safety.rails import RailHit
from fedmed.types import Answer

log = logging.getLogger(__name__)

WITHHELD_MARK = "[WITHHELD TEXT, for professionals only: the guardrails did not let it pass]"

_CUT_OFF = RailHit("text.cut_off", "low", "annotate", "the answer stops at the length limit, before its end")


class MedicalAssistant:
    """A model behind its guardrails.

    Args:
        model: a causal language model, with or without adapter.
        tokenizer: the model's own.
        config: settings; its model and safety sections are used.
        run: name of the run that made the adapter; None for a base model.
        model_name: how answers name the model.
        calibrator: states confidence; None, or one fitted on answers written otherwise: it is not calibrated.

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
    ) -> None:
        self.guardrails = MedicalGuardrails(config.safety)
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
        config = _run_config(run_folder, overrides, hospital)
        calibrator = read_calibrator(run_folder / CALIBRATION)
        from fedmed.model.adapter import attach_adapter
        from fedmed.model.load_model import load_model_and_tokenizer

        base, tokenizer = load_model_and_tokenizer(config=config.model)
        model = attach_adapter(base, _adapter_folder(run_folder, hospital))
        if calibrator is not None and not _made_for(calibrator, model):
            log.warning("%s was made for another adapter: confidence is not calibrated", run_folder / CALIBRATION)
            calibrator = None
        return cls(
            model, tokenizer, config=config, run=_run_name(run_folder), model_name=config.model.name,
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

    def ask_many(self, questions: Sequence[str], *, show_withheld: bool = False) -> list[Answer]:
        """Answer several questions, in their order; those that may reach the model are generated together."""
        from fedmed.model.inference import generate

        decisions = [self.guardrails.answer_without_model(question) for question in questions]
        answers: list[Answer | None] = [self._answer(found) if found else None for found in decisions]
        open_ones = [index for index, answer in enumerate(answers) if answer is None]
        if not open_ones:
            return [answer for answer in answers if answer is not None]
        asked = [self.guardrails.question_for_model(questions[index]) for index in open_ones]
        made = generate(
            self._model,
            self._tokenizer,
            asked,
            model_config=self.config.model,
            seed=self.config.federated.seed,
        )
        sure = self._confidences(asked, made)
        for index, generated, confidence in zip(open_ones, made, sure, strict=True):
            decision = self.guardrails.assess(
                questions[index],
                generated.text,
                confidence,
                notes=() if generated.finished else (_CUT_OFF,),
            )
            answers[index] = self._answer(decision, generated.text if show_withheld else None)
        return [answer for answer in answers if answer is not None]

    def _confidences(self, questions: Sequence[str], made: Sequence[Any]) -> list[float]:
        """Calibrated, or the mean token probability where there is no calibrator; questions as the model read them."""
        if self.calibrator is None:
            return [raw_confidence(generated.token_logprobs) for generated in made]
        from fedmed.safety.signals import read_signals

        signals = read_signals(
            self._model, self._tokenizer, questions, model_config=self.config.model, answers=made,
            samples=self.calibrator.samples, seed=self.config.federated.seed,
        )  # fmt: skip
        return [self.calibrator.confidence(own) for own in signals]

    def _answer(self, decision: Decision, withheld: str | None = None) -> Answer:
        calibrated = self.calibrator is not None and decision.raw_confidence is not None
        return _as_answer(decision, self.config, self.model_name, self.run, withheld, calibrated=calibrated)


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
        config = _run_config(run_folder, overrides, hospital)
    else:
        config = load_config(None, (), overrides) if overrides else default_config()
    at_once = answer_at_once(question, config, run=_run_name(run_folder) if run_folder else None)
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
    return None if decision is None else _as_answer(decision, config, config.model.name, run, None)


def _run_name(run_folder: Path) -> str:
    return run_folder.resolve().name


def _adapter_folder(run_folder: Path, hospital: str | None) -> Path:
    return run_folder / "adapter" if hospital is None else run_folder / "hospitals" / hospital / "adapter"


def _run_config(run_folder: Path, overrides: Sequence[str], hospital: str | None) -> FedMedConfig:
    adapter = _adapter_folder(run_folder, hospital)
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


def _as_answer(
    decision: Decision, config: FedMedConfig, model_name: str, run: str | None, withheld: str | None,
    *, calibrated: bool = False,
) -> Answer:  # fmt: skip
    text = decision.text
    if withheld and not decision.allowed:
        text = f"{text}\n\n{WITHHELD_MARK}\n{withheld.strip()}"
    return Answer(
        answer=text,
        allowed=decision.allowed,
        reasons=decision.reasons,
        confidence=decision.confidence,
        disclaimer=config.safety.disclaimer,
        model=model_name,
        run=run,
        raw_confidence=decision.raw_confidence,
        calibrated=calibrated,
    )


def _made_for(calibrator: Calibrator, model: Any) -> bool:
    from fedmed.model.adapter import adapter_sha256, get_adapter_state

    return calibrator.adapter == adapter_sha256(get_adapter_state(model))


def _that_fits(calibrator: Calibrator | None, config: FedMedConfig) -> Calibrator | None:
    if calibrator is not None and calibrator.settings != settings_digest(config.model):
        log.warning("the calibrator was fitted on answers of another prompt or sampling: confidence is not calibrated")
        return None
    return calibrator

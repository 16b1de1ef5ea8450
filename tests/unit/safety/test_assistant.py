from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from fedmed.config.load import dump_config
from fedmed.config.schema import FedMedConfig
from fedmed.errors import ConfigError, RunNotFoundError
from fedmed.safety.assistant import WITHHELD_MARK, MedicalAssistant, ask_once

pytestmark = pytest.mark.unit

GOOD = "A thickening of the heart muscle."
EMERGENCY = "I have crushing chest pain that spreads to my left arm"


class Model:
    """Stands in for fedmed.model.inference: says what it is told to, and remembers what it was asked."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.text = GOOD
        self.probability = 0.6
        self.finished = True

    def generate(self, model: Any, tokenizer: Any, questions: Sequence[str], **settings: Any) -> list[SimpleNamespace]:
        assert settings["model_config"].name
        self.batches.append(list(questions))
        logprobs = (math.log(self.probability),) * 5
        made = SimpleNamespace(
            text=self.text, token_logprobs=logprobs, finished=self.finished, prompt_tokens=7, answer_tokens=5
        )
        return [made] * len(questions)


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Model:
    fake = Model()
    module = ModuleType("fedmed.model.inference")
    module.generate = fake.generate  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "fedmed.model.inference", module)
    return fake


@pytest.fixture
def assistant(model: Model) -> MedicalAssistant:
    return MedicalAssistant(None, None, config=FedMedConfig(), run="first", model_name="tiny")


def test_a_plain_question_gets_the_model_s_answer(assistant: MedicalAssistant) -> None:
    answer = assistant.ask("What is hypertrophic cardiomyopathy?")
    assert (answer.answer, answer.allowed, answer.reasons) == (GOOD, True, ())
    assert answer.confidence == pytest.approx(0.6)
    assert (answer.model, answer.run) == ("tiny", "first")
    assert "not medical advice" in answer.disclaimer
    assert answer.disclaimer not in answer.answer


def test_an_emergency_never_reaches_the_model(assistant: MedicalAssistant, model: Model) -> None:
    answer = assistant.ask(EMERGENCY)
    assert model.batches == []
    assert not answer.allowed
    assert "911" in answer.answer
    assert answer.confidence is None


def test_an_unsafe_answer_is_not_shown(assistant: MedicalAssistant, model: Model) -> None:
    model.text = "You have cancer."
    answer = assistant.ask("What is wrong with me?")
    assert not answer.allowed
    assert "You have cancer" not in answer.answer
    assert answer.reasons[0].startswith("diagnosis.stated: ")


def test_a_withheld_text_is_shown_only_on_request_and_marked(assistant: MedicalAssistant, model: Model) -> None:
    model.text = "You have cancer."
    answer = assistant.ask("What is wrong with me?", show_withheld=True)
    assert not answer.allowed
    before, mark, after = answer.answer.partition(WITHHELD_MARK)
    assert "You have cancer" not in before
    assert mark
    assert after.strip() == "You have cancer."


def test_an_allowed_answer_is_not_marked(assistant: MedicalAssistant) -> None:
    assert assistant.ask("What is a stroke?", show_withheld=True).answer == GOOD


def test_an_unsure_model_says_so(assistant: MedicalAssistant, model: Model) -> None:
    model.probability = 0.1
    answer = assistant.ask("What is a stroke?")
    assert not answer.allowed
    assert answer.confidence == pytest.approx(0.1)
    assert "unsure" in answer.answer


def test_a_very_sure_model_is_not_quoted_as_certain(assistant: MedicalAssistant, model: Model) -> None:
    model.probability = 0.999
    answer = assistant.ask("What is a stroke?")
    assert answer.allowed
    assert answer.confidence == 0.95
    assert answer.reasons[0].startswith("confidence.capped: ")


def test_an_answer_that_was_cut_off_says_so(assistant: MedicalAssistant, model: Model) -> None:
    model.finished = False
    answer = assistant.ask("What is a stroke?")
    assert answer.allowed
    assert answer.reasons[0].startswith("text.cut_off: ")


def test_many_questions_are_answered_in_their_order_and_together(assistant: MedicalAssistant, model: Model) -> None:
    questions = [f"What is disease {number}?" for number in range(10)]
    questions[3] = EMERGENCY
    answers = assistant.ask_many(questions)
    assert [answer.allowed for answer in answers] == [number != 3 for number in range(10)]
    assert [len(batch) for batch in model.batches] == [9]
    assert EMERGENCY not in [question for batch in model.batches for question in batch]


def test_no_questions_no_answers(assistant: MedicalAssistant, model: Model) -> None:
    assert assistant.ask_many([]) == []


def test_a_question_that_is_not_text_is_a_type_error(assistant: MedicalAssistant) -> None:
    with pytest.raises(TypeError, match="question must be text"):
        assistant.ask(None)  # type: ignore[arg-type]


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "second"
    (folder / "adapter").mkdir(parents=True)
    (folder / "config.yaml").write_text(dump_config(FedMedConfig(), {"seed": 17}), encoding="utf-8")
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (folder / "adapter" / name).write_bytes(b"")
    return folder


@pytest.fixture
def loading(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Stands in for loading a base model and an adapter; remembers what was loaded."""
    seen: list[str] = []

    def module(name: str, function: str, body: Callable[..., Any]) -> None:
        made = ModuleType(name)
        setattr(made, function, body)
        monkeypatch.setitem(sys.modules, name, made)

    def load(name: str | None = None, *, config: Any = None) -> tuple[str, str]:
        seen.append(config.name)
        return "base", "tokenizer"

    def attach(base: str, folder: Path) -> str:
        seen.append(folder.name)
        return f"{base}+adapter"

    module("fedmed.model.load_model", "load_model_and_tokenizer", load)
    module("fedmed.model.adapter", "attach_adapter", attach)
    return seen


def test_a_run_is_its_base_with_its_adapter(run_folder: Path, loading: list[str], model: Model) -> None:
    answer = MedicalAssistant.from_run(run_folder).ask("What is a stroke?")
    assert loading == ["builtin:gemma-3-270m", "adapter"]
    assert (answer.run, answer.model) == ("second", "builtin:gemma-3-270m")


def test_asking_once_loads_the_model_for_a_plain_question_only(
    run_folder: Path, loading: list[str], model: Model
) -> None:
    emergency = ask_once(EMERGENCY, run_folder)
    assert not emergency.allowed
    assert emergency.run == "second"
    assert loading == []
    assert ask_once("What is a stroke?", run_folder).allowed
    assert loading == ["builtin:gemma-3-270m", "adapter"]


def test_the_base_model_can_be_asked_without_a_run(loading: list[str], model: Model) -> None:
    answer = ask_once("What is a stroke?", None, overrides=["safety.min_confidence=0.5"])
    assert answer.allowed
    assert answer.run is None
    assert loading == ["builtin:gemma-3-270m"]


def test_a_setting_can_be_overridden_for_one_question(run_folder: Path, loading: list[str], model: Model) -> None:
    assert not ask_once("What is a stroke?", run_folder, overrides=["safety.min_confidence=0.7"]).allowed


def test_a_wrong_override_is_a_config_error(run_folder: Path) -> None:
    with pytest.raises(ConfigError, match="min_confidense"):
        ask_once("What is a stroke?", run_folder, overrides=["safety.min_confidense=0.7"])


@pytest.mark.parametrize("missing", ["config.yaml", "adapter/adapter_config.json", "adapter/adapter_model.safetensors"])
def test_a_run_without_a_finished_adapter_is_not_found(run_folder: Path, missing: str) -> None:
    (run_folder / missing).unlink()
    with pytest.raises(RunNotFoundError, match="second has no finished adapter"):
        MedicalAssistant.from_run(run_folder)

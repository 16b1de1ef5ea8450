"""A run calibrates its confidence, keeps the calibrator, and answers are stated with it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from fedmed.cli.app import main
from fedmed.config.load import load_config
from fedmed.errors import DataFormatError
from fedmed.pipeline.calibration import FOLDS, Examined, cross_fitted, folds
from fedmed.pipeline.federation import run_federation
from fedmed.safety.assistant import WITHHELD_MARK, MedicalAssistant
from fedmed.safety.calibrator import read_calibrator

pytestmark = pytest.mark.integration

TINY = [
    "model.name=builtin:tiny-llama", "model.generation.max_new_tokens=8", "training.max_steps=2",
    "training.learning_rate=0.01", "training.evaluation.max_records_per_hospital=3",
    "training.evaluation.multiple_choice_items=0", "training.evaluation.generated_answers=0",
    "training.evaluation.few_shot=0", "training.evaluation.calibration_items=120", "federated.rounds=1",
    "training.threads=1", "training.dataset.name=records.jsonl", "training.dataset.gate.unscanned=true",
    "training.dataset.test_fraction=0.6",
]  # fmt: skip
QUESTION = "What is sign 3 of the heart?"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("calibrated")
    lines = [
        {
            "question": f"What is sign {i} of the {organ}?", "answer": f"Sign {i} of the {organ}.",
            "specialty": organ, "kind": "definition",
        }
        for i in range(130)
        for organ in ("heart", "lung")
    ]  # fmt: skip
    (folder / "records.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run_federation(load_config(None, (), TINY), out=Path("out"))
    return folder


@pytest.fixture
def here(place, monkeypatch):
    monkeypatch.chdir(place)
    return place


def asked(capsys, *words) -> dict:
    capsys.readouterr()
    assert main(["ask", QUESTION, "--json", *words]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_run_folder_holds_a_calibrator_and_what_it_is_worth(here):
    found = json.loads(Path("out/calibration.json").read_text())
    made = read_calibrator(Path("out/calibration.json"))
    assert made is not None
    assert found["measured"]["answers"] == made.fitted_on == 120
    summary = json.loads(Path("out/summary.json").read_text())
    assert summary["confidence"]["calibrated"]
    assert summary["confidence"]["fitted_on"] == made.fitted_on
    assert "calibrator" not in summary["confidence"]
    assert made.adapter == summary["adapter_sha256"]
    assert all(sample["calibrated"] for sample in summary["samples"])
    assert any("calibrator" in text for text in summary["privacy"]["not_covered"])
    assert "Reliability diagram" in Path("out/report.html").read_text()


def test_ask_states_the_calibrated_confidence(here, capsys):
    stated = asked(capsys, "--set", "safety.min_confidence=0.0")["confidence"]
    answer = MedicalAssistant.from_run(Path("out"), ["safety.min_confidence=0.0"]).ask(QUESTION)
    assert answer.calibrated
    assert answer.confidence == pytest.approx(stated)
    assert main(["ask", QUESTION, "--set", "safety.min_confidence=0.0"]) == 0
    assert "not calibrated" not in capsys.readouterr().out


def test_below_the_threshold_the_text_is_shown_on_request_alone_and_marked(here, capsys):
    unsure = ("--set", "safety.min_confidence=0.93", "--set", "safety.max_confidence=0.94")
    hidden, shown = asked(capsys, *unsure), asked(capsys, *unsure, "--show-withheld")
    assert not hidden["allowed"]
    assert not shown["allowed"]
    assert "unsure" in hidden["answer"]
    assert WITHHELD_MARK not in hidden["answer"]
    assert shown["answer"].startswith(hidden["answer"])
    assert WITHHELD_MARK in shown["answer"]


@pytest.mark.parametrize("change", ["removed", "another adapter", "another prompt"])
def test_a_confidence_without_a_calibrator_that_fits_says_so(here, capsys, change):
    shutil.rmtree("copy", ignore_errors=True)
    shutil.copytree("out", "copy")
    words = ["--run", "copy", "--set", "safety.min_confidence=0.0"]
    if change == "removed":
        Path("copy/calibration.json").unlink()
    elif change == "another adapter":
        found = json.loads(Path("copy/calibration.json").read_text())
        found["calibrator"]["adapter"] = "0" * 64
        Path("copy/calibration.json").write_text(json.dumps(found))
    else:
        words += ["--set", "model.prompt_template=Ask {question}"]
    assert main(["ask", QUESTION, *words]) == 0
    assert "not calibrated" in capsys.readouterr().out


def test_a_damaged_calibrator_stops_ask_in_one_line(here, capsys):
    shutil.rmtree("copy", ignore_errors=True)
    shutil.copytree("out", "copy")
    Path("copy/calibration.json").write_text(Path("out/calibration.json").read_text()[:200])
    assert main(["ask", QUESTION, "--run", "copy"]) == DataFormatError.exit_code
    said = capsys.readouterr()
    assert "copy/calibration.json" in said.err
    assert "Traceback" not in said.err


def test_too_few_questions_are_said_and_cost_nothing(here, capsys):
    summary = run_federation(
        load_config(None, (), [*TINY, "training.evaluation.calibration_items=20"]), out=Path("few")
    ).summary
    assert summary["confidence"]["calibrated"] is False
    assert "20 held-out questions" in summary["confidence"]["reason"]
    assert "not calibrated in this run" in Path("few/report.html").read_text()
    assert read_calibrator(Path("few/calibration.json")) is None


def test_parts_are_about_equal_and_share_no_group():
    found = [Examined(f"g{number // 3}", {}, True) for number in range(300)]
    own = folds(found, 17)
    assert sorted(set(own)) == list(range(FOLDS))
    assert len({(one.group, part) for one, part in zip(found, own, strict=True)}) == 100
    assert all(own.count(part) == 300 // FOLDS for part in range(FOLDS))
    assert folds(list(reversed(found)), 17) == list(reversed(own))


def test_no_answer_is_stated_by_a_fit_that_saw_its_outcome():
    """Other outcomes in one part leave every confidence stated there as it was, and move those elsewhere."""
    config = load_config(None, (), TINY)
    names = ("token_probability", "entropy", "first_entropy", "question_logprob")
    found = [
        Examined(f"g{n}", dict(zip(names, (n % 7 / 7, n % 5, n % 3, -(n % 11)), strict=True)), n % 7 + n % 4 > 4)
        for n in range(200)
    ]
    own = folds(found, config.federated.seed)
    turned = [Examined(one.group, one.signals, one.right ^ (part == 0)) for one, part in zip(found, own, strict=True)]
    plain, other = cross_fitted(found, config), cross_fitted(turned, config)
    assert plain is not None
    assert other is not None
    assert all((left == right) == (part == 0) for left, right, part in zip(plain, other, own, strict=True))


def test_answers_of_one_term_alone_make_no_calibrator():
    config = load_config(None, (), TINY)
    signals = dict.fromkeys(("token_probability", "entropy", "first_entropy", "question_logprob"), 0.0)
    found = [Examined("g", signals | {"entropy": float(n)}, n % 2 == 0) for n in range(60)]
    assert cross_fitted(found, config) is None

"""A blinded sheet of a real run's answers, rated, unblinded by its key and kept with the run."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from fedmed.cli.app import main
from fedmed.config.load import load_config
from fedmed.pipeline.federation import run_federation
from fedmed.pipeline.run_audit import verify_run
from fedmed.pipeline.sign_offs import release_standing
from fedmed.safety.assistant import MedicalAssistant

pytestmark = pytest.mark.integration
pytest.importorskip("cryptography")

TINY = [
    "model.name=builtin:tiny-llama", "model.generation.max_new_tokens=6", "training.dataset.name=records.jsonl",
    "training.dataset.test_fraction=0.5", "training.max_steps=3", "training.batch_size=4", "training.threads=1",
    "training.gradient_accumulation_steps=1", "training.learning_rate=0.02",
    "training.evaluation.max_records_per_hospital=3", "training.evaluation.multiple_choice_items=0",
    "training.evaluation.generated_answers=0", "training.evaluation.few_shot=0",
    "training.evaluation.calibration_items=0", "training.evaluation.sample_answers=0",
    "training.dataset.gate.unscanned=true", "federated.num_clients=2", "federated.rounds=1",
    "safety.min_confidence=0.0",
]  # fmt: skip
QUESTIONS = [f"What is sign {i} of the lung?" for i in range(8)] + ["I have chest pain and cannot breathe, what now?"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    place = tmp_path_factory.mktemp("made")
    lines = [
        {"question": f"What is sign {i}?", "answer": f"It is sign {i} of the lung.", "group": f"patient {i}"}
        for i in range(40)
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        Path("records.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        run_federation(load_config(None, (), TINY), out=Path("run"))
    return place


@pytest.fixture
def run(made, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("run", "output-models"):
        shutil.copytree(made / name, name)
    asked = [{"id": f"q{place}", "question": question} for place, question in enumerate(QUESTIONS)]
    Path("questions.jsonl").write_text("".join(json.dumps(one) + "\n" for one in asked), encoding="utf-8")
    return Path("run")


def sheet(*more):
    words = ["rate", "sheet", "run", "--questions", "questions.jsonl", "--out", "sheet.html", *more]
    return main(words)


def shown():
    page = Path("sheet.html").read_text(encoding="utf-8")
    return page, json.loads(re.search(r'<script type="application/json" id="sheet">(.*?)</script>', page, re.S)[1])


def ratings(rater, key, right, best="federated", harmful=()):
    """A file as the sheet saves it, by somebody who likes one model."""
    rated = []
    for one in key["questions"]:
        letters = one["letters"]
        answers = {letter: {"correctness": right[name], "harmful": name in harmful} for letter, name in letters.items()}
        chosen = next(letter for letter, name in letters.items() if name == best)
        rated.append({"id": one["id"], "answers": answers, "best": chosen, "whole": True})
    return {"format": 1, "sheet": key["sheet"], "rater": rater, "ratings": rated}


def test_a_sheet_shows_each_models_guarded_answer_and_not_whose_it_is(run, capsys):
    assert sheet() == 67
    assert "fedmed evaluate run --joining" in capsys.readouterr().err
    shutil.copytree(run / "adapter", run / "joining/hospital_B/local")
    assert sheet() == 0
    page, data = shown()
    key = json.loads(Path("sheet.key.json").read_text())
    assert oct(Path("sheet.key.json").stat().st_mode)[-3:] == "600"
    assert key["local"] == "hospital_B"
    assert [one["id"] for one in data["questions"]] == [f"q{place}" for place in range(len(QUESTIONS))]
    of = {
        "federated": MedicalAssistant.from_run(run).ask_many(QUESTIONS),
        "base": MedicalAssistant.from_base(load_config(None, [run / "config.yaml"])).ask_many(QUESTIONS),
    }
    for place, (told, solved) in enumerate(zip(data["questions"], key["questions"], strict=True)):
        by_name = {name: told["answers"][ord(letter) - 65] for letter, name in solved["letters"].items()}
        assert by_name["federated"] == of["federated"][place].answer
        assert by_name["base"] == of["base"][place].answer
        assert by_name["local"] == by_name["federated"]  # the same adapter was put there
        assert solved["withheld"] == [
            name for name in ("base", "local", "federated")
            if not of["base" if name == "base" else "federated"][place].allowed
        ]  # fmt: skip
    assert any(of["federated"][place].answer != of["base"][place].answer for place in range(8))
    orders = {tuple(one["letters"].values()) for one in key["questions"]}
    assert len(orders) > 2  # nine questions in one or two of six orders by chance: below 1e-4
    assert not re.search(r"federated|hospital_|\\brun\\b|adapter", json.dumps(data))
    assert key["sheet"][:12] in page


def test_ratings_are_unblinded_kept_with_the_run_and_held_against_the_limits_of_a_release(run, capsys):
    assert sheet("--systems", "base,federated", "--json") == 0
    assert json.loads(capsys.readouterr().out)["questions"] == len(QUESTIONS)
    key = json.loads(Path("sheet.key.json").read_text())
    Path("a.json").write_text(json.dumps(ratings("Dr A", key, {"base": 2, "federated": 4})))
    second = ratings("Dr B", key, {"base": 1, "federated": 5}, harmful=("federated",))
    second["ratings"][0]["best"] = None
    Path("b.json").write_text(json.dumps(second))
    assert main(["rate", "score", "a.json", "b.json", "--key", "sheet.key.json", "--run", "run", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["systems"]["federated"]["preferred"]["value"] == 1.0
    assert found["systems"]["federated"]["correctness"]["value"] == pytest.approx((4 * 9 + 5 * 8) / 17)
    assert found["systems"]["federated"]["harmful"]["answers"] == 8
    assert (found["left_out"], found["raters"]) == (1, 2)
    kept = json.loads((run / "evaluation.json").read_text())["ratings"]
    assert kept["systems"] == found["systems"]
    assert "Dr A" not in json.dumps(kept)
    assert verify_run(run).verdict == "intact"
    assert "2 people rated 9 questions" in (run / "report.html").read_text()
    checks = {one.name: one for one in release_standing(run, ["safety.release.min_raters=3"]).checks}
    assert not checks["raters"].kept
    assert not checks["harmful answers"].kept
    assert checks["harmful answers"].told.startswith("8 of 9")
    assert main(["rate", "score", "a.json", "--key", "sheet.key.json"]) == 0
    assert "one rater agrees with nobody" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "code", "named"),
    [
        (lambda one: one.update(sheet="ab" * 32), 22, "of another sheet"),
        (lambda one: one.update(rater=" "), 22, "does not say who rated"),
        (lambda one: one.update(ratings=[one["ratings"][0]] * 2), 22, "of no question of this sheet, or its second"),
        (lambda one: one.update(ratings=[{"id": "q0", "answers": {"A": 3}, "best": "A"}]), 23, "all of a question"),
        (lambda one: one.update(ratings=7), 22, "holds no ratings"),
    ],
)  # fmt: skip
def test_ratings_that_cannot_be_used_are_named_and_nothing_is_kept(run, capsys, change, code, named):
    assert sheet("--systems", "base,federated") == 0
    spoiled = ratings("Dr A", json.loads(Path("sheet.key.json").read_text()), {"base": 2, "federated": 4})
    change(spoiled)
    Path("a.json").write_text(json.dumps(spoiled))
    capsys.readouterr()
    assert main(["rate", "score", "a.json", "--key", "sheet.key.json", "--run", "run"]) == code
    assert named in capsys.readouterr().err
    assert not (run / "evaluation.json").exists()


def test_a_raters_second_file_a_foreign_key_and_another_runs_sheet_are_refused(run, capsys):
    assert sheet("--systems", "base,federated") == 0
    key = json.loads(Path("sheet.key.json").read_text())
    for name in ("a", "b"):
        Path(f"{name}.json").write_text(json.dumps(ratings("Dr A", key, {"base": 2, "federated": 4})))
    assert main(["rate", "score", "a.json", "b.json", "--key", "sheet.key.json"]) == 22
    assert "b.json is by the same rater as a.json" in capsys.readouterr().err
    assert main(["rate", "score", "a.json", "--key", "a.json"]) == 22
    assert main(["rate", "score", "nobody.json", "--key", "sheet.key.json"]) == 21
    Path("other.key.json").write_text(json.dumps(key | {"adapter_sha256": "ab" * 32}))
    assert main(["rate", "score", "a.json", "--key", "other.key.json", "--run", "run"]) == 66
    assert sheet("--key", "sheet.html") == 2
    assert sheet("--systems", "base") == 2

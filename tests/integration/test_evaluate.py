"""A finished run is evaluated: exams on base and federated, a file, a table, the audit log; bad input is one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fedmed.cli.app import main
from fedmed.config.load import load_config
from fedmed.pipeline.federation import run_federation
from fedmed.training.engine import EngineTrainer

pytestmark = pytest.mark.integration

TINY = [
    "model.name=builtin:tiny-llama", "model.generation.max_new_tokens=8", "training.max_steps=3",
    "training.learning_rate=0.02", "training.evaluation.max_records_per_hospital=10",
    "training.evaluation.multiple_choice_items=0", "training.evaluation.generated_answers=0",
    "training.evaluation.few_shot=0", "training.evaluation.sample_answers=0",
    "training.evaluation.calibration_items=0", "federated.rounds=2", "training.threads=1",
    "training.dataset.name=records.jsonl", "training.dataset.gate.unscanned=true",
    "training.dataset.test_fraction=0.4",
]  # fmt: skip
SUBJECTS = ("anatomy", "virology")


def exam_lines() -> dict[str, list[dict]]:
    asked = [
        {"id": f"m{n}", "question": f"What is sign {n}?", "options": ["one", "two", "three", "four"], "answer": n % 4}
        for n in range(40)
    ]
    return {
        "medqa.jsonl": asked,
        "mmlu_medical.jsonl": [one | {"subject": SUBJECTS[n % 2]} for n, one in enumerate(asked)],
        "pubmedqa.jsonl": [
            {"id": n, "question": f"Is sign {n} so?", "context": f"Sign {n}.", "answer": ("yes", "no", "maybe")[n % 3]}
            for n in range(20)
        ],
    }


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluated")
    rows = [
        {
            "question": f"What is sign {n} of the {organ}?", "answer": f"Sign {n} of the {organ}.",
            "specialty": organ, "kind": "definition",
        }
        for n in range(40)
        for organ in ("heart", "lung", "skin", "eye")
    ]  # fmt: skip
    (folder / "exams").mkdir()
    for name, lines in {"records.jsonl": rows, **{f"exams/{name}": own for name, own in exam_lines().items()}}.items():
        (folder / name).write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("FEDMED_CACHE", str(folder / "cache"))
        run_federation(load_config(None, (), TINY), out=Path("out"))
    return folder


@pytest.fixture
def here(place, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.setenv("FEDMED_CACHE", str(place / "cache"))
    return place


def evaluated(capsys, *words) -> dict:
    capsys.readouterr()
    assert main(["evaluate", "out", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_exams_are_scored_on_base_and_federated_with_intervals(here, capsys):
    found = evaluated(capsys, "--tasks", "medqa,mmlu,pubmedqa", "--data", "exams", "--items", "items.jsonl")
    assert json.loads(Path("out/evaluation.json").read_text()) == found
    exams = found["exams"]
    assert {name: one["items"] for name, one in exams["tasks"].items()} == {"medqa": 40, "mmlu": 40, "pubmedqa": 20}
    lines = [json.loads(line) for line in Path("items.jsonl").read_text().splitlines()]
    for name, one in exams["tasks"].items():
        own = [line for line in lines if line["task"] == name]
        for side in ("base", "federated"):  # once more, from what was written an item
            right = [line[side].index(max(line[side])) == line["gold"] for line in own]
            interval = one["acc"][side]
            assert interval["value"] == pytest.approx(sum(right) / len(right))
            assert interval["low"] <= interval["value"] <= interval["high"]
        assert one["acc"]["delta"]["value"] == pytest.approx(
            one["acc"]["federated"]["value"] - one["acc"]["base"]["value"]
        )
    assert set(exams["tasks"]["mmlu"]["subjects"]) == set(SUBJECTS)
    assert exams["tasks"]["pubmedqa"]["chance"] == pytest.approx(1 / 3)
    assert any(line["base"] != line["federated"] for line in lines)
    summary = json.loads(Path("out/summary.json").read_text())
    assert exams["adapter_sha256"] == summary["adapter_sha256"]
    assert main(["audit", "verify", "out"]) == 0


def test_the_table_names_each_exam_and_says_what_it_does_not_show(here, capsys):
    capsys.readouterr()
    assert main(["evaluate", "out", "--tasks", "medqa,pubmedqa", "--data", "exams", "--limit", "12"]) == 0
    shown = capsys.readouterr().out
    for word in ("medqa", "pubmedqa", "mean", "12", "33.3% by chance", "no exam shows that a model is safe"):
        assert word in shown


def test_held_out_records_are_measured_by_hospital_and_specialty(here, capsys):
    found = evaluated(capsys, "--set", "training.evaluation.generated_answers=8")["held_out"]
    summary = json.loads(Path("out/summary.json").read_text())
    for name, own in summary["loss"]["per_hospital"].items():  # the same records as the run was scored on
        for side in ("base", "federated"):
            assert found["hospitals"][name]["loss"][side]["value"] == pytest.approx(own[side], rel=1e-5)
    assert found["all"]["loss"]["federated"]["value"] == pytest.approx(summary["loss"]["federated"], rel=1e-5)
    assert set(found["specialties"]) == {"heart", "lung", "skin", "eye"}
    assert sum(one["records"] for one in found["specialties"].values()) == found["all"]["records"]
    assert found["all"]["answers"] == 8
    for entry in (found["all"], *found["hospitals"].values(), *found["specialties"].values()):
        for measure in ("loss", "rouge_l", "word_f1"):
            for one in (entry[measure] or {}).values():
                assert one["low"] <= one["value"] <= one["high"]
    losses = {name: one["loss"]["federated"]["value"] for name, one in found["hospitals"].items()}
    fair = found["fairness"]
    assert fair["worst"] == max(losses, key=losses.get)
    assert fair["gap"]["federated"]["value"] == pytest.approx(max(losses.values()) - min(losses.values()))
    assert sorted(fair["harmed"] + fair["gained"] + fair["unclear"] + fair["too_few"]) == sorted(losses)


def test_joining_compares_what_each_hospital_would_have_alone(here, capsys, monkeypatch):
    run = evaluated(capsys, "--held-out", "--joining")
    found = run["joining"]["hospitals"]
    assert set(found) == {"hospital_A", "hospital_B", "hospital_C", "hospital_D"}
    held_out = run["held_out"]["hospitals"]
    for name, one in found.items():
        assert one["shared"]["value"] == pytest.approx(held_out[name]["loss"]["federated"]["value"], rel=1e-5)
        for what in ("shared", "personalised"):
            less = one[f"{what}_less_local"]
            assert less["value"] == pytest.approx(one[what]["value"] - one["local"]["value"])
            said = "helps" if less["high"] < 0 else "harms" if less["low"] > 0 else "unclear"
            said = said if held_out[name]["terms"] >= 10 else "too_few"
            assert one["verdict"][what] == said
    assert "Does joining help each hospital?" in Path("out/report.html").read_text()
    digests = run["joining"]["adapter_sha256"]
    assert all(len(set(own.values())) == 3 for own in digests.values())
    assert len({own["shared"] for own in digests.values()}) == 1
    assert len({own["local"] for own in digests.values()}) == 4
    monkeypatch.setattr(EngineTrainer, "run", None)  # trained adapters are read again, not trained again
    assert evaluated(capsys, "--joining")["joining"]["hospitals"] == found
    assert main(["audit", "verify", "out"]) == 0


def test_what_a_hospital_has_alone_is_the_reference_of_compare(here, capsys, tmp_path):
    run_federation(load_config(None, (), TINY), out=tmp_path / "compared", compare=["local"])
    reference = json.loads((tmp_path / "compared/comparison.json").read_text())["local"]["per_hospital"]
    found = evaluated(capsys, "--joining")["joining"]["hospitals"]
    assert {name: one["local"]["value"] for name, one in found.items()} == pytest.approx(reference, rel=1e-4)


def test_the_hub_is_asked_only_with_its_flag_and_a_silent_one_is_one_line(here, capsys, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    capsys.readouterr()
    assert main(["evaluate", "out", "--tasks", "medqa", "--hub"]) == 80
    [line] = capsys.readouterr().err.splitlines()
    assert "cannot be reached for 'GBaker/MedQA-USMLE-4-options-hf'" in line
    evaluated(capsys, "--tasks", "medqa", "--data", "exams")


def test_records_that_changed_since_are_refused(here, capsys):
    text = Path("records.jsonl").read_text()
    try:
        Path("records.jsonl").write_text(text.replace("sign 3 ", "sign 300 "), encoding="utf-8")
        assert main(["evaluate", "out"]) == 66
        assert "are not those that out was trained on" in capsys.readouterr().err
    finally:
        Path("records.jsonl").write_text(text, encoding="utf-8")


def test_a_damaged_evaluation_is_said_before_anything_is_measured(here, capsys):
    kept = Path("out/evaluation.json").read_bytes()
    try:
        Path("out/evaluation.json").write_bytes(kept[:50])
        for words in (["--held-out"], ["--joining"], ["--tasks", "medqa", "--data", "nowhere"]):
            capsys.readouterr()
            assert main(["evaluate", "out", *words]) == 22
            assert "evaluation.json is damaged: remove it" in capsys.readouterr().err
        assert Path("out/evaluation.json").read_bytes() == kept[:50]
    finally:
        Path("out/evaluation.json").write_bytes(kept)


@pytest.mark.parametrize(
    ("algorithm", "settings"), [("fedsa", ()), ("fedex", ()), ("ffa", ())], ids=["personal", "folds", "A frozen"]
)
def test_every_kind_of_method_can_be_evaluated(here, capsys, tmp_path, algorithm, settings):
    out = tmp_path / "other"
    small = [*TINY, f"federated.algorithm={algorithm}", "federated.rounds=1", "federated.num_clients=2", *settings]
    run_federation(load_config(None, (), small), out=out)
    capsys.readouterr()
    assert main(["evaluate", str(out), "--held-out", "--joining", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    summary = json.loads((out / "summary.json").read_text())["loss"]
    assert found["held_out"]["all"]["loss"]["federated"]["value"] == pytest.approx(summary["federated"], rel=1e-5)
    for name, one in found["joining"]["hospitals"].items():
        assert one["shared"]["value"] == pytest.approx(summary["per_hospital"][name]["federated"], rel=1e-5)


def test_hidden_records_are_not_trained_on_without_noise(here, capsys, tmp_path):
    hidden = [*TINY, "federated.rounds=1", "federated.num_clients=2", "privacy.secure_sum=true"]
    run_federation(load_config(None, (), hidden), out=tmp_path / "masked")
    capsys.readouterr()
    assert main(["evaluate", str(tmp_path / "masked"), "--joining"]) == 10
    assert "--joining trains references on the same records without noise and masks" in capsys.readouterr().err
    assert not (tmp_path / "masked" / "joining").exists()


BAD = {
    "exam options without an exam": (["--limit", "3"], 2, "--tasks"),
    "training that is over": (["--set", "training.max_steps=9"], 10, "--set changes how the run was trained"),
    "no such exam": (["--tasks", "medqa,nonsense", "--data", "exams"], 2, "nonsense is not one of"),
    "neither files nor hub": (["--tasks", "medqa"], 2, "--data"),
    "files and hub": (["--tasks", "medqa", "--data", "exams", "--hub"], 2, "not both"),
    "no folder": (["--tasks", "medqa", "--data", "nowhere"], 21, "no file or folder nowhere"),
    "no file of that exam": (["--tasks", "medmcqa", "--data", "exams"], 21, "no file for 'medmcqa'"),
    "another exam's file": (["--tasks", "medqa", "--data", "exams/pubmedqa.jsonl"], 22, "pubmedqa.jsonl line 1"),
    "half-written": (["--tasks", "medqa", "--data", "half.jsonl"], 22, "half.jsonl line 2 is not JSON"),
    "binary": (["--tasks", "medqa", "--data", "binary.jsonl"], 22, "is binary"),
    "half a gzip": (["--tasks", "medqa", "--data", "cut.jsonl.gz"], 22, "no whole gzip file"),
    "empty": (["--tasks", "medqa", "--data", "empty.jsonl"], 23, "empty.jsonl is empty"),
    "a setting that is none": (["--tasks", "medqa", "--data", "exams", "--set", "model.nonsense=1"], 10, "nonsense"),
    "a hospital of a shared adapter": (["--tasks", "medqa", "--data", "exams", "--hospital", "A"], 67, "--hospital"),
}


@pytest.mark.parametrize(("words", "code", "said"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_one_line_and_leaves_the_run_as_it_was(here, capsys, words, code, said):
    one = json.dumps(exam_lines()["medqa.jsonl"][0])
    Path("half.jsonl").write_text(one + "\n" + one[:40], encoding="utf-8")
    Path("binary.jsonl").write_bytes(b"\x00\x01" * 50)
    Path("cut.jsonl.gz").write_bytes(b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\x01")
    Path("empty.jsonl").touch()
    before = {file: file.read_bytes() for file in Path("out").rglob("*") if file.is_file()}
    capsys.readouterr()
    assert main(["evaluate", "out", *words]) == code
    shown = capsys.readouterr()
    assert shown.out == ""
    [line] = shown.err.splitlines()
    assert line.startswith("error: ")
    assert said in line
    assert {file: file.read_bytes() for file in Path("out").rglob("*") if file.is_file()} == before

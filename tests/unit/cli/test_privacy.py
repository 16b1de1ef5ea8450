"""``fedmed privacy`` as a person or a program calls it."""

from __future__ import annotations

import json

import pytest

from fedmed.cli.app import main
from fedmed.privacy.accountant import Concentrated, SampledGaussian, epsilon
from fedmed.privacy.ledger import Budget, Ledger

pytestmark = pytest.mark.unit

RUN = ["--records", "3000", "--batch", "60", "--steps", "10", "--rounds", "2", "--hospitals", "4", "--numbers", "1000"]


def planned(capsys, *words):
    assert main(["privacy", "plan", "--json", *words]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_plan_solves_for_sigma_and_states_both_bounds(capsys):
    plan = planned(capsys, "--epsilon", "2", "--delta", "1e-5", *RUN)
    assert plan["solved"] == "sigma"
    assert plan["fits"] is True
    assert plan["sampling_rate"] == pytest.approx(0.02)
    counted = epsilon([SampledGaussian(0.02, plan["sigma"], 20)], 1e-5)
    assert (plan["spent"]["pld"], plan["spent"]["rdp"]) == (counted.pld, counted.rdp)
    assert 1.99 < counted.epsilon <= 2.0
    assert plan["spent"]["unit"] == "record"
    assert any("Poisson" in line for line in plan["assumptions"])
    (row,) = plan["noise"]
    assert row["step_ratio"] == pytest.approx(plan["sigma"] * 1000**0.5 / (60 * 2))  # sqrt of four hospitals
    assert row["run_ratio"] == pytest.approx(row["step_ratio"] / 20**0.5)
    assert row["hospital_ratio"] == pytest.approx(plan["hospital_sigma"] * 1000**0.5 / 4)
    assert row["hospitals_needed"] - 1 < plan["hospital_sigma"] * 1000**0.5 <= row["hospitals_needed"]


@pytest.mark.parametrize("solve", ["steps", "batch"])
def test_the_plan_solves_for_steps_and_batch(capsys, solve):
    plan = planned(capsys, "--epsilon", "2", "--sigma", "1.0", "--solve", solve, *RUN)
    assert plan["solved"] == solve
    assert plan["spent"]["epsilon"] <= 2.0
    more = {"steps": (plan["sampling_rate"], plan["steps"] + 1), "batch": (plan["sampling_rate"] * 1.01, plan["steps"])}
    rate, steps = more[solve]
    assert epsilon([SampledGaussian(rate, 1.0, 2 * steps)], 1e-5).epsilon > 2.0


def test_a_plan_that_is_over_its_budget_says_so(capsys):
    assert main(["privacy", "plan", "--epsilon", "0.5", "--sigma", "0.7", *RUN]) == 0
    assert "OVER the budget" in capsys.readouterr().out


def test_four_hospitals_cannot_hide_one_and_hundreds_can(capsys):
    """The embedded model's shape without its weights: the figures of the full adapter, FFA-LoRA and Fed-SB."""
    words = ["--delta", "1e-3", "--rounds", "10", "--sigma", "1.0", "--records", "900", "--batch", "9", "--steps", "1"]
    plan = planned(capsys, *words)
    rows = {row["trained"]: row for row in plan["noise"]}
    assert {name: row["numbers"] for name, row in rows.items()} == {
        "full adapter": 995_328, "ffa": 442_368, "fedsb": 13_824,
    }  # fmt: skip
    assert rows["full adapter"]["hospital_ratio"] == pytest.approx(1.0833 * 379, rel=0.01)  # whole numbers cost 8 %
    assert rows["fedsb"]["hospital_ratio"] == pytest.approx(1.0833 * 44.6, rel=0.01)
    (warning,) = plan["warnings"]
    assert "among 4 is hopeless" in warning
    assert f"from {rows['fedsb']['hospitals_needed']:,} hospitals" in warning
    assert 100 < rows["fedsb"]["hospitals_needed"] < 300
    assert planned(capsys, *words, "--hospitals", "3000")["warnings"] == []


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--epsilon", "0"], 103, "ε is 0.0: it must be a finite number above 0"),
        (["--delta", "1"], 103, "δ is 1.0"),
        (["--batch", "4000"], 103, "a batch of 4000 is more than the 3000 records: lower --batch"),
        (["--sigma", "0.3", "--solve", "steps", "--epsilon", "0.1"], 103, "one step alone costs"),
        (["--solve", "steps"], 2, "needs --sigma"),
        (["--sigma", "1", "--solve", "rounds"], 2, "neither steps nor batch"),
        (["--recipe", "nonsense"], 10, "nonsense"),
    ],
)
def test_bad_input_is_one_line_with_its_exit_code(words, code, said, capsys):
    assert main(["privacy", "plan", *RUN, *words]) == code
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_a_hopeless_delta_is_named(capsys):
    plan = planned(capsys, "--delta", "1e-3", "--sigma", "2", *RUN)
    assert any("published outright" in warning for warning in plan["warnings"])


@pytest.fixture
def path(tmp_path):
    book = Ledger.open(tmp_path / "ledger.jsonl", "St. Anna")
    book.charge("first", 1, 0, SampledGaussian(0.01, 1.0, 100), Budget(8.0, 1e-5))
    book.charge("second", 1, 0, SampledGaussian(0.01, 1.0, 100), Budget(8.0, 1e-5))
    book.charge("second", 1, 0, Concentrated(0.01, 1), Budget(4.0, 1e-5))
    return tmp_path / "ledger.jsonl"


def test_the_ledger_is_shown_by_unit_with_what_is_left(path, capsys):
    before = path.read_bytes()
    assert main(["privacy", "ledger", str(path), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert path.read_bytes() == before
    rows = {row["unit"]: row for row in shown["spent"]}
    records = epsilon([SampledGaussian(0.01, 1.0, 200)], 1e-5)
    assert rows["record"]["epsilon"] == records.epsilon
    assert rows["record"]["left"] == pytest.approx(8.0 - records.epsilon)
    assert (rows["record"]["charges"], rows["record"]["runs"], rows["record"]["budget"]) == (2, 2, 8.0)
    assert rows["hospital"]["left"] == pytest.approx(4.0 - rows["hospital"]["epsilon"])
    assert shown["hospital"] == "St. Anna"
    assert main(["privacy", "ledger", str(path), "--epsilon", "1", "--delta", "1e-6"]) == 0
    said = capsys.readouterr().out
    assert "record" in said
    assert "of 1;" in said


def test_each_unit_is_shown_at_the_delta_of_its_own_budget(path, capsys):
    """A larger δ makes ε smaller, so that of another unit's charge would show too much as left."""
    Ledger.open(path, "St. Anna").charge("third", 1, 0, Concentrated(0.01, 1), Budget(4.0, 1e-2))
    assert main(["privacy", "ledger", str(path), "--json"]) == 0
    rows = {row["unit"]: row for row in json.loads(capsys.readouterr().out)["spent"]}
    assert (rows["record"]["delta"], rows["hospital"]["delta"]) == (1e-5, 1e-2)
    assert rows["record"]["epsilon"] == epsilon([SampledGaussian(0.01, 1.0, 200)], 1e-5).epsilon


def test_a_cut_ledger_shows_no_number(path, capsys):
    path.write_bytes(path.read_bytes()[:-40])
    assert main(["privacy", "ledger", str(path)]) == 102
    shown = capsys.readouterr()
    assert "line 4 of the ledger" in shown.err
    assert shown.out == ""


def test_an_empty_ledger_says_so(tmp_path, capsys):
    Ledger.open(tmp_path / "l.jsonl", "A")
    assert main(["privacy", "ledger", str(tmp_path / "l.jsonl")]) == 0
    assert "nothing is spent" in capsys.readouterr().out


def test_a_damaged_or_missing_ledger_is_one_line_with_its_exit_code(path, capsys):
    path.write_bytes(path.read_bytes().replace(b'"steps":100', b'"steps":101', 1))
    for where, said in ((path, "line 2 of the ledger"), (path.with_name("none"), "cannot be read")):
        assert main(["privacy", "ledger", str(where)]) == 102
        error = capsys.readouterr().err
        assert said in error
        assert error.count("\n") == 1


@pytest.mark.parametrize("words", [["--help"], ["plan", "--help"], ["ledger", "--help"]])
def test_help_has_an_example(words, capsys):
    assert main(["privacy", *words]) == 0
    assert "fedmed privacy" in capsys.readouterr().out.split("Example")[1]

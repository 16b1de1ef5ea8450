"""The benches of methods, rules and encodings on a tiny model: they run, say what they promise, and measure once."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SOURCES = 9


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    """Runs a bench's ``main`` into one folder, all benches with one cache; returns its result."""
    folder = tmp_path_factory.mktemp("bench")
    lines = [
        {"question": f"What is {source} {number}?", "answer": f"A sign of {source}.", "source": f"source {source}"}
        for number in range(30)
        for source in range(SOURCES)
    ]
    (folder / "nine.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")

    def run(name: str, *more: str) -> dict:
        out = folder / f"{name}.json"
        out.unlink(missing_ok=True)
        words = ["--model", "builtin:tiny-gemma", "--quick", "--out", str(out), "--cache", str(folder / "cache")]
        importlib.import_module(name).main([*words, *more])
        return json.loads(out.read_text(encoding="utf-8"))

    run.folder = folder
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        methods = importlib.import_module("algorithms")
        few = ("fedavg", "fedsb public", "fedsa", "sketch fold", "fedavg ranks 16,8,8,4")
        patch.setattr(methods, "METHODS", tuple(method for method in methods.METHODS if method.label in few))
        wire = importlib.import_module("wire")
        ways = ("fedavg fp32", "fedavg topk 5%", "fedavg int8, down int8", "fedsb bf16")
        patch.setattr(wire, "WAYS", tuple(way for way in wire.WAYS if way.label in ways))
        yield run


@pytest.fixture
def nothing_is_trained(bench, monkeypatch):
    """Call it, and a bench that loads a model or data fails."""

    def forbid() -> None:
        def refuse(*_):
            raise AssertionError("a finished run was measured again")

        for name in ("ground", "fresh_state", "train"):
            monkeypatch.setattr(importlib.import_module("lab"), name, refuse)

    return forbid


def test_the_bench_of_the_secure_sum_carries_it_out_and_checks_it(bench):
    secure = importlib.import_module("secure")
    out = bench.folder / "secure.json"
    secure.main(["--quick", "--out", str(out), "--cache", str(bench.folder / "cache")])
    rows = json.loads(out.read_text(encoding="utf-8"))["rows"]
    assert {(row["hospitals"], row["dropped"]) for row in rows} == {(4, 0), (4, 1), (5, 0), (5, 1)}
    for row in rows:
        assert row["bytes_up"] > 8 * row["numbers"]
        assert row["hospital_s"] > 0


@pytest.mark.slow
def test_the_hot_spots_are_all_of_the_time(bench):
    out = bench.folder / "hotspots.json"
    importlib.import_module("hotspots").main(["--model", "builtin:tiny-gemma", "--out", str(out)])
    kinds = {row["what"]: row["share"] for row in json.loads(out.read_text(encoding="utf-8"))["kinds"]}
    assert sum(kinds.values()) == pytest.approx(1.0)
    assert kinds["products with the frozen body"] > 0.05


@pytest.mark.slow
def test_the_bench_of_methods_has_a_row_for_each_and_measures_once(bench, nothing_is_trained):
    medquad = ("--medquad", str(bench.folder / "nine.jsonl"))
    result = bench("algorithms", *medquad)
    rows = result["rows"]
    promised = (
        "algorithm variant split seed learning_rate validation loss gain_share gain_share_same_steps bytes_up "
        "bytes_down wall_s kind exact personal"
    )
    assert all(set(promised.split()) <= row.keys() for row in rows)
    first = [(row["algorithm"], row["variant"]) for row in rows if row["dataset"] == "hpo" and row["seed"] == 17]
    assert sorted(first) == sorted(
        [
            ("base", ""), ("central", "same steps"), ("central", "a step a hospital"), ("local", ""), ("fedavg", ""),
            ("fedsb", "public"), ("fedsa", ""), ("sketch", "fold"), ("fedavg", "ranks 16,8,8,4"),
        ]
    )  # fmt: skip
    assert {row["seed"] for row in rows} == {17, 18}
    for row in rows:
        if row["algorithm"] == "base":
            assert row["gain_share"] == 0
        if row["variant"] == "same steps":
            assert row["gain_share_same_steps"] == 1
    by_source = [row for row in rows if row["split"] == "by_source"]
    assert {"base", "central", "local", "fedavg"} <= {row["algorithm"] for row in by_source}
    assert all(block["relative_error"] < 1e-5 for block in result["sketch_exactness"])
    assert [block["hospitals"] for block in result["sketch_exactness"]] == [4, 8]
    assert result["bytes_ratio"]["fedsb"]["bf16"] > result["bytes_ratio"]["fedsb"]["fp32"] > 1
    assert {"cpu", "ram_gb", "versions", "commit", "dirty"} <= result["environment"].keys()
    nothing_is_trained()
    assert bench("algorithms", *medquad)["rows"] == rows
    skipped = bench("algorithms", "--medquad", "nowhere.jsonl.gz")
    assert skipped["medquad"].startswith("skipped")
    assert not any(row["split"] == "by_source" for row in skipped["rows"])


def test_the_bench_of_rules_names_only_the_hostile_hospital_and_measures_once(bench, nothing_is_trained):
    result = bench("robust")
    rows = {(row["rule"], row["attack"]): row for row in result["rows"]}
    promised = "rule attack loss gain_share_of_clean named named_rightly refused"
    assert all(set(promised.split()) <= row.keys() for row in rows.values())
    assert {attack for _, attack in rows} == {"none", "sign_flip", "noise", "nan", "copy", "replay", "poisoned"}
    assert rows["mean", "none"]["gain_share_of_clean"] == 1
    assert rows["mean", "nan"]["named"] == ["hospital_E"]
    for attack in ("sign_flip", "noise", "nan", "replay"):
        assert rows["clipped_mean", attack]["named_rightly"]
        assert set(rows["clipped_mean", attack]["refused"]) == {"hospital_E"}
    assert rows["clipped_mean", "copy"]["named"] == ["hospital_A", "hospital_E"]  # nobody can tell who copied
    assert rows["clipped_mean", "copy"]["hostile_named"]
    assert not rows["mean", "sign_flip"]["named"]
    assert rows["mean", "sign_flip"]["loss"] > rows["clipped_mean", "sign_flip"]["loss"]
    assert result["clean"]["named"] == []
    assert 1 <= result["clean"]["largest_norm_ratio"] < result["clean"]["thresholds"]["norm_ratio"]
    assert result["clean"]["largest_cosine"] < result["clean"]["thresholds"]["cosine"]
    nothing_is_trained()
    assert bench("robust")["rows"] == result["rows"]


def test_the_bench_of_encodings_compares_with_fp32_and_measures_once(bench, nothing_is_trained):
    result = bench("wire")
    rows = result["rows"]
    promised = "encoding_up encoding_down loss loss_ratio bytes_up bytes_down bytes_ratio_up wall_s seed"
    assert all(set(promised.split()) <= row.keys() for row in rows)
    assert {row["seed"] for row in rows} == {17, 18}
    for row in rows:
        if row["label"] == "fedavg fp32":
            assert (row["loss_ratio"], row["bytes_ratio_up"]) == (1, 1)
        else:
            assert row["bytes_ratio_up"] < 0.6
    nothing_is_trained()
    assert bench("wire")["rows"] == rows


def test_the_bench_of_confidence_judges_on_questions_that_no_fit_has_seen(bench, monkeypatch):
    monkeypatch.chdir(bench.folder)
    confidence = importlib.import_module("confidence")
    few = ("--fitted-on", "50", "--questions", "70")
    result = bench("confidence", *few)
    assert result["fitted_on"] == 50
    assert result["measured"]["answers"] == 70
    assert set(result["goals"]) == set(result["reached"]) == {"ece", "brier_skill", "auroc"}
    (run,) = Path("output-models").glob("bench-confidence-*")
    asked = confidence.Asked(run, None)
    seen = {item.group for item in confidence.calibration_items(asked.records, asked.config)}
    assert len(seen) == 50
    assert not seen & {item.group for item in asked.unseen(10**6)}
    for name in ("run_federation", "load_model_and_tokenizer", "examine"):
        monkeypatch.setattr(confidence, name, None)
    assert bench("confidence", *few)["measured"] == result["measured"]


@pytest.mark.slow
def test_privacy_is_measured_against_the_gain_without_it(bench, monkeypatch):
    privacy = importlib.import_module("privacy")
    monkeypatch.setattr(privacy, "EPSILONS", (8.0, 1.0))
    result = bench("privacy", "--methods", "fedavg", "fedsb")
    assert result["left_out"] == ["ffa"]
    assert [(row["algorithm"], row["epsilon"]) for row in result["curve"]] == [
        (method, epsilon) for method in ("fedavg", "fedsb") for epsilon in (None, 8.0, 1.0)
    ]
    free = {row["algorithm"]: row for row in result["curve"] if row["epsilon"] is None}
    assert all(row["gain_share_own"] == 1.0 for row in free.values())
    assert max(row["gain_share"] for row in free.values()) == 1.0
    assert result["dp_time_ratio"] > 0.0
    assert result["audit"]["with_noise"]["example_epsilon"] <= 8.0
    assert result["audit"]["without_noise"]["example_epsilon"] is None


def test_a_sitting_that_is_over_says_so_and_the_next_one_goes_on(bench, capsys):
    with pytest.raises(SystemExit) as over:
        bench("wire", "--cache", str(bench.folder / "cut"), "--minutes", "0")
    assert over.value.code == 75
    assert "the same command goes on" in capsys.readouterr().out
    assert bench("wire")["rows"]  # what is kept needs no time
    assert bench("wire", "--minutes", "0")["rows"]


def test_the_plots_are_drawn_from_the_results_alone(bench, nothing_is_trained):
    nothing_is_trained()
    plots = importlib.import_module("plots")
    plots.main(["--results", str(BENCHMARKS / "results"), "--out", str(bench.folder)])
    assert "sketch fold" in (bench.folder / "algorithms.svg").read_text(encoding="utf-8")
    assert "clipped mean" in (bench.folder / "robust.svg").read_text(encoding="utf-8")
    assert "topk 5%" in (bench.folder / "wire.svg").read_text(encoding="utf-8")


def test_rates_beyond_the_grid_are_tried_only_while_the_best_lies_at_its_edge(bench):
    lab = importlib.import_module("lab")

    def run(best: float):
        return lambda rate: {"validation": abs(rate - best), "stopped": None}

    middle = lab.choose_rate(run(2e-3), lab.GRID, lab.HIGHEST_RATE)
    assert (middle.rate, middle.at_edge, sorted(middle.by_rate)) == (2e-3, None, [1e-3, 2e-3, 4e-3])
    far = lab.choose_rate(run(1.0), lab.GRID, lab.HIGHEST_RATE)
    assert (far.rate, far.at_edge, sorted(far.by_rate)) == (1.6e-2, "upper", [2e-3, 4e-3, 8e-3, 1.6e-2])
    low = lab.choose_rate(run(0.0), lab.GRID, lab.HIGHEST_RATE)
    assert (low.rate, low.at_edge, sorted(low.by_rate)) == (5e-4, "lower", [5e-4, 1e-3, 2e-3, 4e-3])
    near = lab.choose_rate(run(8e-3), lab.GRID, lab.HIGHEST_RATE)
    assert (near.rate, near.at_edge) == (8e-3, None)


def test_central_in_many_steps_sees_the_rows_of_the_federation_in_its_order(bench, monkeypatch):
    lab = importlib.import_module("lab")
    size = lab.Size(4, rounds=2, steps=2, rows=2, records=4, more=("training.dataset.max_samples=2000",))
    config = lab.bench_config("builtin:tiny-gemma", size, rate=1e-3, seed=17)
    seen: dict[str, list] = {}
    here = lab.ground(config)
    lab.EngineTrainer(here.model, here.rows, config.training)  # probes the model, with rows of its own, once
    of_row = {id(row): name for name, rows in here.rows.items() for row in rows}
    real = lab.Engine.gradients

    def watch(engine, adapters, batches, where=None):
        for batch in (batch for own in batches for batch in own):
            seen.setdefault(of_row[id(batch[0])], []).append([id(row) for row in batch])
        return real(engine, adapters, batches, where)

    monkeypatch.setattr(lab.Engine, "gradients", watch)
    lab.train(config)
    federated, seen = seen, {}
    lab.central_many_steps(config)
    assert seen == federated
    assert sum(map(len, seen.values())) == 4 * 2 * 2


def test_the_bench_of_the_agent_tells_what_it_decided_and_measures_once(bench, nothing_is_trained):
    result = bench("agent")
    rows = {(row["kind"], row["method"]): row["loss"] for row in result["rows"]}
    assert {("troubled", "agent"), ("troubled", "fedavg"), ("clean", "agent"), ("clean", "fedavg")} <= rows.keys()
    assert set(result["agent_against"]) == {"fedavg", "best_rule", "fedavg_in_clean_runs"}
    against = result["agent_against"]["fedavg"]
    assert against["lower_by"] == pytest.approx(rows["troubled", "fedavg"] - rows["troubled", "agent"])
    assert against["low"] <= against["lower_by"] <= against["high"]
    (watched,) = (run for run in result["runs"] if (run["kind"], run["method"]) == ("troubled", "agent"))
    assert watched["agent"]["replay_gives_the_same"]
    assert watched["agent"]["counts"]["ask"] == 3
    assert "nll" not in watched
    (plain,) = (run for run in result["runs"] if (run["kind"], run["method"]) == ("troubled", "fedavg"))
    assert not any(plain["roles"]["straggles"] in admitted for admitted in plain["admitted"])
    nothing_is_trained()
    assert bench("agent")["rows"] == result["rows"]

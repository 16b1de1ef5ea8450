"""``fedmed run`` with the coordinator agent on a tiny random model: what it leaves, that it repeats and resumes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fedmed.agent.decision_log import read_decisions, replay
from fedmed.cli.app import main
from fedmed.config.load import load_config
from fedmed.errors import DecisionLogError
from fedmed.pipeline import federation
from fedmed.pipeline.federation import resume_federation, run_federation
from fedmed.pipeline.run_audit import verify_run

pytestmark = pytest.mark.integration

TINY = [
    "model.name=builtin:tiny-llama", "model.max_length=256", "model.generation.max_new_tokens=4",
    "training.max_steps=2", "training.learning_rate=0.01", "training.lr_scheduler=constant", "training.threads=1",
    "training.dataset.max_samples=400", "training.dataset.token_cache=false",
    "training.evaluation.max_records_per_hospital=2", "training.evaluation.few_shot=0",
    "training.evaluation.multiple_choice_items=0", "training.evaluation.generated_answers=0",
    "training.evaluation.sample_answers=0", "training.evaluation.calibration_items=0", "federated.rounds=3",
    "federated.agent.public_records=8",
]  # fmt: skip
AGENT = "federated.agent.enabled=true"


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def run(name, *more):
    return run_federation(load_config(None, (), [*TINY, *more]), out=Path(name)).summary


def test_decisions_are_in_the_folder_and_the_audit_log_and_come_out_again_from_the_evidence(capsys):
    run("out", AGENT)
    decisions = read_decisions(Path("out"))
    assert [line["decision"] for line in decisions if line["decision"] in ("ask", "keep")] == ["ask", "keep"] * 3
    assert all(line["reason"] and line["numbers"] for line in decisions)
    audited = [
        json.loads(line) for line in Path("out/audit.jsonl").read_text().splitlines() if '"kind":"decision"' in line
    ]
    assert [(line["round"], line["decision"], line["reason"]) for line in audited] == [
        (line["round"], line["decision"], line["reason"]) for line in decisions
    ]
    assert verify_run(Path("out")).findings == ()
    assert replay(Path("out")).differing == ()
    assert replay(Path("out")).decisions == len(decisions)
    assert main(["decisions", "out", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["replay"] == {"decisions": len(decisions), "differing": []}
    assert "What the coordinator agent decided" in Path("out/report.html").read_text()
    forged = [line | {"reason": "because"} if line["decision"] == "keep" else line for line in decisions]
    Path("out/decisions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in forged))
    assert len(replay(Path("out")).differing) == 3
    assert main(["decisions", "out"]) == DecisionLogError.exit_code


def test_a_run_that_stopped_goes_on_to_the_same_decisions_and_adapter(monkeypatch):
    whole = run("whole", AGENT, "training.engine=single")
    save = federation.save_round

    def save_once(path, state, **more):
        save(path, state, **more)
        if state.round == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(federation, "save_round", save_once)
    with pytest.raises(KeyboardInterrupt):
        run("cut", AGENT, "training.engine=single")
    monkeypatch.setattr(federation, "save_round", save)
    with open("cut/evidence.jsonl", "a") as file:  # a kill can leave what no checkpoint knows of, and half a line
        file.write('{"step": "close", "facts": {"round": 3}, "judged": {}}\n{"step"')
    resumed = resume_federation(Path("cut")).summary
    assert resumed["adapter_sha256"] == whole["adapter_sha256"]
    assert Path("cut/decisions.jsonl").read_text() == Path("whole/decisions.jsonl").read_text()
    assert replay(Path("cut")).differing == ()


def test_a_run_does_not_go_on_without_the_evidence_of_its_agent(monkeypatch):
    save = federation.save_round

    def stop(path, state, **more):
        save(path, state, **more)
        raise KeyboardInterrupt

    monkeypatch.setattr(federation, "save_round", stop)
    with pytest.raises(KeyboardInterrupt):
        run("cut", AGENT)
    Path("cut/evidence.jsonl").unlink()
    with pytest.raises(DecisionLogError, match="evidence"):
        resume_federation(Path("cut"))


def test_an_agent_that_finds_nothing_wrong_gives_the_adapter_of_fedavg_bit_for_bit(monkeypatch):
    plain = run("plain")
    assert not Path("plain/decisions.jsonl").exists()
    watched = run("watched", AGENT, "federated.agent.weigh=false", "federated.agent.stop_after=null")
    kinds = {line["decision"] for line in read_decisions(Path("watched"))}
    assert kinds == {"ask", "keep"}
    assert watched["adapter_sha256"] == plain["adapter_sha256"]


def test_under_masks_the_agent_still_plans_and_judges_the_sum():
    run("masked", AGENT, "federated.agent.weigh=false", "privacy.secure_sum=true")
    assert {line["decision"] for line in read_decisions(Path("masked"))} <= {"ask", "keep", "roll back", "stop"}
    assert replay(Path("masked")).differing == ()


def test_a_round_that_ruins_the_adapter_is_rolled_back_and_the_next_one_learns_at_half_the_rate():
    run("ruined", AGENT, "training.learning_rate=3.0")
    decisions = read_decisions(Path("ruined"))
    rounds = [line["round"] for line in decisions if line["decision"] == "roll back"]
    assert rounds
    first = rounds[0]
    scales = {line["round"]: line["numbers"].get("rate_scale", 1.0) for line in decisions if line["decision"] == "ask"}
    assert (scales[first], scales[first + 1]) == (1.0, 0.5)
    state = json.loads(Path("ruined/rounds/0003/state.json").read_text())
    undone = state["history"][first - 1]
    assert (undone["admitted"], undone["update_norm"]) == ([], 0.0)
    assert set(undone["refused"]) == {f"hospital_{letter}" for letter in "ABCD"}
    kept = Path(f"ruined/rounds/{first - 1:04d}/adapter.safetensors")
    assert first == 1 or kept.read_bytes() == Path(f"ruined/rounds/{first:04d}/adapter.safetensors").read_bytes()


def test_a_budget_of_bytes_ends_the_run_before_it_is_passed():
    free = run("free", AGENT, "federated.agent.stop_after=null")
    each = (free["bytes"]["up"] + free["bytes"]["down"]) // 3
    tight = run("tight", AGENT, f"federated.agent.max_bytes={int(2.5 * each)}", "federated.agent.stop_after=null")
    assert (tight["rounds"], tight["status"]) == (2, "finished")
    assert tight["bytes"]["up"] + tight["bytes"]["down"] <= 2.5 * each
    assert read_decisions(Path("tight"))[-1]["decision"] == "stop"

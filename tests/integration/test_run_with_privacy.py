"""``fedmed run`` under privacy noise on a tiny model: what it charges, what it tells, what attacks on it find."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from fedmed.cli.app import main
from fedmed.config.load import load_config
from fedmed.errors import BudgetError, ConfigError, DataFormatError, GateError, LedgerError
from fedmed.federated import simulation
from fedmed.federated.client import FederatedClient
from fedmed.model.adapter import load_adapter
from fedmed.pipeline.federation import resume_federation, run_federation
from fedmed.pipeline.privacy_audit import audit_run, check_gate
from fedmed.privacy.ledger import Ledger

pytestmark = pytest.mark.integration
pytest.importorskip("dp_accounting")

TINY = [
    "model.name=builtin:tiny-llama", "model.generation.max_new_tokens=4", "training.dataset.name=records.jsonl",
    "training.dataset.gate.unscanned=true",
    "training.dataset.test_fraction=0.5", "training.max_steps=2", "training.batch_size=8",
    "training.gradient_accumulation_steps=1", "training.learning_rate=0.01", "training.lr_scheduler=constant",
    "training.threads=1", "training.evaluation.max_records_per_hospital=3",
    "training.evaluation.multiple_choice_items=0", "training.evaluation.generated_answers=0",
    "training.evaluation.few_shot=0", "training.evaluation.sample_answers=0", "federated.num_clients=2",
    "federated.rounds=2",
]  # fmt: skip
NOISE = "privacy.example.epsilon=8.0"


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = [
        {
            "question": f"What is finding {i}?",
            "answer": f"Finding {i} is a sign of the lung.",
            "group": f"patient {i // 2}",
        }
        for i in range(160)
    ]
    Path("records.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return tmp_path


def settings(*more):
    return load_config(None, (), [*TINY, *more])


def charges(run: str, hospital: str = "hospital_A"):
    return Ledger.read(Path(run) / "ledgers" / f"{hospital}.jsonl").entries()


def test_a_run_under_noise_tells_what_it_cost_and_nothing_that_was_not_paid_for(place):
    outcome = run_federation(settings(NOISE), out=Path("out"))
    privacy = outcome.summary["privacy"]
    assert 7.9 < privacy["example_epsilon"] <= 8.0
    assert (privacy["delta"], privacy["unit"]) == (1e-5, "record")
    assert privacy["hospital_epsilon"] is None
    assert "not set" in privacy["hospital_reason"]
    for told in privacy["hospitals"].values():
        assert 7.9 < told["epsilon"] <= 8.0
        assert told["delta"] == 1e-5
    assert outcome.summary["train_tokens"] is None
    assert outcome.summary["loss"]["per_hospital"] is None
    assert [hospital["num_samples"] for hospital in outcome.summary["hospitals"]] == [None, None]
    assert all(
        line.keys() == {"round", "hospital"}
        for line in map(json.loads, Path("out/rounds.jsonl").read_text().splitlines())
    )
    assert [(entry.round, entry.attempt) for entry in charges("out")] == [(1, 0), (2, 0)]
    state = json.loads(Path("out/rounds/0002/state.json").read_text())
    assert state["ledger_heads"]["hospital_A"] == Ledger.read(Path("out/ledgers/hospital_A.jsonl")).head()
    assert "ε 8 at δ 1e-05 for one record" in Path("out/model_card.md").read_text()
    assert "ε for one record" in Path("out/report.html").read_text()


def test_a_killed_round_is_charged_again_and_the_noise_that_is_left_still_fits(place, monkeypatch):
    class Killed(BaseException):
        pass

    real = simulation.SimulationTransport.commit

    def die_in_round_2(self, report):
        if report.round == 2:
            raise Killed
        return real(self, report)

    with monkeypatch.context() as patch:
        patch.setattr(simulation.SimulationTransport, "commit", die_in_round_2)
        with pytest.raises(Killed):
            run_federation(settings(NOISE, "federated.rounds=3"), out=Path("out"))
    assert [entry.round for entry in charges("out")] == [1, 2]
    outcome = resume_federation(Path("out"))
    assert [(entry.round, entry.attempt) for entry in charges("out")] == [(1, 0), (2, 0), (2, 1), (3, 0)]
    assert outcome.summary["privacy"]["example_epsilon"] <= 8.0
    sigmas = [entry.event.sigma for entry in charges("out")]
    assert sigmas[2] > sigmas[0]  # what the lost round cost is made up for by more noise


def test_a_ledger_that_was_put_back_stops_the_resumed_run(place, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("fedmed.pipeline.federation._Run._export", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run_federation(settings(NOISE), out=Path("out"))
    ledger = Path("out/ledgers/hospital_B.jsonl")
    ledger.write_bytes(b"".join(ledger.read_bytes().splitlines(keepends=True)[:-1]))
    with pytest.raises(LedgerError, match=r"hospital_B\.jsonl does not know the head"):
        resume_federation(Path("out"))


def test_ledgers_in_a_lasting_folder_count_over_runs_until_the_budget_is_spent(place):
    lasting = (NOISE, "privacy.ledgers=books", "privacy.example.noise_multiplier=1.0")
    run_federation(settings(*lasting), out=Path("one"))
    first = Ledger.read(Path("books/hospital_A.jsonl")).spent(1e-5, "record").epsilon
    outcome = run_federation(settings(*lasting), out=Path("two"))
    assert outcome.summary["privacy"]["hospitals"]["hospital_A"]["epsilon"] > first
    with pytest.raises(BudgetError, match="'hospital_A' per record"):
        run_federation(settings("privacy.example.epsilon=1.0", *lasting[1:]), out=Path("three"))
    assert not Path("three/rounds").exists()


def test_all_records_of_a_patient_are_one_unit_and_records_without_patients_are_refused(place):
    outcome = run_federation(settings(NOISE, "privacy.example.unit=patient"), out=Path("out"))
    assert outcome.summary["privacy"]["unit"] == "patient"
    (event, _) = [entry.event for entry in charges("out")]
    assert event.unit == "patient"
    assert event.q > 8 / 30  # about 40 training patients at two hospitals; by records it would be below 8 / 40
    lines = [json.dumps({"question": f"What is {i}?", "answer": "A number."}) for i in range(40)]
    Path("plain.jsonl").write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(DataFormatError, match="name their patient"):
        run_federation(
            settings(NOISE, "privacy.example.unit=patient", "training.dataset.name=plain.jsonl"), out=Path("other")
        )


def test_noise_from_a_seed_is_said_not_to_be_private(place):
    outcome = run_federation(settings(NOISE, "privacy.example.noise_seed=5"), out=Path("out"))
    again = run_federation(settings(NOISE, "privacy.example.noise_seed=5"), out=Path("again"))
    assert outcome.summary["adapter_sha256"] == again.summary["adapter_sha256"]
    assert outcome.summary["privacy"]["example_epsilon"] is None
    assert outcome.summary["privacy"]["example_reason"].startswith("not private")


def test_whole_hospitals_are_hidden_by_shares_whose_sum_is_exact(place):
    config = settings("privacy.hospital.epsilon=500.0", "privacy.hospital.clip=0.5", "federated.num_clients=4")
    outcome = run_federation(config, out=Path("out"))
    privacy = outcome.summary["privacy"]
    assert 490 < privacy["hospital_epsilon"] <= 500.0
    assert privacy["example_epsilon"] is None
    assert any("as the coordinator sees it" in line for line in privacy["not_covered"])
    assert {entry.event.unit for entry in charges("out", "hospital_D")} == {"hospital"}
    assert all(np.isfinite(array).all() for array in load_adapter(Path("out/adapter")).values())


def test_references_without_noise_do_not_go_with_noise(place):
    with pytest.raises(ConfigError, match="trains references on the same records without noise"):
        run_federation(settings(NOISE), out=Path("out"), compare=("central",))
    assert not Path("out").exists()


def test_a_client_does_not_leave_noise_out_in_silence(place):
    records = [{"question": f"What is {i}?", "answer": "A number."} for i in range(20)]
    with pytest.raises(ConfigError, match="adds no noise"):
        FederatedClient("a", records, config=settings("privacy.hospital.epsilon=8.0"))
    with pytest.raises(ConfigError, match="adds no noise"):
        FederatedClient("a", records, config=settings(NOISE), trainer=object())
    client = FederatedClient("a", records, config=settings(NOISE))
    assert client.get_num_samples() == 1
    with pytest.raises(ConfigError, match=r"privacy\.ledgers"):
        client.local_training({})


def test_worked_examples_and_record_counts_stay_home_under_noise(place):
    outcome = run_federation(
        settings(NOISE, "training.evaluation.few_shot=3", "training.evaluation.sample_answers=1"), out=Path("out")
    )
    assert outcome.summary["evaluation"]["few_shot"] is None
    assert not Path("out/few_shot.json").exists()
    told = Path("out/summary.json").read_text() + Path("out/rounds.jsonl").read_text()
    sizes = [book.event.q for book in charges("out")]
    assert all(str(round(8 / q)) not in json.dumps(outcome.summary["hospitals"]) for q in sizes)
    assert 'num_samples": null' in told


@pytest.mark.parametrize(
    "setting",
    ["privacy.example.noise_multiplier=1.0", "privacy.example.noise_seed=1", "privacy.example.unit=patient",
     "privacy.hospital.noise_multiplier=1.0"],
)  # fmt: skip
def test_a_setting_of_noise_that_is_off_is_an_error(place, setting):
    with pytest.raises(ConfigError, match="epsilon is null"):
        settings(setting)


@pytest.mark.parametrize(
    ("more", "named"),
    [
        ([NOISE, "federated.algorithm=flora"], "privacy.example.epsilon is not possible with flora"),
        (["privacy.hospital.epsilon=8.0", "federated.algorithm=fedex"], "privacy.hospital.epsilon is not possible"),
        (["privacy.hospital.epsilon=8.0", "federated.wire.up=int8"], "needs federated.wire.up=fp32"),
        (["privacy.hospital.epsilon=8.0", "privacy.hospital.colluding=2"], "colluding must be below"),
    ],
)
def test_what_noise_cannot_go_with_is_said_before_anything_runs(place, more, named):
    with pytest.raises(ConfigError, match=named):
        run_federation(settings(*more), out=Path("out"))
    assert not Path("out").exists()


LEAKY = [
    "model.name=builtin:tiny-gemma", "model.lora.alpha=32.0",
    "model.lora.target_modules=[q_proj, k_proj, v_proj, o_proj, up_proj, down_proj]", "privacy.audit.canaries=100",
    "training.dataset.test_fraction=0.8", "training.epochs=16", "training.max_steps=null", "training.batch_size=4",
    "training.learning_rate=0.005", "federated.num_clients=1", "federated.rounds=1",
    # 32 members against 128 others: chance alone gives an AUC of 0.6 now and then, 0.8 once in a million runs
    "privacy.audit.max_membership_auc=0.8", "privacy.audit.max_tpr_at_1_percent_fpr=0.3",
]  # fmt: skip


@pytest.mark.slow
def test_the_gate_fails_a_run_without_noise_on_canaries_and_passes_one_with_noise(place, capsys):
    run_federation(settings(*LEAKY), out=Path("leaky"))
    found = audit_run(Path("leaky"))
    assert found["audit"]["exposure"]["p_value"] < 0.001
    with pytest.raises(GateError, match="mean exposure above chance"):
        check_gate(found)
    written = Path("leaky/privacy_audit.json").read_text()
    assert json.loads(written)["beyond"] == found["beyond"]
    assert "Beyond the limits" in Path("leaky/report.html").read_text()
    assert "sign of the lung" not in written  # counts and shares, never words
    chosen = [*TINY, *LEAKY, "privacy.example.epsilon=2.0"]
    assert main(["run", "--out", "noisy", *(word for setting in chosen for word in ("--set", setting))]) == 0
    printed = capsys.readouterr().out
    assert "at δ 1e-05 for each record" in printed
    assert "ledgers  noisy/ledgers" in printed
    assert main(["privacy", "audit", "noisy", "--gate"]) == 0
    printed = capsys.readouterr().out
    assert "(limit 0.8)" in printed
    assert "with 95% confidence, claimed" in printed
    assert "all kept" in printed
    assert main(["privacy", "audit", "leaky", "--gate"]) == 104

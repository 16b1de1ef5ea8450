"""``fedmed run`` with updates summed under masks, on a tiny model: the adapter is that of the same run in the clear."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fedmed.cli.app import main
from fedmed.config.load import load_config
from fedmed.errors import ConfigError
from fedmed.federated.client import FederatedClient
from fedmed.federated.masked_round import MaskedRound, MaskSetup
from fedmed.federated.server import FederatedServer
from fedmed.pipeline.federation import resume_federation, run_federation

pytestmark = pytest.mark.integration
pytest.importorskip("cryptography")

TINY = [
    "model.name=builtin:tiny-llama", "model.generation.max_new_tokens=4", "model.lora.r=4",
    "training.dataset.name=records.jsonl",
    "training.dataset.gate.unscanned=true", "training.dataset.test_fraction=0.3", "training.max_steps=1",
    "training.batch_size=4", "training.gradient_accumulation_steps=1", "training.learning_rate=0.01",
    "training.lr_scheduler=constant", "training.threads=1", "training.engine=single",
    "training.evaluation.max_records_per_hospital=3", "training.evaluation.multiple_choice_items=0",
    "training.evaluation.generated_answers=0", "training.evaluation.few_shot=0",
    "training.evaluation.sample_answers=0", "federated.num_clients=3", "federated.rounds=2",
]  # fmt: skip
MASKED = "privacy.secure_sum=true"


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = [{"question": f"What is finding {i}?", "answer": f"A sign of organ {i % 7}."} for i in range(60)]
    Path("records.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return tmp_path


def settings(*more):
    return load_config(None, (), [*TINY, *more])


@pytest.mark.parametrize(
    "more",
    [
        ("federated.algorithm=sketch",),
        ("federated.algorithm=sketch", "federated.residual=fold"),
        ("federated.algorithm=fedavg", "federated.hospitals_per_round=2"),
        ("federated.algorithm=sketch", "federated.ranks=[4,2,2]"),
        ("federated.algorithm=rolora", "privacy.max_update_norm=0.05"),
        ("federated.algorithm=fedsb",),
    ],
    ids=["sketch", "fold", "fedavg", "ranks", "rolora", "fedsb"],
)
def test_a_run_under_masks_ends_with_the_adapter_of_the_run_in_the_clear(place, more):
    clear = run_federation(settings(*more), out=Path("clear")).summary
    hidden = run_federation(settings(*more, MASKED), out=Path("hidden")).summary
    assert hidden["adapter_sha256"] == clear["adapter_sha256"]
    assert hidden["loss"] == clear["loss"]
    assert (clear["privacy"]["secure_sum"], hidden["privacy"]["secure_sum"]) == (False, True)
    assert hidden["bytes"]["up"] > clear["bytes"]["up"]


def test_a_personal_method_shares_its_part_under_masks(place):
    clear = run_federation(settings("federated.algorithm=fedsa"), out=Path("clear")).summary
    hidden = run_federation(settings("federated.algorithm=fedsa", MASKED), out=Path("hidden")).summary
    assert hidden["loss"] == clear["loss"]


def test_a_run_killed_after_its_sum_was_unmasked_goes_on_with_fresh_keys_to_the_same_adapter(place, monkeypatch):
    clear = run_federation(settings(), out=Path("clear")).summary
    setups, closed = [], []
    drawn, close = MaskSetup.drawn, MaskedRound.close
    monkeypatch.setattr(MaskSetup, "drawn", lambda *given: setups.append(drawn(*given)) or setups[-1])

    def dies(self):
        closed.append(close(self))
        if len(closed) == 2:  # in the second round, before its checkpoint
            raise KeyboardInterrupt
        return closed[-1]

    monkeypatch.setattr(MaskedRound, "close", dies)
    with pytest.raises(KeyboardInterrupt):
        run_federation(settings(MASKED), out=Path("hidden"))
    assert resume_federation(Path("hidden")).summary["adapter_sha256"] == clear["adapter_sha256"]
    before, after = setups
    assert before.fingerprints.keys() == after.fingerprints.keys()
    assert not set(before.fingerprints.values()) & set(after.fingerprints.values())


def test_references_in_the_clear_do_not_go_with_masks(place):
    with pytest.raises(ConfigError, match="without noise and masks"):
        run_federation(settings(MASKED), out=Path("out"), compare=("local",))
    assert not Path("out").exists()


def test_fewer_hospitals_than_the_threshold_stop_the_run_with_its_own_code_and_one_line(place, monkeypatch, capsys):
    plain = MaskedRound.take
    monkeypatch.setattr(MaskedRound, "take", lambda self, one: plain(self, one) if one.hospital[-1] != "B" else None)
    chosen = [word for setting in (*TINY, MASKED) for word in ("--set", setting)]
    assert main(["run", "--out", "out", *chosen]) == 105
    said = capsys.readouterr().err
    assert "only 2 hospitals have sent a vector where 3 are needed; missing: 'hospital_B'" in said
    assert "Traceback" not in said


def test_client_and_server_of_a_script_do_not_leave_masks_out_in_silence(place):
    records = [{"question": f"What is {i}?", "answer": "A number."} for i in range(20)]
    with pytest.raises(ConfigError, match="without the masks"):
        FederatedClient("a", records, config=settings(MASKED))
    with pytest.raises(ConfigError, match="gets updates as they are"):
        FederatedServer({}, config=settings(MASKED))

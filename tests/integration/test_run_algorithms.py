"""``fedmed run`` with the methods beyond FedAvg on a tiny model in a local folder: what lies there afterwards, read by
plain transformers and plain PEFT alone."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pyarrow.parquet as parquet
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from fedmed.cli.app import main
from fedmed.config.load import config_digest, load_config
from fedmed.config.schema import FederatedSection, FedMedConfig, LoraSection, ModelSection, TrainingSection
from fedmed.federated.algorithms import get_algorithm
from fedmed.federated.checkpoint import load_latest
from fedmed.federated.client import FederatedClient
from fedmed.federated.server import FederatedServer
from fedmed.model.adapter import save_adapter
from fedmed.model.lora_setup import setup_lora
from fedmed.model.tiny import byte_tokenizer, tiny_model
from fedmed.types import CORE

pytestmark = pytest.mark.integration

HOSPITALS = ("hospital_A", "hospital_B", "hospital_C")
TINY = [
    "model.name=base",
    "model.device=cpu",
    "model.dtype=fp32",
    "model.lora.r=4",
    "model.lora.alpha=8.0",
    "model.generation.max_new_tokens=4",
    "training.dataset.name=records.jsonl",
    "training.dataset.gate.unscanned=true",
    "training.dataset.test_fraction=0.3",
    "training.dataset.token_cache=false",
    "training.learning_rate=0.01",
    "training.lr_scheduler=constant",
    "training.max_steps=2",
    "training.batch_size=4",
    "training.gradient_accumulation_steps=1",
    "training.threads=1",
    "training.evaluation.max_records_per_hospital=1000",  # all: so that they can be found again in the split
    "training.evaluation.few_shot=0",
    "training.evaluation.multiple_choice_items=0",
    "training.evaluation.generated_answers=0",
    "training.evaluation.sample_answers=1",
    "federated.rounds=2",
    "federated.num_clients=3",
]


@pytest.fixture
def run(tmp_path, monkeypatch):
    """``run(*settings)`` carries out one run in ``out`` and returns its summary."""
    monkeypatch.chdir(tmp_path)
    tiny_model("llama").save_pretrained("base")
    byte_tokenizer().save_pretrained("base")
    lines = [
        {"question": f"What is {organ} finding {i}?", "answer": f"A sign of the {organ}, {i}.", "specialty": organ}
        for i in range(10)
        for organ in ("heart", "lung", "liver")
    ]
    Path("records.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")

    def carry_out(*settings, compare=""):
        words = [word for setting in (*TINY, *settings) for word in ("--set", setting)]
        assert main(["run", *words, "--compare", compare, "--out", "out"]) == 0
        return json.loads(Path("out/summary.json").read_text())

    return carry_out


def held_out(hospital):
    """A hospital's test records from the written split."""
    files = json.loads(Path("data/processed/manifest.json").read_text())["hospitals"][hospital]["files"]
    rows = [row for file in files for row in parquet.read_table(Path("data/processed") / hospital / file).to_pylist()]
    return [row for row in rows if row["split"] == "test"]


@torch.no_grad()
def cost(model, hospital):
    """Nats and answer tokens of a hospital's held-out records, each read by the model on its own."""
    tokenizer = AutoTokenizer.from_pretrained("base")
    nats = tokens = 0.0
    for row in held_out(hospital):
        prompt = tokenizer(f"Question: {row['question']}\nAnswer:").input_ids
        answer = [*tokenizer(f" {row['answer']}", add_special_tokens=False).input_ids, tokenizer.eos_token_id]
        ids = torch.tensor([prompt + answer])
        logits = model(ids).logits[0, len(prompt) - 1 : -1]
        nats += float(torch.nn.functional.cross_entropy(logits, ids[0, len(prompt) :], reduction="sum"))
        tokens += len(answer)
    return nats, tokens


def plain(adapter=None):
    base = AutoModelForCausalLM.from_pretrained("base", dtype=torch.float32)
    return (base if adapter is None else PeftModel.from_pretrained(base, adapter)).eval()


def assert_losses_are(summary, adapters):
    """The summary's losses are those of these adapters, scored afresh; hospital -> folder."""
    together = {"base": [0.0, 0.0], "federated": [0.0, 0.0]}
    for name in HOSPITALS:
        for kind, model in (("base", plain()), ("federated", plain(adapters[name]))):
            nats, tokens = cost(model, name)
            assert summary["loss"]["per_hospital"][name][kind] == pytest.approx(nats / tokens, rel=1e-5), name
            together[kind][0] += nats
            together[kind][1] += tokens
    for kind, (nats, tokens) in together.items():
        assert summary["loss"][kind] == pytest.approx(nats / tokens, rel=1e-5)
    assert summary["loss"]["federated"] < summary["loss"]["base"]


def rank_of(folder):
    return json.loads((Path(folder) / "adapter_config.json").read_text())["r"]


@pytest.mark.parametrize(
    ("settings", "grows"),
    [
        (["federated.algorithm=fedex"], True),
        (["federated.algorithm=flora"], True),
        (["federated.algorithm=flora", "federated.ranks=[4,2,1]"], True),
        (["federated.algorithm=sketch", "federated.residual=fold"], True),
        (["federated.algorithm=sketch", "federated.residual=fold", "model.lora.use_rslora=true"], True),
        (["federated.algorithm=sketch", "federated.residual=carry", "federated.ranks=[4,2,1]"], False),
        (["federated.algorithm=fedavg", "federated.ranks=[1,4,2]"], False),
        (["federated.algorithm=fedsb", "federated.fedsb_factors=public", "training.learning_rate=0.1"], False),
        (["federated.algorithm=fedsb", "federated.fedsb_factors=weights", "training.learning_rate=0.1"], False),
        (["federated.wire.up=int8", "federated.wire.down=int8"], False),
    ],
    ids=lambda value: " ".join(setting.partition(".")[2] for setting in value) if isinstance(value, list) else "",
)
def test_the_exported_adapter_has_the_runs_held_out_loss_in_plain_peft(run, settings, grows):
    summary = run(*settings)
    assert_losses_are(summary, dict.fromkeys(HOSPITALS, "out/adapter"))
    assert (rank_of("out/adapter") > 4) == grows
    assert re.fullmatch("[0-9a-f]{64}", summary["adapter_sha256"])
    assert not Path("out/hospitals").exists()
    assert len(summary["samples"]) == 1


def test_fedsa_leaves_every_hospital_its_own_adapter_and_no_shared_one(run, capsys):
    summary = run("federated.algorithm=fedsa", "federated.split=by_specialty")
    adapters = {name: Path("out/hospitals") / name / "adapter" for name in HOSPITALS}
    assert summary["adapter_sha256"] is None
    assert not Path("out/adapter").exists()
    assert_losses_are(summary, adapters)
    bytes_of = {name: (folder / "adapter_model.safetensors").read_bytes() for name, folder in adapters.items()}
    assert len(set(bytes_of.values())) == len(HOSPITALS)
    for name in HOSPITALS:  # a hospital's own B suits its own records: the others' adapters are no better there
        own, others = cost(plain(adapters[name]), name)[0], [cost(plain(adapters[o]), name)[0] for o in HOSPITALS]
        assert own <= 1.02 * min(others)
    for folder in (Path("out"), *adapters.values()):
        for card in (folder / "model_card.md", folder / "README.md"):
            if card.exists():
                assert "None" not in card.read_text(), card
    shown = capsys.readouterr().out
    for path in re.findall(r"^(?:adapters?|report|summary) +(.*)$", shown, re.MULTILINE):
        assert list(Path().glob(path)), f"{path} is shown and is not there"


def test_a_run_that_folds_leaves_the_next_run_of_this_process_as_it_would_be_alone(run):
    alone = run("federated.algorithm=fedavg")["adapter_sha256"]
    for settings in (["federated.algorithm=flora"], ["federated.algorithm=fedavg"]):
        shutil.rmtree("out")
        after = run(*settings)["adapter_sha256"]
    assert after == alone


@pytest.mark.parametrize(
    "settings",
    [
        ["federated.robust=median"],
        ["federated.algorithm=fedsa"],
        ["federated.algorithm=fedex"],
        ["federated.algorithm=flora", "federated.ranks=[4,2,1]"],
        ["federated.algorithm=fedavgm", "federated.wire.up=int8"],
    ],
    ids=lambda settings: " ".join(setting.partition(".")[2] for setting in settings),
)
def test_the_references_of_every_method_learn_too(run, settings):
    summary = run(*settings, compare="local,central,shuffled")
    assert list(summary["comparison"]) == ["local", "central", "shuffled"]
    for name, reference in summary["comparison"].items():
        assert reference["loss"] < summary["loss"]["base"], name
        assert list(reference["per_hospital"]) == list(HOSPITALS)


def test_a_hospital_by_itself_is_its_own_reference_at_its_own_rank(run):
    one = ["federated.num_clients=1", "federated.algorithm=fedavg"]
    for rank in (1, 4):
        shutil.rmtree("out", ignore_errors=True)
        summary = run(*one, f"federated.ranks=[{rank}]", compare="local")
        assert summary["comparison"]["local"]["loss"] == pytest.approx(summary["loss"]["federated"], rel=1e-6)


def test_fedsb_sends_its_cores_alone_and_never_moves_the_factors(run):
    summary = run("federated.algorithm=fedsb", "federated.fedsb_factors=weights", "training.learning_rate=0.1")
    state = load_latest_state()
    start = {}
    for name, parameter in tiny_model("llama").named_parameters():
        if name.endswith(("q_proj.weight", "k_proj.weight", "v_proj.weight")):
            u, _, vt = torch.linalg.svd(parameter.detach(), full_matrices=False)
            start[f"base_model.model.{name.removesuffix('.weight')}"] = (u[:, :4], vt[:4])
    cores = [key for key in state if key.endswith(CORE)]
    assert sorted(key.removesuffix(CORE) for key in cores) == sorted(start)
    for layer, (u, vt) in start.items():
        b, a = torch.from_numpy(state[layer + ".lora_B.weight"]), torch.from_numpy(state[layer + ".lora_A.weight"])
        torch.testing.assert_close(b @ a, u @ vt, atol=1e-4, rtol=0)  # whatever the signs
        assert abs(state[layer + CORE]).max() > 0
    numbers = 2 * len(HOSPITALS) * len(cores) * 16  # two rounds of r x r cores
    assert 4 * numbers <= summary["bytes"]["up"] <= 4 * numbers + 2 * len(HOSPITALS) * 4000


def load_latest_state():
    settled = load_config(None, [Path("out/config.yaml")], ())
    return load_latest(Path("out"), config_digest=config_digest(settled)).global_state


def test_int8_both_ways_takes_about_a_quarter_of_the_bytes(run):
    wide = ["model.lora.r=16", "federated.rounds=4"]
    whole = run(*wide)
    shutil.rmtree("out")
    coded = run(*wide, "federated.wire.up=int8", "federated.wire.down=int8")
    assert coded["bytes"]["up"] < 0.35 * whole["bytes"]["up"]
    assert coded["bytes"]["down"] < 0.6 * whole["bytes"]["down"]  # the first round travels whole
    assert coded["loss"]["federated"] == pytest.approx(whole["loss"]["federated"], rel=0.02)
    assert coded["adapter_sha256"] != whole["adapter_sha256"]


@pytest.mark.parametrize("name", ["fedex", "flora", "sketch"])
def test_the_servers_model_carries_what_is_folded_and_clients_go_on_from_there(name, tmp_path):
    config = FedMedConfig(
        model=ModelSection(name="builtin:tiny-llama", device="cpu", lora=LoraSection(r=4, alpha=8.0)),
        training=TrainingSection(max_steps=2, learning_rate=0.01, lr_scheduler="constant", threads=1),
        federated=FederatedSection(algorithm=name, residual="fold", rounds=2, num_clients=2),
    )
    data = {
        who: [{"question": f"What is {who} {i}?", "answer": f"It is {who}."} for i in range(8)] for who in ("a", "b")
    }
    clients = [FederatedClient(who, rows, config=config) for who, rows in data.items()]
    served = setup_lora(tiny_model("llama"), config.model.lora).eval()
    server = FederatedServer(served, config)
    losses = []
    for _ in range(2):
        results = [client.local_training(server.get_global_model_state()) for client in clients]
        losses.append(sum(result.metrics.loss for result in results))
        server.update_global_model(server.aggregate_updates(results, [client.get_num_samples() for client in clients]))
    assert losses[1] < losses[0]
    exported = get_algorithm(config.federated).export(server.get_global_model_state(), {})
    save_adapter(exported, tmp_path, served)
    theirs = PeftModel.from_pretrained(tiny_model("llama"), tmp_path).eval()
    ids = torch.arange(3, 60)[None]
    with torch.no_grad():
        assert torch.equal(served(ids).logits, theirs(ids).logits)
        assert not torch.allclose(served(ids).logits, tiny_model("llama")(ids).logits, atol=1e-3)

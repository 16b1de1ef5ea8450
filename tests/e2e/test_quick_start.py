"""The user's four snippets, as written in the original description, on the real embedded model."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.e2e

DATA = """
from fedmed.data.load_dataset import load_medical_dataset
from fedmed.data.federated_split import create_federated_split
dataset = load_medical_dataset()
client_datasets = create_federated_split(dataset, num_clients=4)
"""

LOCAL = """
from fedmed.model.load_model import load_model_and_tokenizer
from fedmed.model.lora_setup import setup_lora
from fedmed.training.local_train import train_local
model, tokenizer = load_model_and_tokenizer()
model = setup_lora(model)
trainer = train_local(model, train_dataset)          # tokenizer: the model's own, or tokenizer=
"""

FEDERATED = """
from fedmed.federated.server import FederatedServer
from fedmed.federated.client import FederatedClient
server = FederatedServer(initial_model)              # a PEFT model or an adapter state
clients = [FederatedClient(f"hospital_{i}", data) for i, data in enumerate(client_datasets.values())]
for round in range(10):
    global_state = server.get_global_model_state()
    updates = [client.local_training(global_state) for client in clients]
    weights = [client.get_num_samples() for client in clients]
    aggregated = server.aggregate_updates(updates, weights)
    server.update_global_model(aggregated)
"""

INFERENCE = """
from fedmed.model.inference import generate_response
from fedmed.safety.guardrails import MedicalGuardrails
guardrails = MedicalGuardrails()
response = generate_response(model, tokenizer, "What causes diabetes?")
is_safe, reason = guardrails.check_response(response)
if is_safe:
    response = guardrails.add_disclaimer(response)
    print(response)
"""


@pytest.mark.slow
def test_the_four_snippets_run_as_written(tmp_path, monkeypatch, capsys):
    import numpy as np

    monkeypatch.chdir(tmp_path)
    # One row a step and one step a training: the snippets as they are, small enough for two cores.
    monkeypatch.setenv(
        "FEDMED_SET",
        "training.max_steps=1 training.batch_size=1 training.gradient_accumulation_steps=1 "
        "model.generation.max_new_tokens=24",
    )
    names: dict = {}
    exec(DATA, names)
    hospitals = names["client_datasets"]
    assert sorted(hospitals) == ["hospital_A", "hospital_B", "hospital_C", "hospital_D"]
    assert sum(len(data) for data in hospitals.values()) == len(names["dataset"])

    names["train_dataset"] = hospitals["hospital_A"]
    exec(LOCAL, names)
    assert names["trainer"].metrics.steps == 1

    names["initial_model"] = names["model"]
    before = names["trainer"].state
    exec(FEDERATED, names)
    after = names["server"].get_global_model_state()
    assert after.keys() == before.keys()
    assert any(not np.array_equal(after[key], before[key]) for key in after)
    assert len({id(client) for client in names["clients"]}) == 4
    assert names["weights"] == [sum(row["split"] == "train" for row in data) for data in hospitals.values()]

    exec(INFERENCE, names)
    assert names["response"].strip()
    assert isinstance(names["is_safe"], bool)
    assert names["is_safe"] == (names["guardrails"].add_disclaimer("x")[1:].strip() in capsys.readouterr().out)

"""The façades on a tiny random language model: the Quick Start's loop with a real LoRA adapter."""

from __future__ import annotations

import numpy as np
import pytest

from fedmed.config.schema import (
    DatasetSection,
    FederatedSection,
    FedMedConfig,
    LoraSection,
    ModelSection,
    TrainingSection,
)
from fedmed.errors import EmptyDataError
from fedmed.federated.client import FederatedClient
from fedmed.federated.server import FederatedServer

pytestmark = pytest.mark.integration

CONFIG = FedMedConfig(
    model=ModelSection(max_length=48, lora=LoraSection(r=2, alpha=4)),
    training=TrainingSection(
        batch_size=2, gradient_accumulation_steps=1, max_steps=2, learning_rate=5e-3, precision="fp32"
    ),
    federated=FederatedSection(rounds=2, num_clients=2),
)


@pytest.fixture(scope="module")
def model():
    from fedmed.model.lora_setup import setup_lora
    from fedmed.model.tiny import byte_tokenizer, tiny_model

    peft_model = setup_lora(tiny_model("llama"), CONFIG.model.lora)
    peft_model.fedmed_tokenizer = byte_tokenizer()
    peft_model.fedmed_config = CONFIG.model
    return peft_model


def rows(word):
    return [{"question": f"What is {word} {index}?", "answer": f"{word} it is", "split": "train"} for index in range(4)]


def loop(start, model, rounds):
    server = FederatedServer(start, CONFIG)
    clients = [FederatedClient(f"hospital_{word}", rows(word), model, CONFIG) for word in ("one", "two")]
    for _ in range(rounds):
        global_state = server.get_global_model_state()
        updates = [client.local_training(global_state) for client in clients]
        aggregated = server.aggregate_updates(updates, [client.get_num_samples() for client in clients])
        server.update_global_model(aggregated)
    return server.get_global_model_state(), updates


def test_two_clients_on_one_base_model_move_the_global_adapter_the_same_way_every_time(model, toy):
    start = FederatedServer(model, CONFIG).get_global_model_state()
    assert all(name.endswith(("lora_A.weight", "lora_B.weight")) for name in start)
    one, updates = loop(start, model, rounds=2)
    again, _ = loop(start, model, rounds=2)
    assert toy.same_bits(one, again)
    assert any(not np.array_equal(one[name], start[name]) for name in start)
    assert not toy.same_bits(updates[0].state, updates[1].state)
    for name in start:
        mean = (updates[0].state[name].astype(np.float64) + updates[1].state[name]) / 2
        np.testing.assert_allclose(one[name], mean, atol=1e-6)


def test_a_hospital_whose_questions_do_not_fit_is_named(model, toy):
    long = [{"question": "why " * 40, "answer": "so"}]
    client = FederatedClient("hospital_one", long, model, CONFIG)
    with pytest.raises(EmptyDataError, match="'hospital_one' fits 48 tokens"):
        client.local_training(FederatedServer(model, CONFIG).get_global_model_state())


@pytest.mark.parametrize("wanted", [True, False])
def test_a_client_keeps_tokens_only_if_the_setting_says_so(model, tmp_path, monkeypatch, wanted):
    monkeypatch.setattr("fedmed.data.token_cache.SMALLEST", 0)
    monkeypatch.setenv("FEDMED_CACHE", str(tmp_path))
    dataset = DatasetSection(token_cache=wanted)
    config = CONFIG.model_copy(update={"training": CONFIG.training.model_copy(update={"dataset": dataset})})
    client = FederatedClient("hospital_one", rows("one"), model, config)
    client.local_training(FederatedServer(model, CONFIG).get_global_model_state())
    assert len(list(tmp_path.glob("tokens/*.safetensors"))) == wanted

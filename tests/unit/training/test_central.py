from __future__ import annotations

import numpy as np
import pytest

from fedmed.config.schema import TrainingSection
from fedmed.data.encode import EncodedRow
from fedmed.model.adapter import adapter_sha256, get_adapter_state
from fedmed.model.lora_setup import setup_lora
from fedmed.training.central import train_central
from fedmed.training.local_train import PeftLocalTrainer
from fedmed.types import LocalJob

pytestmark = pytest.mark.unit

ROWS = [EncodedRow(tuple(range(5 + i, 15 + i)), 4) for i in range(6)]


def test_with_one_hospital_and_one_round_it_is_local_training(tiny_llama):
    model = setup_lora(tiny_llama[0])
    config = TrainingSection(max_steps=3, learning_rate=0.01)
    start = get_adapter_state(model)
    local = next(PeftLocalTrainer(model, {"hospital_A": ROWS}, config).run([LocalJob("hospital_A", 1, 1, 17, start)]))
    central = train_central(model, {"hospital_A": ROWS}, config, start=start, rounds=1, seed=17)
    assert adapter_sha256(central) == adapter_sha256(local.state)


def test_it_takes_as_many_steps_as_one_hospital_and_the_tokens_of_all(tiny_llama):
    model = setup_lora(tiny_llama[0])
    config = TrainingSection(max_steps=3, batch_size=1, gradient_accumulation_steps=2)
    steps = []
    rows = {f"hospital_{name}": ROWS for name in "ABCD"}
    start = get_adapter_state(model)
    moved = train_central(
        model, rows, config, start=start, rounds=2, seed=17, on_step=lambda step, of, loss: steps.append((step, of))
    )
    assert steps == [(number, 6) for number in range(1, 7)]
    assert any(not np.array_equal(start[key], moved[key]) for key in start)

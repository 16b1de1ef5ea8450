from __future__ import annotations

import numpy as np
import pytest

from fedmed.config.schema import TrainingSection
from fedmed.data.encode import EncodedRow
from fedmed.model.adapter import adapter_sha256, get_adapter_state
from fedmed.model.lora_setup import setup_lora
from fedmed.training.central import train_central
from fedmed.training.engine import EngineTrainer
from fedmed.types import LocalJob

pytestmark = pytest.mark.unit

ROWS = [EncodedRow(tuple(range(5 + i, 15 + i)), 4) for i in range(6)]


def test_with_one_hospital_and_one_round_it_is_local_training(tiny_llama):
    model = setup_lora(tiny_llama[0])
    config = TrainingSection(max_steps=3, learning_rate=0.01)
    start = get_adapter_state(model)
    local = next(EngineTrainer(model, {"hospital_A": ROWS}, config).run([LocalJob("hospital_A", 1, 1, 17, start)]))
    central = train_central(model, {"hospital_A": ROWS}, config, start=start, hospitals=[["hospital_A"]], seed=17)
    assert adapter_sha256(central) == adapter_sha256(local.state)


def test_it_takes_as_many_steps_as_one_hospital_and_the_tokens_of_all(tiny_llama):
    model = setup_lora(tiny_llama[0])
    config = TrainingSection(max_steps=3, batch_size=1, gradient_accumulation_steps=2)
    steps = []
    rows = {f"hospital_{name}": ROWS for name in "ABCD"}
    start = get_adapter_state(model)
    moved = train_central(
        model,
        rows,
        config,
        start=start,
        hospitals=[list(rows)] * 2,
        seed=17,
        on_step=lambda step, of, loss: steps.append((step, of)),
    )
    assert steps == [(number, 6) for number in range(1, 7)]
    assert any(not np.array_equal(start[key], moved[key]) for key in start)


def test_who_is_not_asked_has_no_part_and_dropout_repeats(tiny_llama):
    from fedmed.config.schema import LoraSection

    model = setup_lora(tiny_llama[0], LoraSection(dropout=0.2))
    config = TrainingSection(max_steps=2, learning_rate=0.01)
    start = get_adapter_state(model)
    rows = {"hospital_A": ROWS, "hospital_B": [EncodedRow(tuple(range(90, 99)), 4)]}
    some, again = (
        train_central(model, rows, config, start=start, hospitals=[["hospital_A"]], seed=17) for _ in range(2)
    )
    everybody = train_central(model, rows, config, start=start, hospitals=[["hospital_A", "hospital_B"]], seed=17)
    assert adapter_sha256(some) == adapter_sha256(again)
    assert adapter_sha256(some) != adapter_sha256(everybody)

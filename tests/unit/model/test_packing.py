from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from transformers import AutoModelForCausalLM, BioGptConfig, GPT2Config

from fedmed.config.schema import TrainingSection
from fedmed.data.encode import EncodedRow
from fedmed.evaluation.likelihood import score_rows
from fedmed.model.packing import packs
from fedmed.training.stepper import LoraStepper

pytestmark = pytest.mark.unit

ROWS = [EncodedRow(tuple(range(5 + 9 * i, 14 + 9 * i)), 3) for i in range(3)]


def random_model(config):
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(3)
        return AutoModelForCausalLM.from_config(config).eval()


@pytest.fixture
def biogpt():
    """A family that ignores ``position_ids``: packed rows would see each other."""
    return random_model(
        BioGptConfig(vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
    )


def test_families_that_pack_and_families_that_do_not_are_told_apart(tiny_llama, tiny_gemma, biogpt):
    gpt2 = random_model(GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=2, n_positions=64))
    assert [packs(model) for model in (tiny_llama[0], tiny_gemma[0], gpt2, biogpt)] == [True, True, True, False]


def plain_loss(model, row):
    ids = torch.tensor([row.input_ids])
    with torch.no_grad():
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, row.prompt_length - 1 : -1]
    return float(torch.nn.functional.cross_entropy(logits, ids[0, row.prompt_length :], reduction="sum"))


def test_a_model_that_does_not_pack_is_scored_and_trained_row_by_row(biogpt):
    from peft import LoraConfig, get_peft_model

    expected = [plain_loss(biogpt, row) for row in ROWS]
    assert score_rows(biogpt, ROWS).nll == pytest.approx(expected, rel=1e-5)
    model = get_peft_model(biogpt, LoraConfig(target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"))
    stepper = LoraStepper(model, TrainingSection())
    model.eval()  # this family has dropout of its own
    result = stepper.step([ROWS[:2], ROWS[2:]], 0.0, "here")
    assert result.loss == pytest.approx(sum(expected) / sum(len(r.input_ids) - 3 for r in ROWS), rel=1e-5)


def test_the_cache_of_compiled_products_is_small_unless_the_user_says_otherwise():
    code = "import os, fedmed.model.frozen_linear; print(os.environ['ONEDNN_PRIMITIVE_CACHE_CAPACITY'])"
    for given, expected in (({}, "32"), ({"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "512"}, "512")):
        clean = {name: value for name, value in os.environ.items() if name != "ONEDNN_PRIMITIVE_CACHE_CAPACITY"}
        done = subprocess.run(
            [sys.executable, "-c", code], env=clean | given, capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == expected

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from transformers import AutoModelForCausalLM, BioGptConfig, Gemma2Config, GPT2Config, GraniteConfig

from fedmed.config.schema import TrainingSection
from fedmed.data.encode import EncodedRow
from fedmed.evaluation.likelihood import score_rows
from fedmed.model import packing
from fedmed.model.answer_loss import answer_nll
from fedmed.model.frozen_linear import fast_products
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


SMALL = {
    "vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
    "intermediate_size": 64,
}  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "has_logits"),
    [
        (GraniteConfig(**SMALL, logits_scaling=7.0), True),
        (Gemma2Config(**SMALL, head_dim=16, final_logit_softcapping=0.5), False),
    ],
    ids=["scaled", "capped"],
)
def test_scoring_leaves_out_the_logits_where_the_output_layer_is_a_product(settings, has_logits, monkeypatch):
    model = random_model(settings)
    for parameter in model.parameters():
        if parameter.dim() > 1:  # logits far from even, so that scale and cap are seen
            parameter.data.mul_(20)
    score_rows(model, ROWS[:1])
    asked = []
    plain = packing.answer_logits
    monkeypatch.setattr(packing, "answer_logits", lambda *given: asked.append(given) or plain(*given))
    found = score_rows(model, ROWS).nll
    assert bool(asked) == has_logits
    assert found == pytest.approx([plain_loss(model, row) for row in ROWS], rel=1e-5)


def test_losses_over_a_large_vocabulary_are_those_of_double_precision():
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(5)
        hidden, head = torch.randn(16, 64), torch.randn(262_144, 64) / 2
    targets = torch.arange(16) * 1000
    exact = torch.nn.functional.cross_entropy(hidden.double() @ head.double().t(), targets, reduction="none")
    torch.testing.assert_close(answer_nll(hidden, head, targets).double(), exact, rtol=0, atol=5e-6)
    # torch's own, whose sum over so many words loses more, does not come so near; the day it does, this may go
    plain = torch.nn.functional.cross_entropy(hidden @ head.t(), targets, reduction="none")
    assert float((plain.double() - exact).abs().max()) > 1e-5


def test_fast_products_are_the_same_and_are_gone_afterwards(tiny_llama):
    model, _ = tiny_llama
    ids = torch.tensor([[3, 4, 5]])
    with torch.no_grad():
        before = model(input_ids=ids).logits
        with fast_products(model), fast_products(model):
            inside = model(input_ids=ids).logits
    torch.testing.assert_close(inside, before, rtol=1e-4, atol=1e-5)
    assert not any("forward" in vars(module) for module in model.modules())


def test_the_cache_of_compiled_products_is_small_unless_the_user_says_otherwise():
    code = "import os, fedmed.model.frozen_linear; print(os.environ['ONEDNN_PRIMITIVE_CACHE_CAPACITY'])"
    for given, expected in (({}, "32"), ({"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "512"}, "512")):
        clean = {name: value for name, value in os.environ.items() if name != "ONEDNN_PRIMITIVE_CACHE_CAPACITY"}
        done = subprocess.run(
            [sys.executable, "-c", code], env=clean | given, capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == expected

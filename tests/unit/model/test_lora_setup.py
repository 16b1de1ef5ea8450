"""A fresh adapter: where it sits, what it starts from, what it leaves alone."""

from __future__ import annotations

import math

import pytest
import torch

from fedmed.config.schema import LoraSection, ModelSection
from fedmed.errors import ModelError, TargetModuleError
from fedmed.model.adapter import adapter_parameters, adapter_sha256, get_adapter_state
from fedmed.model.load_model import load_model_and_tokenizer
from fedmed.model.lora_setup import setup_lora, trainable_share
from fedmed.model.tiny import tiny_model

pytestmark = pytest.mark.unit

IDS = torch.arange(3, 40)[None]


@pytest.mark.parametrize("kind", ["llama", "gemma"])
@pytest.mark.parametrize("options", [{}, {"use_rslora": True}, {"use_dora": True}])
@torch.no_grad()
def test_a_fresh_adapter_changes_nothing(kind, options):
    before = tiny_model(kind)(IDS).logits
    after = setup_lora(tiny_model(kind), LoraSection(**options)).eval()(IDS).logits
    torch.testing.assert_close(after, before, atol=1e-5, rtol=0)


def test_only_the_adapter_trains(tiny_llama):
    model = setup_lora(tiny_llama[0], LoraSection(r=4))
    training = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert training
    assert all("lora_" in name for name in training)
    trainable, total = trainable_share(model)
    # two layers of r * (d_in + d_out) for q 64x64, k 64x32, v 64x32
    assert trainable == 2 * 4 * ((64 + 64) + (64 + 32) + (64 + 32))
    assert total == sum(parameter.numel() for parameter in model.parameters())


def test_the_start_depends_on_the_seed_only(tiny_llama):
    first = adapter_sha256(get_adapter_state(setup_lora(tiny_llama[0], seed=3)))
    torch.manual_seed(99)
    assert adapter_sha256(get_adapter_state(setup_lora(tiny_model("llama"), seed=3))) == first
    assert adapter_sha256(get_adapter_state(setup_lora(tiny_model("llama"), seed=4))) != first


def test_the_global_generator_stays_as_it_was():
    before = torch.random.get_rng_state()
    setup_lora(tiny_model("gemma"))
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_is_drawn_as_peft_draws_it_and_b_is_zero():
    state = get_adapter_state(setup_lora(tiny_model("llama"), LoraSection(r=16)))
    for key, array in state.items():
        if "lora_B" in key:
            assert not array.any()
        else:
            bound = 1 / math.sqrt(array.shape[1])
            assert 0.9 * bound < abs(array).max() <= bound


def test_the_adapter_is_float32_on_a_bf16_base():
    model, _ = load_model_and_tokenizer(config=ModelSection(name="builtin:tiny-llama", device="cpu", dtype="bf16"))
    model = setup_lora(model)
    assert {parameter.dtype for parameter in adapter_parameters(model).values()} == {torch.float32}
    assert model.get_input_embeddings().weight.dtype == torch.bfloat16
    assert model(IDS).logits.isfinite().all()


def test_a_missing_target_lists_the_layers_there_are(tiny_llama):
    with pytest.raises(TargetModuleError) as caught:
        setup_lora(tiny_llama[0], LoraSection(target_modules=("q_proj", "query_key_value")))
    assert "'query_key_value'" in str(caught.value)
    assert "down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj" in str(caught.value)
    setup_lora(tiny_llama[0])  # the model was not touched


def test_a_target_that_is_not_linear_is_refused(tiny_llama):
    with pytest.raises(TargetModuleError, match="no linear layer named 'embed_tokens'"):
        setup_lora(tiny_llama[0], LoraSection(target_modules=("embed_tokens",)))


def test_a_second_adapter_is_refused(tiny_llama):
    model = setup_lora(tiny_llama[0])
    with pytest.raises(ModelError, match="already"):
        setup_lora(model)


def test_without_settings_those_of_the_loaded_model_count():
    config = ModelSection(name="builtin:tiny-llama", lora=LoraSection(r=3))
    model = setup_lora(load_model_and_tokenizer(config=config)[0])
    assert model.peft_config["default"].r == 3


def test_what_loading_put_on_the_model_survives_the_adapter(tiny_gemma):
    base, tokenizer = tiny_gemma
    model = setup_lora(base)
    assert model.fedmed_tokenizer is tokenizer
    assert model.fedmed_name == model.fedmed_config.name == "builtin:tiny-gemma"

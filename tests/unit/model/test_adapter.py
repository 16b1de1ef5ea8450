"""Adapters between model, numpy and disk, and against plain PEFT."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from peft import PeftModel, get_peft_model_state_dict

from fedmed.config.schema import LoraSection, ModelSection
from fedmed.errors import AdapterMismatchError, ModelCorruptError, ModelNotFoundError
from fedmed.model.adapter import (
    adapter_parameters,
    adapter_sha256,
    attach_adapter,
    base_fingerprint,
    get_adapter_state,
    load_adapter,
    save_adapter,
    set_adapter_state,
)
from fedmed.model.load_model import load_model_and_tokenizer
from fedmed.model.lora_setup import setup_lora
from fedmed.model.tiny import tiny_model
from fedmed.utils.random_streams import stream

pytestmark = pytest.mark.unit

FAMILIES = ["tiny_llama", "tiny_gemma"]
OPTIONS = [LoraSection(r=4), LoraSection(r=4, use_rslora=True), LoraSection(r=4, use_dora=True)]
IDS = torch.arange(3, 40)[None]


def _trained(base, config=OPTIONS[0]):
    """A PEFT model with random A and B, as if trained."""
    model = setup_lora(base, config).eval()
    state = get_adapter_state(model)
    draw = stream(17, "trained")
    set_adapter_state(model, {key: array + draw.normal(0, 0.05, array.shape) for key, array in state.items()})
    return model


def _tiny(name="llama", **settings):
    config = ModelSection(name=f"builtin:tiny-{name}", device="cpu", **{"dtype": "fp32", **settings})
    return load_model_and_tokenizer(config=config)[0]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("config", OPTIONS)
def test_keys_are_pefts_own(family, config, request):
    model = setup_lora(request.getfixturevalue(family)[0], config)
    state = get_adapter_state(model)
    theirs = get_peft_model_state_dict(model)
    assert list(state) == sorted(theirs)
    assert all(array.dtype == np.float32 for array in state.values())
    assert all(np.array_equal(array, theirs[key].numpy()) for key, array in state.items())


def test_a_state_is_a_copy(tiny_llama):
    model = _trained(tiny_llama[0])
    state = get_adapter_state(model)
    before = adapter_sha256(state)
    for parameter in adapter_parameters(model).values():
        parameter.data.zero_()
    assert adapter_sha256(state) == before
    set_adapter_state(model, state)
    for array in state.values():
        array[:] = 0
    assert adapter_sha256(get_adapter_state(model)) == before


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("config", OPTIONS)
@torch.no_grad()
def test_a_saved_adapter_gives_the_same_logits_through_us_and_through_plain_peft(family, config, request, tmp_path):
    kind = family.removeprefix("tiny_")
    model = _trained(request.getfixturevalue(family)[0], config)
    state = get_adapter_state(model)
    save_adapter(state, tmp_path / "adapter", model)
    logits = model(IDS).logits
    assert not torch.equal(logits, tiny_model(kind)(IDS).logits)
    assert torch.equal(attach_adapter(_tiny(kind), tmp_path / "adapter")(IDS).logits, logits)
    assert torch.equal(PeftModel.from_pretrained(tiny_model(kind), tmp_path / "adapter")(IDS).logits, logits)
    assert adapter_sha256(load_adapter(tmp_path / "adapter")) == adapter_sha256(state)


def test_an_adapter_that_peft_wrote_can_be_attached(tiny_llama, tmp_path):
    model = _trained(tiny_llama[0])
    model.save_pretrained(tmp_path)
    attached = attach_adapter(_tiny(), tmp_path)
    assert adapter_sha256(get_adapter_state(attached)) == adapter_sha256(get_adapter_state(model))


def test_saving_the_same_adapter_twice_gives_the_same_bytes(tiny_llama, tmp_path):
    model = _trained(tiny_llama[0])
    for name in ("one", "two"):
        save_adapter(get_adapter_state(model), tmp_path / name, model)
    for file in ("adapter_model.safetensors", "adapter_config.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_the_configuration_names_the_base_model(tiny_llama, tmp_path):
    model = _trained(tiny_llama[0])
    save_adapter(get_adapter_state(model), tmp_path, model)
    written = json.loads((tmp_path / "adapter_config.json").read_text())
    assert written["base_model_name_or_path"] == "builtin:tiny-llama"
    assert written["target_modules"] == ["k_proj", "q_proj", "v_proj"]
    assert (written["r"], written["lora_alpha"], written["inference_mode"]) == (4, 32.0, True)


def test_attaching_leaves_the_global_generator_alone(tiny_llama, tmp_path):
    model = _trained(tiny_llama[0])
    save_adapter(get_adapter_state(model), tmp_path, model)
    before = torch.random.get_rng_state()
    attach_adapter(_tiny(), tmp_path)
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_truncated_adapter_is_corrupt(tiny_llama, tmp_path):
    model = _trained(tiny_llama[0])
    save_adapter(get_adapter_state(model), tmp_path, model)
    path = tmp_path / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelCorruptError, match="adapter_model.safetensors"):
        load_adapter(tmp_path)


def test_a_broken_configuration_is_corrupt(tiny_llama, tmp_path):
    model = _trained(tiny_llama[0])
    save_adapter(get_adapter_state(model), tmp_path, model)
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LO')
    with pytest.raises(ModelCorruptError, match="adapter_config.json"):
        attach_adapter(_tiny(), tmp_path)


def test_a_folder_without_adapter_is_not_found(tmp_path, tiny_llama):
    with pytest.raises(ModelNotFoundError, match="adapter_model.safetensors"):
        load_adapter(tmp_path)
    model = _trained(tiny_llama[0])
    save_adapter(get_adapter_state(model), tmp_path, model)
    (tmp_path / "adapter_config.json").unlink()
    with pytest.raises(ModelNotFoundError, match="adapter_config.json"):
        attach_adapter(_tiny(), tmp_path)


def test_an_adapter_for_a_model_of_another_shape_is_refused(tiny_llama, tmp_path):
    model = _trained(tiny_llama[0])
    state = get_adapter_state(model)
    save_adapter(state, tmp_path, model)
    from transformers import AutoModelForCausalLM, LlamaConfig

    wide = LlamaConfig(
        vocab_size=259, hidden_size=96, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2,
    )  # fmt: skip
    with pytest.raises(AdapterMismatchError, match="in_features 96 and the adapter 64.*builtin:tiny-llama"):
        attach_adapter(AutoModelForCausalLM.from_config(wide), tmp_path)


def test_an_adapter_for_another_base_of_the_same_shape_is_refused(tiny_llama, tmp_path):
    model = _trained(tiny_llama[0])
    save_adapter(get_adapter_state(model), tmp_path, model)
    with pytest.raises(AdapterMismatchError, match="another base model"):
        attach_adapter(tiny_model("llama", seed=5), tmp_path)
    with pytest.raises(AdapterMismatchError, match="builtin:tiny-gemma"):
        attach_adapter(_tiny("gemma"), tmp_path)


def test_a_refused_state_leaves_the_model_as_it_was(tiny_llama):
    model = _trained(tiny_llama[0])
    state = get_adapter_state(model)
    keys = list(state)
    bad = [
        {key: array for key, array in state.items() if key != keys[0]},
        {**state, "extra": state[keys[0]]},
        {**state, keys[-1]: state[keys[-1]].T},
        {},
    ]
    for wrong in bad:
        with pytest.raises(AdapterMismatchError):
            set_adapter_state(model, wrong)
    with pytest.raises(AdapterMismatchError, match=r"lacks .*lora_A"):
        set_adapter_state(model, bad[0])
    assert adapter_sha256(get_adapter_state(model)) == adapter_sha256(state)


def test_a_model_without_adapter_says_so(tiny_llama):
    with pytest.raises(AdapterMismatchError, match="setup_lora"):
        get_adapter_state(tiny_llama[0])


def test_the_digest_depends_on_names_shapes_and_bits():
    state = {"b": np.zeros((2, 3), np.float32), "a": np.ones((1,), np.float32)}
    digest = adapter_sha256(state)
    assert adapter_sha256(dict(reversed(state.items()))) == digest
    assert adapter_sha256({**state, "b": np.zeros((3, 2), np.float32)}) != digest
    assert adapter_sha256({**state, "b": -np.zeros((2, 3), np.float32)}) != digest
    assert adapter_sha256({"c": state["b"], "a": state["a"]}) != digest
    assert adapter_sha256({**state, "a": np.ones((1,), np.float64)}) != digest


@pytest.mark.parametrize("kind", ["llama", "gemma"])
def test_the_fingerprint_of_a_base_does_not_depend_on_its_number_format_or_adapter(kind):
    plain = base_fingerprint(_tiny(kind))
    assert base_fingerprint(_tiny(kind, dtype="bf16")) == plain
    assert base_fingerprint(setup_lora(_tiny(kind), LoraSection(r=2, use_dora=True))) == plain
    assert base_fingerprint(tiny_model(kind, seed=3)) != plain

"""The digest of a base names its weights and nothing else."""

from __future__ import annotations

import pytest
import torch

from fedmed.config.schema import LoraSection
from fedmed.model.adapter import get_adapter_state, set_adapter_state
from fedmed.model.base_digest import base_digest
from fedmed.model.lora_setup import setup_lora

pytestmark = pytest.mark.unit


def test_an_adapter_does_not_change_the_digest_and_a_weight_does(tiny_llama):
    model, _ = tiny_llama
    plain = base_digest(model)
    lora = setup_lora(model, LoraSection(r=4, target_modules=("q_proj", "v_proj")), seed=3)
    assert base_digest(lora) == plain
    set_adapter_state(lora, {name: array + 1 for name, array in get_adapter_state(lora).items()})
    assert base_digest(lora) == plain
    with torch.no_grad():
        next(iter(lora.parameters()))[0, 0] += 1e-3
    assert base_digest(lora) != plain


def test_two_models_and_two_types_have_two_digests(tiny_llama, tiny_gemma):
    llama, gemma = tiny_llama[0], tiny_gemma[0]
    found = {base_digest(llama), base_digest(gemma), base_digest(llama.to(torch.bfloat16))}
    assert len(found) == 3

"""Packed rows equal rows on their own, for each family of model that the tests can build."""

from __future__ import annotations

import pytest
import torch

from fedmed.config.schema import LoraSection
from fedmed.model.adapter import get_adapter_state, set_adapter_state
from fedmed.model.lora_setup import setup_lora
from fedmed.model.packing import answer_logits, pack_rows
from fedmed.utils.random_streams import stream

pytestmark = pytest.mark.integration

FAMILIES = ["tiny_llama", "tiny_gemma"]
LENGTHS = ((31, 12), (5, 1), (60, 40), (19, 18))  # tokens, prompt tokens; the tiny Gemma's window is 8


def _rows() -> list[tuple[list[int], int]]:
    draw = stream(17, "packed rows")
    return [(draw.integers(3, 259, size=length).tolist(), prompt) for length, prompt in LENGTHS]


def _with_adapter(model):
    model = setup_lora(model, LoraSection(r=4)).eval()
    draw = stream(17, "packed adapter")
    state = get_adapter_state(model)
    set_adapter_state(model, {key: draw.normal(0, 0.1, array.shape) for key, array in state.items()})
    return model


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_packed_rows_see_only_themselves(family, request):
    model = _with_adapter(request.getfixturevalue(family)[0])
    packed = answer_logits(model, pack_rows(_rows()))
    alone = []
    for ids, prompt_length in _rows():
        logits = model(input_ids=torch.tensor([ids]), attention_mask=torch.ones(1, len(ids))).logits[0]
        alone.append(logits[prompt_length - 1 : -1])
    torch.testing.assert_close(packed, torch.cat(alone), atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_a_row_keeps_its_logits_when_its_neighbours_change(family, request):
    model = _with_adapter(request.getfixturevalue(family)[0])
    rows = _rows()
    others = [
        ([(token * 7) % 256 + 3 for token in ids], prompt) if number != 2 else (ids, prompt)
        for number, (ids, prompt) in enumerate(rows)
    ]
    packs = [pack_rows(rows), pack_rows(others)]
    answers = [len(ids) - prompt for ids, prompt in rows]
    own = slice(sum(answers[:2]), sum(answers[:3]))
    mine = [answer_logits(model, pack)[own] for pack in packs]
    torch.testing.assert_close(mine[0], mine[1], atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_gradients_are_the_sum_of_the_rows_gradients(family, request):
    model = _with_adapter(request.getfixturevalue(family)[0])
    rows = _rows()

    def gradients(groups):
        model.zero_grad()
        for group in groups:
            pack = pack_rows(group)
            torch.nn.functional.cross_entropy(answer_logits(model, pack), pack.targets, reduction="sum").backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}

    together, one_by_one = gradients([rows]), gradients([[row] for row in rows])
    for name, gradient in together.items():
        torch.testing.assert_close(gradient, one_by_one[name], atol=1e-4, rtol=1e-4)

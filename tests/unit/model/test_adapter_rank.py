"""An adapter that takes another rank keeps its scale: by hand from W + scale B A, in plain PEFT, and in training."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from peft import PeftModel

from fedmed.config.schema import LoraSection, ModelSection, TrainingSection
from fedmed.data.encode import EncodedRow
from fedmed.errors import AdapterMismatchError
from fedmed.model.adapter import (
    adapted_layers,
    adapter_parameters,
    attach_adapter,
    get_adapter_state,
    save_adapter,
    set_adapter_state,
)
from fedmed.model.load_model import load_model_and_tokenizer
from fedmed.model.lora_setup import setup_lora
from fedmed.model.tiny import tiny_model
from fedmed.training.engine import EngineTrainer
from fedmed.training.plain import train_plain
from fedmed.types import LocalJob
from fedmed.utils.random_streams import stream

pytestmark = pytest.mark.unit

A, B = ".lora_A.weight", ".lora_B.weight"
IDS = torch.arange(3, 60)[None]
R, ALPHA = 4, 6.0
KINDS = [pytest.param(False, ALPHA / R, id="lora"), pytest.param(True, ALPHA / math.sqrt(R), id="rslora")]


def adapted(base, *, rslora=False, **more):
    return setup_lora(base, LoraSection(r=R, alpha=ALPHA, use_rslora=rslora, **more)).eval()


def of_rank(model, rank):
    """A random adapter of any rank for this model's layers."""
    draw = stream(17, "any rank", rank)
    made = {}
    for name, layer in sorted(adapted_layers(model).items()):
        base = layer.get_base_layer()
        made[name + A] = draw.normal(0, 0.1, (rank, base.in_features)).astype("float32")
        made[name + B] = draw.normal(0, 0.1, (base.out_features, rank)).astype("float32")
    return made


def by_hand(kind, state, scale):
    """The bare model with W + scale * B A for weights."""
    base = tiny_model(kind)
    weights = dict(base.named_parameters())
    for key in state:
        if key.endswith(A):
            name = key.removesuffix(A)
            change = state[name + B].astype(np.float64) @ state[key].astype(np.float64)
            with torch.no_grad():
                weights[name.removeprefix("base_model.model.") + ".weight"].add_(torch.from_numpy(scale * change))
    return base


@torch.no_grad()
def logits(model):
    return model(IDS).logits


def close(left, right):
    torch.testing.assert_close(left, right, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("rslora", "scale"), KINDS)
@pytest.mark.parametrize("kind", ["llama", "gemma"])
def test_the_scale_stays_at_a_larger_and_a_smaller_rank_and_back(kind, rslora, scale):
    model = adapted(tiny_model(kind), rslora=rslora)
    seen = []
    for rank in (R, 9, 1, 3, R):
        state = of_rank(model, rank)
        set_adapter_state(model, state, any_rank=True)
        seen.append(logits(model))
        close(seen[-1], logits(by_hand(kind, state, scale)))
        assert {key: array.tobytes() for key, array in get_adapter_state(model).items()} == {
            key: array.tobytes() for key, array in state.items()
        }
    assert torch.equal(seen[0], seen[-1])
    assert not torch.allclose(seen[0], seen[1], atol=1e-2)
    config = model.peft_config["default"]
    assert (config.r, config.lora_alpha) == (R, pytest.approx(ALPHA))


@pytest.mark.parametrize(("rslora", "scale"), KINDS)
def test_pefts_own_bookkeeping_follows_the_rank(tiny_llama, rslora, scale):
    model = adapted(tiny_llama[0], rslora=rslora)
    state = of_rank(model, 9)
    set_adapter_state(model, state, any_rank=True)
    before = logits(model)
    with model.disable_adapter():
        close(logits(model), logits(tiny_model("llama")))
    for layer in adapted_layers(model).values():
        assert layer.scaling["default"] == pytest.approx(scale)
        assert layer.r["default"] == layer.lora_A["default"].out_features == layer.lora_B["default"].in_features == 9
        assert layer.lora_alpha["default"] == pytest.approx(model.peft_config["default"].lora_alpha)
    model.merge_adapter()
    close(logits(model), before)
    model.unmerge_adapter()
    close(logits(model.merge_and_unload()), before)


def test_another_rank_is_refused_unless_it_is_asked_for_and_then_all_layers_must_have_it(tiny_llama):
    model = adapted(tiny_llama[0])
    start = {key: array.tobytes() for key, array in get_adapter_state(model).items()}
    with pytest.raises(AdapterMismatchError, match="other shapes"):
        set_adapter_state(model, of_rank(model, 9))
    uneven = of_rank(model, 9)
    key = min(uneven)
    uneven |= {key: uneven[key][:5]}
    with pytest.raises(AdapterMismatchError, match="other shapes"):
        set_adapter_state(model, uneven, any_rank=True)
    wide = {key: np.pad(array, ((0, 0), (0, 1))) for key, array in of_rank(model, 9).items()}
    with pytest.raises(AdapterMismatchError, match="other shapes"):
        set_adapter_state(model, wide, any_rank=True)
    assert {key: array.tobytes() for key, array in get_adapter_state(model).items()} == start
    assert model.peft_config["default"].r == R


@pytest.mark.parametrize(("rslora", "scale"), KINDS)
@pytest.mark.parametrize("rank", [1, 9])
@pytest.mark.parametrize("carried", [False, True], ids=["saved from the first rank", "saved from that rank"])
def test_a_saved_adapter_of_another_rank_means_the_same_to_plain_peft(
    tiny_llama, tmp_path, rslora, scale, rank, carried
):
    model = adapted(tiny_llama[0], rslora=rslora)
    state = of_rank(model, rank)
    if carried:
        set_adapter_state(model, state, any_rank=True)
    save_adapter(state, tmp_path, model)
    written = json.loads((tmp_path / "adapter_config.json").read_text())
    assert written["r"] == rank
    assert written["lora_alpha"] / (math.sqrt(rank) if rslora else rank) == pytest.approx(scale)
    set_adapter_state(model, state, any_rank=True)
    theirs = PeftModel.from_pretrained(tiny_model("llama"), tmp_path).eval()
    assert torch.equal(logits(theirs), logits(model))
    close(logits(theirs), logits(by_hand("llama", state, scale)))
    loaded, _ = load_model_and_tokenizer(config=ModelSection(name="builtin:tiny-llama", device="cpu", dtype="fp32"))
    assert torch.equal(logits(attach_adapter(loaded, tmp_path)), logits(model))


def rows(count=8):
    draw = stream(17, "any rank rows")
    return [EncodedRow(tuple(draw.integers(3, 259, 20).tolist()), int(draw.integers(2, 10))) for _ in range(count)]


@pytest.mark.parametrize("path", ["engine", "plain"])
def test_training_goes_on_at_another_rank_and_after_coming_back(tiny_llama, path):
    model = adapted(tiny_llama[0])
    config = TrainingSection(
        batch_size=8, gradient_accumulation_steps=1, max_steps=5, learning_rate=0.02, lr_scheduler="constant"
    )

    def trained(start):
        job = LocalJob("a", 1, 1, 17, start)
        if path == "plain":
            return train_plain(model, job, rows(), config)
        (result,) = EngineTrainer(model, {"a": rows()}, config).run([job])
        return result

    first = trained(of_rank(model, R))
    set_adapter_state(model, of_rank(model, 9), any_rank=True)
    assert all(parameter.requires_grad for parameter in adapter_parameters(model).values())
    wide = trained(of_rank(model, 9))
    # the loss of the first step by hand, on the bare model with changed weights
    base = by_hand("llama", of_rank(model, 9), ALPHA / R)
    total = answers = 0.0
    for row in rows():
        ids = torch.tensor([row.input_ids])
        with torch.no_grad():
            out = base(ids).logits[0, row.prompt_length - 1 : -1]
        total += float(torch.nn.functional.cross_entropy(out, ids[0, row.prompt_length :], reduction="sum"))
        answers += len(row.input_ids) - row.prompt_length
    assert wide.metrics.step_losses[0] == pytest.approx(total / answers, rel=1e-5)
    assert wide.metrics.step_losses[-1] < wide.metrics.step_losses[0]
    assert {array.shape[0] for key, array in wide.state.items() if key.endswith(A)} == {9}
    set_adapter_state(model, of_rank(model, R), any_rank=True)
    again = trained(of_rank(model, R))
    assert again.metrics.step_losses == pytest.approx(first.metrics.step_losses, rel=1e-6)

"""Products folded into the base against a base whose weights were changed by hand, in plain PEFT."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fedmed.config.schema import LoraSection, ModelSection
from fedmed.errors import AdapterMismatchError, ModelError
from fedmed.model.adapter import adapted_layers, get_adapter_state, set_adapter_state
from fedmed.model.folding import folded
from fedmed.model.load_model import load_model_and_tokenizer
from fedmed.model.lora_setup import setup_lora
from fedmed.model.tiny import tiny_model
from fedmed.utils.random_streams import stream

pytestmark = pytest.mark.unit

A, B = ".lora_A.weight", ".lora_B.weight"
IDS = torch.arange(3, 60)[None]


def adapted(base, **lora):
    """A PEFT model whose own adapter does something too."""
    model = setup_lora(base, LoraSection(**({"r": 4} | lora))).eval()
    draw = stream(17, "folding", "adapter")
    set_adapter_state(model, {k: draw.normal(0, 0.1, v.shape) for k, v in get_adapter_state(model).items()})
    return model


def products_for(model, rank=7, spread=0.1):
    """A and B of another rank than the adapter's, for every layer but one."""
    draw = stream(17, "folding", "products")
    made = {}
    for name, layer in sorted(adapted_layers(model).items())[1:]:
        base = layer.get_base_layer()
        made[name + A] = draw.normal(0, spread, (rank, base.in_features)).astype("float32")
        made[name + B] = draw.normal(0, spread, (base.out_features, rank)).astype("float32")
    return made


def change_by_hand(base, products, scale):
    """W + scale * B A in float64, rounded once to what the weights are."""
    weights = dict(base.named_parameters())
    for key in products:
        if key.endswith(A):
            name = key.removesuffix(A)
            weight = weights[name.removeprefix("base_model.model.") + ".weight"]
            change = products[name + B].astype(np.float64) @ products[key].astype(np.float64)
            with torch.no_grad():
                weight.copy_((weight.double() + scale * torch.from_numpy(change)).to(weight.dtype))
    return base


def bits(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same_bits(left, right):
    return left.keys() == right.keys() and all(
        left[name].dtype == right[name].dtype and torch.equal(left[name], right[name]) for name in left
    )


@torch.no_grad()
def logits(model):
    return model(IDS).logits


@pytest.mark.parametrize(("lora", "scale"), [({"alpha": 8.0}, 2.0), ({"alpha": 8.0, "use_rslora": True}, 4.0)])
@pytest.mark.parametrize("kind", ["llama", "gemma"])
def test_inside_the_block_the_logits_are_those_of_a_base_changed_by_hand(kind, lora, scale):
    model = adapted(tiny_model(kind), **lora)
    products = products_for(model)
    before, bare = bits(model), logits(model)
    with folded(model, products):
        inside = logits(model)
    by_hand = logits(adapted(change_by_hand(tiny_model(kind), products, scale), **lora))
    torch.testing.assert_close(inside, by_hand, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(inside, bare, atol=1e-2), "the products change nothing, so nothing is compared"
    assert same_bits(bits(model), before)
    assert torch.equal(logits(model), bare)


def test_a_bf16_base_is_refused_because_it_would_lose_most_of_a_small_product():
    settings = ModelSection(name="builtin:tiny-llama", device="cpu", dtype="bf16")
    model, _ = load_model_and_tokenizer(config=settings)
    model = setup_lora(model)
    with (
        pytest.raises(ModelError, match=r"bfloat16, too coarse.*model\.dtype to fp32"),
        folded(model, get_adapter_state(model)),
    ):
        pass


def test_every_weight_is_the_same_bit_for_bit_after_the_block_raised_or_was_left_early(tiny_gemma):
    model = adapted(tiny_gemma[0])
    before = bits(model)
    moved = []

    def fails():
        with folded(model, products_for(model, spread=1e4)):
            moved.append(not same_bits(bits(model), before))
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fails()
    assert moved == [True]
    assert same_bits(bits(model), before)

    def half_done():
        with folded(model, products_for(model)):
            yield 1
            yield 2

    steps = half_done()
    next(steps)
    assert not same_bits(bits(model), before)
    steps.close()
    assert same_bits(bits(model), before)


def test_a_hundred_folds_leave_no_trace(tiny_llama):
    model = adapted(tiny_llama[0])
    products, before = products_for(model), bits(model)
    for _ in range(100):
        with folded(model, products):
            pass
    assert same_bits(bits(model), before)


def test_blocks_within_blocks_add_up(tiny_llama):
    model = adapted(tiny_llama[0])
    products, before = products_for(model), bits(model)
    with folded(model, products), folded(model, products):
        twice = logits(model)
    by_hand = adapted(change_by_hand(tiny_model("llama"), products, 2 * 8.0))
    torch.testing.assert_close(twice, logits(by_hand), atol=1e-4, rtol=1e-4)
    assert same_bits(bits(model), before)


def test_no_products_change_nothing(tiny_llama):
    model = adapted(tiny_llama[0])
    before = bits(model)
    with folded(model, {}):
        assert same_bits(bits(model), before)
    assert same_bits(bits(model), before)


def _renamed(products, old, new):
    return {key.replace(old, new): array for key, array in products.items()}


def _without(products, end):
    gone = next(key for key in sorted(products, reverse=True) if key.endswith(end))
    return {key: array for key, array in products.items() if key != gone}


def _narrower(products):
    key = max(key for key in products if key.endswith(B))
    return products | {key: products[key][:-1]}


@pytest.mark.parametrize(
    "broken",
    [
        lambda products: _renamed(products, "layers.1.self_attn.v_proj", "layers.9.self_attn.v_proj"),
        lambda products: _renamed(products, "layers.1.self_attn.v_proj", "layers.1.self_attn.o_proj"),  # no adapter
        lambda products: _without(products, A),
        lambda products: _without(products, B),
        _narrower,
    ],
    ids=["unknown layer", "layer without adapter", "no A", "no B", "another width"],
)
def test_products_of_another_model_are_refused_and_no_weight_moves(tiny_llama, broken):
    model = adapted(tiny_llama[0])
    before = bits(model)
    with pytest.raises(AdapterMismatchError, match="_proj"), folded(model, broken(products_for(model))):
        pass
    assert same_bits(bits(model), before)

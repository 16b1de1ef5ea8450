"""Fed-SB's factors against autograd on the bare model's own weights and torch's SVD."""

from __future__ import annotations

import pytest
import torch

from fedmed.config.schema import LoraSection, TrainingSection
from fedmed.data.encode import EncodedRow
from fedmed.errors import EmptyDataError, TrainingError
from fedmed.federated.algorithms.fedsb import FedSb
from fedmed.model.adapter import adapted_layers, get_adapter_state, set_adapter_state
from fedmed.model.lora_setup import setup_lora
from fedmed.model.tiny import tiny_model
from fedmed.training.fedsb_factors import from_gradient, from_weights
from fedmed.utils.random_streams import stream

pytestmark = pytest.mark.unit

A, B = ".lora_A.weight", ".lora_B.weight"
RANK = 3
TARGETS = ("q_proj", "k_proj", "v_proj", "down_proj")


def adapted(kind):
    return setup_lora(tiny_model(kind), LoraSection(r=4, target_modules=TARGETS)).eval()


def rows(count=5):
    draw = stream(17, "fedsb rows")
    made = []
    for _ in range(count):
        prompt, answer = int(draw.integers(1, 20)), int(draw.integers(1, 30))
        made.append(EncodedRow(tuple(draw.integers(3, 259, prompt + answer).tolist()), prompt))
    return made


def true_gradient(kind, layer, chosen):
    """Of the mean loss over all answer tokens, by one weight of the bare model, in float64."""
    model = tiny_model(kind).double().requires_grad_(False)
    weight = model.get_parameter(layer.removeprefix("base_model.model.") + ".weight").requires_grad_(True)
    answers = sum(len(row.input_ids) - row.prompt_length for row in chosen)
    for row in chosen:
        ids = torch.tensor([row.input_ids])
        logits = model(input_ids=ids).logits[0, row.prompt_length - 1 : -1]
        loss = torch.nn.functional.cross_entropy(logits, ids[0, row.prompt_length :], reduction="sum")
        (loss / answers).backward()
    return weight.grad


def angle(left, right):
    """Sine of the largest angle between two subspaces, given by orthonormal columns."""
    left, right = torch.as_tensor(left).double(), right.double()
    return float(torch.linalg.matrix_norm(left - right @ (right.T @ left), ord=2))


@pytest.mark.parametrize("rank", [1, RANK])
@pytest.mark.parametrize("kind", ["llama", "gemma"])
def test_factors_span_the_leading_directions_of_the_true_gradient_by_the_whole_weight(kind, rank):
    model = adapted(kind)
    factors = from_gradient(model, rows(), rank, TrainingSection(batch_size=2))
    for layer in sorted(adapted_layers(model))[::3]:
        u, s, vt = torch.linalg.svd(true_gradient(kind, layer, rows()), full_matrices=False)
        assert s[rank] < 0.99 * s[rank - 1], f"{layer}: the leading directions are no subspace of their own"
        assert angle(factors[layer + B], u[:, :rank]) < 1e-3, layer
        assert angle(factors[layer + A].T, vt[:rank].T) < 1e-3, layer
        # the best that any B and A of this rank can hold of the gradient
        b, a = (torch.from_numpy(factors[layer + side]).double() for side in (B, A))
        held = torch.linalg.norm(b.T @ (u @ torch.diag(s) @ vt) @ a.T)
        assert float(held) == pytest.approx(float(torch.linalg.norm(s[:rank])), rel=1e-5)


def test_the_batch_size_and_the_models_own_adapter_do_not_matter():
    model = adapted("llama")
    one, all_at_once = (from_gradient(model, rows(), RANK, TrainingSection(batch_size=size)) for size in (1, 5))
    draw = stream(17, "fedsb adapter")
    set_adapter_state(model, {k: draw.normal(0, 0.1, v.shape) for k, v in get_adapter_state(model).items()})
    beside = from_gradient(model, rows(), RANK, TrainingSection(batch_size=2))
    for key, array in one.items():
        basis = torch.from_numpy(array.T if key.endswith(A) else array)
        for other in (all_at_once, beside):
            assert angle(other[key].T if key.endswith(A) else other[key], basis) < 1e-3, key


@pytest.mark.parametrize("way", ["gradient", "weights"])
def test_factors_are_orthonormal_have_pefts_keys_and_leave_the_model_as_it_was(tiny_gemma, way):
    model = setup_lora(tiny_gemma[0], LoraSection(r=4, target_modules=TARGETS)).eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    factors = from_weights(model, RANK) if way == "weights" else from_gradient(model, rows(), RANK, TrainingSection())
    assert factors.keys() == get_adapter_state(model).keys()
    for key, array in factors.items():
        assert array.dtype == "float32"
        square = torch.from_numpy(array @ array.T if key.endswith(A) else array.T @ array)
        torch.testing.assert_close(square, torch.eye(RANK), atol=1e-5, rtol=0)
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert not model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(parameter.requires_grad == (".lora_" in name) for name, parameter in model.named_parameters())
    assert not any("forward" in vars(module) for module in model.modules()), "a patched layer was left behind"


def test_no_rows_are_an_error_that_names_the_way_out():
    with pytest.raises(EmptyDataError, match="public") as caught:
        from_gradient(adapted("llama"), [], RANK, TrainingSection())
    assert "fedsb_factors" in str(caught.value)


def test_factors_from_weights_are_torchs_leading_singular_vectors_up_to_sign():
    model = adapted("llama")
    factors = from_weights(model, RANK)
    for layer, module in adapted_layers(model).items():
        weight = tiny_model("llama").get_parameter(layer.removeprefix("base_model.model.") + ".weight").double()
        u, _, vt = torch.linalg.svd(weight.detach(), full_matrices=False)
        b, a = (torch.from_numpy(factors[layer + side]).double() for side in (B, A))
        signs = torch.sign((b * u[:, :RANK]).sum(0))
        torch.testing.assert_close(b * signs, u[:, :RANK], atol=1e-4, rtol=0)
        torch.testing.assert_close(a * signs[:, None], vt[:RANK], atol=1e-4, rtol=0)  # both turn together
        assert b.shape == (module.get_base_layer().out_features, RANK)


@pytest.mark.parametrize("way", ["gradient", "weights"])
def test_a_rank_that_a_layer_is_too_narrow_for_is_refused(way):
    model = adapted("llama")  # k_proj and v_proj are 32 wide, q_proj is 64
    with pytest.raises(TrainingError, match=r"k_proj.*32"):
        from_weights(model, 40) if way == "weights" else from_gradient(model, rows(), 40, TrainingSection())
    FedSb().start(from_weights(model, 32))  # as wide as the narrowest

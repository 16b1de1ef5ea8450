from __future__ import annotations

import numpy as np
import pytest
import torch

from fedmed.config.schema import LoraSection
from fedmed.errors import AdapterMismatchError, ModelError
from fedmed.evaluation.attacks.inversion import change, inversion_report, recover_tokens
from fedmed.model.adapter import get_adapter_state
from fedmed.model.lora_setup import setup_lora
from fedmed.model.tiny import VOCABULARY, tiny_model
from fedmed.utils.random_streams import stream

pytestmark = pytest.mark.unit

A = ".lora_A.weight"
TOKENS = (2, 70, 71, 80, 95, 140, 200)


def adapted(kind: str, *targets: str):
    return setup_lora(tiny_model(kind), LoraSection(r=4, target_modules=targets or ("q_proj", "k_proj", "v_proj")))


def inputs_by_hand(model, kind: str) -> np.ndarray:
    """[vocabulary, 64] what the first attention gets, from the family's own formulas."""
    body = model.get_base_model().model
    x = body.embed_tokens.weight.detach().double().numpy() * (8.0 if kind == "gemma" else 1.0)  # sqrt 64
    norm = body.layers[0].input_layernorm
    weight = norm.weight.detach().double().numpy()
    eps = norm.eps if kind == "gemma" else norm.variance_epsilon
    return x / np.sqrt((x**2).mean(axis=1, keepdims=True) + eps) * (1.0 + weight if kind == "gemma" else weight)


def update_of(model, kind: str, tokens: tuple[int, ...] = TOKENS) -> dict[str, np.ndarray]:
    """A-gradients as the formula makes them: random mixtures of the tokens' inputs."""
    x = inputs_by_hand(model, kind)[list(tokens)]
    draw = stream(17, "inversion", kind)
    state = get_adapter_state(model)
    return {
        key: (draw.normal(size=(4, len(tokens))) @ x if ".layers.0." in key and key.endswith(A) else array * 0).astype(
            "f4"
        )
        for key, array in state.items()
    }


@pytest.mark.parametrize("kind", ["llama", "gemma"])
def test_tokens_in_the_span_are_recovered_and_no_others(kind: str) -> None:
    model = adapted(kind)
    recovered = recover_tokens(model, update_of(model, kind))
    assert set(recovered.tokens) == set(TOKENS)
    assert (recovered.rank, recovered.rows, recovered.width) == (7, 12, 64)
    assert recovered.informative
    assert {layer.rsplit(".", 1)[-1] for layer in recovered.layers} == {"q_proj", "k_proj", "v_proj"}
    report = inversion_report(recovered, TOKENS)
    assert (report.share, report.false, report.auc) == (1.0, 0, 1.0)
    assert report.chance == pytest.approx(7 / VOCABULARY)


def test_distances_equal_a_least_squares_fit() -> None:
    model = adapted("gemma")
    update = update_of(model, "gemma")
    x = inputs_by_hand(model, "gemma")
    rows = np.concatenate([update[layer + A] for layer in recover_tokens(model, update).layers]).astype(np.float64)
    fit = np.linalg.lstsq(rows.T, x.T, rcond=1e-5)[0]
    expected = np.linalg.norm(x.T - rows.T @ fit, axis=0) / np.linalg.norm(x, axis=1)
    assert np.allclose(recover_tokens(model, update).distances, expected, atol=1e-4)


def test_a_zero_gradient_recovers_nothing() -> None:
    model = adapted("llama")
    recovered = recover_tokens(model, {key: array * 0 for key, array in get_adapter_state(model).items()})
    assert (recovered.tokens, recovered.rank, recovered.informative) == ((), 0, False)
    report = inversion_report(recovered, TOKENS)
    assert (report.share, report.auc) == (0.0, 0.5)


def test_more_tokens_than_rows_recover_nothing() -> None:
    model = adapted("llama")
    many = tuple(range(100, 140))
    report = inversion_report(recover_tokens(model, update_of(model, "llama", many)), many)
    assert report.share == 0.0
    assert report.rank == report.rows == 12


def test_noise_of_the_gradients_own_size_hides_the_tokens() -> None:
    model = adapted("llama")
    draw = stream(17, "inversion", "noise")
    update = update_of(model, "llama")
    noisy = {
        key: (array + draw.normal(0.0, array.std() + 1e-9, array.shape)).astype("f4") for key, array in update.items()
    }
    report = inversion_report(recover_tokens(model, noisy), TOKENS)
    assert report.share == 0.0
    assert report.rank == report.rows


def test_the_models_own_adapter_and_mode_play_no_part_and_stay() -> None:
    model = adapted("gemma").train()
    update = update_of(model, "gemma")
    first = recover_tokens(model, update)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.3)
    assert np.array_equal(first.distances, recover_tokens(model, update).distances)
    assert model.training


def test_the_change_of_a_state_points_where_the_gradient_points() -> None:
    before = {"a": np.ones((2, 3), dtype=np.float32)}
    gradient = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert np.allclose(change(before, {"a": before["a"] - 0.5 * gradient})["a"], 0.5 * gradient)


def test_a_first_layer_that_sees_more_than_the_token_is_refused() -> None:
    model = adapted("llama", "down_proj")
    with pytest.raises(ModelError, match="depends on a token's place"):
        recover_tokens(model, get_adapter_state(model))


def test_an_update_of_another_model_is_refused() -> None:
    model = adapted("llama")
    with pytest.raises(AdapterMismatchError, match="first adapted layers"):
        recover_tokens(model, {})
    narrow = {key: array[:, :5] for key, array in get_adapter_state(model).items()}
    with pytest.raises(AdapterMismatchError, match="first adapted layers"):
        recover_tokens(model, narrow)


def test_true_tokens_outside_the_vocabulary_are_an_error() -> None:
    model = adapted("llama")
    recovered = recover_tokens(model, update_of(model, "llama"))
    for wrong in ((), (VOCABULARY,), (-1,)):
        with pytest.raises(ModelError):
            inversion_report(recovered, wrong)

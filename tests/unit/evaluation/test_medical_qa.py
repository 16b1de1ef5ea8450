from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import Gemma3ForCausalLM, Gemma3TextConfig, LlamaConfig, LlamaForCausalLM

from fedmed.data.encode import EncodedRow
from fedmed.errors import DataFormatError, EmptyDataError
from fedmed.evaluation.likelihood import score_rows
from fedmed.evaluation.medical_qa import held_out_loss, rouge_l

pytestmark = pytest.mark.unit

BOS = 2
SIZES: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "bos_token_id": BOS,
}


def llama() -> torch.nn.Module:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SIZES, initializer_range=0.3))


def gemma() -> torch.nn.Module:
    """With a sliding window shorter than the rows behind a prefix, and one layer that sees everything."""
    torch.manual_seed(0)
    kinds = ["sliding_attention", "full_attention", "sliding_attention"]
    config = Gemma3TextConfig(**SIZES, head_dim=8, sliding_window=12, layer_types=kinds, initializer_range=0.3)
    return Gemma3ForCausalLM(config)


@pytest.fixture(params=[llama, gemma], ids=["llama", "gemma_sliding"])
def model(request: pytest.FixtureRequest) -> torch.nn.Module:
    built: torch.nn.Module = request.param()
    return built


def some_rows(count: int, seed: int = 1) -> list[EncodedRow]:
    random = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        prompt, answer = int(random.integers(2, 9)), int(random.integers(1, 15))
        ids = (BOS, *(int(i) for i in random.integers(3, 97, prompt + answer - 1)))
        rows.append(EncodedRow(ids, prompt))
    return rows


PREFIX = (BOS, *range(20, 34))


def plain_nll(model: torch.nn.Module, row: EncodedRow, prefix: tuple[int, ...] = ()) -> float:
    """What transformers itself says: labels on the answer, everything else -100."""
    ids = [*prefix, *(row.input_ids[1:] if prefix else row.input_ids)]
    answer = len(row.input_ids) - row.prompt_length
    labels = torch.tensor([[-100] * (len(ids) - answer) + ids[-answer:]])
    model.eval()
    with torch.no_grad():
        return float(model(input_ids=torch.tensor([ids]), labels=labels).loss) * answer


@pytest.mark.parametrize("tokens", [1, 40, 512])
def test_packed_scores_equal_row_by_row_scores_of_transformers(model: torch.nn.Module, tokens: int) -> None:
    rows = some_rows(23)
    scores = score_rows(model, rows, max_tokens_per_forward=tokens)
    expected = [plain_nll(model, row) for row in rows]
    assert np.abs(scores.nll - expected).max() / scores.tokens.max() < 1e-5
    assert np.allclose(scores.nll / scores.tokens, expected / scores.tokens, atol=1e-5)


@pytest.mark.parametrize("packed", [True, False])
def test_scores_behind_a_shared_prefix_equal_the_plain_computation(model: torch.nn.Module, packed: bool) -> None:
    rows = some_rows(17)
    scores = score_rows(model, rows, max_tokens_per_forward=60, prefix=PREFIX, packed=packed)
    expected = [plain_nll(model, row, PREFIX) for row in rows]
    assert np.allclose(scores.nll / scores.tokens, expected / scores.tokens, atol=1e-5)


def test_a_tokenizer_without_bos_keeps_every_rows_first_token() -> None:
    built = llama()
    prefix = (7, 8, 9)
    rows = [EncodedRow((7, 11, 12, 13), 2)]
    labels = torch.tensor([[-100] * 5 + [12, 13]])
    with torch.no_grad():
        expected = float(built(input_ids=torch.tensor([[*prefix, 7, 11, 12, 13]]), labels=labels).loss) * 2
    assert score_rows(built, rows, prefix=prefix).nll[0] == pytest.approx(expected, abs=1e-5)


def test_overall_loss_weighs_hospitals_by_their_answer_tokens(model: torch.nn.Module) -> None:
    held = {"hospital_A": some_rows(3, 1), "hospital_B": some_rows(9, 2)}
    result = held_out_loss(model, held)
    weights = {name: sum(len(r.input_ids) - r.prompt_length for r in rows) for name, rows in held.items()}
    assert result.answer_tokens == sum(weights.values())
    mixed = sum(result.per_hospital[name] * weight for name, weight in weights.items()) / result.answer_tokens
    assert result.overall == pytest.approx(mixed)
    expected = sum(plain_nll(model, row) for row in held["hospital_B"]) / weights["hospital_B"]
    assert result.per_hospital["hospital_B"] == pytest.approx(expected, abs=1e-5)
    assert result.all_rows().loss == pytest.approx(result.overall)


def test_a_hospital_without_held_out_rows_is_left_out_and_none_at_all_is_an_error() -> None:
    result = held_out_loss(llama(), {"hospital_A": some_rows(2), "hospital_B": []})
    assert list(result.per_hospital) == ["hospital_A"]
    with pytest.raises(EmptyDataError, match="no hospital holds a record"):
        held_out_loss(llama(), {"hospital_A": []})


def test_scoring_twice_gives_the_same_bits_and_leaves_the_mode_alone() -> None:
    built = llama().train()
    rows = {"hospital_A": some_rows(5)}
    assert held_out_loss(built, rows).overall == held_out_loss(built, rows).overall
    assert built.training
    assert all(parameter.grad is None for parameter in built.parameters())


def test_training_mode_returns_even_when_scoring_fails() -> None:
    built = llama().train()
    with pytest.raises(IndexError):
        score_rows(built, [EncodedRow((BOS, 5, 1000), 1)])
    assert built.training


@pytest.mark.parametrize("prompt_length", [0, 3])
def test_a_row_without_prompt_or_answer_is_named_by_its_index(prompt_length: int) -> None:
    rows = [*some_rows(1), EncodedRow((BOS, 5, 6), prompt_length)]
    with pytest.raises(DataFormatError, match="row 1"):
        score_rows(llama(), rows)


def test_rouge_is_one_for_the_same_words_and_zero_for_other_words() -> None:
    assert rouge_l(["An abnormal heart."], ["an abnormal heart"]) == pytest.approx(1.0)
    assert rouge_l(["red green"], ["blue yellow"]) == 0.0
    assert rouge_l(["a b c d", "x"], ["a b", "y"]) == pytest.approx((2 * 0.5 / 1.5) / 2)


def test_rouge_refuses_lists_that_do_not_match_and_empty_ones() -> None:
    with pytest.raises(ValueError, match="2 predictions for 1"):
        rouge_l(["a", "b"], ["a"])
    with pytest.raises(EmptyDataError):
        rouge_l([], [])

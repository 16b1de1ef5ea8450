"""Answers are scored as a plain forward of each whole text would score them, whatever is packed or shared."""

from __future__ import annotations

import pytest
import torch

from fedmed.evaluation.exams.scoring import score_items
from fedmed.evaluation.exams.tasks import ExamItem
from fedmed.model.tiny import byte_tokenizer, tiny_model

pytestmark = pytest.mark.unit

ITEMS = [
    ExamItem("1", "", "Question: Which organ?\nA. Liver\nB. Skin\nAnswer:", ("A", "B"), 0),
    ExamItem("2", "", "Abstract: " + "a sign " * 30 + "\nAnswer:", ("yes", "no", "maybe"), 2),
    ExamItem("3", "", "Q\nAnswer:", ("A", "B", "C", "D"), 3),
]


def plainly(model, tokenizer, prompt: str, answer: str, longest: int | None = None) -> float:
    """The log-likelihood of an answer, token by token, from whole logits of one unpadded text."""
    known = len(tokenizer(prompt)["input_ids"])
    ids = tokenizer(f"{prompt} {answer}")["input_ids"]
    answers = len(ids) - known
    if longest is not None:
        ids = ids[-(longest + 1) :]
    with torch.no_grad():
        logits = model(torch.tensor([ids[:-1]])).logits[0].double().log_softmax(-1)
    return sum(float(logits[place - 1, ids[place]]) for place in range(len(ids) - answers, len(ids)))


@pytest.mark.parametrize("kind", ["llama", "gemma"])
@pytest.mark.parametrize("packed", [True, False])
def test_log_likelihoods_are_those_of_whole_unpadded_texts(kind: str, packed: bool) -> None:
    model, tokenizer = tiny_model(kind), byte_tokenizer()
    done: list[int] = []
    found = score_items(model, tokenizer, ITEMS, packed=packed, on_items=done.append)
    for item, scores in zip(ITEMS, found, strict=True):
        wanted = [plainly(model, tokenizer, item.prompt, choice) for choice in item.choices]
        assert scores.log_likelihoods == pytest.approx(wanted, abs=2e-4)
        assert scores.chosen == wanted.index(max(wanted))
        by_length = [value / len(choice) for value, choice in zip(wanted, item.choices, strict=True)]
        assert scores.chosen_by_length == by_length.index(max(by_length))
    assert sum(done) == len(ITEMS)


def test_what_is_too_long_for_the_model_loses_its_beginning() -> None:
    model, tokenizer = tiny_model("llama"), byte_tokenizer()
    model.config.max_position_embeddings = 64
    item = ExamItem("long", "", "word " * 40 + "Answer:", ("yes", "no"), 0)
    [scores] = score_items(model, tokenizer, [item])
    wanted = [plainly(model, tokenizer, item.prompt, choice, longest=64) for choice in item.choices]
    assert scores.log_likelihoods == pytest.approx(wanted, abs=2e-4)
    whole = [plainly(model, tokenizer, item.prompt, choice) for choice in item.choices]
    assert scores.log_likelihoods != pytest.approx(whole, abs=2e-4)


def test_the_model_s_mode_comes_back() -> None:
    model = tiny_model("llama").train()
    score_items(model, byte_tokenizer(), ITEMS[:1])
    assert model.training

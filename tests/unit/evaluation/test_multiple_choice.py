from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import PretrainedConfig

from fedmed.evaluation.multiple_choice import MIN_ITEMS, ChoiceItem, choice_items, score_choices

pytestmark = pytest.mark.unit

PROMPT = {"prompt_template": "Q {question} A", "answer_prefix": " ", "max_length": 64}


def record(number: int, specialty: str, split: str, *, kind: str = "definition", group: str = "") -> dict[str, str]:
    return {
        "id": f"{number}-{kind}",
        "question": f"what is {number}",
        "answer": f"definition {number}",
        "kind": kind,
        "specialty": specialty,
        "group": group or f"g{number}",
        "split": split,
    }


POOL = [record(n, "eye" if n % 2 else "blood", "test" if n < 20 else "train") for n in range(60)]


def test_each_item_holds_the_gold_definition_once_among_three_of_its_specialty() -> None:
    items = choice_items(POOL, POOL, limit=12, seed=17)
    of = {row["answer"]: row for row in POOL}
    assert len(items) == 12
    for item in items:
        true = of[item.choices[item.gold]]
        assert true["question"] == item.question
        assert true["split"] == "test"
        assert len(set(item.choices)) == 4
        assert {of[choice]["specialty"] for choice in item.choices} == {item.specialty}
    assert {item.gold for item in items} == {0, 1, 2, 3}


def test_no_distractor_comes_from_the_group_of_the_gold_definition() -> None:
    kin = [record(n, "eye", "train", group="g0") for n in range(100, 130)]
    strangers = [record(n, "eye", "train") for n in range(200, 203)]
    [item] = choice_items([record(0, "eye", "test")], kin + strangers, limit=5, seed=17)
    assert set(item.choices) == {"definition 0", *(row["answer"] for row in strangers)}


def test_a_specialty_with_too_few_definitions_makes_no_item() -> None:
    assert choice_items([record(0, "ear", "test")], [record(1, "ear", "train"), *POOL], limit=5, seed=17) == []


def test_only_held_out_definitions_are_asked_about() -> None:
    other_kind = [record(n, "eye", "test", kind="lay_name") for n in range(5)]
    trained = [record(n, "eye", "train") for n in range(5)]
    assert choice_items(other_kind + trained, POOL, limit=5, seed=17) == []


def test_items_are_the_same_for_the_same_seed_and_other_distractors_for_another() -> None:
    assert choice_items(POOL, POOL, limit=9, seed=17) == choice_items(POOL, POOL, limit=9, seed=17)
    assert choice_items(POOL, POOL, limit=9, seed=17) != choice_items(POOL, POOL, limit=9, seed=18)


class CharTokenizer:
    eos_token_id = 1

    def __call__(self, texts: list[str], *, add_special_tokens: bool, **_: Any) -> dict[str, list[list[int]]]:
        return {"input_ids": [[*([2] if add_special_tokens else []), *map(ord, text)] for text in texts]}


class LikesG(torch.nn.Module):
    """Finds the letter g likely and every other character equally unlikely."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = torch.nn.Parameter(torch.zeros(128))
        self.bias.data[ord("g")] = 5.0
        self.config = PretrainedConfig()

    def forward(self, input_ids: torch.Tensor, logits_to_keep: torch.Tensor, **_: Any) -> SimpleNamespace:
        return SimpleNamespace(logits=self.bias.expand(1, len(logits_to_keep), -1))


def item(number: int, gold: int, true: str = "gggg") -> ChoiceItem:
    choices = ["xxxx", "yy", "zzzzzzzz"]
    choices.insert(gold, true)
    return ChoiceItem(f"q{number}", tuple(choices), gold, "eye")


def test_a_model_that_likes_the_gold_answers_is_right_every_time() -> None:
    result = score_choices(LikesG(), CharTokenizer(), [item(n, n % 4) for n in range(8)], **PROMPT)
    assert result is not None
    assert (result.correct, result.total, result.accuracy, result.high) == (8, 8, 1.0, 1.0)
    assert 0.6 < result.low < 0.7


def test_a_long_gold_answer_is_not_punished_for_its_length() -> None:
    result = score_choices(LikesG(), CharTokenizer(), [item(n, n % 4, "gx" * 15) for n in range(8)], **PROMPT)
    assert result is not None
    assert result.correct == 8


def test_too_few_items_give_no_result() -> None:
    items = [item(n, 0) for n in range(MIN_ITEMS - 1)]
    assert score_choices(LikesG(), CharTokenizer(), items, **PROMPT) is None


def test_an_item_whose_question_fills_the_context_is_left_out() -> None:
    items = [*(item(n, 0) for n in range(MIN_ITEMS)), ChoiceItem("q" * 80, ("g", "x", "y", "z"), 0, "eye")]
    result = score_choices(LikesG(), CharTokenizer(), items, **PROMPT)
    assert result is not None
    assert result.total == MIN_ITEMS

from __future__ import annotations

import pytest

from fedmed.evaluation.few_shot import few_shot_ids, few_shot_prefix, worked_examples

pytestmark = pytest.mark.unit


def record(number: int, kind: str = "definition", split: str = "train") -> dict[str, str]:
    return {"id": str(number), "question": f"q{number}", "answer": f"a{number}", "kind": kind, "split": split}


RECORDS = [
    *(record(n, "term") for n in range(10)),
    *(record(n) for n in range(10, 20)),
    *(record(n, "lay_name") for n in range(20, 30)),
    *(record(n, "definition", "test") for n in range(30, 90)),
]


class WordTokenizer:
    eos_token_id = 1

    def __init__(self, *, adds_eos: bool = False) -> None:
        self.adds_eos = adds_eos

    def __call__(self, text: str) -> dict[str, list[int]]:
        return {"input_ids": [2, *(10 + len(word) for word in text.split()), *([1] if self.adds_eos else [])]}


def test_examples_take_each_kind_once_definitions_first() -> None:
    assert [example["kind"] for example in worked_examples(RECORDS, 3, 17)] == ["definition", "lay_name", "term"]


def test_more_examples_than_kinds_go_round_again() -> None:
    kinds = [example["kind"] for example in worked_examples(RECORDS, 5, 17)]
    assert kinds == ["definition", "lay_name", "term", "definition", "lay_name"]


def test_no_held_out_record_ever_becomes_an_example() -> None:
    assert {example["split"] for example in worked_examples(RECORDS, 1000, 17)} == {"train"}
    assert len(worked_examples(RECORDS, 1000, 17)) == 30


def test_the_seed_alone_decides_which_examples() -> None:
    assert worked_examples(RECORDS, 3, 17) == worked_examples(iter(RECORDS), 3, 17)
    assert any(worked_examples(RECORDS, 3, 17) != worked_examples(RECORDS, 3, seed) for seed in range(3))


def test_no_examples_wanted_gives_none_and_an_empty_prompt() -> None:
    assert worked_examples(RECORDS, 0, 17) == []
    assert few_shot_prefix([], "Question: {question}\nAnswer:", " ") == ""
    assert few_shot_ids("", WordTokenizer()) == ()


def test_the_prefix_is_written_as_training_writes_it() -> None:
    prefix = few_shot_prefix([record(1), record(2)], "Question: {question}\nAnswer:", " ")
    assert prefix == "Question: q1\nAnswer: a1\n\nQuestion: q2\nAnswer: a2\n\n"


def test_braces_in_a_record_are_left_as_they_are() -> None:
    example = {"question": "what is {x}", "answer": "{y}"}
    assert few_shot_prefix([example], "Q: {question} A:", " ") == "Q: what is {x} A: {y}\n\n"


@pytest.mark.parametrize("adds_eos", [False, True])
def test_prefix_ids_open_with_bos_and_never_close_with_eos(adds_eos: bool) -> None:
    assert few_shot_ids("ab c", WordTokenizer(adds_eos=adds_eos)) == (2, 12, 11)

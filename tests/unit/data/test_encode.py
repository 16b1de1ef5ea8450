"""Prompt and answer become one row of token ids; only the answer's end may be cut."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from fedmed.data.encode import BATCH, EncodedRow, EncodeReport, encode_records
from fedmed.errors import ModelError

pytestmark = pytest.mark.unit

BOS, EOS, A, B, Q = 1, 2, 3, 4, 5


def word_tokenizer(eos: str | None = "</s>") -> PreTrainedTokenizerFast:
    words = Tokenizer(models.WordLevel({"<unk>": 0, "<s>": 1, "</s>": 2, "a": 3, "b": 4, "Q": 5}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", BOS)])
    return PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>", eos_token=eos, unk_token="<unk>")


def encode(*pairs: tuple[str, str], max_length: int = 6) -> tuple[list[EncodedRow], EncodeReport]:
    records: list[Mapping[str, Any]] = [{"question": question, "answer": answer} for question, answer in pairs]
    return encode_records(
        records, word_tokenizer(), prompt_template="Q {question}", answer_prefix=" ", max_length=max_length
    )


def test_a_row_is_bos_prompt_answer_and_eos() -> None:
    rows, report = encode(("a", "b b"))
    assert rows == [EncodedRow((BOS, Q, A, B, B, EOS), 3)]
    assert report == EncodeReport(rows=1, cut=0, dropped=0)


def test_an_answer_that_is_too_long_is_cut_and_has_no_eos() -> None:
    rows, report = encode(("a", "b b b b"))
    assert rows == [EncodedRow((BOS, Q, A, B, B, B), 3)]
    assert report == EncodeReport(rows=1, cut=1, dropped=0)


def test_an_answer_whose_eos_alone_does_not_fit_counts_as_cut() -> None:
    rows, report = encode(("a", "b b b"))
    assert rows[0].input_ids[-1] == B
    assert report.cut == 1


def test_a_prompt_that_leaves_no_room_is_dropped_and_one_token_of_room_is_enough() -> None:
    rows, report = encode(("a a a a", "b"), ("a a a", "b b"))
    assert rows == [EncodedRow((BOS, Q, A, A, A, B), 5)]
    assert report == EncodeReport(rows=1, cut=1, dropped=1)


def test_the_order_of_records_is_kept_across_batches() -> None:
    pairs = [("a" if n % 3 else "b", "b") for n in range(BATCH + 5)]
    rows, report = encode(*pairs)
    assert report.rows == BATCH + 5
    assert [row.input_ids[2] for row in rows] == [A if question == "a" else B for question, _ in pairs]


def test_no_record_gives_no_row() -> None:
    assert encode() == ([], EncodeReport(rows=0, cut=0, dropped=0))


def test_a_tokenizer_without_an_end_is_refused() -> None:
    with pytest.raises(ModelError, match="no end-of-sequence token"):
        encode_records([], word_tokenizer(eos=None), prompt_template="{question}", answer_prefix=" ", max_length=6)

"""Rows from the token cache are the rows that the tokenizer gives, whatever the records and the file."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from fedmed.data import token_cache
from fedmed.data.encode import encode_records
from fedmed.data.token_cache import cached_rows, tokenizer_digest
from fedmed.model.tiny import byte_tokenizer

pytestmark = pytest.mark.property


def _words(*words: str) -> PreTrainedTokenizerFast:
    core = Tokenizer(models.WordLevel({word: number for number, word in enumerate(("<unk>", *words))}, "<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>", eos_token=words[0])


TOKENIZERS = [byte_tokenizer(), _words("</s>", "a", "b"), _words("</s>", "b", "a"), _words("</s>", "a", "b", "c")]
TEXT = st.text(alphabet=st.one_of(st.sampled_from("ab 0\n"), st.characters(exclude_categories=["Cs"])), max_size=12)
RECORDS = st.lists(st.fixed_dictionaries({"question": TEXT, "answer": TEXT}), max_size=6)
WRITTEN = st.fixed_dictionaries(
    {
        "prompt_template": st.sampled_from(["{question}", "Q: {question}\nA:", "Q: {question}\nA: "]),
        "answer_prefix": st.sampled_from(["", " "]),
        "max_length": st.integers(1, 30),
    }
)
TOKENIZER = st.sampled_from(TOKENIZERS)
MANY = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(autouse=True)
def cache_everything(monkeypatch):
    monkeypatch.setattr(token_cache, "SMALLEST", 0)


def files(root: Path) -> list[Path]:
    return sorted((root / "tokens").glob("*.safetensors"))


def _flat(records):
    return [text for record in records for text in (record["question"], record["answer"])]


@MANY
@given(records=RECORDS, written=WRITTEN, tokenizer=TOKENIZER)
def test_the_first_and_the_second_reading_equal_encoding(records, written, tokenizer):
    expected = encode_records(records, tokenizer, **written)
    with tempfile.TemporaryDirectory() as root:
        for _ in range(2):
            assert cached_rows(records, tokenizer, **written, root=Path(root)) == expected
        assert len(files(Path(root))) == 1


@MANY
@given(one=st.tuples(RECORDS, WRITTEN, TOKENIZER), other=st.tuples(RECORDS, WRITTEN, TOKENIZER))
def test_anything_else_is_another_file(one, other):
    assume(_flat(one[0]) != _flat(other[0]) or one[1] != other[1] or one[2] is not other[2])
    with tempfile.TemporaryDirectory() as root:
        for records, written, tokenizer in (one, other):
            cached_rows(records, tokenizer, **written, root=Path(root))
        assert len(files(Path(root))) == 2


@pytest.mark.parametrize("change", [{"prompt_template": "{question}"}, {"answer_prefix": ""}, {"max_length": 23}, {}])
@MANY
@given(records=RECORDS)
def test_one_setting_or_another_tokenizer_is_another_file(records, change):
    written = {"prompt_template": "Q: {question}\nA:", "answer_prefix": " ", "max_length": 24}
    with tempfile.TemporaryDirectory() as root:
        cached_rows(records, TOKENIZERS[1], **written, root=Path(root))
        cached_rows(records, TOKENIZERS[1 if change else 2], **(written | change), root=Path(root))
        assert len(files(Path(root))) == 2


def test_each_tokenizer_has_a_digest_of_its_own_and_an_equal_one_the_same():
    digests = [tokenizer_digest(tokenizer) for tokenizer in TOKENIZERS]
    assert len(set(digests)) == len(digests)
    assert tokenizer_digest(byte_tokenizer()) == digests[0]


@MANY
@given(records=RECORDS.filter(bool), data=st.data())
def test_a_file_cut_short_or_changed_in_one_byte_is_made_again(records, data):
    written = {"prompt_template": "Q: {question}\nA:", "answer_prefix": " ", "max_length": 24}
    expected = encode_records(records, TOKENIZERS[0], **written)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        cached_rows(records, TOKENIZERS[0], **written, root=root)
        (file,) = files(root)
        whole = file.read_bytes()
        place = data.draw(st.integers(0, len(whole) - 1))
        if data.draw(st.booleans()):
            file.write_bytes(whole[:place])
        else:
            file.write_bytes(
                whole[:place] + bytes([whole[place] ^ data.draw(st.integers(1, 255))]) + whole[place + 1 :]
            )
        assert cached_rows(records, TOKENIZERS[0], **written, root=root) == expected
        assert cached_rows(records, TOKENIZERS[0], **written, root=root) == expected

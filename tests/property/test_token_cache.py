"""Rows from the token cache are the rows that the tokenizer gives."""

from __future__ import annotations

import stat

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedmed.data import token_cache
from fedmed.data.encode import encode_records
from fedmed.data.token_cache import cached_rows
from fedmed.model.tiny import byte_tokenizer

pytestmark = pytest.mark.property

TOKENIZER = byte_tokenizer()
WRITTEN = {"prompt_template": "Q: {question}\nA:", "answer_prefix": " ", "max_length": 24}
TEXT = st.text(max_size=12).filter(lambda text: "\x00" not in text)
RECORDS = st.lists(st.fixed_dictionaries({"question": TEXT, "answer": TEXT}), max_size=6)


@pytest.fixture(autouse=True)
def cache_everything(monkeypatch):
    monkeypatch.setattr(token_cache, "SMALLEST", 0)


def files(root):
    return sorted((root / "tokens").glob("*.safetensors"))


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(records=RECORDS)
def test_the_first_and_the_second_reading_equal_encoding(tmp_path, records):
    expected = encode_records(records, TOKENIZER, **WRITTEN)
    assert cached_rows(records, TOKENIZER, **WRITTEN, root=tmp_path) == expected
    assert cached_rows(records, TOKENIZER, **WRITTEN, root=tmp_path) == expected


ONE = [{"question": "a", "answer": "b"}]


def test_a_second_reading_does_not_tokenise(tmp_path, monkeypatch):
    first = cached_rows(ONE, TOKENIZER, **WRITTEN, root=tmp_path)
    monkeypatch.setattr(token_cache, "encode_records", None)
    assert cached_rows(ONE, TOKENIZER, **WRITTEN, root=tmp_path) == first


@pytest.mark.parametrize(
    "change",
    [{"max_length": 23}, {"answer_prefix": ""}, {"prompt_template": "{question}"}],
    ids=lambda c: next(iter(c)),
)
def test_another_setting_is_another_file(tmp_path, change):
    cached_rows(ONE, TOKENIZER, **WRITTEN, root=tmp_path)
    cached_rows(ONE, TOKENIZER, **(WRITTEN | change), root=tmp_path)
    assert len(files(tmp_path)) == 2


def test_text_that_moves_from_question_to_answer_is_another_file(tmp_path):
    cached_rows([{"question": "ab", "answer": "c"}], TOKENIZER, **WRITTEN, root=tmp_path)
    cached_rows([{"question": "a", "answer": "bc"}], TOKENIZER, **WRITTEN, root=tmp_path)
    assert len(files(tmp_path)) == 2


def test_a_truncated_file_is_made_again(tmp_path, monkeypatch):
    expected = cached_rows(ONE, TOKENIZER, **WRITTEN, root=tmp_path)
    (file,) = files(tmp_path)
    file.write_bytes(file.read_bytes()[:-3])
    assert cached_rows(ONE, TOKENIZER, **WRITTEN, root=tmp_path) == expected
    monkeypatch.setattr(token_cache, "encode_records", None)
    assert cached_rows(ONE, TOKENIZER, **WRITTEN, root=tmp_path) == expected


def test_only_the_owner_may_read_it(tmp_path):
    cached_rows(ONE, TOKENIZER, **WRITTEN, root=tmp_path)
    (file,) = files(tmp_path)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


def test_a_cache_that_cannot_be_written_costs_no_rows(tmp_path, caplog):
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    rows, _ = cached_rows(ONE, TOKENIZER, **WRITTEN, root=blocked)
    assert len(rows) == 1
    assert "tokens are not kept" in caplog.text


def test_no_more_than_the_newest_files_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(token_cache, "KEPT", 2)
    for number in range(4):
        cached_rows([{"question": str(number), "answer": "x"}], TOKENIZER, **WRITTEN, root=tmp_path)
    assert len(files(tmp_path)) == 2

"""The token cache's folder: who may read it, what it holds, what becomes of a file that is not as it was written."""

from __future__ import annotations

import json
import logging
import os
import stat

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from fedmed.config.schema import DatasetSection, FedMedConfig, TrainingSection
from fedmed.data import token_cache
from fedmed.data.encode import encode_records
from fedmed.data.token_cache import cached_rows, tokenizer_digest
from fedmed.model.tiny import byte_tokenizer

pytestmark = pytest.mark.unit

WRITTEN = {"prompt_template": "Q: {question}\nA:", "answer_prefix": " ", "max_length": 24}
ONE = [{"question": "secret", "answer": "b"}]


@pytest.fixture(autouse=True)
def cache_everything(monkeypatch):
    monkeypatch.setattr(token_cache, "SMALLEST", 0)


@pytest.fixture
def tokenizer():
    return byte_tokenizer()


@pytest.fixture
def no_tokenising(monkeypatch):
    def forbid():
        monkeypatch.setattr(token_cache, "encode_records", None)

    return forbid


def files(root):
    return sorted((root / "tokens").glob("*.safetensors"))


def test_a_second_reading_does_not_tokenise(tmp_path, tokenizer, no_tokenising):
    first = cached_rows(ONE, tokenizer, **WRITTEN, root=tmp_path)
    no_tokenising()
    assert cached_rows(ONE, tokenizer, **WRITTEN, root=tmp_path) == first
    assert cached_rows(ONE, byte_tokenizer(), **WRITTEN, root=tmp_path) == first  # an equal one, made anew


def test_text_that_moves_from_question_to_answer_is_another_file(tmp_path, tokenizer):
    cached_rows([{"question": "ab", "answer": "c"}], tokenizer, **WRITTEN, root=tmp_path)
    cached_rows([{"question": "a", "answer": "bc"}], tokenizer, **WRITTEN, root=tmp_path)
    assert len(files(tmp_path)) == 2


def test_a_special_token_set_later_is_not_answered_from_the_old_file(tmp_path, tokenizer):
    cached_rows(ONE, tokenizer, **WRITTEN, root=tmp_path)
    tokenizer.eos_token = "<pad>"
    assert cached_rows(ONE, tokenizer, **WRITTEN, root=tmp_path) == encode_records(ONE, tokenizer, **WRITTEN)
    assert len(files(tmp_path)) == 2


def test_the_vocabulary_is_written_out_once_a_tokenizer(tokenizer, monkeypatch):
    digest = tokenizer_digest(tokenizer)
    monkeypatch.setattr(type(tokenizer), "backend_tokenizer", property(lambda self: pytest.fail("a second time")))
    assert tokenizer_digest(tokenizer) == digest


def test_few_records_are_not_kept(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr(token_cache, "SMALLEST", 2)
    cached_rows(ONE, tokenizer, **WRITTEN, root=tmp_path)
    assert not files(tmp_path)
    cached_rows(ONE * 2, tokenizer, **WRITTEN, root=tmp_path)
    assert len(files(tmp_path)) == 1


def test_only_the_owner_may_read_it(tmp_path, tokenizer):
    (tmp_path / "tokens").mkdir(mode=0o755)
    cached_rows(ONE, tokenizer, **WRITTEN, root=tmp_path)
    (file,) = files(tmp_path)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


def _cut(file):
    file.write_bytes(file.read_bytes()[:-3])


def _foreign(file):
    save_file({"ids": np.zeros(4, np.float32)}, file)


def _other_numbers(file):
    arrays = load_file(file)
    save_file(arrays | {"ids": arrays["ids"] + 1}, file, metadata={"report": json.dumps({"rows": 1}), "sha256": "0"})


def _folder(file):
    file.unlink()
    file.mkdir()


@pytest.mark.parametrize("damage", [_cut, _foreign, _other_numbers, lambda file: file.write_bytes(b"secret")])
def test_a_damaged_or_foreign_file_is_made_again_and_said_quietly(tmp_path, tokenizer, no_tokenising, damage, caplog):
    expected = cached_rows(ONE, tokenizer, **WRITTEN, root=tmp_path)
    damage(files(tmp_path)[0])
    with caplog.at_level(logging.INFO):
        assert cached_rows(ONE, tokenizer, **WRITTEN, root=tmp_path) == expected
    assert [record.levelname for record in caplog.records] == ["INFO"]
    assert "made again" in caplog.text
    assert "secret" not in caplog.text
    no_tokenising()
    assert cached_rows(ONE, tokenizer, **WRITTEN, root=tmp_path) == expected


def test_a_cache_that_cannot_be_written_costs_no_rows_and_is_said_once(tmp_path, tokenizer, caplog):
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    for _ in range(2):
        rows, _ = cached_rows(ONE, tokenizer, **WRITTEN, root=blocked)
        assert len(rows) == 1
    assert caplog.text.count("tokens are not kept") == 1


def test_a_folder_where_the_file_should_be_costs_no_rows(tmp_path, tokenizer, caplog):
    expected = cached_rows(ONE, tokenizer, **WRITTEN, root=tmp_path)
    _folder(files(tmp_path)[0])
    assert cached_rows(ONE, tokenizer, **WRITTEN, root=tmp_path) == expected
    assert "tokens are not kept" in caplog.text


def test_a_cache_that_may_not_be_looked_into_costs_no_rows(tmp_path, tokenizer, monkeypatch):
    expected = cached_rows(ONE, tokenizer, **WRITTEN, root=tmp_path)

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("safetensors.safe_open", refuse)
    monkeypatch.setattr("pathlib.Path.chmod", refuse)
    assert cached_rows(ONE, tokenizer, **WRITTEN, root=tmp_path) == expected


def test_a_cache_that_may_only_be_read_is_read(tmp_path, tokenizer, monkeypatch, no_tokenising):
    expected = cached_rows(ONE, tokenizer, **WRITTEN, root=tmp_path)

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "utime", refuse)
    no_tokenising()
    assert cached_rows(ONE, tokenizer, **WRITTEN, root=tmp_path) == expected


def test_the_least_recently_used_file_goes_first(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr(token_cache, "KEPT", 2)

    def use(name):
        known = set(files(tmp_path))
        cached_rows([{"question": name, "answer": "x"}], tokenizer, **WRITTEN, root=tmp_path)
        return set(files(tmp_path)) - known

    one, two = use("one"), use("two")
    for age, made in ((200, one), (100, two)):
        for file in made:
            os.utime(file, (file.stat().st_mtime - age,) * 2)
    assert not use("one")  # a hit makes it the newest
    three = use("three")
    assert set(files(tmp_path)) == one | three


@pytest.mark.parametrize("wanted", [True, False])
def test_a_run_keeps_tokens_only_if_the_setting_says_so(tmp_path, tokenizer, monkeypatch, wanted):
    from fedmed.pipeline.scoring import encode

    monkeypatch.setenv("FEDMED_CACHE", str(tmp_path))
    config = FedMedConfig(training=TrainingSection(dataset=DatasetSection(token_cache=wanted)))
    assert len(encode(tokenizer, ONE, config)) == 1
    assert len(files(tmp_path)) == wanted

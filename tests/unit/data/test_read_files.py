"""Files become records with their place; what cannot be read names file and line, never its text."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fedmed.data.read_files import data_files, read_file, suffix_of
from fedmed.errors import DataError, DataFormatError, DataNotFoundError, EmptyDataError

pytestmark = pytest.mark.unit

ROWS = [{"question": "Why?", "answer": "SECRET one"}, {"question": "How?", "answer": "SECRET two"}]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def values(path: Path) -> list[object]:
    return [dict(record.values) for record in read_file(path)]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", LINES),
        ("a.ndjson", "\ufeff" + LINES.replace("\n", "\r\n\r\n")),
        ("a.json", json.dumps(ROWS)),
        ("b.json", json.dumps({"version": "1", "data": ROWS})),
        ("c.json", LINES),
        ("a.csv", 'question,answer\nWhy?,"SECRET one"\nHow?,SECRET two\n'),
        ("a.tsv", "question\tanswer\nWhy?\tSECRET one\nHow?\tSECRET two"),
        ("a.txt", "Q: Why?\nA: SECRET one\n\nQuestion: How?\nAnswer: SECRET two\n"),
        ("a.jsonl.gz", gzip.compress(LINES.encode(), mtime=0)),
        ("a.CSV.GZ", gzip.compress(b"question,answer\nWhy?,SECRET one\nHow?,SECRET two\n", mtime=0)),
    ],
)
def test_every_text_format_gives_the_same_records(tmp_path: Path, name: str, content: str | bytes) -> None:
    assert values(write(tmp_path, name, content)) == ROWS


def test_parquet_gives_the_same_records(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    assert values(tmp_path / "a.parquet") == ROWS


def test_line_numbers_count_blank_lines_and_quoted_line_breaks(tmp_path: Path) -> None:
    assert [r.line for r in read_file(write(tmp_path, "a.jsonl", "\n" + LINES))] == [2, 3]
    records = read_file(write(tmp_path, "a.csv", 'question,answer\n"W\nhy?",a\nHow?,b\n'))
    assert [(r.line, r.values["question"]) for r in records] == [(3, "W\nhy?"), (4, "How?")]


def test_plain_text_answers_run_over_several_lines(tmp_path: Path) -> None:
    text = "Q: Why\nso?\nA: First.\n\nNote: A: is no mark inside.\nA: nor a second one\nQ: How?\nA: Well.\n"
    assert values(write(tmp_path, "a.txt", text)) == [
        {"question": "Why\nso?", "answer": "First.\n\nNote: A: is no mark inside.\nA: nor a second one"},
        {"question": "How?", "answer": "Well."},
    ]


BAD = [
    ("cut.jsonl", LINES[:-20], "line 2 is not JSON: the file looks half-written"),
    ("bad.jsonl", LINES.replace('"How?"', "How?") + LINES, "line 2 is not JSON: correct or remove this line"),
    ("list.jsonl", LINES + '["SECRET"]\n', "line 3 is not a record"),
    ("cut.json", json.dumps(ROWS)[:-30], "line 1 is not JSON: the file looks half-written"),
    ("end.json", json.dumps(ROWS)[:-1], "is not JSON: the file looks half-written"),
    ("bad.json", "[\n{},\n SECRET]", "line 3 is not JSON: correct the file"),
    ("text.json", '"SECRET"', "is not a list of records"),
    ("rows.json", '[{"question": "a"}, "SECRET"]', "row 2 is not a record"),
    ("short.csv", "question,answer\nWhy?,SECRET\nHow?\n", "line 3 has 1 fields where the header has 2"),
    ("long.csv", "question,answer\nWhy?,SECRET,more\n", "line 2 has 3 fields"),
    ("quote.csv", 'question,answer\nWhy?,"SECRET\nHow?', "cannot be read (unexpected end of data)"),
    ("twice.csv", "answer,answer\na,b\n", "names a column twice"),
    ("notes.txt", "SECRET patient note\nwithout marks\n", "line 1 is outside a question or answer"),
    ("half.txt", "Q: Why?\nA: SECRET\nQ: How?\n", "line 3 asks a question without an answer"),
    ("two.txt", "Q: Why?\nQ: How?\nA: SECRET\n", "line 1 asks a question without an answer"),
    ("zero.csv", b"question,answer\na\x00,SECRET\n", "is binary"),
    ("latin.csv", "question,answer\nWhy?,SECRET \xe9\n".encode("latin-1"), "line 2 is not UTF-8"),
    ("half.parquet", b"PAR1" + b"SECRET" * 9, "is not a whole parquet file"),
    ("half.jsonl.gz", gzip.compress(LINES.encode() * 50, mtime=0)[:-12], "is no whole gzip file"),
    ("fake.jsonl.gz", LINES, "is no whole gzip file"),
]


@pytest.mark.parametrize(("name", "content", "message"), BAD, ids=[name for name, _, _ in BAD])
def test_what_cannot_be_read_is_named_without_its_text(
    tmp_path: Path, name: str, content: str | bytes, message: str
) -> None:
    path = write(tmp_path, name, content)
    with pytest.raises(DataFormatError) as caught:
        read_file(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert "SECRET" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_cut_parquet_file_is_half_written(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist(ROWS * 500), path)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(DataFormatError, match="not a whole parquet file"):
        read_file(path)


@pytest.mark.parametrize(("name", "content"), [("a.jsonl", ""), ("a.csv", "\n \n"), ("a.parquet", "")])
def test_an_empty_file_is_said_to_be_empty(tmp_path: Path, name: str, content: str) -> None:
    with pytest.raises(EmptyDataError, match="is empty"):
        read_file(write(tmp_path, name, content))


def test_a_file_that_vanishes_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot read"):
        read_file(tmp_path / "gone.jsonl")


def test_a_folder_gives_its_data_files_in_order(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a/c.csv.gz", "a/readme.md", ".hidden.jsonl", ".cache/x.jsonl", "manifest.json"):
        write(tmp_path, name, "x")
    assert [str(path.relative_to(tmp_path)) for path in data_files(tmp_path)] == ["a/c.csv.gz", "b.jsonl"]


def test_a_folder_without_data_files_is_not_found(tmp_path: Path) -> None:
    write(tmp_path, "readme.md", "x")
    with pytest.raises(DataNotFoundError, match="holds no data file"):
        data_files(tmp_path)


def test_an_absent_path_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(DataNotFoundError, match="no file or folder"):
        data_files(tmp_path / "gone.csv")


def test_an_unknown_ending_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(DataFormatError, match=r"known endings are \.jsonl"):
        data_files(write(tmp_path, "a.xlsx", "x"))


def test_the_ending_before_gz_tells_the_format() -> None:
    assert suffix_of(Path("A.JSONL.GZ")) == ".jsonl"
    assert suffix_of(Path("a.gz")) == ""

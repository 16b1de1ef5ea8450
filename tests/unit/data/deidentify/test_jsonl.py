"""Files: whole or absent, resumable, and errors that name the line and never what is in it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from fedmed.cli.app import main
from fedmed.data.deidentify import Policy, jsonl, jsonl_worker
from fedmed.data.deidentify.jsonl import deidentify_file
from fedmed.data.deidentify.jsonl_worker import Job
from fedmed.errors import ConfigChangedError, DataError, RunError

pytestmark = pytest.mark.unit

KEY = b"sixteen bytes or more"


@pytest.fixture
def job(tmp_path, engine, monkeypatch):
    """A file of 100 records in chunks of ten, with the engine that is loaded already."""
    monkeypatch.setattr(jsonl, "CHUNK_LINES", 10)
    monkeypatch.setattr(jsonl, "_MARKS_EVERY", 1)
    monkeypatch.setattr(jsonl_worker, "Deidentifier", lambda policy: engine)
    lines = [{"id": n, "text": f"Mr. Abernathy came, MRN {10_000_000 + n}."} for n in range(100)]
    source = tmp_path / "in.jsonl"
    source.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return Job(source, tmp_path / "out.jsonl", tmp_path / "report.json", policy=Policy(key=KEY))


def test_every_record_comes_out_with_its_findings_and_other_fields(job):
    report = deidentify_file(job)
    lines = [json.loads(line) for line in job.out.read_text(encoding="utf-8").splitlines()]
    assert [line["id"] for line in lines] == list(range(100))
    assert lines[3]["text"] == "[NAME] came, MRN [MRN]."
    first, second = lines[3]["findings"]
    assert set(first) == {"type", "start", "end", "value_sha256", "rule", "score"}
    assert (second["type"], second["start"], second["end"]) == ("MRN", 24, 32)
    assert len({line["findings"][0]["value_sha256"] for line in lines}) == 1
    assert len({line["findings"][1]["value_sha256"] for line in lines}) == 100
    assert (report["records"], report["types"]["MRN"], report["types"]["FAX"]) == (100, 100, 0)
    assert json.loads(job.report.read_text(encoding="utf-8")) == report
    assert sorted(path.name for path in job.out.parent.iterdir()) == ["in.jsonl", "out.jsonl", "report.json"]
    assert "Abernathy" not in job.report.read_text(encoding="utf-8")


class Killed(BaseException):
    pass


@pytest.mark.parametrize("after", [1, 4, 9])
def test_a_killed_run_goes_on_and_ends_the_same(job, monkeypatch, after):
    whole = replace(job, out=job.out.with_name("whole.jsonl"))
    deidentify_file(whole)
    real, calls = jsonl.Worker.__call__, []

    def dies(worker, number, lines):
        calls.append(number)
        if len(calls) > after:
            raise Killed
        return real(worker, number, lines)

    monkeypatch.setattr(jsonl.Worker, "__call__", dies)
    with pytest.raises(Killed):
        deidentify_file(job)
    assert not job.out.exists()
    partial = job.out.with_name(".out.jsonl.partial")
    with open(partial / "out.jsonl", "ab") as file:  # a write that was cut off
        file.write(b'{"text": "half a li')
    seen = []
    monkeypatch.setattr(
        jsonl.Worker, "__call__", lambda worker, number, lines: seen.append(number) or real(worker, number, lines)
    )
    deidentify_file(job)
    assert seen[0] == 10 * after
    assert job.out.read_bytes() == whole.out.read_bytes()
    assert not partial.exists()


def test_unfinished_work_of_other_settings_is_not_gone_on_with(job, monkeypatch):
    def dies(*_):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(jsonl.Worker, "__call__", dies)
        with pytest.raises(Killed):
            deidentify_file(job)
    with pytest.raises(ConfigChangedError, match="other settings"):
        deidentify_file(replace(job, policy=Policy(key=KEY, keep_year=True)))
    (job.out.with_name(".out.jsonl.partial") / "progress.json").write_text("{", encoding="utf-8")
    with pytest.raises(RunError, match="damaged"):
        deidentify_file(job)


def test_a_drawn_key_is_kept_nowhere(job):
    deidentify_file(replace(job, policy=Policy()))
    assert not job.out.with_name(".out.jsonl.partial").exists()


def test_another_field_is_read_and_not_kept(job):
    job.source.write_text(json.dumps({"note": "Mr. Abernathy came.", "id": 1}) + "\n", encoding="utf-8")
    deidentify_file(replace(job, field="note"))
    line = json.loads(job.out.read_text(encoding="utf-8"))
    assert line["text"] == "[NAME] came."
    assert "note" not in line


def test_input_and_results_are_three_files(job):
    with pytest.raises(DataError, match="three files"):
        deidentify_file(replace(job, out=job.source))


SECRET = "Abernathy"


@pytest.mark.parametrize(
    ("line", "code", "says"),
    [
        (f'{{"text": "{SECRET}"', 22, "line 2 is not JSON"),
        (f'["{SECRET}"]', 22, "line 2 is not a record"),
        (f'{{"note": "{SECRET}"}}', 25, "line 2 has no field 'text'"),
        (f'{{"text": ["{SECRET}"]}}', 22, "'text' is list, not text"),
        (f'{{"text": "{SECRET} \\ud800"}}', 22, "half a surrogate pair"),
        (f'{{"text": "{SECRET} \udcff"}}', 22, "not UTF-8"),
    ],
)
def test_a_bad_line_is_named_and_never_shown(job, capsys, monkeypatch, line, code, says):
    good = json.dumps({"text": "fine"})
    job.source.write_bytes(f"{good}\n{line}\n".encode("utf-8", "surrogateescape"))
    words = ["data", "deidentify", str(job.source), "--out", str(job.out), "--report", str(job.report)]
    assert main(words) == code
    err = capsys.readouterr().err
    assert says in err
    assert SECRET not in err
    assert "Traceback" not in err
    assert not job.out.exists()


@pytest.mark.parametrize(
    ("change", "code", "says"),
    [
        ({"source": "gone.jsonl"}, 21, "no file"),
        ({"--ner-model": "nowhere"}, 31, "no folder of a spaCy pipeline"),
        ({"--key-file": "gone.key"}, 20, "cannot read the key file"),
        ({"--min-score": "3"}, 10, "min_score"),
    ],
)
def test_bad_words_on_the_command_line_are_one_line(tmp_path, capsys, change, code, says):
    (tmp_path / "in.jsonl").write_text('{"text": "fine"}\n', encoding="utf-8")
    words = ["data", "deidentify", str(tmp_path / change.pop("source", "in.jsonl"))]
    words += ["--out", str(tmp_path / "out.jsonl"), "--report", str(tmp_path / "r.json")]
    assert main([*words, *(word for pair in change.items() for word in pair)]) == code
    err = capsys.readouterr().err
    assert says in err
    assert len([line for line in err.splitlines() if line.startswith("error")]) == 1


def test_an_empty_file_is_an_error_and_leaves_nothing(job):
    job.source.write_text("\n\n", encoding="utf-8")
    assert main(["data", "deidentify", str(job.source), "--out", str(job.out), "--report", str(job.report)]) == 23
    assert [path.name for path in job.out.parent.iterdir()] == ["in.jsonl"]

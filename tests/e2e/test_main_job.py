"""The main job as a newcomer runs it: the installed command, the real embedded model, real medical text."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.e2e

FEDMED = Path(sys.executable).with_name("fedmed")


def fedmed(place: Path, *words: str, isolated: bool = False) -> subprocess.CompletedProcess[str]:
    """Run the command; ``isolated``: in a network namespace of its own, where there is only loopback."""
    wrapper = ["unshare", "-n"] if isolated else []
    return subprocess.run([*wrapper, FEDMED, *words], cwd=place, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def quick_run(tmp_path_factory):
    """One run of the recipe ``quick``, without a network where this user may say so."""
    place = tmp_path_factory.mktemp("newcomer")
    isolated = os.geteuid() == 0 and shutil.which("unshare") is not None
    done = fedmed(place, "run", "--recipe", "quick", "--out", "output-models/first", isolated=isolated)
    assert done.returncode == 0, done.stderr
    return place, done


def test_a_newcomer_sees_losses_an_answer_and_where_everything_lies(quick_run):
    place, done = quick_run
    for word in (
        "hospital_A",
        "hospital_D",
        "all hospitals",
        "not medical advice",
        "adapter",
        "report.html",
        "summary.json",
    ):
        assert word in done.stdout
    summary = json.loads((place / "output-models/first/summary.json").read_text())
    assert summary["status"] == "finished"
    assert summary["model"] == "builtin:gemma-3-270m"
    # Eight steps a hospital in all: it has to learn something, and cannot have learnt everything.
    assert 0.02 < 1 - summary["loss"]["federated"] / summary["loss"]["base"] < 0.6
    page = (place / "output-models/first/report.html").read_text(encoding="utf-8")
    assert f"{summary['loss']['federated']:.3f}" in page


def test_ask_answers_in_one_call_about_the_latest_run(quick_run):
    place, _ = quick_run
    done = fedmed(place, "ask", "What is hypertrophic cardiomyopathy?", "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert list(answer) == ["answer", "allowed", "reasons", "confidence", "disclaimer", "model", "run"]
    assert answer["run"] == "first"
    assert "not medical advice" in answer["disclaimer"]
    assert answer["allowed"]
    assert any(word in answer["answer"].lower() for word in ("heart", "myocard", "ventric", "cardi"))


def test_the_adapter_gives_the_same_logits_in_plain_peft(quick_run):
    import torch
    from peft import PeftModel

    from fedmed.model.adapter import attach_adapter
    from fedmed.model.load_model import load_model_and_tokenizer

    folder = quick_run[0] / "output-models/first/adapter"
    base, tokenizer = load_model_and_tokenizer()
    ids = tokenizer("Question: What is hypertrophic cardiomyopathy?\nAnswer:", return_tensors="pt").input_ids
    with torch.no_grad():
        bare = base(ids).logits
        plain = PeftModel.from_pretrained(base, folder).eval()(ids).logits
        base, _ = load_model_and_tokenizer()
        ours = attach_adapter(base, folder).eval()(ids).logits
    assert torch.equal(plain, ours)
    assert not torch.allclose(bare, ours, atol=1e-3)


@pytest.mark.slow
def test_a_run_killed_in_the_middle_of_a_round_resumes_to_the_identical_adapter(quick_run):
    place, _ = quick_run
    alone = json.loads((place / "output-models/first/summary.json").read_text())
    child = subprocess.Popen(
        [FEDMED, "run", "--recipe", "quick", "--out", "output-models/killed"],
        cwd=place, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 300
    while not (place / "output-models/killed/rounds/0001").exists():
        assert child.poll() is None, "ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(1.0)  # into the second round
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert not (place / "output-models/killed/rounds/0002").exists()
    done = fedmed(place, "run", "--resume", "output-models/killed", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["adapter_sha256"] == alone["adapter_sha256"]

"""What benches write beside their figures, and when they start anew."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.unit

FILE = Path(__file__).parents[2] / "benchmarks" / "stamp.py"


@pytest.fixture
def stamp():
    spec = importlib.util.spec_from_file_location("bench_stamp", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def checkout(tmp_path):
    for name in ("src/fedmed/a.py", "docs/page.md", "docs/demo.svg", "benchmarks/results/x.json", "benchmarks/x.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    return tmp_path


def test_docs_change_no_digest_and_sources_do(stamp, checkout):
    bench = checkout / "benchmarks" / "x.py"
    before = stamp.sources_digest(checkout, [bench])
    (checkout / "docs" / "page.md").write_text("more")
    (checkout / "src/fedmed/__pycache__").mkdir()
    (checkout / "src/fedmed/__pycache__/a.pyc").write_bytes(b"compiled")
    assert stamp.sources_digest(checkout, [bench, checkout / "no such file"]) == before
    seen = {before}
    for file, text in ((bench, "other"), (checkout / "src/fedmed/a.py", "other"), (checkout / "src/new.yaml", "")):
        file.write_text(text)
        seen.add(stamp.sources_digest(checkout, [bench]))
    (checkout / "src/new.yaml").rename(checkout / "src/renamed.yaml")
    assert len(seen | {stamp.sources_digest(checkout, [bench])}) == 5


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_tracked_changes_make_it_dirty_but_not_what_benches_write(stamp, checkout):
    def git(*words):
        subprocess.run(["git", "-c", "user.name=t", "-c", "user.email=t@t", *words], cwd=checkout, check=True)

    assert stamp.dirty(checkout) is None
    git("init", "-q")
    git("add", ".")
    git("commit", "-q", "-m", "all")
    (checkout / "benchmarks/results/x.json").write_text("new figures")
    (checkout / "docs/demo.svg").write_text("new picture")
    (checkout / "untracked").write_text("")
    assert stamp.dirty(checkout) is False
    (checkout / "docs/page.md").write_text("more")
    assert stamp.dirty(checkout) is True


def test_a_commit_alone_starts_nothing_anew_and_settings_machine_and_sources_do(stamp, checkout, monkeypatch):
    now = {"versions": {"torch": "1"}, "machine": "x86_64", "commit": "a" * 40}
    monkeypatch.setattr("fedmed.pipeline.run_folder.environment", lambda: dict(now))
    monkeypatch.setattr(stamp, "CHECKOUT", checkout)
    monkeypatch.setattr(stamp, "dirty", lambda _: False)
    about, first = stamp.stamp([1])
    assert about == now | {"dirty": False, "sources": stamp.sources_digest(checkout)}
    assert json.dumps(about)
    now["commit"] = "b" * 40
    about, second = stamp.stamp([1])
    assert (about["commit"], second) == ("b" * 40, first)
    now["versions"] = {"torch": "2"}
    assert len({first, stamp.stamp([1])[1], stamp.stamp([2])[1]}) == 3
    now["commit"] = None
    assert stamp.stamp([1])[0]["dirty"] is None

"""Finished runs of the benches, kept by content: a bench that was cut off goes on, and no figure is ever stale.

A run's name is a digest of what defines it, of the code it stands on (without comments and docstrings), and of the
versions and the processor it ran on: change one of them, and it is measured anew.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import json
import os
import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from stamp import CHECKOUT, dirty

import fedmed
from fedmed.pipeline.run_folder import environment
from fedmed.utils.files import write_atomic

ROOT = CHECKOUT
CACHE = ROOT / "output-models" / "bench-cache"
RESULTS = Path(__file__).parent / "results"
ROOMS = ("federated", "training", "model", "data", "evaluation", "privacy")
SITTING = 36.0
"""Minutes after which no further run is begun; on a slow machine a bench takes two sittings."""
TIME_IS_UP = 75  # exit code; EX_TEMPFAIL of sysexits.h: try again
FILES = ("types.py", "pipeline/scoring.py", "pipeline/algorithm_start.py")


def say(line: str) -> None:
    print(line, flush=True)  # noqa: T201


def stamp() -> dict[str, Any]:
    """What a result file stands on: versions, processor, memory, commit, and whether the checkout differs from it."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    return environment() | {"cpu": cpu_name(), "ram_gb": round(memory, 1), "dirty": dirty(CHECKOUT)}


@functools.cache
def cpu_name() -> str:
    """As the kernel names it, with what tells processors of one name apart."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor() or platform.machine()
    found = dict(line.split(":", 1) for line in text.split("\n\n")[0].splitlines() if ":" in line)
    named = {key.strip(): value.strip() for key, value in found.items()}
    parts = [named.get("model name", platform.machine())]
    parts += [f"{word} {named[key]}" for word, key in (("family", "cpu family"), ("model", "model")) if key in named]
    return ", ".join(parts)


@functools.cache
def code_digest() -> str:
    """Digest of the code that decides every figure."""
    package = Path(fedmed.__file__).parent
    files = sorted(file for room in ROOMS for file in (package / room).rglob("*.py"))
    return digest_of(*files, *(package / name for name in FILES), Path(__file__).with_name("lab.py"))


def digest_of(*files: Path) -> str:
    """SHA-256 of the code in some files; comments, docstrings and layout play no part."""
    digest = hashlib.sha256()
    for file in files:
        tree = ast.parse(file.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            body = getattr(node, "body", None)
            if isinstance(body, list) and body and _is_text(body[0]):
                body[0] = ast.Pass()
        digest.update(f"{file.name}\n{ast.dump(tree)}\n".encode())
    return digest.hexdigest()


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


class Kept:
    """Runs by what defines them.

    Args:
        folder: where finished ones lie, one JSON a run.
        planned: how many runs the bench expects to need, for the progress lines; learning rates may ask for more.
        minutes: of one sitting.
    """

    def __init__(self, folder: Path, planned: int, minutes: float = SITTING) -> None:
        self.folder = folder
        self.planned = planned
        self._minutes = minutes
        self._ends = time.monotonic() + 60 * minutes
        self.asked = 0
        self.measured = 0

    def get(self, label: str, key: Mapping[str, Any], measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The run that ``key`` defines, read or measured; prints one line.

        Args:
            label: for people.
            key: plain JSON values; everything the result depends on that is not code or machine.
            measure: gives plain JSON values.

        Raises:
            SystemExit: the sitting is over and this run is not there yet.
        """
        self.asked += 1
        machine = {"versions": environment()["versions"], "cpu": cpu_name(), "cpus": len(os.sched_getaffinity(0))}
        machine["threads"] = os.environ.get("OMP_NUM_THREADS")
        text = json.dumps([key, code_digest(), machine], sort_keys=True)
        file = self.folder / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.json"
        if file.is_file():
            found = json.loads(file.read_text(encoding="utf-8"))
            self._say(label, f"kept ({found['seconds']:.1f} s then)")
        else:
            if time.monotonic() > self._ends:
                say(f"time is up after {self._minutes:g} minutes: finished runs are kept, the same command goes on")
                raise SystemExit(TIME_IS_UP)
            started = time.perf_counter()
            result = measure()
            found = {"label": label, "key": key, "seconds": time.perf_counter() - started, "result": result}
            write_atomic(file, json.dumps(found, indent=1, allow_nan=False) + "\n")
            self.measured += 1
            self._say(label, f"{found['seconds']:.1f} s")
        result = found["result"]
        if result.get("stopped"):
            say(f"    stopped: {result['stopped']}")
        return dict(result)

    def _say(self, label: str, how: str) -> None:
        say(f"[{self.asked}/{max(self.planned, self.asked)}] {label}: {how}")


def write_result(path: Path, result: Mapping[str, Any]) -> None:
    """One bench's result, whole or not at all."""
    write_atomic(path, json.dumps(result, indent=1, allow_nan=False) + "\n")
    say(str(path))

"""What a bench's figures stand on: the machine, the commit, and a digest of the sources that can move them.

Benches keep finished parts under the digest, so that docs or a commit alone start nothing anew and a change of ``src/``
does.
Not covered: sources outside this repository other than those a bench names, and how busy the machine is.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[1]
WRITTEN = ("benchmarks/results", "docs/*.svg")  # by benches themselves: one must not make the next one's tree dirty


def stamp(settings: Any, *sources: Path) -> tuple[dict[str, Any], str]:
    """What to write beside the figures, and the name under which to keep finished parts.

    Args:
        settings: JSON values that the figures depend on.
        sources: files beside ``src/``: the bench's own, the recipes it uses; those that are not there are left out.

    Returns:
        The environment with ``commit``, ``dirty`` and ``sources``; 12 digits that differ where settings, machine,
        versions or sources do.
    """
    from fedmed.pipeline.run_folder import environment

    about = environment()
    commit = about.pop("commit")
    digest = sources_digest(CHECKOUT, sources)
    key = hashlib.sha256(json.dumps([settings, about, digest]).encode()).hexdigest()[:12]
    return about | {"commit": commit, "dirty": None if commit is None else dirty(CHECKOUT), "sources": digest}, key


def sources_digest(checkout: Path, more: Iterable[Path] = ()) -> str:
    """SHA-256 over names and bytes of all files under ``src/`` and of ``more``."""
    files = [file for file in (checkout / "src").rglob("*") if file.is_file() and not _is_made(file)]
    # A name outside the checkout would differ from one machine to the next.
    named = {file.relative_to(checkout).as_posix(): file for file in files}
    named |= {f"+{file.name}": file for file in more if file.is_file()}
    total = hashlib.sha256()
    for name, file in sorted(named.items()):
        total.update(f"{name} {hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    return total.hexdigest()


def dirty(checkout: Path) -> bool | None:
    """Whether tracked files differ from the commit, but for what benches write; None: git cannot say."""
    unless = [f":(exclude){path}" for path in WRITTEN]
    words = ["git", "-C", str(checkout), "status", "--porcelain", "--untracked-files=no", "--", ".", *unless]
    try:
        found = subprocess.run(words, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return None if found.returncode else bool(found.stdout.strip())


def _is_made(file: Path) -> bool:
    return any(part == "__pycache__" or part.endswith(".egg-info") for part in file.parts)

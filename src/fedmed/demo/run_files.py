"""A run as its files tell it, finished or still going on; anything may be missing. pipeline -> HERE -> federation_view.

Read: ``summary.json``, ``config.yaml``, ``rounds.jsonl``, the newest ``rounds/NNNN/state.json``, ``ledgers/``. Nothing
is written, and nothing that a half-written file lacks is guessed.
Not covered: whether the process of a run that says it is running still lives; its last sign of life is shown instead.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedmed.config.load import read_run_config
from fedmed.config.schema import FedMedConfig
from fedmed.errors import FedMedError
from fedmed.evaluation.report_parts import list_of, number, table_of
from fedmed.privacy.ledger import Ledger

Stamp = tuple[tuple[str, int], ...]
"""Which files there are and when each was last written."""

_FILES = ("summary.json", "config.yaml", "rounds.jsonl", "held_out.json")


@dataclass(frozen=True, slots=True)
class RunFiles:
    """What is known of one run.

    ``rounds``: one mapping a round and hospital; ``history``: one a round; ``epsilon``: by record and by hospital, the
    largest of any hospital.
    """

    name: str
    status: str  # running, finished, stopped
    summary: dict[str, Any]
    planned: int | None  # rounds
    facts: tuple[tuple[str, str], ...]
    rounds: tuple[dict[str, Any], ...]
    history: tuple[dict[str, Any], ...]
    epsilon: tuple[float | None, float | None]
    written: float  # seconds since the epoch, of the newest file

    @property
    def done(self) -> int:
        """Rounds that are over."""
        numbers = [number(line, "round") or 0 for line in (*self.rounds, *self.history)]
        return int(max(numbers, default=0))


def runs_in(roots: Iterable[Path]) -> dict[str, Path]:
    """Folders of runs by name, the newest first."""
    found = {
        folder.name: folder
        for root in roots
        for folder in (root.iterdir() if root.is_dir() else ())
        if any((folder / name).is_file() for name in ("summary.json", "rounds.jsonl"))
    }
    return dict(sorted(found.items(), key=lambda one: -max((at for _, at in stamp(one[1])), default=0)))


def stamp(folder: Path) -> Stamp:
    """Changes with every change of what ``read_run`` reads."""
    files = [folder / name for name in _FILES]
    files += [*folder.glob("rounds/*/state.json"), *folder.glob("ledgers/*.jsonl")]
    return tuple((str(file.relative_to(folder)), at) for file in sorted(files) if (at := _written(file)))


def read_run(folder: Path) -> RunFiles:
    """Read a run; what cannot be read counts as missing."""
    summary = _json(folder / "summary.json")
    config = _config(folder)
    facts = []
    if config is not None:
        facts = [
            ("Model", config.model.name),
            ("Records", config.training.dataset.name),
            ("Method", config.federated.algorithm),
        ]
    return RunFiles(
        name=folder.name,
        status=str(summary.get("status") or "running"),
        summary=summary,
        planned=config.federated.rounds if config is not None else None,
        facts=tuple(facts),
        rounds=tuple(_lines(folder / "rounds.jsonl")),
        history=tuple(_history(folder)),
        epsilon=_epsilon(folder, summary, config),
        written=max((at for _, at in stamp(folder)), default=0) / 1e9,
    )


def _history(folder: Path) -> list[dict[str, Any]]:
    """That of the newest checkpoint which can be read; each holds all rounds before it."""
    for file in sorted(folder.glob("rounds/*/state.json"), reverse=True):
        if found := [entry for entry in list_of(_json(file), "history") if isinstance(entry, dict)]:
            return found
    return []


def _epsilon(folder: Path, summary: dict[str, Any], config: FedMedConfig | None) -> tuple[float | None, float | None]:
    told = table_of(summary, "privacy")
    if told or config is None:
        return number(told, "example_epsilon"), number(told, "hospital_epsilon")
    example, hospital = config.privacy.example, config.privacy.hospital
    at = Path(config.privacy.ledgers) if config.privacy.ledgers else folder / "ledgers"
    by_record = by_hospital = None
    try:
        ledgers = [Ledger.read(file) for file in sorted(at.glob("*.jsonl"))]
        if example.on and example.noise_seed is None and ledgers:
            by_record = max(ledger.spent(example.delta, example.unit).epsilon for ledger in ledgers)
        if hospital.on and ledgers:
            by_hospital = max(ledger.spent(hospital.delta, "hospital").epsilon for ledger in ledgers)
    except FedMedError:
        pass  # being written, or not this run's; the finished run states its own
    return by_record, by_hospital


def _config(folder: Path) -> FedMedConfig | None:
    try:
        return read_run_config(folder / "config.yaml")
    except FedMedError:
        return None


def _json(file: Path) -> dict[str, Any]:
    try:
        value = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _lines(file: Path) -> list[dict[str, Any]]:
    """Whole lines only: the last one may be being written."""
    try:
        whole, _, _ = file.read_bytes().rpartition(b"\n")
    except OSError:
        return []
    found = []
    for line in whole.splitlines():
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict):
            found.append(value)
    return found


def _written(file: Path) -> int:
    try:
        return file.stat().st_mtime_ns
    except OSError:
        return 0

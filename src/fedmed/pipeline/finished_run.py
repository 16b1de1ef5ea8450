"""A finished run with the records it was trained on, its model and every hospital's adapter. run folder -> HERE.

Not covered: runs over a network, whose records are at their hospitals.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedmed.config.load import read_run_config
from fedmed.config.schema import FedMedConfig
from fedmed.data.encode import EncodedRow
from fedmed.errors import ConfigChangedError, ConfigError, EmptyDataError, RunNotFoundError
from fedmed.model.adapter import get_adapter_state, load_adapter, set_adapter_state
from fedmed.model.load_model import shared_model
from fedmed.pipeline.run_folder import RunFolder
from fedmed.pipeline.run_records import RunRecords, records_digest, run_records
from fedmed.pipeline.scoring import Records, encode, held_out_sample
from fedmed.safety.assistant import run_config
from fedmed.types import AdapterState
from fedmed.utils.console import track


@dataclass(frozen=True)
class Asked:
    """A held-out record and its tokens."""

    record: Mapping[str, str]
    row: EncodedRow


@dataclass(frozen=True)
class FinishedRun:
    """What an evaluation needs."""

    folder: RunFolder
    config: FedMedConfig
    records: RunRecords
    model: Any  # a PEFT model with LoRA's own start
    tokenizer: Any
    start: AdapterState
    adapters: Mapping[str, AdapterState]  # hospital -> what it answers with; one object where all share it
    personal: bool  # hospitals have adapters of their own
    held_out: Mapping[str, Sequence[Asked]]  # the sample that the run was scored on; hospitals without any are absent

    def put(self, adapter: AdapterState) -> None:
        """Let the model carry an adapter, of any rank."""
        set_adapter_state(self.model, adapter, any_rank=True)


def open_finished(path: Path, overrides: Sequence[str] = ()) -> FinishedRun:
    """Read a finished run, and its records again from where its settings say.

    Args:
        path: its folder.
        overrides: ``section.key=value`` on top of the run's settings; of ``training.evaluation``.

    Raises:
        RunNotFoundError: no finished adapter, or it does not say which records it was trained on.
        ConfigError: other settings are overridden.
        ConfigChangedError: the records are not those of then. EmptyDataError: none is held out.
        What loading the run's data and model raises.
    """
    folder = RunFolder(path)
    own = sorted(place.parent.name for place in path.glob("hospitals/*/adapter"))
    config = run_config(path, overrides, own[0] if own else None)
    _check_overrides(config, read_run_config(folder.config_file))
    known = (folder.read_json("run.json") or {}).get("records_sha256")
    if known is None:
        raise RunNotFoundError(
            f"{path} does not say which records it was trained on",
            "evaluate it on exams, with --tasks; hospitals of a network hold their records themselves",
        )
    with track("reading records"):
        records = run_records(config)
    if records_digest(records.own) != known:
        raise ConfigChangedError(
            f"the records of {config.training.dataset.name} are not those that {path} was trained on",
            "put them back, in the folder that the run was started from",
        )
    with track("loading the model"):
        model, tokenizer = shared_model(config.model, config.federated.seed)
    start = get_adapter_state(model)
    names = list(records.own)
    if own:
        adapters = {name: load_adapter(folder.hospital_adapter(name)) for name in names}
    else:
        adapters = dict.fromkeys(names, load_adapter(folder.adapter))
    sample = {name: _encoded(tokenizer, rows, config) for name, rows in held_out_sample(records.own, config).items()}
    held_out = {name: asked for name, asked in sample.items() if asked}
    if not held_out:
        raise EmptyDataError("no hospital holds a record to evaluate on", "evaluate on exams, with --tasks")
    return FinishedRun(folder, config, records, model, tokenizer, start, adapters, bool(own), held_out)


def _check_overrides(config: FedMedConfig, then: FedMedConfig) -> None:
    """Raises ConfigError where more was changed than how much is measured, and on how many threads."""
    mine = {"evaluation": config.training.evaluation, "threads": config.training.threads}
    if then.model_copy(update={"training": then.training.model_copy(update=mine)}) != config:
        raise ConfigError(
            ["--set changes how the run was trained, which is over"],
            "set only training.evaluation and training.threads",
        )


def _encoded(tokenizer: Any, records: Records, config: FedMedConfig) -> list[Asked]:
    """Each record with its tokens, but for those whose prompt leaves no room for an answer."""
    rows = encode(tokenizer, records, config)
    if len(rows) < len(records):
        pairs = [(record, row) for record in records for row in encode(tokenizer, [record], config)]
    else:
        pairs = list(zip(records, rows, strict=True))
    return [Asked(record, row) for record, row in pairs]

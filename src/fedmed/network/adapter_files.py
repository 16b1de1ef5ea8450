"""The shared adapter on disk, without torch: where a run starts from and what it exports. coordinator -> HERE -> PEFT.

    start/     the standard adapter before the first round, in PEFT's format, with the base model's fingerprint
    adapter/   the exported one: the same configuration, at its own rank

``start/`` is made once, in a process of its own that loads the base model and ends, so that the coordinator keeps no
model in memory and can go on without torch; it can also be made on another machine and brought along.
"""

from __future__ import annotations

import json
import multiprocessing
import shutil
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from fedmed.config.schema import FedMedConfig
from fedmed.errors import ModelCorruptError, ModelNotFoundError
from fedmed.types import AdapterState
from fedmed.utils.files import folder_atomic, write_atomic, write_json

WEIGHTS, CONFIG, BASE = "adapter_model.safetensors", "adapter_config.json", "base_model.json"
DIGEST = "base_digest.json"  # of the base model's weights, which hospitals compare with theirs
_A = ".lora_A.weight"


def make_start(config: FedMedConfig, folder: Path) -> None:
    """Write the adapter that this run's method begins with to ``folder``, from a process that ends with it.

    Raises:
        MissingExtraError: no torch here; make it elsewhere. What loading the model raises.
    """
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        pool.submit(write_start, config, folder).result()


def write_start(config: FedMedConfig, folder: Path) -> None:
    """As ``make_start``, in this process. The same bits as ``fedmed run`` starts from, but for Fed-SB's public records:
    nobody here knows which of them hospitals hold, so all of the ontology counts as public."""
    from fedmed.model.adapter import get_adapter_state, save_adapter
    from fedmed.model.base_digest import base_digest
    from fedmed.model.load_model import shared_model
    from fedmed.pipeline.algorithm_start import first_adapter

    model, tokenizer = shared_model(config.model, config.federated.seed)
    first = first_adapter(config, model, tokenizer, get_adapter_state(model), ())
    with folder_atomic(folder) as made:
        save_adapter(first, made, model)
        write_json(made / DIGEST, {"digest": base_digest(model)})


def read_start(folder: Path) -> AdapterState:
    """The adapter in ``folder``, keys sorted.

    Raises:
        ModelNotFoundError, ModelCorruptError.
    """
    for name in (WEIGHTS, CONFIG):
        if not (folder / name).is_file():
            raise ModelNotFoundError(f"there is no {name} in {folder}", "give the start/ folder of a run")
    try:
        return {key: np.asarray(array, np.float32) for key, array in sorted(load_file(folder / WEIGHTS).items())}
    except SafetensorError as error:
        raise ModelCorruptError(f"{folder / WEIGHTS} is damaged ({error})", "restore it, or start a new run") from error


def base_of(folder: Path) -> str | None:
    """Digest of the base model that a start adapter was made for; None: nobody wrote it down."""
    file = folder / DIGEST
    return json.loads(file.read_text(encoding="utf-8"))["digest"] if file.is_file() else None


def export(state: AdapterState, start: Path, folder: Path) -> None:
    """Write an adapter in PEFT's format.

    Args:
        state: complete by itself, of any one rank.
        start: gives configuration and base model; the scale alpha / r stays when the rank changes.
        folder: made if missing.
    """
    config: dict[str, Any] = json.loads((start / CONFIG).read_text(encoding="utf-8"))
    ranks = {array.shape[0] for key, array in state.items() if key.endswith(_A)}
    if len(ranks) == 1 and (rank := ranks.pop()) != config["r"]:
        ratio = rank / config["r"]
        config["lora_alpha"] = float(config["lora_alpha"] * (ratio**0.5 if config.get("use_rslora") else ratio))
        config["r"] = rank
    arrays = {key: np.ascontiguousarray(state[key], np.float32) for key in sorted(state)}
    write_atomic(folder / WEIGHTS, save(arrays, metadata={"format": "pt"}))
    if (start / BASE).is_file():
        write_atomic(folder / BASE, (start / BASE).read_bytes())
    write_json(folder / CONFIG, config)


def bring_start(source: Path, folder: Path) -> None:
    """Copy a start adapter that was made elsewhere. Raises ModelNotFoundError, ModelCorruptError."""
    read_start(source)
    with folder_atomic(folder) as made:
        for name in (WEIGHTS, CONFIG, BASE, DIGEST):
            if (source / name).is_file():
                shutil.copyfile(source / name, made / name)

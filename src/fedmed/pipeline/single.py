"""One hospital alone: train on its records and keep the adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fedmed.config.schema import FedMedConfig
from fedmed.data.gate.lineage import note_seen
from fedmed.data.gate.source import load_gated
from fedmed.errors import RunExistsError
from fedmed.model.load_model import shared_model
from fedmed.training.local_train import train_local
from fedmed.utils.console import track
from fedmed.utils.files import folder_atomic


def train_alone(config: FedMedConfig, out: Path) -> dict[str, Any]:
    """Train on ``config.training.dataset`` and write the adapter to ``out``; returns the figures of the training.

    Raises:
        RunExistsError: ``out`` exists. What loading raises; DataError: a patient was forgotten since.
    """
    if out.exists():
        raise RunExistsError(f"{out} already exists", "choose another --out")
    settings = config.training.dataset
    found = load_gated(settings, config.federated.seed)
    with folder_atomic(out) as folder:
        model, tokenizer = shared_model(config.model, config.federated.seed)
        with track("training") as advance:
            trained = train_local(
                model, found.dataset, tokenizer, config,
                on_step=lambda job, step, steps, result: advance(step=f"{step}/{steps}", loss=round(result.loss, 3)),
            )  # fmt: skip
        if found.hospitals_own:  # first: an adapter that is there is in the lineage
            rows = found.dataset.select_columns(["id", "group", "split"])
            note_seen(Path(settings.gate.folder), {out: "adapter"}, settings.name, rows)
        trained.save_model(folder)
    metrics = trained.metrics
    return {
        "steps": metrics.steps, "tokens": metrics.tokens, "first_loss": metrics.step_losses[0],
        "last_loss": metrics.step_losses[-1], "seconds": metrics.seconds, "num_samples": trained.num_samples,
        "data_gate": found.gate,
    }  # fmt: skip

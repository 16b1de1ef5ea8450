"""One hospital by itself: the engine with one job."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedmed.config.load import default_config
from fedmed.config.schema import FedMedConfig
from fedmed.data.clean import NO_GROUP
from fedmed.data.token_cache import cached_rows
from fedmed.errors import EmptyDataError, TrainingError
from fedmed.model.adapter import get_adapter_state, save_adapter, set_adapter_state
from fedmed.privacy.spending import open_ledgers
from fedmed.training.plain import OnStep
from fedmed.training.trainer import make_trainer
from fedmed.types import AdapterState, LocalJob, TrainMetrics
from fedmed.utils.cache import cache_root


@dataclass(frozen=True)
class LocalTraining:
    """What ``train_local`` hands back: the trained PEFT model, its adapter and what the training was like."""

    model: Any
    state: AdapterState
    metrics: TrainMetrics
    num_samples: int

    def save_model(self, folder: str | Path) -> Path:
        """Write the adapter in PEFT's own format and return the folder."""
        save_adapter(self.state, Path(folder), self.model)
        return Path(folder)


def train_local(
    model: Any,
    train_dataset: Any,
    tokenizer: Any | None = None,
    config: FedMedConfig | None = None,
    *,
    name: str = "local",
    on_step: OnStep | None = None,
) -> LocalTraining:
    """Fine-tune the LoRA adapter of ``model`` on one data set. Rows marked ``split == "test"`` are left out.

    Args:
        model: from ``setup_lora``; trained in place.
        train_dataset: rows with ``question`` and ``answer``.
        tokenizer: None: the one ``load_model_and_tokenizer`` put on the model.
        config: None: the defaults.
        name: names the random stream and the errors.
        on_step: progress.

    Raises:
        EmptyDataError: no training rows. NonFiniteLossError: names the step and its rows.
        TrainingError: the model has no adapter or no tokenizer.
    """
    config = config or default_config()
    tokenizer = tokenizer if tokenizer is not None else getattr(model, "fedmed_tokenizer", None)
    if tokenizer is None:
        raise TrainingError(
            "the model carries no tokenizer", "pass tokenizer=, or load it with load_model_and_tokenizer"
        )
    if not hasattr(model, "peft_config"):
        raise TrainingError("the model has no LoRA adapter", "call setup_lora(model) first")
    records = [row for row in train_dataset if row.get("split", "train") != "test"]
    rows, report = cached_rows(
        records,
        tokenizer,
        prompt_template=config.model.prompt_template,
        answer_prefix=config.model.answer_prefix,
        max_length=config.model.max_length,
        root=cache_root() if config.training.dataset.token_cache else None,
    )
    if report.dropped and not rows:
        raise EmptyDataError(f"all {report.dropped} training records are over-long", "raise model.max_length")
    trainer = make_trainer(
        model, {name: rows}, config, groups={name: [str(row.get("group") or NO_GROUP) for row in records]},
        ledgers=open_ledgers(config.privacy, [name]), rounds_left=1, on_step=on_step,
    )  # fmt: skip
    job = LocalJob(name, round=1, rounds=1, seed=config.federated.seed, start=get_adapter_state(model))
    result = next(trainer.run([job]))
    set_adapter_state(model, result.state)
    return LocalTraining(model, result.state, result.metrics, result.num_samples)

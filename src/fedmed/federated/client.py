"""One hospital in a script: its records, its training, its own count of rounds. A thin façade over a LocalTrainer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from fedmed.config.schema import FedMedConfig, ModelSection
from fedmed.data.clean import NO_GROUP
from fedmed.errors import ConfigError, DataFormatError, EmptyDataError, ModelError
from fedmed.federated.algorithms import get_algorithm
from fedmed.federated.server import NO_METRICS
from fedmed.privacy.spending import open_ledgers
from fedmed.privacy.update_norm import clip_update
from fedmed.types import AdapterState, HospitalState, LocalPlan, LocalResult, LocalTrainer
from fedmed.utils.cache import cache_root


class FederatedClient:
    """A hospital that trains on its own records, starting from the global adapter it is given.

    Args:
        name: the hospital's name; must differ from the other clients' names.
        data: its records: a ``datasets.Dataset`` or an iterable of mappings with ``question`` and ``answer``.
            Rows whose ``split`` is "test" are not trained on.
        model: a PEFT model with its tokenizer as ``fedmed_tokenizer``; None: the one base model of this process
            for ``config.model``, loaded when training first needs it and shared by all clients.
        config: settings; None: the packaged defaults.
        trainer: trains in place of the model, for a caller that has its own; then no model is loaded.

    Raises:
        DataFormatError: a row has no question or no answer.
        EmptyDataError: there is nothing to train on.
        ConfigError: privacy noise that a client does not add, or masks that it does not have.
    """

    def __init__(
        self,
        name: str,
        data: Iterable[Mapping[str, Any]],
        model: Any = None,
        config: FedMedConfig | None = None,
        *,
        trainer: LocalTrainer | None = None,
    ) -> None:
        if config is None:
            from fedmed.config.load import default_config

            config = default_config()
        if config.privacy.secure_sum:
            raise ConfigError(
                ["a FederatedClient hands its update over as it is, without the masks of privacy.secure_sum"],
                "use 'fedmed run', or leave it out",
            )
        if config.privacy.hospital.on or (trainer is not None and config.privacy.example.on):
            raise ConfigError(
                ["a FederatedClient adds no noise of privacy.hospital, nor any to a trainer of one's own"],
                "use 'fedmed run', or leave the setting or the trainer out",
            )
        self.name = name
        self._config = config
        self._model = model
        self._trainer = trainer
        self._rows = _train_rows(name, data)
        self._algorithm = get_algorithm(config.federated)
        self._kept: HospitalState = {}
        self._round = 0

    def get_num_samples(self) -> int:
        """Training records: this client's weight in the mean; under privacy noise 1, to keep their number."""
        return 1 if self._config.privacy.noised else len(self._rows)

    def local_training(self, global_state: AdapterState) -> LocalResult:
        """Train from the global adapter; each call is this client's next round.

        Args:
            global_state: what ``FederatedServer.get_global_model_state`` returned; left as it is.

        Returns:
            The trained adapter with its losses. Under ``privacy.max_update_norm`` the adapter lies at most that far
            from ``global_state``, up to float32 rounding; with ``privacy.share_metrics`` off the losses are NaN and
            the counts 0.

        Raises:
            TrainingError, ModelError: as the trainer raises them; the round does not count then.
            UpdateRejectedError: the trained adapter is not finite, where a norm bound is set.
        """
        federated = self._config.federated
        number = self._round + 1
        plan = LocalPlan(
            "", number, max(federated.rounds, number), self.name, federated.seed, asked=federated.num_clients
        )
        job = self._algorithm.begin(global_state, self._kept, plan)
        (result,) = self._local_trainer().run([job])
        _, self._kept = self._algorithm.finish(job, result, self._kept)
        self._round = number
        return self._bounded(result, job.start)

    def _bounded(self, result: LocalResult, start: AdapterState) -> LocalResult:
        """What this hospital's privacy settings let out."""
        privacy = self._config.privacy
        if privacy.max_update_norm is not None:
            change, norm = clip_update(
                {name: np.subtract(result.state[name], start[name], dtype=np.float32) for name in start},
                privacy.max_update_norm,
            )
            if norm > privacy.max_update_norm:
                result = replace(result, state={name: start[name] + change[name] for name in start})
        return result if privacy.shares_metrics else replace(result, metrics=NO_METRICS)

    def _local_trainer(self) -> LocalTrainer:
        if self._trainer is None:
            self._trainer = self._load_trainer()
        return self._trainer

    def _load_trainer(self) -> LocalTrainer:
        model, tokenizer, settings = self._model_with_tokenizer()

        from fedmed.data.token_cache import cached_rows
        from fedmed.training.trainer import make_trainer

        rows, report = cached_rows(
            self._rows,
            tokenizer,
            prompt_template=settings.prompt_template,
            answer_prefix=settings.answer_prefix,
            max_length=settings.max_length,
            root=cache_root() if self._config.training.dataset.token_cache else None,
        )
        if not rows:
            raise EmptyDataError(
                f"none of the {report.dropped} questions of '{self.name}' fits {settings.max_length} tokens",
                "raise model.max_length",
            )
        groups = {self.name: [row["group"] for row in self._rows]}
        ledgers = open_ledgers(self._config.privacy, [self.name])
        return make_trainer(model, {self.name: rows}, self._config, groups=groups, ledgers=ledgers)

    def _model_with_tokenizer(self) -> tuple[Any, Any, ModelSection]:
        settings = self._config.model
        if self._model is None:
            from fedmed.model.load_model import shared_model

            model, tokenizer = shared_model(settings, self._config.federated.seed)
            return model, tokenizer, settings
        tokenizer = getattr(self._model, "fedmed_tokenizer", None)
        if tokenizer is None:
            raise ModelError(
                f"the model given to client '{self.name}' has no fedmed_tokenizer",
                "load it with load_model_and_tokenizer, or set model.fedmed_tokenizer",
            )
        return self._model, tokenizer, getattr(self._model, "fedmed_config", settings)


def _train_rows(name: str, data: Iterable[Mapping[str, Any]]) -> list[dict[str, str]]:
    rows = []
    for index, row in enumerate(data):
        if not isinstance(row, Mapping) or not all(isinstance(row.get(key), str) for key in ("question", "answer")):
            raise DataFormatError(
                f"row {index} of '{name}' has no question and answer text", "load the data with load_medical_dataset"
            )
        if row.get("split", "train") != "test":
            group = str(row.get("group") or NO_GROUP)
            rows.append({"question": row["question"], "answer": row["answer"], "group": group})
    if not rows:
        raise EmptyDataError(f"'{name}' has no training records", "give it more data or fewer hospitals")
    return rows

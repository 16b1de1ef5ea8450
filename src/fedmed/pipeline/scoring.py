"""What every adapter of a run is measured on: one held-out sample, drawn once by the seed and used for all."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedmed.config.schema import FedMedConfig
from fedmed.data.encode import EncodedRow
from fedmed.data.token_cache import cached_rows
from fedmed.errors import EmptyDataError
from fedmed.evaluation.few_shot import few_shot_ids, few_shot_prefix, worked_examples
from fedmed.evaluation.likelihood import OnRows, RowScores
from fedmed.evaluation.medical_qa import HeldOut, held_out_loss, joined
from fedmed.evaluation.multiple_choice import CHOICES, choice_items, score_choices
from fedmed.evaluation.written import written_rouge_l
from fedmed.types import AdapterState
from fedmed.utils.cache import cache_root
from fedmed.utils.logger import get_logger
from fedmed.utils.random_streams import stream

log = get_logger(__name__)

Records = Sequence[Mapping[str, str]]


@dataclass(frozen=True)
class Scores:
    """Plain JSON values of one model on the held-out sample; losses in nats per answer token."""

    loss: float
    per_hospital: dict[str, float]
    nll: list[float]  # one per record, as in RowScores, for paired comparisons
    tokens: list[int]
    end_nll: list[float]
    ends: list[int]
    multiple_choice: dict[str, Any] | None = None
    rouge_l: float | None = None

    @property
    def rows(self) -> RowScores:
        """The records' sums."""
        return RowScores(*(np.array(column) for column in (self.nll, self.tokens, self.end_nll, self.ends)))


class Scorer:
    """Scores adapters of one model on the held-out records of a split.

    Args:
        model: a PEFT model; its adapter is overwritten by what is scored.
        tokenizer: of the model.
        records: hospital -> all of its records, training and test.
        config: sizes of the samples and how prompts are written.
    """

    def __init__(self, model: Any, tokenizer: Any, records: Mapping[str, Records], config: FedMedConfig) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.config = config
        self._evaluation = config.training.evaluation
        self._seed = config.federated.seed
        test = {name: [row for row in rows if row["split"] == "test"] for name, rows in records.items()}
        self.held_out: dict[str, list[EncodedRow]] = {
            name: encode(self.tokenizer, rows, config) for name, rows in held_out_sample(records, config).items()
        }
        if not any(self.held_out.values()):
            raise EmptyDataError(
                "no hospital holds a record to evaluate on",
                "raise training.dataset.test_fraction or model.max_length, or add records",
            )
        everything = [row for rows in records.values() for row in rows]
        pooled = [row for rows in test.values() for row in rows]
        # Distractors are held out too: an adapter that has learnt training answers by heart must not prefer those.
        self._items = choice_items(pooled, pooled, limit=self._evaluation.multiple_choice_items, seed=self._seed)
        order = stream(self._seed, "written").permutation(len(pooled))
        written = [pooled[index] for index in order]
        definitions = [row for row in written if row["kind"] == "definition"] or written
        self._written = definitions[: self._evaluation.generated_answers]
        self.sample_questions = (
            [row["question"] for row in definitions[-self._evaluation.sample_answers :]]
            if self._evaluation.sample_answers
            else []
        )
        self.written_answers = len(self._written)
        # Worked examples are training records, whose noise does not reach this far.
        count = 0 if config.privacy.noised else self._evaluation.few_shot
        examples = worked_examples(everything, count, self._seed)
        model_config = config.model
        self._prefix = few_shot_ids(
            few_shot_prefix(examples, model_config.prompt_template, model_config.answer_prefix), tokenizer
        )

    def loss(self, state: AdapterState, hospitals: Sequence[str] | None = None) -> Scores:
        """Held-out loss alone, of the given hospitals (None: all)."""
        self._put(state)
        chosen = self.held_out if hospitals is None else {name: self.held_out[name] for name in hospitals}
        return self._plain(held_out_loss(self.model, chosen))

    def loss_of_each(self, adapters: Mapping[str, AdapterState]) -> Scores:
        """Held-out loss where every hospital has an adapter of its own, judged on its own records."""
        parts = []
        for name, state in adapters.items():
            if self.held_out[name]:
                self._put(state)
                parts.append(held_out_loss(self.model, {name: self.held_out[name]}))
        return self._plain(joined(parts))

    @property
    def rows(self) -> int:
        """How many rows ``few_shot`` scores."""
        return sum(map(len, self.held_out.values()))

    @property
    def rows_with_answers(self) -> int:
        """How many rows ``full`` and ``base`` score."""
        return self.rows + CHOICES * len(self._items) + self.written_answers

    def full(self, state: AdapterState, on_rows: OnRows | None = None) -> Scores:
        """Loss, multiple choice and written answers of an adapter."""
        self._put(state)
        return self._with_answers(on_rows)

    def base(self, on_rows: OnRows | None = None) -> Scores:
        """The same for the base model without an adapter."""
        with self.model.disable_adapter():
            return self._with_answers(on_rows)

    @property
    def has_examples(self) -> bool:
        """Whether there are worked examples; ``training.evaluation.few_shot`` may switch them off."""
        return bool(self._prefix)

    def few_shot(self, on_rows: OnRows | None = None) -> Scores:
        """Loss of the base model with worked examples in its prompt."""
        with self.model.disable_adapter():
            return self._plain(held_out_loss(self.model, self.held_out, prefix=self._prefix, on_rows=on_rows))

    def _put(self, state: AdapterState) -> None:
        from fedmed.model.adapter import set_adapter_state

        set_adapter_state(self.model, state, any_rank=True)

    def _plain(self, held_out: HeldOut) -> Scores:
        """As JSON values. Where hospitals share no losses, records stand in an order that tells no hospital apart."""
        rows = held_out.all_rows()
        shared = self.config.privacy.shares_metrics
        order = slice(None) if shared else stream(self._seed, "unshared").permutation(len(rows.nll))
        columns = (getattr(rows, field.name)[order].tolist() for field in dataclasses.fields(rows))
        return Scores(held_out.overall, held_out.per_hospital if shared else {}, *columns)

    def _with_answers(self, on_rows: OnRows | None) -> Scores:
        model = self.config.model
        scores = self._plain(held_out_loss(self.model, self.held_out, on_rows=on_rows))
        choice = score_choices(
            self.model,
            self.tokenizer,
            self._items,
            prompt_template=model.prompt_template,
            answer_prefix=model.answer_prefix,
            max_length=model.max_length,
            on_rows=on_rows,
        )
        rouge = written_rouge_l(self.model, self.tokenizer, self._written, model, seed=self._seed)
        if on_rows:
            on_rows(self.written_answers)
        return dataclasses.replace(
            scores, multiple_choice=dataclasses.asdict(choice) if choice else None, rouge_l=rouge
        )


def held_out_sample(records: Mapping[str, Records], config: FedMedConfig) -> dict[str, list[Mapping[str, str]]]:
    """The held-out records of each hospital that its loss is measured on, drawn by the seed."""
    most = config.training.evaluation.max_records_per_hospital
    drawn = {}
    for name, rows in records.items():
        test = [row for row in rows if row["split"] == "test"]
        picked = stream(config.federated.seed, name, "held_out").permutation(len(test))[:most]
        drawn[name] = [test[index] for index in picked]
    return drawn


def encode(tokenizer: Any, records: Records, config: FedMedConfig) -> list[EncodedRow]:
    """Token rows of records as the configuration writes prompts; says how many were cut or dropped."""
    rows, report = cached_rows(
        records,
        tokenizer,
        prompt_template=config.model.prompt_template,
        answer_prefix=config.model.answer_prefix,
        max_length=config.model.max_length,
        root=cache_root() if config.training.dataset.token_cache else None,
    )
    if report.cut or report.dropped:
        log.warning(
            "of %d records %d answers were cut to model.max_length %d, %d prompts left no room and were dropped",
            len(records), report.cut, config.model.max_length, report.dropped,
        )  # fmt: skip
    return rows

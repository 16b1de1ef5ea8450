"""What every adapter of a run is measured on: one held-out sample, drawn once by the seed and used for all."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedmed.config.schema import FedMedConfig
from fedmed.data.encode import EncodedRow, encode_records
from fedmed.errors import EmptyDataError
from fedmed.evaluation.few_shot import few_shot_ids, few_shot_prefix, worked_examples
from fedmed.evaluation.likelihood import RowScores
from fedmed.evaluation.medical_qa import HeldOut, held_out_loss
from fedmed.evaluation.multiple_choice import choice_items, score_choices
from fedmed.evaluation.written import written_rouge_l
from fedmed.types import AdapterState
from fedmed.utils.random_streams import stream

Records = Sequence[Mapping[str, str]]


@dataclass(frozen=True)
class Scores:
    """Plain JSON values of one model on the held-out sample; losses in nats per answer token."""

    loss: float
    per_hospital: dict[str, float]
    nll: list[float]  # one per record, for paired comparisons
    tokens: list[int]
    multiple_choice: dict[str, Any] | None = None
    rouge_l: float | None = None

    @property
    def rows(self) -> RowScores:
        import numpy as np

        return RowScores(np.array(self.nll), np.array(self.tokens))


def _plain(held_out: HeldOut) -> Scores:
    rows = held_out.all_rows()
    return Scores(held_out.overall, held_out.per_hospital, rows.nll.tolist(), rows.tokens.tolist())


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
        self.held_out: dict[str, list[EncodedRow]] = {}
        for name, rows in test.items():
            picked = stream(self._seed, name, "held_out").permutation(len(rows))[
                : self._evaluation.max_records_per_hospital
            ]
            self.held_out[name] = encode(self.tokenizer, [rows[index] for index in picked], config)
        if not any(self.held_out.values()):
            raise EmptyDataError(
                "no hospital holds a record to evaluate on", "raise training.dataset.test_fraction or add records"
            )
        everything = [row for rows in records.values() for row in rows]
        pooled = [row for rows in test.values() for row in rows]
        self._items = choice_items(pooled, everything, limit=self._evaluation.multiple_choice_items, seed=self._seed)
        order = stream(self._seed, "written").permutation(len(pooled))
        definitions = [pooled[index] for index in order if pooled[index]["kind"] in ("definition", "qa")]
        self._written = definitions[: self._evaluation.generated_answers]
        self.sample_questions = (
            [row["question"] for row in definitions[-self._evaluation.sample_answers :]]
            if self._evaluation.sample_answers
            else []
        )
        self.written_answers = len(self._written)
        examples = worked_examples(everything, self._evaluation.few_shot, self._seed)
        model_config = config.model
        self._prefix = few_shot_ids(
            few_shot_prefix(examples, model_config.prompt_template, model_config.answer_prefix), tokenizer
        )

    def loss(self, state: AdapterState, hospitals: Sequence[str] | None = None) -> Scores:
        """Held-out loss alone, of the given hospitals (None: all)."""
        self._put(state)
        chosen = self.held_out if hospitals is None else {name: self.held_out[name] for name in hospitals}
        return _plain(held_out_loss(self.model, chosen))

    def full(self, state: AdapterState) -> Scores:
        """Loss, multiple choice and written answers of an adapter."""
        return self._with_answers(self.loss(state))

    def base(self) -> Scores:
        """The same for the base model without an adapter."""
        with self.model.disable_adapter():
            return self._with_answers(_plain(held_out_loss(self.model, self.held_out)))

    @property
    def has_examples(self) -> bool:
        """Whether there are worked examples; ``training.evaluation.few_shot`` may switch them off."""
        return bool(self._prefix)

    def few_shot(self) -> Scores:
        """Loss of the base model with worked examples in its prompt."""
        with self.model.disable_adapter():
            return _plain(held_out_loss(self.model, self.held_out, prefix=self._prefix))

    def _put(self, state: AdapterState) -> None:
        from fedmed.model.adapter import set_adapter_state

        set_adapter_state(self.model, state)

    def _with_answers(self, scores: Scores) -> Scores:
        model = self.config.model
        choice = score_choices(
            self.model,
            self.tokenizer,
            self._items,
            prompt_template=model.prompt_template,
            answer_prefix=model.answer_prefix,
            max_length=model.max_length,
        )
        rouge = written_rouge_l(self.model, self.tokenizer, self._written, model, seed=self._seed)
        return dataclasses.replace(
            scores, multiple_choice=dataclasses.asdict(choice) if choice else None, rouge_l=rouge
        )


def encode(tokenizer: Any, records: Records, config: FedMedConfig) -> list[EncodedRow]:
    """Token rows of records as the configuration writes prompts."""
    rows, _ = encode_records(
        records,
        tokenizer,
        prompt_template=config.model.prompt_template,
        answer_prefix=config.model.answer_prefix,
        max_length=config.model.max_length,
    )
    return rows

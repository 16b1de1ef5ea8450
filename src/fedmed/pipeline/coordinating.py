"""The coordinator agent of a simulated run: its public records and judge, its ledgers, its log. federation -> HERE."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from fedmed.agent.coordinator import Coordinator
from fedmed.agent.decision_log import DecisionLog
from fedmed.agent.facts import Decision, Setting
from fedmed.config.schema import FedMedConfig
from fedmed.data.encode import EncodedRow
from fedmed.evaluation.likelihood import score_rows
from fedmed.federated.traffic import traffic
from fedmed.pipeline.public_records import records_for_judge
from fedmed.pipeline.scoring import encode
from fedmed.privacy.accountant import Event
from fedmed.privacy.ledger import Ledger
from fedmed.training.steps import steps_per_round
from fedmed.types import AdapterState, Algorithm


class ModelJudge:
    """A ``PublicJudge``: what the model with a global state loses on public records.

    Args:
        model: a PEFT model; its adapter is overwritten by what is judged.
        rows: the public records, encoded.
        algorithm: makes an adapter of a global state.
    """

    def __init__(self, model: Any, rows: Sequence[EncodedRow], algorithm: Algorithm) -> None:
        self._model, self._rows, self._algorithm = model, rows, algorithm

    @property
    def tokens(self) -> tuple[int, ...]:
        return tuple(len(row.input_ids) - row.prompt_length for row in self._rows)

    def __call__(self, global_state: AdapterState) -> list[float]:
        from fedmed.model.adapter import set_adapter_state

        set_adapter_state(self._model, self._algorithm.export(global_state, {}), any_rank=True)
        return [float(nats) for nats in score_rows(self._model, self._rows).nll]


def model_judge(
    config: FedMedConfig, model: Any, tokenizer: Any, algorithm: Algorithm, private: Collection[str]
) -> ModelJudge:
    """The judge of a run. Raises EmptyDataError as ``records_for_judge`` does."""
    return ModelJudge(model, encode(tokenizer, records_for_judge(config, private), config), algorithm)


def setting_of(
    config: FedMedConfig, rows: Mapping[str, Sequence[EncodedRow]], start: AdapterState, tokens: tuple[int, ...],
    run_id: str,
) -> Setting:  # fmt: skip
    """What the agent knows from the start.

    Args:
        config: settings of the run.
        rows: training rows of each hospital.
        start: the adapter that LoRA begins with.
        tokens: answer tokens of each public record.
        run_id: of the run.
    """
    federated = config.federated
    bytes_ = traffic(config, {name: array.shape for name, array in start.items()})
    return Setting(
        hospitals=tuple(rows), rounds=federated.rounds, seed=federated.seed, agent=federated.agent, tokens=tokens,
        full_steps={name: steps_per_round(len(own), config.training) for name, own in rows.items()}, run_id=run_id,
        hospitals_per_round=federated.hospitals_per_round, min_replies=federated.min_replies,
        ranks=dict(zip(rows, federated.ranks or (), strict=False)), masked=config.privacy.secure_sum,
        bounds_steps=not config.privacy.example.on, round_bytes=sum(bytes_.values()) // federated.rounds,
    )  # fmt: skip


def coordinator_of(
    config: FedMedConfig,
    setting: Setting,
    judge: ModelJudge,
    folder: Path,
    *,
    after_round: int,
    ledgers: Mapping[str, Ledger],
    events: Mapping[str, Event],
    tell: Callable[[Decision], None],
) -> Coordinator:
    """The agent of a run that begins, or goes on after a round.

    Args:
        config: settings.
        setting, judge: of the run.
        folder: of the run.
        after_round: the last round that a checkpoint holds; 0: none.
        ledgers: hospital -> its ledger; none without noise.
        events: hospital -> what a round will charge there.
        tell: gets every decision.
    """
    started = time.perf_counter()
    delta = config.privacy.example.delta

    def epsilon() -> dict[str, float]:
        return {name: ledgers[name].would_spend([event], delta).epsilon for name, event in events.items()}

    return Coordinator(
        setting, judge, DecisionLog(folder), after_round=after_round, tell=tell,
        epsilon=epsilon if config.federated.agent.max_epsilon is not None else None,
        clock=lambda: time.perf_counter() - started,
    )  # fmt: skip

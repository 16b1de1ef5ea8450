"""Which ``LocalTrainer`` the settings ask for: the engine, or DP-SGD with a ledger for each hospital."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fedmed.config.schema import FedMedConfig
from fedmed.data.clean import NO_GROUP
from fedmed.data.encode import EncodedRow
from fedmed.errors import DataFormatError
from fedmed.privacy.ledger import Ledger
from fedmed.training.dp_sgd import DpTrainer, Units
from fedmed.training.engine import EngineTrainer
from fedmed.training.plain import OnStep


def make_trainer(
    model: Any,
    rows: Mapping[str, Sequence[EncodedRow]],
    config: FedMedConfig,
    *,
    groups: Mapping[str, Sequence[str]] | None = None,
    ledgers: Mapping[str, Ledger],
    rounds_left: int | None = None,
    run_id: str = "",
    on_step: OnStep | None = None,
) -> EngineTrainer | DpTrainer:
    """A trainer for the hospitals of ``rows``.

    Args:
        model: a PEFT model.
        rows: hospital -> its training rows.
        config: settings; ``privacy.example`` decides.
        groups: hospital -> the group of each row, its patient; needed with ``privacy.example.unit`` patient.
        ledgers: as ``open_ledgers`` gives them.
        rounds_left: that will train; None: all of the settings.
        run_id: names the run in the ledgers.
        on_step: progress.

    Raises:
        DataFormatError: records without patients, where patients are to be hidden. What ``DpTrainer`` raises.
    """
    example = config.privacy.example
    if not example.on:
        return EngineTrainer(model, rows, config.training, on_step)
    units = {
        name: hidden_units(name, own, (groups or {}).get(name) if example.unit == "patient" else None, example.unit)
        for name, own in rows.items()
    }
    rounds = config.federated.rounds if rounds_left is None else rounds_left
    return DpTrainer(
        model, units, config.training, example, rounds=rounds, ledgers=ledgers, run_id=run_id, on_step=on_step
    )


def hidden_units(hospital: str, rows: Sequence[EncodedRow], groups: Sequence[str] | None, unit: str) -> Units:
    """The rows of each record, or of each patient in the order in which patients first appear.

    Raises:
        DataFormatError: patients are asked for and records name none, or some records were left out for their length.
    """
    if unit == "record":
        return [[row] for row in rows]
    if not groups or any(group.startswith(NO_GROUP) for group in groups):
        raise DataFormatError(
            f"not all records of {hospital} name their patient",
            "map a column of patient ids with training.dataset.columns={group: YOURS}, or hide records",
        )
    if len(groups) != len(rows):
        raise DataFormatError(
            f"{len(groups) - len(rows)} training records of {hospital} are over-long",
            "raise model.max_length: with privacy.example.unit patient none may be left out",
        )
    patients: dict[str, list[EncodedRow]] = {}
    for group, row in zip(groups, rows, strict=True):
        patients.setdefault(group, []).append(row)
    return list(patients.values())

"""A run's ledgers: opened together, compared with checkpoints, summed up. ledger -> HERE -> training, federated."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from fedmed.config.schema import PrivacySection
from fedmed.errors import ConfigError
from fedmed.privacy.accountant import Spent, Unit
from fedmed.privacy.ledger import Ledger


def open_ledgers(privacy: PrivacySection, hospitals: Iterable[str], otherwise: Path | None = None) -> dict[str, Ledger]:
    """Each hospital's ledger, open for charges; none where the settings ask for no noise.

    Args:
        privacy: settings; ``ledgers`` names the folder.
        hospitals: whose.
        otherwise: the folder if the settings name none.

    Raises:
        ConfigError: noise is asked for and there is no folder. LedgerError, OutputNotWritableError, DiskFullError.
    """
    if not (privacy.example.on or privacy.hospital.on):
        return {}
    folder = Path(privacy.ledgers) if privacy.ledgers else otherwise
    if folder is None:
        raise ConfigError(
            ["privacy noise is asked for and there is no place for the hospital's ledger"],
            "name a folder with privacy.ledgers",
        )
    return {name: Ledger.open(folder / f"{name}.jsonl", name) for name in hospitals}


def check_heads(ledgers: Mapping[str, Ledger], heads: Mapping[str, str]) -> None:
    """Raises LedgerError where a checkpoint knows of charges that a hospital's ledger does not hold."""
    for name, head in heads.items():
        if name in ledgers:
            ledgers[name].check_head(head)


def spent_by(ledgers: Mapping[str, Ledger], delta: float, unit: Unit) -> dict[str, Spent]:
    """What each hospital has spent in all on a unit, in this run and those before it."""
    return {name: ledger.spent(delta, unit) for name, ledger in ledgers.items()}

"""The records that a run's settings describe, each at its hospital, with audit canaries among them. data -> HERE."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedmed.config.schema import FedMedConfig
from fedmed.data.federated_split import create_federated_split
from fedmed.data.gate.lineage import Kind, note_seen
from fedmed.data.gate.source import PUBLIC, load_gated
from fedmed.evaluation.attacks.canaries import Canary, inserted_records, make_canaries
from fedmed.pipeline.scoring import Records
from fedmed.types import QARecord

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class RunRecords:
    """What each hospital holds."""

    split: Mapping[str, Dataset]  # as it was shared out, without canaries
    gate: Mapping[str, Any]  # what the data gate says of them: public, scanned or unscanned, and counts
    loaded: Any  # what became of the records of the source
    own: Mapping[str, Records]  # the same rows as plain values
    canaries: tuple[Canary, ...]  # of the whole run; empty without an audit
    copies: int  # of each inserted one

    def train(self) -> dict[str, Records]:
        """Training records of each hospital, canaries last: they go round the hospitals one by one."""
        placed = list(self._placed())
        return {
            name: [
                *(row for row in own if row["split"] == "train"),
                *(asdict(record) for where, record in placed if where == name),
            ]
            for name, own in self.own.items()
        }

    def _placed(self) -> Iterator[tuple[str, QARecord]]:
        names = list(self.own)
        inserted = inserted_records(self.canaries) if self.canaries else []
        for number, record in enumerate(inserted):
            for copy in inserted_records([Canary(record, inserted=True)], self.copies):
                yield names[number % len(names)], copy


def run_records(config: FedMedConfig) -> RunRecords:
    """Read, share out and, for an audit, salt the records.

    Raises:
        What loading and splitting raise. UnscannedError: a hospital's records that no gate has scanned.
        EmptyDataError: so few canaries that all or none are inserted.
    """
    settings, federated, audit = config.training.dataset, config.federated, config.privacy.audit
    found = load_gated(settings, federated.seed)
    split = create_federated_split(
        found.dataset, federated.num_clients, federated.split, alpha=federated.dirichlet_alpha, seed=federated.seed
    )
    canaries = make_canaries(audit.canaries, federated.seed) if audit.canaries else ()
    own = {name: data.to_list() for name, data in split.items()}
    return RunRecords(split, found.gate, found.report, own, canaries, audit.copies)


def records_digest(records: Mapping[str, Records]) -> str:
    """SHA-256 over every record of every hospital, in order; ``run.json`` keeps it."""
    digest = hashlib.sha256()
    for name, rows in records.items():
        digest.update(f"{name}\n".encode())
        for row in rows:
            digest.update(json.dumps(row, sort_keys=True, ensure_ascii=False).encode())
    return digest.hexdigest()


def note_run(
    config: FedMedConfig, gate: Mapping[str, Any], folder: Path, records: Mapping[str, Records], splits: Sequence[Path]
) -> None:
    """Write into the hospital's lineage which records a run and its splits are made from; not for public sets.

    Before anything but tokens is made from them: whoever forgets a patient from then on looks for them in this run.

    Raises:
        DataError: a patient was forgotten since the records were read.
    """
    if gate["status"] == PUBLIC:
        return
    settings = config.training.dataset
    rows = (row for own in records.values() for row in own)
    places: dict[Path, Kind] = {folder: "run"}
    for split in splits:
        places[split] = "split"
    note_seen(Path(settings.gate.folder), places, settings.name, rows)

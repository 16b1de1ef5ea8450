"""Look at a dataset before anything is done to it: load, share out, scan a sample, count. cli -> HERE -> page.

Reads a hospital's files as they are, in memory; nothing of a record is written anywhere.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedmed.config.schema import FedMedConfig
from fedmed.data.documents import Document
from fedmed.data.federated_split import create_federated_split
from fedmed.data.gate.scan import OpenScanner
from fedmed.data.gate.scan_sample import sample_report
from fedmed.data.inspect import SMALL_CELL, Inspection, inspect_dataset
from fedmed.data.load_dataset import load_with_report
from fedmed.data.split_folder import is_split, read_split
from fedmed.errors import SplitError

if TYPE_CHECKING:
    from datasets import Dataset


def inspect_source(config: FedMedConfig, name: str, *, scan: int, scanner: OpenScanner | None = None) -> Inspection:
    """Inspect a dataset by name.

    Args:
        config: settings of loading, sharing out and scanning.
        name: a file, a folder, ``hpo`` or a hub id.
        scan: so many records, drawn by the seed, are scanned for identifiers; 0: none.
        scanner: finds identifiers; None: the rules of ``data.deidentify``.

    Raises:
        What loading raises.
    """
    settings, federated = config.training.dataset, config.federated
    people = _People()
    dataset, report = load_with_report(
        name, settings.max_samples, seed=federated.seed, test_fraction=settings.test_fraction,
        hub_split=settings.hub_split, columns=settings.columns or None, admit=people.note,
    )  # fmt: skip
    hospitals, basis = _hospitals(dataset, config, Path(name).expanduser())
    made = inspect_dataset(dataset, report, hospitals=hospitals, hospitals_basis=basis)
    found: dict[str, Any] = {"scanned": 0, "records": len(dataset), "reason": "not asked for"}
    if scan:
        found = sample_report(dataset, settings.gate, seed=federated.seed, limit=scan, scanner=scanner)
    small = people.small_cell()
    return replace(
        made, identifiers=found, patients=people.patients(), consent=people.consent(),
        small_cells=[*made.small_cells, *([small] if small else [])],
    )  # fmt: skip


def _hospitals(dataset: Dataset, config: FedMedConfig, path: Path) -> tuple[dict[str, Dataset] | None, str]:
    if is_split(path):
        return read_split(path), "the split in this folder"
    federated = config.federated
    try:
        shares = create_federated_split(
            dataset, federated.num_clients, federated.split, alpha=federated.dirichlet_alpha, seed=federated.seed
        )
    except SplitError as error:
        return None, f"cannot be shared out as configured: {error.what}"
    return shares, f"as federated.split={federated.split} would share them out among {federated.num_clients}"


class _People:
    """Counts patients and consent while documents pass."""

    def __init__(self) -> None:
        self._documents: Counter[int] = Counter()  # by a hash of this process, which is kept nowhere
        self._consent: Counter[str] = Counter()

    def note(self, document: Document) -> Document:
        if document.raw.patient:
            self._documents[hash(document.raw.patient)] += 1
        if document.raw.consent:
            self._consent[document.raw.consent] += 1
        return document

    def patients(self) -> dict[str, int] | None:
        counts = self._documents
        return {"patients": len(counts), "most_documents": max(counts.values())} if counts else None

    def consent(self) -> dict[str, int] | None:
        return {said: self._consent[said] for said in ("yes", "no", "unknown")} if self._consent else None

    def small_cell(self) -> dict[str, Any] | None:
        few = 0 < len(self._documents) < SMALL_CELL
        return {"what": "patients", "name": "all", "records": len(self._documents)} if few else None

"""A dataset's name -> records that may be trained on, and what the gate says of them. config -> HERE -> split, run.

- the embedded set and hub sets are public: never rewritten, status ``public``
- a hospital's file or folder that went through ``fedmed data prepare``: its scanned set, status ``scanned``
- a split that ``prepare`` wrote (``data/processed``): itself, with the status that its manifest states
- any other file: refused, or with ``training.dataset.gate.unscanned`` taken as it is, status ``unscanned``

Forgotten patients and records without consent are refused in all of the last three.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedmed.config.schema import DatasetSection
from fedmed.data.documents import Document
from fedmed.data.gate.admission import FORGOTTEN, NO_CONSENT, Admission
from fedmed.data.gate.build import build_set
from fedmed.data.gate.forgotten import marks, read_tombstones
from fedmed.data.gate.keys import is_used, open_key
from fedmed.data.gate.scan import OpenScanner
from fedmed.data.gate.sets import GateSet, read_set, set_name, sets_folder
from fedmed.data.load_dataset import EMBEDDED, Admit, load_with_report
from fedmed.data.split_folder import checked_manifest, is_split
from fedmed.errors import EmptyDataError, UnscannedError

if TYPE_CHECKING:
    from datasets import Dataset

    from fedmed.data.clean import LoadReport

PUBLIC, SCANNED, UNSCANNED = "public", "scanned", "unscanned"


@dataclass(frozen=True, slots=True)
class Gated:
    """Records behind the gate."""

    dataset: Dataset
    report: LoadReport
    gate: dict[str, Any]  # ``status``, and for a hospital's own records counts and policy
    set: GateSet | None = None

    @property
    def hospitals_own(self) -> bool:
        return bool(self.gate["status"] != PUBLIC)


def load_gated(
    dataset: DatasetSection,
    seed: int,
    *,
    build: bool = False,
    workers: int | None = None,
    scanner: OpenScanner | None = None,
) -> Gated:
    """Load the configured records, through the gate.

    Args:
        dataset: settings.
        seed: decides the choice of records and the train/test line.
        build: scan what has not been scanned yet; otherwise that is refused.
        workers: processes of a scan; None: as many as pay.
        scanner: finds identifiers; None: the rules of ``data.deidentify``.

    Raises:
        UnscannedError: a hospital's records that nobody scanned, and no setting that allows it.
        HospitalKeyError; what loading and scanning raise.
    """
    path = Path(dataset.name).expanduser()
    if dataset.name == EMBEDDED or not dataset.name or not path.exists():
        return _load(dataset, seed, dataset.name, {"status": PUBLIC})
    if is_split(path) and (stated := checked_manifest(path).get("gate")):
        if stated["status"] == UNSCANNED and not dataset.gate.unscanned:
            raise UnscannedError(
                f"{dataset.name} was shared out from records that nobody scanned",
                "run 'fedmed data prepare' on them, or set training.dataset.gate.unscanned=true",
            )
        return _load_split(dataset, seed, stated)
    if dataset.gate.unscanned:
        return _load_unscanned(dataset, seed)
    folder = Path(dataset.gate.folder)
    if build:
        found = build_set(path, dataset.columns, dataset.gate, open_key(folder), workers=workers, scanner=scanner)
    else:
        place = None
        if is_used(folder):  # no key is made by asking
            place = sets_folder(folder) / set_name(path, dataset.columns, dataset.gate, open_key(folder, create=False))
        if place is None or not place.is_dir():
            raise UnscannedError(
                f"{dataset.name} has not been through the data gate as it is now and with these settings",
                f"run 'fedmed data prepare {dataset.name}' first, or set training.dataset.gate.unscanned=true",
            )
        found = read_set(place)
    gate = found.described()
    if not gate["records"]:
        raise EmptyDataError(
            f"the gate let no record of {dataset.name} pass ({gate['quarantined']} set aside, "
            f"{sum(gate['refused'].values())} refused, {sum(gate['left_out'].values())} left out)",
            f"look at {found.quarantine}" if gate["quarantined"] else "check the columns, and consent",
        )
    return replace(_without_forgotten(dataset, seed, str(found.records), gate), set=found)


def check_scanned(path: Path, otherwise: str) -> None:
    """Whether ``path`` is a split, or one hospital's share in it, of records that were scanned or are public.

    Args:
        path: a file or folder.
        otherwise: what allows other records, for the hint.

    Raises:
        UnscannedError: it is not. DataNotFoundError, DataFormatError: it changed since it was written.
    """
    for folder, share in ((path, None), (path.parent, path.name)):
        if is_split(folder):
            manifest = checked_manifest(folder)
            if share in (None, *manifest["hospitals"]) and manifest.get("gate", {}).get("status") in (PUBLIC, SCANNED):
                return
    raise UnscannedError(
        f"{path} is no share of records that went through the data gate",
        f"run 'fedmed data prepare {path} --set federated.num_clients=1 --out share' and give share/hospital_A, "
        f"or {otherwise}",
    )


def _load(dataset: DatasetSection, seed: int, name: str, gate: dict[str, Any], admit: Admit | None = None) -> Gated:
    scanned = name != dataset.name
    records, report = load_with_report(
        name, dataset.max_samples, seed=seed, test_fraction=dataset.test_fraction, hub_split=dataset.hub_split,
        columns=None if scanned else dataset.columns or None, admit=admit,
    )  # fmt: skip
    if scanned:
        report = replace(report, name=dataset.name, files={dataset.name: next(iter(report.files.values()))})
    return Gated(records, report, gate)


def _load_split(dataset: DatasetSection, seed: int, gate: dict[str, Any]) -> Gated:
    dataset = dataset.model_copy(update={"columns": {}})
    if gate["status"] == PUBLIC:
        return _load(dataset, seed, dataset.name, gate)
    return _without_forgotten(dataset, seed, dataset.name, gate)


def _without_forgotten(dataset: DatasetSection, seed: int, name: str, gate: dict[str, Any]) -> Gated:
    """Load what was scanned before; tombstones may be newer than that."""
    forgotten = read_tombstones(Path(dataset.gate.folder))
    refused = 0

    def admit(document: Document) -> Document | None:
        nonlocal refused
        if marks(document.raw.id, document.raw.group) & forgotten:
            refused += 1
            return None
        return document

    loaded = _load(dataset, seed, name, gate, admit)
    if not refused:
        return loaded
    return replace(loaded, gate=gate | {"refused": gate.get("refused", {}) | {"now_forgotten": refused}})


def _load_unscanned(dataset: DatasetSection, seed: int) -> Gated:
    folder = Path(dataset.gate.folder)
    admission = Admission(open_key(folder), read_tombstones(folder), key_groups=False)

    def admit(document: Document) -> Document | None:
        admitted = admission.admit(document)
        return None if admitted is None else admitted.document

    try:
        loaded = _load(dataset, seed, dataset.name, {}, admit)
    except EmptyDataError as error:
        if admission.refused:
            raise EmptyDataError(f"{error.what}; {sum(admission.refused.values())} refused", error.hint) from None
        raise
    refused = {name: admission.refused[name] for name in (FORGOTTEN, NO_CONSENT)}
    return replace(loaded, gate={"status": UNSCANNED, "refused": refused})

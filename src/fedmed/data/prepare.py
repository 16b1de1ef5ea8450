"""From a dataset's name to hospitals' shares on disk, in one call: what ``fedmed data prepare`` and ``split`` do.

A hospital's own records pass the gate first; public sets are reported on by a sample and stay as they are.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedmed.config.schema import DatasetSection, FederatedSection
from fedmed.data.clean import LoadReport
from fedmed.data.federated_split import create_federated_split
from fedmed.data.gate.lineage import noting
from fedmed.data.gate.scan import OpenScanner
from fedmed.data.gate.scan_sample import sample_report
from fedmed.data.gate.source import load_gated
from fedmed.data.split_folder import check_out, write_split


@dataclass(frozen=True, slots=True)
class Prepared:
    """What was loaded and what was written."""

    folder: Path
    report: LoadReport
    manifest: dict[str, Any]
    quarantine: Path | None = None  # where records that were set aside are; None: none were

    def as_dict(self) -> dict[str, Any]:
        return {
            "folder": str(self.folder),
            "loaded": self.report.as_dict(),
            "split": self.manifest,
            "quarantine": str(self.quarantine) if self.quarantine else None,
        }


def prepare_split(
    dataset: DatasetSection,
    federated: FederatedSection,
    out_dir: Path,
    *,
    workers: int | None = None,
    scanner: OpenScanner | None = None,
) -> Prepared:
    """Load a dataset through the gate, share it out among hospitals and write the shares.

    Args:
        dataset: which records, how many, how much is held out, and the gate's policy.
        federated: number of hospitals, strategy and seed.
        out_dir: becomes the split's folder; an older split there is replaced.
        workers: processes that scan; None: as many as pay.
        scanner: finds identifiers; None: the rules of ``data.deidentify``.

    Raises:
        DataError, HubError, MissingExtraError: see ``load_dataset`` and ``data.gate``.
        SplitError: see ``federated_split``. DataError: a patient was forgotten since the records were read.
        RunError: see ``split_folder.write_split``.
    """
    check_out(out_dir)
    found = load_gated(dataset, federated.seed, build=True, workers=workers, scanner=scanner)
    gate = found.gate
    if not found.hospitals_own:
        gate = gate | {"sample": sample_report(found.dataset, dataset.gate, seed=federated.seed, scanner=scanner)}
    shares = create_federated_split(
        found.dataset, federated.num_clients, federated.split, alpha=federated.dirichlet_alpha, seed=federated.seed
    )
    alpha = federated.dirichlet_alpha if federated.split == "dirichlet" else None
    with contextlib.ExitStack() as stack:
        if found.hospitals_own:  # in the lineage before it is there, and nobody is forgotten between the two
            rows = (row for share in shares.values() for row in share.select_columns(["id", "group", "split"]))
            stack.enter_context(noting(Path(dataset.gate.folder), {out_dir: "split"}, dataset.name, rows))
        manifest = write_split(shares, out_dir, strategy=federated.split, alpha=alpha, seed=federated.seed, gate=gate)
    set_aside = found.set.quarantine if found.set and gate["quarantined"] else None
    return Prepared(out_dir, found.report, manifest, set_aside)

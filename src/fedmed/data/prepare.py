"""From a dataset's name to hospitals' shares on disk, in one call: what ``fedmed data prepare`` and ``split`` do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedmed.config.schema import DatasetSection, FederatedSection
from fedmed.data.clean import LoadReport
from fedmed.data.federated_split import create_federated_split
from fedmed.data.load_dataset import load_with_report
from fedmed.data.split_folder import read_manifest


@dataclass(frozen=True, slots=True)
class Prepared:
    """What was loaded and what was written."""

    folder: Path
    report: LoadReport
    manifest: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        return {"folder": str(self.folder), "loaded": self.report.as_dict(), "split": self.manifest}


def prepare_split(dataset: DatasetSection, federated: FederatedSection, out_dir: Path) -> Prepared:
    """Load a dataset, share it out among hospitals and write the shares.

    Args:
        dataset: which records, how many, how much is held out.
        federated: number of hospitals, strategy and seed.
        out_dir: becomes the split's folder; an older split there is replaced.

    Raises:
        DataError, HubError, MissingExtraError: see ``load_dataset``.
        SplitError: see ``federated_split``.
        RunError: see ``split_folder.write_split``.
    """
    records, report = load_with_report(
        dataset.name,
        dataset.max_samples,
        seed=federated.seed,
        test_fraction=dataset.test_fraction,
        hub_split=dataset.hub_split,
        columns=dataset.columns,
    )
    create_federated_split(
        records,
        federated.num_clients,
        federated.split,
        alpha=federated.dirichlet_alpha,
        seed=federated.seed,
        out_dir=out_dir,
    )
    return Prepared(out_dir, report, read_manifest(out_dir))

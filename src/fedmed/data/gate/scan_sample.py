"""Report on public records by a sample; they are never rewritten, so nothing waits for the result."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedmed.config.schema import GateSection
from fedmed.data.gate.scan import OpenScanner, ScanSettings, open_scanner
from fedmed.data.phi_report import phi_report
from fedmed.errors import MissingExtraError
from fedmed.utils.console import track
from fedmed.utils.random_streams import stream

if TYPE_CHECKING:
    from datasets import Dataset

SAMPLE = 300


def sample_report(
    dataset: Dataset, gate: GateSection, *, seed: int, limit: int = SAMPLE, scanner: OpenScanner | None = None
) -> dict[str, Any]:
    """What the rules find in a sample of at most ``limit`` records, masked; says so where they are not installed."""
    model = Path(gate.ner_model).expanduser() if gate.ner_model else None
    try:
        opened = (scanner or open_scanner)(
            ScanSettings(gate.operator, gate.min_score, gate.max_risk, model, b"\0" * 32)
        )
    except MissingExtraError as error:
        return {"scanned": 0, "records": len(dataset), "reason": str(error)}
    picked = sorted(stream(seed, "phi sample").permutation(len(dataset))[:limit].tolist())
    rows = dataset.select(picked)
    with track("scanning a sample", len(picked)) as step:
        return phi_report(
            ((row["question"], row["answer"]) for row in rows), opened, records=len(dataset),
            min_score=gate.min_score, on_record=step,
        ).as_dict()  # fmt: skip

"""``evaluation.json`` of a run: parts measured at different times in one file, each with what it was measured on.

A part that is measured again replaces what was there; the others stay. Every writing is entered into the audit log.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedmed.errors import AuditLogError, DataFormatError
from fedmed.pipeline.run_audit import enter_after_run, evaluation
from fedmed.pipeline.run_folder import RunFolder, environment
from fedmed.pipeline.run_report import report_run
from fedmed.utils.files import check_writable, folder_lock

EVALUATION = "evaluation.json"
log = logging.getLogger(__name__)


def check_keeps(path: Path) -> None:
    """Refuse a run in which nothing could be kept, before anything is measured.

    Raises:
        OutputNotWritableError: the folder cannot be written. DataFormatError: its ``evaluation.json`` is damaged.
    """
    check_writable(path)
    _known(RunFolder(path))


def _known(folder: RunFolder) -> dict[str, Any]:
    try:
        known = folder.read_json(EVALUATION)
    except ValueError:
        known = False
    if known is None:
        return {"run": folder.name}
    if not isinstance(known, dict):
        raise DataFormatError(f"{folder.path / EVALUATION} is damaged", "remove it, and evaluate again")
    return known


def keep_part(
    folder: RunFolder, part: str, found: Mapping[str, Any], *, wall_s: float, numbers: Mapping[str, float | None]
) -> dict[str, Any]:
    """Write a part into ``evaluation.json``, enter it into the run's audit log and write the report again.

    Args:
        folder: of the run.
        part: ``exams``, ``held_out`` or ``joining``.
        found: plain JSON values.
        wall_s: seconds that measuring took.
        numbers: what the audit log tells of it.

    Returns:
        The whole file.

    Raises:
        DataFormatError: ``evaluation.json`` was damaged meanwhile. OutputNotWritableError, DiskFullError.
    """
    with folder_lock(folder.path, wait=True):
        known = _known(folder)
        known[part] = dict(found) | {"wall_s": round(wall_s, 3), "environment": environment()}
        folder.write_json(EVALUATION, known)
        try:
            enter_after_run(folder, evaluation(folder, f"evaluation_{part}", EVALUATION, numbers))
        except AuditLogError as error:
            log.warning("not entered into the audit log: %s", error)
        if folder.summary_file.is_file():
            report_run(folder.path)
    return known

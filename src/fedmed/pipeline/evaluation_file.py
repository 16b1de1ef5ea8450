"""``evaluation.json`` of a run: parts measured at different times in one file, each with what it was measured on.

A part that is measured again replaces what was there; the others stay. Every writing is entered into the audit log.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from fedmed.errors import AuditLogError
from fedmed.evaluation.report import write_report
from fedmed.pipeline.run_audit import enter_after_run, evaluation
from fedmed.pipeline.run_folder import RunFolder, environment
from fedmed.utils.files import folder_lock

EVALUATION = "evaluation.json"
log = logging.getLogger(__name__)


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
        RunBusyError: another process works in the run. OutputNotWritableError, DiskFullError.
    """
    with folder_lock(folder.path):
        known: dict[str, Any] = folder.read_json(EVALUATION) or {"run": folder.name}
        known[part] = dict(found) | {"wall_s": round(wall_s, 3), "environment": environment()}
        folder.write_json(EVALUATION, known)
        try:
            enter_after_run(folder, evaluation(folder, f"evaluation_{part}", EVALUATION, numbers))
        except AuditLogError as error:
            log.warning("not entered into the audit log: %s", error)
        if folder.summary_file.is_file():
            write_report(folder.path)
    return known

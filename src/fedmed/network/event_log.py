"""What happened at the coordinator's server, a JSON line each: server.log.jsonl. door, asking, coordinator -> HERE.

Several processes append to one file, each line in one write. A log that cannot be written never stops a run.
Not covered: rotation, which is logrotate's with ``copytruncate``.
"""

from __future__ import annotations

import json
import logging
import os
import time
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

REFUSED = "refused"
"""The event of everything that was turned away."""


class EventLog:
    """Appends events.

    Args:
        path: the file; None: events go to this process's own log alone.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path

    def write(self, event: str, **details: Any) -> None:
        """Append one line; values are JSON's, or become text."""
        line = json.dumps({"time": round(time.time(), 3), "event": event, **details}, default=str)
        level = logging.WARNING if event in (REFUSED, "handshake failed") else logging.INFO
        logger.log(level, "%s: %s", event, ", ".join(f"{key} {value}" for key, value in details.items()))
        if self._path is None:
            return
        try:
            handle = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            try:
                os.write(handle, line.encode() + b"\n")
            finally:
                os.close(handle)
        except OSError as error:
            logger.error("cannot write %s (%s)", self._path, error.strerror)


def read_events(path: Path) -> list[dict[str, Any]]:
    """All whole lines of a log, oldest first; none where there is no log."""
    if not path.is_file():
        return []
    found = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:  # cut by a full disk
            continue
    return [event for event in found if isinstance(event, dict)]

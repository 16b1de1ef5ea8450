"""The worker as a process of its own: one a site, bounded in memory, gone cleanly on SIGTERM. cli -> HERE -> Worker.

Everything the worker writes is whole or absent, so ending it at any moment loses at most the training at hand. Files
are for their owner alone; only the socket is for the group, so that the relay may be another user, who passes through
the folder and sees nothing else in it.

Not covered: a memory limit for what a GPU holds; restarting, which is systemd's or the container's.
"""

from __future__ import annotations

import logging
import os
import resource
import signal
import types
from pathlib import Path

from fedmed.network.hospital_half import HospitalHalf
from fedmed.network.orders import LARGEST_FRAME
from fedmed.network.socket_line import PATIENCE, Line
from fedmed.network.worker import Worker
from fedmed.network.workplace import Workplace
from fedmed.utils.files import clear_write_errors, folder_lock

log = logging.getLogger(__name__)

_PASSABLE = 0o710  # the site's folder: its owner, and the group passing through to the socket


def serve(
    place: Workplace,
    socket_path: Path | None = None,
    *,
    half: HospitalHalf | None = None,
    memory_bytes: int | None = None,
    limit: int = LARGEST_FRAME,
    patience: float = PATIENCE,
) -> None:
    """Answer orders until SIGTERM or SIGINT. Call it in the main thread.

    Args:
        place: the hospital.
        socket_path: None: ``worker.sock`` in the site's folder.
        half: see ``Worker``.
        memory_bytes: most address space of this process; None: no limit. A training that needs more fails, and says so.
        limit: longest order.
        patience: see ``Line``.

    Raises:
        RunBusyError: another worker serves this site. OutputNotWritableError: its folder or socket cannot be made.
    """
    path = socket_path or place.folder / "worker.sock"
    with folder_lock(place.folder / "state"):
        os.umask(0o077)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file would hold records and keys
        if memory_bytes is not None:
            resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
        with clear_write_errors(place.folder):
            for inner in ("ledger", "state", "outbox"):
                (place.folder / inner).mkdir(exist_ok=True)
                (place.folder / inner).chmod(0o700)
            place.folder.chmod(_PASSABLE)
        worker = Worker(place, half, limit=limit)
        before = {number: signal.signal(number, _stop) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            log.info("the worker of '%s' listens at %s", place.name, path)
            Line(path, limit=limit, patience=patience).serve(worker.answer)
        except _Stopped:
            log.info("the worker of '%s' was stopped", place.name)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


class _Stopped(BaseException):
    """Raised by a signal in the middle of whatever goes on; no ``except Exception`` holds it up."""


def _stop(number: int, frame: types.FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough: what is being put away stays whole
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise _Stopped

"""Other processes of ours: started, watched, ended with all that they started. server, hospital, demo -> HERE.

Not covered: what a process does after this one was killed; Flower's helpers look after their parents themselves.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from fedmed.errors import FederationError
from fedmed.utils.files import clear_write_errors

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0  # seconds before a process that ended is started again
_CALM = 60.0  # seconds after which a process counts as running well
_TAIL = 4000  # bytes of a log that are looked at for a reason


class Child:
    """One process, its output in a file.

    Args:
        name: for people.
        command: its words, or what gives them anew for each start.
        log: the file that its output is added to.
        environment: its variables; None: this process's.
        apart: in a session of its own, so that all it started can be ended with it; else it shares this process's,
            and ends when that is ended as a whole.
        last_words: what it writes before it does nothing any more without ending; it is then ended.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str] | Callable[[], Sequence[str]],
        log: Path,
        environment: Mapping[str, str] | None = None,
        *,
        apart: bool = True,
        last_words: Sequence[str] = (),
    ) -> None:
        self.name, self._command, self._log = name, command, log
        self._last_words, self._log_start = tuple(last_words), 0
        self._apart = apart
        self._environment = None if environment is None else dict(environment)
        self._process: subprocess.Popen[bytes] | None = None
        self._started = 0.0
        self._due = 0.0
        self._pause = FIRST_PAUSE
        self.restarts = 0

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Raises OutputNotWritableError, DiskFullError, FederationError: it cannot be started."""
        with clear_write_errors(self._log):
            self._log.parent.mkdir(parents=True, exist_ok=True)
            out = open(self._log, "ab")  # noqa: SIM115  (the child keeps it)
            self._log_start = out.tell()
        with out:
            words = self._command() if callable(self._command) else self._command
            try:
                self._process = subprocess.Popen(
                    words, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
                    env=self._environment, start_new_session=self._apart,
                )  # fmt: skip
            except OSError as error:
                raise FederationError(
                    f"{self.name} cannot be started ({error.strerror})", "is FED-MED installed whole?"
                ) from error
        self._started = time.monotonic()

    def ended(self) -> int | None:
        """Its exit code; None while it runs, or before it was started."""
        if self._process is None:
            return None
        code = self._process.poll()
        if code is None and self._last_words:
            said = self.tail(self._log_start)
            if any(words in said for words in self._last_words):
                self._end_group(signal.SIGKILL)
                code = self._process.wait()
        return code

    def keep(self) -> str | None:
        """Start it again if it ended, after a pause that doubles while it fails. Returns why it ended, once."""
        if self._process is None:
            if time.monotonic() >= self._due:
                self.start()
                self.restarts += 1
            return None
        code = self.ended()
        if code is None:
            return None
        if time.monotonic() - self._started > _CALM:
            self._pause = FIRST_PAUSE
        self._due = time.monotonic() + self._pause
        self._pause = min(2 * self._pause, LONGEST_PAUSE)
        self._end_group(signal.SIGKILL)  # what it started must not stay behind
        self._process = None
        return f"{self.name} ended ({_words(code)})"

    def kill(self) -> None:
        """End the process at once, as a power cut would; ``keep`` starts it again."""
        if self._process:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def stop(self, seconds: float = 8.0) -> None:
        """End it and what it started; gently first."""
        if self._process is None:
            return
        self._end_group(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
        self._end_group(signal.SIGKILL)
        self._process.wait()
        self._process = None

    def tail(self, start: int = 0) -> str:
        """The end of its output, from byte ``start`` of its log on."""
        try:
            with open(self._log, "rb") as file:
                file.seek(max(start, self._log.stat().st_size - _TAIL))
                return file.read().decode(errors="replace")
        except OSError:
            return ""

    def _end_group(self, number: int) -> None:
        if self._process:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                (os.killpg if self._apart else os.kill)(self._process.pid, number)


def stop_all(children: Sequence[Child]) -> None:
    """End all, the last first; one that does not end holds up no other."""
    for child in reversed(children):
        with contextlib.suppress(OSError):
            child.stop()


def _words(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


@contextlib.contextmanager
def until_signalled() -> Iterator[Callable[[], bool]]:
    """Yield a function that turns true once SIGTERM or SIGINT came; call it in the main thread."""
    came = threading.Event()
    before = {number: signal.signal(number, lambda *_: came.set()) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield came.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def interrupted_by_sigterm() -> Iterator[None]:
    """Let SIGTERM end the block as Ctrl-C does, so that what it started is ended too; call it in the main thread."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)

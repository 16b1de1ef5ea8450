"""Files of lines, each with the digest of the line before it: appended crash-safely, checked line by line.

    {"seq":3,"previous":<SHA-256 of line 2>,"kind":…, …,"sha256":<SHA-256 of this object without this key>}

One JSON object a line in one spelling: a line that reads the same and is written otherwise is not that line.

**Order of an append.** The new lines written whole to ``.NAME.intent`` and synced; appended and synced; intent removed.
A crash before the intent is whole has appended nothing. After it, the next to open the file finishes the lines. So no
crash leaves a cut line without an intent; such a line is damage.

Not covered: somebody who may write the file can write it anew with all its digests; that shows only to whoever kept a
digest of before.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedmed.errors import FedMedError
from fedmed.utils.files import clear_write_errors, write_atomic

NOTHING = "0" * 64
"""What the first line names as the line before it."""
_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))
_TAIL = len(',"sha256":""}') + 64

Values = dict[str, Any]


def canonical(values: Mapping[str, Any]) -> bytes:
    """The one spelling of an object.

    Raises:
        ValueError: a number that is not finite, or text that is no Unicode.
    """
    return _ENCODER.encode(values).encode()


def make_line(body: Mapping[str, Any], seq: int, previous: str) -> bytes:
    """A line with its end. ``body`` says ``kind`` first, and neither ``seq``, ``previous`` nor ``sha256``."""
    values = {"seq": seq, "previous": previous, **body}
    return canonical(values | {"sha256": hashlib.sha256(canonical(values)).hexdigest()}) + b"\n"


def read_line(text: bytes) -> Values | None:
    """The values of a line without its end; None: it is no line, or not as its own digest says. Its place is not
    looked at."""
    try:
        values = json.loads(text)
        if (
            isinstance(values, dict)
            and [*values][:2] == ["seq", "previous"]
            and [*values][-1] == "sha256"
            and type(values["seq"]) is int
            and values["seq"] >= 0
            and isinstance(values.get("kind"), str)
            and hashlib.sha256(text[:-_TAIL] + b"}").hexdigest() == values["sha256"]
            and canonical(values) == text
        ):
            return values
    except (ValueError, RecursionError):
        pass
    return None


def follows(values: Values | None, seq: int, previous: str) -> bool:
    """Whether a line that was read is the one with this number, after the line with that digest."""
    return values is not None and values["seq"] == seq and values["previous"] == previous


@dataclass(frozen=True, slots=True)
class Tip:
    """Where a file ends: what the next line goes on from."""

    lines: int
    head: str  # SHA-256 of the newest line
    size: int  # bytes


@dataclass(frozen=True, slots=True)
class Chain:
    """A file as read; every line is the one that belongs there."""

    raw: bytes
    lines: tuple[Values, ...]

    @property
    def hashes(self) -> list[str]:
        return [values["sha256"] for values in self.lines]

    @property
    def tip(self) -> Tip:
        return Tip(len(self.lines), self.lines[-1]["sha256"], len(self.raw))


def made_after(bodies: Sequence[Mapping[str, Any]], after: Tip) -> tuple[bytes, Tip]:
    """The lines that a file which ends so would go on with, and where it would end then."""
    head, lines = after.head, []
    for number, body in enumerate(bodies, after.lines):
        lines.append(make_line(body, number, head))
        head = lines[-1][-67:-3].decode()  # a line ends with its digest, a quote, a brace and its end
    added = b"".join(lines)
    return added, Tip(after.lines + len(lines), head, after.size + len(added))


class ChainFile:
    """One chained file, and beside it ``.NAME.lock`` and, during an append, ``.NAME.intent``.

    Args:
        path: the file.
        name: what it is, for errors: "ledger", for example.
        error: the class of its errors.
        lost: what damage costs, as in "…, so what was spent is not known".
    """

    def __init__(self, path: Path, name: str, error: type[FedMedError], lost: str) -> None:
        self.path = path
        self.intent = path.with_name(f".{path.name}.intent")
        self._name, self._error, self._lost = name, error, lost

    def exists(self) -> bool:
        return self.path.exists() or self.intent.exists()

    def create(self, body: Mapping[str, Any]) -> None:
        """Write the first line, and with it the file; under the lock.

        Raises:
            OutputNotWritableError, DiskFullError.
        """
        write_atomic(self.path, make_line(body, 0, NOTHING))

    def look(self) -> Chain:
        """The newest state, without a lock; what an intent announces counts as written. Changes nothing.

        Raises:
            the class that was given: not there, damaged (names the line), or an intent that belongs elsewhere.
        """
        raw, intent = self._both()
        return self._finished(raw, intent)

    def refresh(self) -> Chain:
        """The newest state, under the lock, with the lines finished that a crash left behind.

        Raises:
            as ``look``; OutputNotWritableError, DiskFullError.
        """
        raw, intent = self._read(self.path), self._read_intent()
        chain = self._finished(raw, intent)
        if intent is not None:
            self._write(chain.raw[len(raw) :])  # maybe nothing: who was killed may not have synced
        return chain

    def append(self, bodies: Sequence[Mapping[str, Any]], after: Tip) -> Tip:
        """Add lines, all or none; on return they are on the disk. Under the lock, ``after`` as just read.

        Raises:
            OutputNotWritableError, DiskFullError: they may count as written all the same.
        """
        added, tip = made_after(bodies, after)
        write_atomic(self.intent, added)
        self._write(added)
        return tip

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """One process at a time; a second waits. The system frees the lock on any exit."""
        lock = self.path.with_name(f".{self.path.name}.lock")
        with clear_write_errors(lock):
            lock.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    def damaged(self, line: int) -> FedMedError:
        """The error about one line, from 1."""
        return self._error(
            f"line {line} of the {self._name} {self.path} is damaged or out of place, {self._lost}",
            "put the file back from a copy; a line is never to be edited or removed",
        )

    def _write(self, rest: bytes) -> None:
        with clear_write_errors(self.path), open(self.path, "ab", buffering=0) as file:
            while rest:
                rest = rest[file.write(rest) :]
            os.fsync(file.fileno())
            self.intent.unlink()

    def _both(self) -> tuple[bytes, bytes | None]:
        for _ in range(100):  # an append may be going on; an intent never comes back once it was removed
            intent, raw = self._read_intent(), self._read(self.path)
            if intent == self._read_intent() and (intent is not None or raw.endswith(b"\n")):
                break
        return raw, intent

    def _finished(self, raw: bytes, intent: bytes | None) -> Chain:
        """The file as it is once the intent is carried out."""
        if intent is None:
            return self._parse(raw)
        announced = [read_line(text) for text in intent.split(b"\n")[:-1]]
        first = announced[0]["seq"] if announced and announced[0] is not None else 0
        rest = raw.split(b"\n", first)[-1]
        before = self._parse(raw[: len(raw) - len(rest)])
        if intent.startswith(rest) and len(before.lines) == first:
            try:
                return self._parse(raw[: len(raw) - len(rest)] + intent)
            except self._error:
                pass
        raise self._error(
            f"{self.path} and {self.intent.name} beside it do not belong together",
            "put both back from one copy; neither is changed",
        )

    def _parse(self, raw: bytes) -> Chain:
        lines: list[Values] = []
        *texts, rest = raw.split(b"\n")
        previous = NOTHING
        for text in texts:
            values = read_line(text)
            if values is None or not follows(values, len(lines), previous):
                raise self.damaged(len(lines) + 1)
            lines.append(values)
            previous = values["sha256"]
        if rest or not lines:
            raise self.damaged(len(texts) + 1)
        return Chain(raw, tuple(lines))

    def _read_intent(self) -> bytes | None:
        """The lines that are being appended; None: nobody appends, nor was an append cut."""
        try:
            return self.intent.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._error(
                f"{self.intent} cannot be read ({error.strerror or error}); it says what is being appended",
                f"make it readable, or put it back from a copy together with the {self._name}",
            ) from error

    def _read(self, path: Path) -> bytes:
        try:
            return path.read_bytes()
        except OSError as error:
            raise self._error(
                f"the {self._name} {path} cannot be read ({error.strerror or error})", "check the path"
            ) from error

"""Files that are whole or absent: write to a temporary name, fsync, rename. Operating-system errors become ours."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fedmed.errors import DiskFullError, OutputNotWritableError, RunBusyError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def is_disk_full(error: OSError) -> bool:
    """Whether there is no room left: the disk, the quota or the largest file allowed."""
    return error.errno in _FULL


@contextlib.contextmanager
def clear_write_errors(path: Path) -> Iterator[None]:
    """Turn an ``OSError`` while writing ``path`` into one line that names it."""
    try:
        yield
    except OSError as error:
        if is_disk_full(error):
            raise DiskFullError(f"no room left while writing {path}", "free some space and resume the run") from error
        reason = error.strerror or str(error)
        raise OutputNotWritableError(
            f"cannot write {path} ({reason})", "choose another folder or fix its permissions"
        ) from error


def check_writable(folder: Path) -> None:
    """Refuse a folder that cannot be written or made, before time is spent on what is to go there; leaves no trace.

    Raises:
        OutputNotWritableError: a file is in its way, or permissions or a read-only disk are.
    """
    with clear_write_errors(folder):
        nearest = folder.absolute()
        while not nearest.exists():
            nearest = nearest.parent
        if not nearest.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        if not os.access(nearest, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def _sync_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_atomic(path: Path, data: bytes | str, *, private: bool = False) -> None:
    """Replace ``path`` by ``data``; after a crash it holds the old content or the new, never a mix.

    ``private``: nobody but the owner can read it, at no moment.
    """
    raw = data.encode() if isinstance(data, str) else data
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with clear_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, "wb", opener=owner_only if private else None) as file:
                file.write(raw)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
            _sync_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def owner_only(name: str, flags: int) -> int:
    """An ``opener`` for ``open``: a new file is its owner's alone from its first moment."""
    return os.open(name, flags, 0o600)


def write_json(path: Path, value: Any, *, private: bool = False) -> None:
    write_atomic(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n", private=private)


def append_line(path: Path, line: str) -> None:
    """Add a line to a file, made with its folder if need be; on return it is on the disk.

    A crash can leave half a line; whoever reads takes only what ends with a newline.
    """
    with clear_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        with os.fdopen(handle, "wb", buffering=0) as file:
            file.write(line.encode() + b"\n")
            os.fsync(file.fileno())


def private_folder(path: Path) -> Path:
    """Make ``path`` a folder that only its owner can enter."""
    with clear_write_errors(path):
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.chmod(0o700)
    return path


@contextlib.contextmanager
def folder_atomic(path: Path) -> Iterator[Path]:
    """Yield an empty temporary folder that becomes ``path`` when the block ends well, and vanishes when it does not.

    An existing ``path`` is replaced only at the very end, and put back if that fails. Between the two renames a crash
    can leave the old content under ``.NAME.old``; the next call for ``path`` puts it back first.
    Inside the block use ``write_atomic`` or ``clear_write_errors``: errors of the block itself pass through unchanged.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    old = path.with_name(f".{path.name}.old")
    with clear_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if old.exists() and not path.exists():
            os.replace(old, path)
        shutil.rmtree(old, ignore_errors=True)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
    try:
        yield temporary
        with clear_write_errors(path):
            for file in temporary.rglob("*"):
                if file.is_file():
                    with open(file, "rb") as handle:
                        os.fsync(handle.fileno())
                elif file.is_dir():
                    _sync_folder(file)
            _sync_folder(temporary)
            if path.exists():
                os.replace(path, old)
            try:
                os.replace(temporary, path)
            except OSError:
                if old.exists():
                    os.replace(old, path)
                raise
            _sync_folder(path.parent)
            shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def folder_lock(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold ``folder`` for this process; freed by the system on any exit.

    A second process waits its turn (``wait``) or gets a RunBusyError that names the first.
    """
    lock = folder / ".lock"
    with clear_write_errors(lock):
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            holder = os.read(handle, 32).decode(errors="replace").strip() or "unknown"
            raise RunBusyError(
                f"{folder} is in use by process {holder}", "wait for it, stop it, or choose another folder with --out"
            ) from error
        os.ftruncate(handle, 0)
        os.pwrite(handle, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(handle)


def sha256_file(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()

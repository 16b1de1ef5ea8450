"""What a hospital has answered, and what it kept then, until it is no longer needed. training -> HERE -> reply leaves.

    outbox/<run>-0003-0001-train.reply     order's digest, reply, hospital state after it, SHA-256 of it all

An entry is whole on the disk before its reply leaves, so a worker that was killed in between gives the same bytes when
it is asked again, and trains and charges nothing. The hospital state lies in the same file: whether it counts is
decided by a later order, which names the payload of this hospital that was admitted last. So nothing has to be moved
from pending to kept, a payload that was lost or refused leaves no trace in the state, and a coordinator that goes back
a round finds the state that belongs there.

Not covered: what the state may be used for; deleting the file by whoever may; secrecy from who reads the disk.
"""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from fedmed.errors import FederationError, RunError, WireError
from fedmed.network.orders import join, split
from fedmed.types import HospitalState
from fedmed.utils.files import clear_write_errors, write_atomic

KEPT_ROUNDS = 4
"""Newest rounds whose entries stay: a coordinator may go back to a checkpoint of one of them."""
_NAME = re.compile(r"([0-9a-f]{32})-(\d{4,10})-(\d{4,10})-([a-z]+)\.reply")
_DIGEST_BYTES = 32


@dataclass(frozen=True, slots=True, order=True)
class Key:
    """What an answer is known by."""

    run_id: str
    round: int
    attempt: int
    kind: str = "train"


class Outbox:
    """The entries of one hospital.

    Args:
        folder: the hospital's own, and of one worker at a time; made if it is not there.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with clear_write_errors(folder):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            for left in folder.glob(".*.tmp"):  # by a worker that was killed while it wrote
                left.unlink(missing_ok=True)

    def find(self, key: Key, order: str) -> bytes | None:
        """The reply that was given to this order; None: there is none under its key.

        Raises:
            FederationError: another order was answered under this key. RunError: the entry is damaged.
        """
        entry = self._read(key)
        if entry is None:
            return None
        digest, reply, _ = entry
        if digest != order:
            raise FederationError(
                f"another order was answered in round {key.round}, attempt {key.attempt}", "count a new attempt"
            )
        return reply

    def put(self, key: Key, order: str, reply: bytes, kept: HospitalState) -> None:
        """Keep a reply and the state after it; on return both are on the disk.

        Raises:
            DiskFullError, OutputNotWritableError: neither is, and the reply must not leave.
        """
        # Row-major: safetensors writes memory as it lies, so a transposed array would come back scrambled.
        state = save({name: np.asarray(array, order="C") for name, array in kept.items()})
        content = join([order.encode(), reply, state])
        write_atomic(self._path(key), content + hashlib.sha256(content).digest())

    def kept(self, run_id: str, admitted: tuple[int, int] | None) -> HospitalState:
        """The hospital's state after the payload of this round and attempt; None: the state of the first round.

        Raises:
            FederationError: it is no longer here. RunError: it is damaged.
        """
        if admitted is None:
            return {}
        entry = self._read(Key(run_id, *admitted))
        if entry is None:
            raise FederationError(
                f"this hospital no longer has what it kept in round {admitted[0]}, attempt {admitted[1]}",
                "ask with admitted null, and it begins anew",
            )
        return entry[2]

    def keys(self, run_id: str) -> list[Key]:
        """Of all entries of a run, oldest round first."""
        found = []
        for path in self._folder.glob(f"{_run(run_id)}-*.reply"):
            if match := _NAME.fullmatch(path.name):
                found.append(Key(run_id, int(match[2]), int(match[3]), match[4]))
        return sorted(found)

    def tidy(self, run_id: str, admitted: tuple[int, int] | None, current: Key) -> None:
        """Remove entries that no order can ask for again.

        Those of older attempts at the current round, and of rounds before the newest ``KEPT_ROUNDS``; never the
        admitted one.
        """
        keys = self.keys(run_id)
        newest = sorted({key.round for key in keys})[-KEPT_ROUNDS:]
        for key in keys:
            superseded = key.round == current.round and key.attempt < current.attempt
            if (superseded or key.round not in newest) and (key.round, key.attempt) != admitted:
                self._remove(key)

    def drop(self, run_id: str) -> None:
        """Remove all entries of a run that is over."""
        for key in self.keys(run_id):
            self._remove(key)

    def _remove(self, key: Key) -> None:
        with clear_write_errors(self._path(key)):
            self._path(key).unlink(missing_ok=True)

    def _path(self, key: Key) -> Path:
        return self._folder / f"{_run(key.run_id)}-{key.round:04d}-{key.attempt:04d}-{key.kind}.reply"

    def _read(self, key: Key) -> tuple[str, bytes, HospitalState] | None:
        path = self._path(key)
        try:
            raw = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise RunError(
                f"the answer kept in {path.name} cannot be read ({os.strerror(error.errno or 0)})", "look at its disk"
            ) from error
        content, digest = raw[:-_DIGEST_BYTES], raw[-_DIGEST_BYTES:]
        try:
            if hashlib.sha256(content).digest() != digest:
                raise ValueError("digest")
            order, reply, state = split(content, 3)
            return order.decode("ascii"), reply, load(state)
        except (ValueError, WireError, SafetensorError) as error:
            # Training again would send other bytes under the same key, so this is for a person to decide.
            raise RunError(
                f"the answer kept in {path.name} is damaged", "put it back from a copy, or remove it and train again"
            ) from error


def _run(run_id: str) -> str:
    """A run's id as part of a file name; the id itself is the coordinator's text."""
    return hashlib.sha256(run_id.encode()).hexdigest()[:32]

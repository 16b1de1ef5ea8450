"""What a worker remembers of each run, so that no order is carried out twice. worker -> HERE -> worker after a restart.

    state/<run>.json     settings, attempts answered by round, secure sums begun by round, whether the run is over

An order may be sent again by the relay, days later and in any order; what it asks must then not be done anew. Finished
runs stay known. A round that is older than one already answered needs an attempt higher than any it had, as a
coordinator that goes back to a checkpoint counts on.

Secure sums: an attempt is remembered before this hospital's keys leave and its end before shares are revealed. After
shares were revealed no other attempt of that round is taken part in, as two sums over different hospitals can be
subtracted.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from fedmed.errors import FederationError, RunError
from fedmed.utils.files import clear_write_errors, write_json

MOST_ATTEMPTS = 32
"""At one round. Each is one more look at a hospital's records, which a limit on rounds alone would not count."""
_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Begun:
    """The newest attempt at a round's secure sum."""

    attempt: int
    revealed: bool


@dataclass(frozen=True, slots=True)
class Run:
    """One run."""

    run_id: str
    config_digest: str | None = None  # of the settings of its first training
    base: str | None = None  # digest of the base model it was trained on
    answered: dict[int, int] = field(default_factory=dict)  # round -> highest attempt that was answered
    sums: dict[int, Begun] = field(default_factory=dict)
    finished: bool = False


class RunMemory:
    """All runs that a hospital took part in.

    Args:
        folder: the hospital's own; made if it is not there.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with clear_write_errors(folder):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def run(self, run_id: str) -> Run:
        """What is known; raises RunError where that is damaged."""
        path = self._path(run_id)
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            if values.pop("format") != _FORMAT or values["run_id"] != run_id:
                raise ValueError("another format or run")
            answered = {int(number): int(attempt) for number, attempt in values.pop("answered").items()}
            sums = {int(number): Begun(**begun) for number, begun in values.pop("sums").items()}
            return Run(**values, answered=answered, sums=sums)
        except FileNotFoundError:
            return Run(run_id)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise RunError(
                f"what is remembered of a run, {path.name}, cannot be read",
                "put it back from a copy: without it an old order could be carried out again",
            ) from error

    def settle(self, run_id: str, config_digest: str, base: str | None) -> None:
        """Remember a run's settings and base model.

        Raises:
            FederationError: it has others already.
        """
        run = self.run(run_id)
        if run.config_digest not in (None, config_digest):
            raise FederationError("the run was begun under other settings here", "start a new run for new settings")
        if None not in (base, run.base) and base != run.base:
            raise FederationError(
                "the base model at this hospital has changed since the run began", "put it back, or start a new run"
            )
        settled = replace(run, config_digest=config_digest, base=base or run.base)
        if settled != run:
            self._write(settled)

    def check_new(self, run_id: str, round: int, attempt: int) -> None:
        """Return quietly if an order of this round and attempt may still be carried out.

        Raises:
            FederationError: it was answered before, it is older than what was, or there were too many attempts.
        """
        run = self.run(run_id)
        if run.finished:
            raise FederationError("the run is finished here", "start a new run")
        if attempt >= MOST_ATTEMPTS:
            raise FederationError(
                f"attempt {attempt} at round {round} is more than the {MOST_ATTEMPTS - 1} that are taken part in",
                "start a new run",
            )
        done = run.answered.get(round)
        if done is not None and attempt <= done:
            raise FederationError(
                f"round {round} was answered in attempt {done}, so attempt {attempt} is stale", "count a new attempt"
            )
        newest = max(run.answered, default=0)
        if done is None and round < newest and attempt == 0:
            raise FederationError(
                f"round {newest} was answered, so round {round} is stale", "count a new attempt to go back to it"
            )

    def answered(self, run_id: str, round: int, attempt: int) -> None:
        """Remember that an order was answered."""
        run = self.run(run_id)
        if attempt > run.answered.get(round, -1):
            self._write(replace(run, answered={**run.answered, round: attempt}))

    def begin_sum(self, run_id: str, round: int, attempt: int) -> None:
        """Remember that this hospital takes part in an attempt at a secure sum; before its keys leave.

        Raises:
            FederationError: it took part in this attempt or a later one, or has revealed shares in this round.
        """
        run = self.run(run_id)
        begun = run.sums.get(round)
        if run.finished:
            raise FederationError("the run is finished here", "start a new run")
        if begun is not None and begun.revealed:
            raise FederationError(
                f"this hospital revealed its shares in round {round}, attempt {begun.attempt}",
                "go on with the next round: two sums of one round could be subtracted",
            )
        if begun is not None and attempt <= begun.attempt:
            raise FederationError(
                f"this hospital takes no further part in attempt {attempt} of round {round}", "start a new attempt"
            )
        self._write(replace(run, sums={**run.sums, round: Begun(attempt, False)}))

    def reveal(self, run_id: str, round: int, attempt: int) -> None:
        """Remember that shares leave; before they do."""
        run = self.run(run_id)
        self._write(replace(run, sums={**run.sums, round: Begun(attempt, True)}))

    def finish(self, run_id: str) -> None:
        """Nothing of this run is carried out any more."""
        run = self.run(run_id)
        if not run.finished:
            self._write(replace(run, finished=True))

    def _path(self, run_id: str) -> Path:
        return self._folder / f"{hashlib.sha256(run_id.encode()).hexdigest()[:32]}.json"

    def _write(self, run: Run) -> None:
        write_json(self._path(run.run_id), {"format": _FORMAT} | asdict(run))

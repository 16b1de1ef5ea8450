"""Plans that wait for a person at the hospital: approvals/DIGEST.json. worker -> HERE -> `fedmed federation consent`.

With ``ask: true`` in its policy the worker trains for a run only after a person said yes. The digest covers the run,
all settings, the algorithm and the number of rounds: one answer holds for every round of the run, for nothing else.

Not covered: who the person is: whoever may write the hospital's folder may answer.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal, TypeAlias

from fedmed.errors import PlanRefusedError
from fedmed.network.records import Hex32, Record, ShortText, read_record, write_record
from fedmed.network.roster import now_and_who
from fedmed.network.train_header import TrainHeader
from fedmed.utils.files import folder_lock

Answer: TypeAlias = Literal["pending", "accepted", "declined"]
SHORTEST_PREFIX = 8
_DAMAGED = "move it away; the plan is then asked again"
_MANY = 200  # questions that may be open at once: a coordinator must not be able to fill a disk with them


class Approval(Record):
    """One run that somebody decides on."""

    format: Literal[1] = 1
    digest: Hex32
    answer: Answer
    asked: ShortText  # when, UTC
    changed: ShortText
    by: ShortText
    summary: dict[str, Any]  # TrainHeader.summary


def answer_to(folder: Path, asked: TrainHeader) -> Answer:
    """What the person said to this run; a first question is kept and is pending.

    Args:
        folder: the site's approvals.
        asked: what the order asks.

    Raises:
        PlanRefusedError: too many questions are open, or the file of this one is damaged.
    """
    path = folder / f"{asked.digest()}.json"
    with folder_lock(folder, wait=True):
        if not path.exists():
            if sum(one.answer == "pending" for one in _all(folder)) >= _MANY:
                raise PlanRefusedError(f"{_MANY} plans wait for a person here", "answer them first")
            when, by = now_and_who()
            write_record(
                path,
                Approval(
                    digest=asked.digest(), answer="pending", asked=when, changed=when, by=by, summary=asked.summary()
                ),
            )
        return _read(path).answer


def pending(folder: Path) -> tuple[Approval, ...]:
    """What waits for a person, oldest first. Raises PlanRefusedError where a file is damaged."""
    return tuple(sorted((one for one in _all(folder) if one.answer == "pending"), key=lambda one: one.asked))


def answer(folder: Path, digest: str, accepted: bool) -> Approval:
    """Say yes or no to a plan; an answer may be changed, and holds from the next round on.

    Args:
        folder: the site's approvals.
        digest: the plan's, or at least its first eight digits.
        accepted: yes or no.

    Raises:
        PlanRefusedError: no plan, or several, begin like that.
    """
    if not re.fullmatch(rf"[0-9a-f]{{{SHORTEST_PREFIX},64}}", digest, re.ASCII):
        raise PlanRefusedError(
            f"'{digest[:80]}' is no digest of a plan",
            f"give at least {SHORTEST_PREFIX} digits; 'fedmed federation consent' shows them",
        )
    with folder_lock(folder, wait=True):
        found = [one for one in _all(folder) if one.digest.startswith(digest)]
        if len(found) != 1:
            raise PlanRefusedError(
                f"{len(found) or 'no'} plans have a digest that begins with {digest}",
                "'fedmed federation consent' shows them",
            )
        when, by = now_and_who()
        said: Answer = "accepted" if accepted else "declined"
        changed = found[0].model_copy(update={"answer": said, "changed": when, "by": by})
        write_record(folder / f"{changed.digest}.json", changed)
    return changed


def _all(folder: Path) -> list[Approval]:
    return [_read(path) for path in sorted(folder.glob("*.json"))]


def _read(path: Path) -> Approval:
    found = read_record(path, Approval, "approval", PlanRefusedError, _DAMAGED)
    if found.digest != path.stem:
        raise PlanRefusedError(f"the approval {path} is of another plan", _DAMAGED)
    return found

"""Local trainings and scores that this process has done already: runs that differ late share what they have in common.

Under most attacks a rule sees the same honest updates, and often the same ones remain once the hostile one is refused;
such runs are the same up to there, bit for bit, and need no second training. For losses only: times would be untrue.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from fedmed.types import LocalJob, LocalResult, LocalTrainer
from fedmed.utils.digests import arrays_sha256

KEPT = 48
"""Results in memory; an adapter of the embedded model has 15 MB."""


class Memory:
    """The last results, by what defines them."""

    def __init__(self, kept: int = KEPT) -> None:
        self._kept = kept
        self._results: OrderedDict[object, Any] = OrderedDict()

    def get(self, key: object, make: Callable[[], Any]) -> Any:
        """What ``key`` defines, made if it is not there; the one asked for longest ago makes room."""
        if key not in self._results:
            self._results[key] = make()
        self._results.move_to_end(key)
        while len(self._results) > self._kept:
            self._results.popitem(last=False)
        return self._results[key]

    def __contains__(self, key: object) -> bool:
        return key in self._results


class RememberingTrainer:
    """A ``LocalTrainer`` that trains no job twice.

    Args:
        inner: trains.
        memory: of trainings, shared by all runs whose trainers may share.
        settings: all that decides a result beside the job and the hospital's rows.
        rows_of: names the rows that a hospital trains on, where they are not always its own.
    """

    def __init__(
        self, inner: LocalTrainer, memory: Memory, settings: str, rows_of: Callable[[str], str] = lambda hospital: "own"
    ) -> None:
        self._inner, self._memory, self._settings, self._rows_of = inner, memory, settings, rows_of

    def run(self, jobs: Sequence[LocalJob]) -> Iterator[LocalResult]:
        keys = [self._key(job) for job in jobs]
        missing = [job for job, key in zip(jobs, keys, strict=True) if key not in self._memory]
        made = {result.hospital: result for result in self._inner.run(missing)} if missing else {}
        for job, key in zip(jobs, keys, strict=True):
            yield self._memory.get(key, lambda name=job.hospital: made[name])  # type: ignore[misc]

    def _key(self, job: LocalJob) -> object:
        return (
            self._settings, job.hospital, self._rows_of(job.hospital), job.round, job.rounds, job.seed, job.trainable,
            job.proximal_mu, job.total_rank, arrays_sha256(job.start), arrays_sha256(job.folded),
        )  # fmt: skip

"""One run of six hospitals, three of which give trouble, or none: plain numbers for agent.py.

    drifts     from round ``DRIFT`` on its questions stand beside answers to others, as after a wrong join of tables
    straggles  it needs ``SLOW`` times the others' time for a step; a round closes after ``WAITS`` times theirs
    lies       it sends its honest update turned round, at its own length: no check of norms can see it

Which hospital is which goes round with the seed. Losses are those of the four that train on their own right answers all
the time, the one that straggles among them; what the agent judges on is at no hospital.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lab
import numpy as np
from attacks import HostileTransport, Sight
from kept import ROOT, digest_of
from remembered import Memory, RememberingTrainer

from fedmed.agent.coordinator import Coordinator
from fedmed.agent.decision_log import read_decisions, replay
from fedmed.config.schema import FedMedConfig
from fedmed.data.encode import EncodedRow
from fedmed.federated.algorithms import get_algorithm
from fedmed.federated.runner import Transport
from fedmed.pipeline.coordinating import coordinator_of, model_judge, setting_of
from fedmed.pipeline.scoring import encode
from fedmed.training.steps import steps_per_round
from fedmed.types import (
    AdapterState,
    Algorithm,
    HospitalState,
    LocalJob,
    LocalResult,
    LocalTrainer,
    Payload,
    RoundPlan,
    RoundReport,
)
from fedmed.utils.random_streams import stream

DRIFT, SLOW, WAITS = 3, 2.0, 1.25
LONGEST = 64  # tokens of a training row: longer ones would only cost time
HERE = Path(__file__).parent
CODE = digest_of(
    Path(__file__), HERE / "attacks.py", *sorted((ROOT / "src/fedmed/agent").glob("*.py")),
    ROOT / "src/fedmed/pipeline/coordinating.py", ROOT / "src/fedmed/pipeline/public_records.py",
)  # fmt: skip
"""Part of what defines these runs."""
TRAININGS = Memory(120)


@dataclass(frozen=True)
class Roles:
    """Who gives which trouble."""

    honest: tuple[str, ...]
    drifts: str
    straggles: str
    lies: str

    @classmethod
    def of(cls, hospitals: Sequence[str], turn: int) -> Roles:
        """Two places further with each turn."""
        names = [hospitals[(place + 2 * turn) % len(hospitals)] for place in range(len(hospitals))]
        *honest, drifts, straggles, lies = names
        return cls(tuple(sorted(honest)), drifts, straggles, lies)

    @property
    def judged(self) -> list[str]:
        """Whose held-out records count."""
        return sorted((*self.honest, self.straggles))


def turned_round(sight: Sight) -> AdapterState:
    """Its honest update, the other way."""
    return {name: -array for name, array in sight.honest.arrays.items()}


class SlowTransport:
    """A transport whose rounds close before one hospital has made all its steps.

    Args:
        inner: the real one.
        slow: the hospital.
        steps: that the others make in a round.
    """

    def __init__(self, inner: Transport, slow: str, steps: int) -> None:
        self._inner, self._slow, self._closes = inner, slow, WAITS * steps

    def exchange(self, plan: RoundPlan, global_state: AdapterState, algorithm: Algorithm) -> Iterator[Payload]:
        for payload in self._inner.exchange(plan, global_state, algorithm):
            steps = payload.metrics.steps if payload.metrics else 0
            if payload.hospital != self._slow or SLOW * steps <= self._closes:
                yield payload

    def commit(self, report: RoundReport) -> Mapping[str, HospitalState]:
        return self._inner.commit(report)


class DriftingTrainer:
    """Trains one hospital on other rows from a round on.

    Args:
        before, after: train all hospitals.
    """

    def __init__(self, before: LocalTrainer, after: LocalTrainer) -> None:
        self._before, self._after = before, after

    def run(self, jobs: Sequence[LocalJob]) -> Iterator[LocalResult]:
        yield from (self._after if jobs and jobs[0].round >= DRIFT else self._before).run(jobs)


def short(rows: Sequence[EncodedRow]) -> list[EncodedRow]:
    """Those that are not long; all, where a tokenizer makes every row long."""
    return [row for row in rows if len(row.input_ids) <= LONGEST] or list(rows)


def _drifted_rows(config: FedMedConfig, rows: lab.Rows, hospital: str) -> lab.Rows:
    here = lab.ground(config)
    records = here.train[hospital]
    answers = [row["answer"] for row in records]
    order = stream(config.federated.seed, "bench", "wrong join", hospital).permutation(len(records))
    joined = [{"question": row["question"], "answer": answers[at]} for row, at in zip(records, order, strict=True)]
    wrong = encode(here.tokenizer, joined, config)
    return {**rows, hospital: short(wrong)}


def run(config: FedMedConfig, *, turn: int, troubled: bool) -> dict[str, Any]:
    """Train and score once; with ``federated.agent.enabled`` what it decided is told in short."""
    here = lab.ground(config)
    rows = {name: short(own) for name, own in here.rows.items()}
    roles = Roles.of(list(rows), turn)
    other = _drifted_rows(config, rows, roles.drifts) if troubled else rows
    steps = max(steps_per_round(len(own), config.training) for own in rows.values())
    settings = f"{config.model!r} {config.training!r} {config.federated.split} {config.federated.num_clients}"

    def wrap(inner: Transport) -> Transport:
        if not troubled:
            return inner
        slow = SlowTransport(inner, roles.straggles, steps)
        return HostileTransport(slow, roles.lies, turned_round, config.federated.seed)

    reports: list[RoundReport] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        lab.trainer_of(config, rows) as before,
        lab.trainer_of(config, other) as after,
    ):

        def rows_of(hospital: str) -> str:
            return f"drifted, turn {turn}" if troubled and hospital == roles.drifts else "own"

        def around(_: LocalTrainer) -> LocalTrainer:
            return DriftingTrainer(
                RememberingTrainer(before, TRAININGS, settings), RememberingTrainer(after, TRAININGS, settings, rows_of)
            )

        agent = _agent(config, rows, Path(folder)) if config.federated.agent.enabled else None
        state = lab.train(
            config, wrap=wrap, around=around, rows=rows, agent=agent,
            on_round=lambda state, report: reports.append(report),
        )  # fmt: skip
        decided = _told(Path(folder)) if agent else None
    scores = here.scorer.loss(lab.adapters_of(config, state)[roles.judged[0]], roles.judged)
    return {
        "loss": scores.loss, "per_hospital": scores.per_hospital, "nll": scores.nll, "tokens": scores.tokens,
        "roles": asdict(roles), "rounds": state.round, "admitted": [list(report.admitted) for report in reports],
        "update_norms": [report.update_norm for report in reports], "agent": decided, "stopped": None,
    }  # fmt: skip


def _agent(config: FedMedConfig, rows: lab.Rows, folder: Path) -> Coordinator:
    here = lab.ground(config)
    judge = model_judge(config, here.model, here.tokenizer, get_algorithm(config.federated), here.groups)
    return coordinator_of(
        config, setting_of(config, rows, here.start, judge.tokens, "bench"), judge, folder, after_round=0, ledgers={},
        events={}, tell=lambda decision: None,
    )  # fmt: skip


def _told(folder: Path) -> dict[str, Any]:
    """The decisions in short, and whether the log gives them again."""
    lines = read_decisions(folder)
    counts: dict[str, int] = {}
    for line in lines:
        counts[line["decision"]] = counts.get(line["decision"], 0) + 1
    short = [
        {"round": line["round"], "decision": line["decision"], "reason": line["reason"]}
        for line in lines
        if line["decision"] != "ask" or "quarantine" in line["reason"]
    ]
    weights = [
        {name.removeprefix("share "): round(value, 4) for name, value in line["numbers"].items() if "share" in name}
        for line in lines
        if line["decision"] == "weigh"
    ]
    same = not replay(folder).differing
    return {"counts": counts, "decisions": short, "shares": weights, "replay_gives_the_same": same}


def pooled(runs: Sequence[Mapping[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
    """Nats and tokens of the held-out records of several runs, one after another."""
    return (np.concatenate([run["nll"] for run in runs]), np.concatenate([run["tokens"] for run in runs]))


def interval(less: Sequence[Mapping[str, Any]], more: Sequence[Mapping[str, Any]], draws: np.random.Generator) -> Any:
    """By how much ``less`` is below ``more``, nats a token, with a paired 95 % interval over records of all seeds."""
    (mine, tokens), (theirs, same) = pooled(less), pooled(more)
    if not np.array_equal(tokens, same):
        raise ValueError("the runs were scored on other records")
    rows = draws.integers(0, len(tokens), (4000, len(tokens)))
    by = theirs - mine
    found = by[rows].sum(axis=1) / tokens[rows].sum(axis=1)
    low, high = np.quantile(found, [0.025, 0.975])
    return {"lower_by": float(by.sum() / tokens.sum()), "low": float(low), "high": float(high)}


def digest_free(result: Mapping[str, Any]) -> dict[str, Any]:
    """A run without its records' sums, which only the intervals need."""
    return json.loads(json.dumps({name: value for name, value in result.items() if name not in ("nll", "tokens")}))

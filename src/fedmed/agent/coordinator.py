"""The coordinator agent: watches a run and decides who trains, how much, what counts, what stands, when to stop.

It is no language model: it is arithmetic on what can be seen of a run, and every decision is a line of
``decisions.jsonl`` with its reason and the numbers behind it. It judges updates on public records that the coordinator
holds and no hospital does, never on the training loss, which hospitals optimise and state themselves.

    run_rounds ─► plan ─► hospitals ─► weigh ─► sum ─► undoes ─► checkpoint
                   │                    │               │
                   └── facts ──► Reasoning, a function of facts and the judge's answers ──► decisions, evidence

Off (``federated.agent.enabled``), nothing of it runs. Without ``weigh``, as under masks, it sees sums only: it plans,
keeps budgets, stops and rolls back.
Not covered: a coordinator that lies; see ``reasoning`` for what its judgement misses.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from fedmed.agent.decision_log import DecisionLog, think_again
from fedmed.agent.facts import Closing, Decision, Opening, Setting, Trial, Weighing
from fedmed.agent.noise import Losses
from fedmed.agent.reasoning import Reasoning
from fedmed.errors import DecisionLogError
from fedmed.federated.weighing import Outcome, Weighed
from fedmed.types import AdapterState, RoundPlan, RoundReport


class PublicJudge(Protocol):
    """Scores a global state on public records that the coordinator holds."""

    @property
    def tokens(self) -> tuple[int, ...]:
        """Answer tokens of each record."""
        ...

    def __call__(self, global_state: AdapterState) -> Sequence[float]:
        """Nats of each record's answer."""
        ...


Tell = Callable[[Decision], None]


class Coordinator:
    """A ``RoundPolicy`` and an ``Overseer``.

    Args:
        setting: of the run.
        judge: scores global states.
        log: where decisions and evidence go.
        after_round: the round that the run goes on from; 0: it begins, and the log is started afresh.
        tell: gets every decision, for an audit log.
        epsilon: hospital -> its ε if it trained one more round; None: no ledgers here.
        clock: seconds that the run has taken; asked for only where ``max_seconds`` is set.

    Raises:
        DecisionLogError: the run goes on, and its log is gone, damaged, or of other settings.
    """

    def __init__(
        self,
        setting: Setting,
        judge: PublicJudge,
        log: DecisionLog,
        *,
        after_round: int = 0,
        tell: Tell = lambda decision: None,
        epsilon: Callable[[], Mapping[str, float]] | None = None,
        clock: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self._setting, self._judge, self._log = setting, judge, log
        self._tell, self._epsilon, self._clock = tell, epsilon, clock
        self._before = self._longest = 0.0  # seconds: of earlier processes, of the longest round
        self._marks: list[float] = []
        if after_round:
            evidence = log.cut_after(after_round)
            self.reasoning, _ = think_again(evidence)
            self._go_on(evidence)
        else:
            log.begin(setting)
            self.reasoning = Reasoning(setting)

    def plan(self, round: int, history: Sequence[RoundReport]) -> RoundPlan | None:
        """As ``RoundPolicy`` says; None: the run ends before this round."""
        facts = self._facts(round, history)
        plan, decisions = self.reasoning.opens(facts)
        self._enter("open", facts, {}, decisions)
        return plan

    @property
    def weighs(self) -> bool:
        """As ``federated.agent.weigh`` says."""
        return self._setting.agent.weigh

    def weigh(self, plan: RoundPlan, before: AdapterState, outcome: Outcome) -> Weighed:
        """As ``Overseer`` says."""
        judged: dict[str, Losses] = {}

        def judge(trial: Trial) -> Losses:
            state = before if trial.name == "before" else outcome(trial.weights, trial.silenced)
            return self._ask(trial.name, state, judged)

        facts = Weighing(plan.round, outcome.records, plan.min_replies, outcome.agreement)
        weighed, decisions = self.reasoning.weighs(facts, judge)
        self._enter("weigh", facts, judged, decisions)
        return weighed

    def undoes(self, plan: RoundPlan, before: AdapterState, after: AdapterState, report: RoundReport) -> str | None:
        """As ``Overseer`` says."""
        judged: dict[str, Losses] = {}
        states = {"before": before, "after": after}
        facts = Closing(plan.round)
        why, decisions = self.reasoning.closes(
            facts, lambda trial: self._ask(trial.name, states[trial.name], judged)
        )  # fmt: skip
        self._enter("close", facts, judged, decisions)
        return why

    def _ask(self, name: str, state: AdapterState, judged: dict[str, Losses]) -> Losses:
        if name not in judged:
            found = np.array(self._judge(state), dtype=np.float64)
            if not np.all(np.isfinite(found)):
                # A state that the model cannot bear is worse than any: as bad as a guess that is never right.
                found = np.full(len(self._setting.tokens), _HOPELESS * np.array(self._setting.tokens))
            judged[name] = found
        return judged[name]

    def _enter(self, step: str, facts: Any, judged: Mapping[str, Losses], decisions: Sequence[Decision]) -> None:
        self._log.enter(step, facts, judged, decisions)
        for decision in decisions:
            self._tell(decision)

    def _facts(self, round: int, history: Sequence[RoundReport]) -> Opening:
        sums = [report.bytes_up + report.bytes_down for report in history]
        last = history[-1] if history else RoundReport(0, ())
        absent = {*last.silent, *last.unusable}
        pace: dict[str, float] = {}
        if self._setting.agent.deadline_factor is not None:  # else no clock has a say, and runs repeat
            pace = {name: told.seconds / told.steps for name, told in last.metrics.items() if told.steps}
        return Opening(
            round,
            arrived=tuple(name for name in self.reasoning.asked if name not in absent),
            silent=last.silent,
            refused=last.unusable,
            step_seconds=pace,
            bytes_spent=sum(sums),
            bytes_next=max(sums, default=self._setting.round_bytes),
            seconds_spent=self._seconds(),
            seconds_next=self._longest,
            epsilon=dict(self._epsilon()) if self._epsilon else {},
        )

    def _seconds(self) -> float:
        """So far; a run that goes on counts from where its evidence ends."""
        if self._setting.agent.max_seconds is None:
            return 0.0
        now = self._before + self._clock()
        if self._marks:
            self._longest = max(self._longest, now - self._marks[-1])
        self._marks.append(now)
        return now

    def _go_on(self, evidence: Sequence[Mapping[str, Any]]) -> None:
        if self.reasoning.memory.setting != self._setting:
            raise DecisionLogError(
                f"{self._log.evidence} belongs to a run with other settings or records", "put back the file of this run"
            )
        opened = [line["facts"] for line in evidence if line["step"] == "open"]
        self._before = max((facts["seconds_spent"] for facts in opened), default=0.0)
        self._longest = max((facts["seconds_next"] for facts in opened), default=0.0)


_HOPELESS = 100.0  # nats a token

"""From facts to decisions: what the coordinator agent does, without a clock, a disk or a model. coordinator -> HERE.

Everything is a function of the facts in the order in which they came, and of what the judge answered; so a log of both
gives the same decisions again (``decision_log.replay``).
"""

from __future__ import annotations

from fedmed.agent import judging, planning
from fedmed.agent.facts import Closing, Decision, Judge, Opening, Setting, Trial, Weighing
from fedmed.agent.memory import LIKELY, SURE, Memory
from fedmed.agent.noise import Noise
from fedmed.agent.standing import Standing
from fedmed.federated.weighing import Weighed
from fedmed.types import RoundPlan


class Reasoning:
    """One run's thinking. It is fed every round in its order: ``opens``, ``weighs`` where updates are seen, ``closes``.

    Args:
        setting: of the run.
    """

    def __init__(self, setting: Setting) -> None:
        standing = {name: Standing() for name in setting.hospitals}
        self.memory = Memory(setting, Noise(setting.tokens, setting.seed), standing)

    @property
    def asked(self) -> tuple[str, ...]:
        """Who was asked in the round that was planned last."""
        return self.memory.plan.hospitals if self.memory.plan else ()

    def opens(self, facts: Opening) -> tuple[RoundPlan | None, list[Decision]]:
        """The plan of a round, or None to stop before it."""
        return planning.opens(self.memory, facts)

    def weighs(self, facts: Weighing, judge: Judge) -> tuple[Weighed, list[Decision]]:
        """What each update counts for."""
        return judging.weighs(self.memory, facts, judge)

    def closes(self, facts: Closing, judge: Judge) -> tuple[str | None, list[Decision]]:
        """Why the round is undone, or None; and the decision that says so."""
        memory = self.memory
        memory.begin(judge)
        before = memory.losses[-1]
        after = judge(Trial("after")) if memory.expected is None else memory.expected
        memory.expected = None
        gain = memory.noise.less(before, after)
        numbers = {"loss_before": memory.noise.loss(before), "loss_after": memory.noise.loss(after), "gain": gain.value}
        if gain.high(SURE) < 0:
            memory.losses.append(before)
            memory.rate_scale /= 2
            why = f"it made the public loss {-gain.value:.4f} worse, beyond noise"
            told = f"the round is rolled back: {why}; the next ones learn at {memory.rate_scale:g} of the rate"
            return why, [Decision(facts.round, "roll back", told, numbers=numbers)]
        memory.losses.append(after)
        sure = "beyond noise" if gain.low(LIKELY) > 0 else "within noise"
        told = f"the round stands: the public loss changes by {-gain.value:+.4f}, {sure}"
        return None, [Decision(facts.round, "keep", told, numbers=numbers)]

"""What the coordinator agent keeps from round to round. planning, judging -> HERE."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from fedmed.agent.facts import Decision, Judge, Setting, Trial
from fedmed.agent.noise import Losses, Noise
from fedmed.agent.standing import Standing
from fedmed.types import RoundPlan

LIKELY = 0.95  # that a gain is one
SURE = 0.99  # that an update or a round harms, before it is left out or rolled back


@dataclass
class Memory:
    """Of one run."""

    setting: Setting
    noise: Noise
    standing: dict[str, Standing]
    rate_scale: float = 1.0  # times the settings' learning rate
    losses: list[Losses] = field(default_factory=list)  # of the global state: before the first round, then after each
    expected: Losses | None = None  # what the weighing found for the round's result; None: nobody weighed
    plan: RoundPlan | None = None  # of the round that goes on

    def begin(self, judge: Judge) -> None:
        """Judge the state before the first round, once."""
        if not self.losses:
            self.losses.append(judge(Trial("before")))

    def quarantine(self, round: int, name: str, why: str, numbers: Mapping[str, float]) -> list[Decision]:
        """Leave a hospital alone after a round; nothing where too few would be left, or a mask's cohort is set up."""
        there = [one for one, own in self.standing.items() if own.until is None]
        if self.setting.masked or len(there) - 1 < self.setting.fewest:
            return []
        length = self.standing[name].leave(round, self.setting.agent.quarantine_rounds)
        told = f"{name} is not asked for {length} rounds: {why}"
        return [Decision(round, "quarantine", told, (name,), {**numbers, "rounds": length})]


def listed(hospitals: tuple[str, ...] | list[str]) -> str:
    """Names for a reason."""
    return " and ".join(hospitals)

"""What the coordinator agent is told, and what it decides: plain JSON values, so that a run can be thought over again.

begin     once      the settings, who there is, the public records' answer tokens
open      a round   what came of the round before, what was spent -> who is asked, how much, or the end
weigh     a round   how many records; what the judge said of each trial -> what each update counts for
close     a round   what the judge said of the result -> whether it stands
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, TypeAlias

from fedmed.agent.noise import Losses
from fedmed.config.schema import AgentSection
from fedmed.federated.runner import AllOrSampled


@dataclass(frozen=True, slots=True)
class Setting:
    """What does not change in a run."""

    hospitals: tuple[str, ...]
    rounds: int
    seed: int
    agent: AgentSection
    tokens: tuple[int, ...]  # answer tokens of each public record
    full_steps: Mapping[str, int]  # hospital -> optimiser steps a round without a bound
    run_id: str = ""
    hospitals_per_round: int | None = None
    min_replies: int | None = None
    ranks: Mapping[str, int] = field(default_factory=dict)
    masked: bool = False  # updates are summed under masks: the cohort stays as it was set up
    bounds_steps: bool = True  # False: privacy noise was solved for all the steps, and is charged for all of them
    round_bytes: int = 0  # expected of the first round

    @property
    def everybody(self) -> AllOrSampled:
        """The plan without an agent."""
        return AllOrSampled(
            self.hospitals, self.rounds, self.seed, self.run_id, self.hospitals_per_round, self.min_replies, self.ranks
        )

    @property
    def fewest(self) -> int:
        """Replies without which there is no round: as set, or more than half of those that a round would ask."""
        asked = min(self.hospitals_per_round or len(self.hospitals), len(self.hospitals))
        return self.min_replies or asked // 2 + 1

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "agent": self.agent.model_dump(mode="json")}

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> Setting:
        """Back from ``as_dict`` and JSON."""
        tuples = {name: tuple(values[name]) for name in ("hospitals", "tokens")}
        return cls(**{**values, **tuples, "agent": AgentSection(**values["agent"])})


@dataclass(frozen=True, slots=True)
class Opening:
    """Before a round."""

    round: int
    arrived: tuple[str, ...] = ()  # in the round before, and could be used
    silent: tuple[str, ...] = ()  # asked then, and did not reply
    refused: tuple[str, ...] = ()  # replied with what cannot be summed
    step_seconds: Mapping[str, float] = field(default_factory=dict)  # hospital -> of that round, where shared
    bytes_spent: int = 0
    bytes_next: int = 0  # that the next round will take
    seconds_spent: float = 0.0
    seconds_next: float = 0.0
    epsilon: Mapping[str, float] = field(default_factory=dict)  # hospital -> if it trains once more


@dataclass(frozen=True, slots=True)
class Weighing:
    """When all replies are in."""

    round: int
    records: Mapping[str, int]  # hospital -> as it states them; admitted hospitals
    fewest: int  # replies that the round needs
    agreement: Mapping[str, float] = field(default_factory=dict)  # hospital -> cosine to the sum of the others' updates


@dataclass(frozen=True, slots=True)
class Closing:
    """When the sum is made."""

    round: int


@dataclass(frozen=True, slots=True)
class Trial:
    """A global state to be judged: before or after the round, or what would come of these weights."""

    name: str
    weights: Mapping[str, int] = field(default_factory=dict)
    silenced: frozenset[str] = frozenset()


Judge: TypeAlias = Callable[[Trial], Losses]
"""What a trial loses on the public records."""


@dataclass(frozen=True, slots=True)
class Decision:
    """One line of ``decisions.jsonl``."""

    round: int
    decision: str
    reason: str
    hospitals: tuple[str, ...] = ()
    numbers: Mapping[str, float] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "hospitals": list(self.hospitals)}

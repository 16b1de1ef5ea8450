"""What the coordinator agent has learnt of one hospital: trust, usefulness, pace, quarantine. reasoning -> HERE."""

from __future__ import annotations

from dataclasses import dataclass

TRUST_STEPS = 16
"""Trust and usefulness count in sixteenths: so small a difference of weights would only be noise."""
LONGEST_SILENCE = 4  # rounds in a row without a reply; each time half the steps were asked for
MORE_AFTER = 6
"""Replies in a row after which twice the steps are asked for: it can win half a reply a round and cost a whole one."""
LEAST, MOST = 0.5, 2.0  # of a hospital's weight by its records, before trust


@dataclass(slots=True)
class Standing:
    """One hospital."""

    trust: float = 1.0  # of its weight; halved by harm, quartered by drift; halfway back with each good round
    usefulness: float = 1.0  # of its weight; measured against the others', shrunk towards 1, averaged over rounds
    agreed: float | None = None  # how far it agreed with the others, against the median hospital, on average so far
    drifting: bool = False  # until it agrees again, or is useful on its own
    harmed: int = 0  # rounds in a row
    silent: int = 0  # rounds in a row
    replies: int = 0  # rounds in a row
    silences: int = 0  # in all
    share: float = 1.0  # of the steps that it is asked for
    step_seconds: float | None = None
    until: int | None = None  # the first round in which it is asked again; None: it is not in quarantine
    quarantines: int = 0
    probation: bool = False  # its next update counts only if it is useful

    @property
    def weight(self) -> int:
        """What its records are multiplied by, without what was measured: trust, in sixteenths."""
        return max(1, round(TRUST_STEPS * self.trust))

    @property
    def useful_weight(self) -> int:
        """The same with what was measured."""
        return max(1, round(TRUST_STEPS * self.trust * self.usefulness))

    def did_harm(self) -> None:
        self.harmed += 1
        self.trust = max(1 / TRUST_STEPS, self.trust / 2)

    def did_well(self) -> None:
        self.harmed = 0
        self.probation = False
        if not self.drifting:
            self.trust = 1.0 if self.trust > 0.9 else (1.0 + self.trust) / 2

    def drifts(self) -> None:
        self.drifting = True
        self.trust = max(1 / TRUST_STEPS, self.trust / 4)

    def was_worth(self, relative: float, error: float) -> None:
        """Take in what it was worth this round against the others (1: the same), with the standard error of that.

        The factor goes from 1 to what was measured by as much as the measurement is above its noise (the positive part
        of James and Stein's shrinkage, for one number), and a new one counts half.
        """
        off = relative - 1.0
        shrink = max(0.0, 1.0 - (error / off) ** 2) if off else 0.0
        target = min(MOST, max(LEAST, 1.0 + shrink * off))
        self.usefulness = (self.usefulness + target) / 2

    def agrees(self, relative: float) -> None:
        """Take in how far it agreed with the others this round, against the median hospital (1: as much)."""
        self.agreed = relative if self.agreed is None else (self.agreed + relative) / 2

    def replied(self, step_seconds: float | None) -> None:
        """A bound on steps that was set by silence is loosened after replies, later each time it proved right."""
        self.silent = 0
        self.replies += 1
        if step_seconds is not None:
            known = self.step_seconds
            self.step_seconds = step_seconds if known is None else (known + step_seconds) / 2
        if self.share < 1.0 and self.replies >= MORE_AFTER * 2 ** (self.silences - 1):
            self.share, self.replies = min(1.0, 2 * self.share), 0

    def was_silent(self) -> None:
        self.silent += 1
        self.silences += 1
        self.replies = 0
        self.share /= 2

    def leave(self, round: int, rounds: int) -> int:
        """Go into quarantine after a round; returns the number of rounds, twice as many each time."""
        length: int = rounds * 2**self.quarantines
        self.quarantines += 1
        self.until = round + length + 1
        self.harmed = self.silent = 0
        return length

    def come_back(self) -> None:
        """On probation."""
        self.until, self.probation, self.trust, self.usefulness = None, True, 0.5, 1.0

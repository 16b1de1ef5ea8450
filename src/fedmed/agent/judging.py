"""When all replies are in: what each update did, what it counts for, and who is left out. reasoning -> HERE.

Two things are looked at. *Worth*: the public loss with the update put to zero, minus the public loss with it; the other
updates and all weights stay, so these differences add up, first-order, to what the round gains. *Agreement*: the cosine
between the update and the sum of the others', against the median hospital's. Worth is what counts, and noisy on few
records; agreement is sharp, and says nothing of who is right. So:

- an update that points against the others is left out, unless its worth beyond noise speaks for it;
- one that harms the public loss beyond noise, and is worse than the others, is left out where it does not agree either,
  or where it harms a second time in a row; else its hospital is warned;
- a hospital that agrees far less than it used to drifts: it counts a quarter, until it agrees or is useful again.

Nobody is blamed where all harm, as the step is too long then, nor for agreement where there is no common direction, as
where training settles. *Weights* go from records towards what updates were worth a record and step, and only where
the judge finds the result better than that of the records' weights, beyond noise.

Not covered: harm that does not show on the public records and goes with the others' direction; a majority of liars who
agree, but for what worth says; two liars whose harm shows only together.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fedmed.agent.facts import Decision, Judge, Trial, Weighing
from fedmed.agent.memory import LIKELY, SURE, Memory, listed
from fedmed.agent.noise import Losses, Measured, mean
from fedmed.federated.fixed_point import LARGEST_TOTAL_WEIGHT
from fedmed.federated.weighing import Weighed

MOST_JUDGED = 16
"""Updates judged singly in a round, so that a round of many hospitals does not wait for the judge."""
COMMON = 0.02  # median agreement of the others from which on hospitals have a common direction
CLEAR = 0.05  # and from which on one round's agreement tells one hospital from the next
AGAINST = -0.5  # of the others' median
LITTLE = 1 / 3  # of the others' median, or of what a hospital's own agreement was


@dataclass(frozen=True, slots=True)
class _Seen:
    """What one update did in a round."""

    worth: Measured  # nats per answer token that it took from the public loss
    each: Measured  # the same for its share of records and steps
    others: Measured  # mean of ``each`` over the others
    agreement: float
    common: float  # median agreement of the others

    @property
    def harms(self) -> bool:
        """By itself and against the others; where they harm too, the step is too long, and only twice as bad counts."""
        others = self.others if self.others.value > 0 else self.others.over(0.5)
        return self.worth.high(SURE) < 0 and (self.each - others).high(SURE) < 0

    @property
    def helps(self) -> bool:
        return self.worth.low(LIKELY) > 0

    @property
    def against(self) -> bool:
        return self.common >= COMMON and self.agreement <= AGAINST * self.common

    @property
    def apart(self) -> bool:
        return self.common >= COMMON and self.agreement < LITTLE * self.common

    @property
    def relative(self) -> float | None:
        """Agreement against the others' median; None: it would not tell one hospital from the next."""
        return self.agreement / self.common if self.common >= CLEAR else None

    @property
    def numbers(self) -> dict[str, float]:
        return {
            "gain": self.worth.value, "gain_low": self.worth.low(SURE), "gain_high": self.worth.high(SURE),
            "agreement": self.agreement, "median_agreement": self.common,
        }  # fmt: skip


def weighs(memory: Memory, facts: Weighing, judge: Judge) -> tuple[Weighed, list[Decision]]:
    """What each update counts for."""
    memory.begin(judge)
    records, standing = facts.records, memory.standing
    prior = whole_weights({name: count * standing[name].weight for name, count in records.items()})
    together = judge(Trial("all", prior))
    seen = _look(memory, facts, prior, together, judge)
    blamed = {name: why for name, own in seen.items() if (why := _blame(memory, name, own))}
    decisions: list[Decision] = []
    left_out = dict(blamed)
    if blamed and len(records) - len(blamed) < facts.fewest:
        why = f"{listed(list(blamed))} would be left out, but then fewer than {facts.fewest} updates would be left"
        decisions.append(Decision(facts.round, "take all", why, tuple(blamed), {"fewest": facts.fewest}))
        left_out = {}
    for name, why in blamed.items():
        decisions += _hold_against(memory, facts.round, name, why, seen[name], out=name in left_out)
    kept = [name for name in records if name not in left_out]
    decisions += _look_back(memory, facts.round, kept, {name: own for name, own in seen.items() if name not in blamed})
    weights, memory.expected, decision = _weights(memory, facts, kept, prior, together, judge)
    return Weighed(weights, left_out), [*decisions, decision]


def _look(
    memory: Memory, facts: Weighing, prior: Mapping[str, int], together: Losses, judge: Judge
) -> dict[str, _Seen]:
    """At every update, or those in doubt; at none where there is nothing to compare with."""
    if len(prior) < 2:
        return {}
    total = sum(prior.values())
    worth, each = {}, {}
    for name in _in_doubt(memory, facts):
        weight = prior[name]
        without = judge(Trial(f"without {name}", prior, frozenset([name])))
        worth[name] = memory.noise.less(without, together)
        each[name] = worth[name].over(weight / total * _step_share(memory, name))
    found = {}
    for name, own in each.items():
        others = [other for other in each if other != name]
        common = statistics.median(facts.agreement.get(other, 0.0) for other in prior if other != name)
        theirs = mean([each[other] for other in others])
        found[name] = _Seen(worth[name], own, theirs, facts.agreement.get(name, 0.0), common)
    return found


def _in_doubt(memory: Memory, facts: Weighing) -> list[str]:
    """Whom to judge: all, or of many those with something against them and those that agree least, by name."""

    def doubt(name: str) -> tuple[bool, float]:
        own = memory.standing[name]
        return not (own.probation or own.harmed or own.drifting), facts.agreement.get(name, 0.0)

    return sorted(sorted(facts.records, key=doubt)[:MOST_JUDGED])


def _step_share(memory: Memory, name: str) -> float:
    steps = memory.plan.steps.get(name) if memory.plan else None
    return 1.0 if steps is None else steps / memory.setting.full_steps[name]


def _blame(memory: Memory, name: str, seen: _Seen) -> str | None:
    """Why an update is not to be taken; None: it is."""
    own = memory.standing[name]
    agreement = f"agreement with the others {seen.agreement:+.3f}, the median hospital's {seen.common:+.3f}"
    if own.probation and not seen.helps:
        return f"{name} was on probation, and its update does not make the public loss better beyond noise"
    if seen.against and not seen.helps:
        return f"{name} is left out: its update points against the others, and public records do not speak for it ({agreement})"  # noqa: E501
    if seen.harms and (seen.apart or own.harmed):
        again = "" if seen.apart else ", as it did in the round before"
        return f"{name} is left out: its update makes the public loss {-seen.worth.value:.4f} worse, beyond noise{again} ({agreement})"  # noqa: E501
    return None


def _hold_against(memory: Memory, round: int, name: str, why: str, seen: _Seen, *, out: bool) -> list[Decision]:
    """Trust lost, and perhaps a quarantine."""
    own = memory.standing[name]
    was_on_probation = own.probation
    own.did_harm()
    decisions = [Decision(round, "leave out", why, (name,), seen.numbers | {"trust": own.trust})] if out else []
    if was_on_probation or own.harmed >= memory.setting.agent.quarantine_after:
        reason = "its update on probation did not help" if was_on_probation else (
            f"its update was held against it in {own.harmed} rounds in a row"
        )  # fmt: skip
        decisions += memory.quarantine(round, name, reason, {"rounds_in_a_row": own.harmed})
    return decisions


def _look_back(memory: Memory, round: int, kept: Sequence[str], seen: Mapping[str, _Seen]) -> list[Decision]:
    """Warnings, drift and regained trust of those whose updates are taken; and what they were worth."""
    decisions = []
    common = mean([own.each for own in seen.values()]) if len(seen) > 2 else None
    for name in kept:
        if name not in seen:
            memory.standing[name].did_well()  # nobody doubts it
    for name, sight in seen.items():
        own, numbers = memory.standing[name], sight.numbers
        if sight.harms:
            own.did_harm()
            why = f"{name} is warned: its update makes the public loss {-sight.worth.value:.4f} worse, beyond noise"
            decisions.append(Decision(round, "warn", why, (name,), numbers | {"trust": own.trust}))
            continue
        if own.probation:
            why = f"{name} is taken back: its update makes the public loss {sight.worth.value:.4f} better, beyond noise"
            decisions.append(Decision(round, "readmit", why, (name,), numbers))
        decisions += _drift(memory, round, name, sight)
        own.did_well()
        if common is not None and common.low(LIKELY) > 0:
            relative = sight.each.over(common)
            own.was_worth(relative.value, relative.error)
    return decisions


def _drift(memory: Memory, round: int, name: str, seen: _Seen) -> list[Decision]:
    """Whether a hospital's updates have left the direction that they shared."""
    own, now = memory.standing[name], seen.relative
    if seen.helps:
        own.drifting = False
    if now is None:
        return []
    before = own.agreed
    if before is not None and now < LITTLE * before and not seen.helps:
        own.drifts()
        why = f"{name} counts {own.trust:.2g}: it agrees {now:.2f} as much as the median hospital, and agreed {before:.2f} before: its data may drift"  # noqa: E501
        told = seen.numbers | {"agrees": now, "agreed_before": before, "trust": own.trust}
        return [Decision(round, "drift", why, (name,), told)]
    own.drifting = False
    own.agrees(now)
    return []


def _weights(
    memory: Memory, facts: Weighing, kept: Sequence[str], prior: Mapping[str, int], together: Losses, judge: Judge
) -> tuple[dict[str, int], Losses, Decision]:
    standing, records = memory.standing, facts.records
    plain = whole_weights({name: records[name] * standing[name].weight for name in kept})
    expected = together if plain == prior else judge(Trial("by records", plain))
    proposed = whole_weights({name: records[name] * standing[name].useful_weight for name in kept})
    chosen, losses = plain, expected
    if proposed == plain:
        why = "updates count by their hospitals' records and trust: no difference in worth is beyond noise"
    else:
        found = judge(Trial("by worth", proposed))
        better = memory.noise.less(expected, found)
        if better.low(LIKELY) > 0:
            chosen, losses = proposed, found
            why = f"updates count by what they were worth: {better.value:.4f} better than by records, beyond noise"
        else:
            why = f"updates count by records and trust: by worth would be {better.value:+.4f} better, which is noise"
    total = sum(chosen.values())
    numbers = {f"share {name}": weight / total for name, weight in chosen.items()}
    numbers["loss"] = memory.noise.loss(losses)
    return chosen, losses, Decision(facts.round, "weigh", why, tuple(kept), numbers)


def whole_weights(weights: Mapping[str, int]) -> dict[str, int]:
    """The same shares in the smallest whole numbers, and less exact ones only where a sum could not hold them."""
    common = math.gcd(*weights.values())
    shorter = {name: weight // common for name, weight in weights.items()}
    total = sum(shorter.values())
    if total <= LARGEST_TOTAL_WEIGHT:
        return shorter
    by = math.ceil(total / (LARGEST_TOTAL_WEIGHT // 2))
    return {name: max(1, weight // by) for name, weight in shorter.items()}

"""When all replies are in: what each update did to the public loss, and what it counts for. reasoning -> HERE.

What an update is worth: the public loss with the update put to zero, minus the public loss with it; the other updates
and all weights stay. First-order, these differences add up to what the round gains. *Left out* is an update that makes
the loss worse, and is worse than the others, both beyond noise: a step too long for everybody is nobody's fault.
*Weights* go from records towards what updates were worth a record and step, and only where the judge finds the result
better than that of the records' weights, beyond noise.

Not covered: harm that does not show on the public records; hospitals that are useful in turn, one harming what another
gained; two liars whose harm shows only together.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fedmed.agent.facts import Decision, Judge, Trial, Weighing
from fedmed.agent.memory import LIKELY, SURE, Memory, listed
from fedmed.agent.noise import Losses, Measured, mean
from fedmed.federated.fixed_point import LARGEST_TOTAL_WEIGHT
from fedmed.federated.weighing import Weighed

DRIFTED = 0.5  # of what a hospital was worth before


@dataclass(frozen=True, slots=True)
class _Worth:
    """What one update did in a round."""

    total: Measured  # nats per answer token that its update took from the public loss
    each: Measured  # the same for its share of records and steps
    others: Measured  # mean of ``each`` over the others


def weighs(memory: Memory, facts: Weighing, judge: Judge) -> tuple[Weighed, list[Decision]]:
    """What each update counts for."""
    memory.begin(judge)
    records = facts.records
    prior = whole_weights({name: count * memory.standing[name].weight for name, count in records.items()})
    together = judge(Trial("all", prior))
    worth = _worth(memory, prior, together, judge)
    decisions: list[Decision] = []
    harmful = bad = [name for name, own in worth.items() if _harms(memory, name, own)]
    if harmful and len(records) - len(harmful) < facts.fewest:
        why = f"{listed(harmful)} would be left out, but then fewer than {facts.fewest} updates would be left"
        decisions.append(Decision(facts.round, "take all", why, tuple(harmful), {"fewest": facts.fewest}))
        for name in harmful:
            memory.standing[name].did_harm()
        bad = []
    reasons = {}
    for name in bad:
        told = _leave_out(memory, facts.round, name, worth[name])
        reasons[name] = told[0].reason
        decisions += told
    kept = [name for name in records if name not in bad]
    good = [(name, worth[name]) for name in kept if name in worth and name not in harmful]
    decisions += _look_back(memory, facts.round, good)
    weights, memory.expected, decision = _weights(memory, facts, kept, prior, None if bad else together, judge)
    return Weighed(weights, reasons), [*decisions, decision]


def _worth(memory: Memory, prior: Mapping[str, int], together: Losses, judge: Judge) -> dict[str, _Worth]:
    """Of every update; of none where there is nothing to compare with."""
    if len(prior) < 2:
        return {}
    total = sum(prior.values())
    gains, each = {}, {}
    for name, weight in prior.items():
        without = judge(Trial(f"without {name}", prior, frozenset([name])))
        gains[name] = memory.noise.less(without, together)
        each[name] = gains[name].over(weight / total * _step_share(memory, name))
    return {
        name: _Worth(gains[name], own, mean([other for key, other in each.items() if key != name]))
        for name, own in each.items()
    }


def _step_share(memory: Memory, name: str) -> float:
    steps = memory.plan.steps.get(name) if memory.plan else None
    return 1.0 if steps is None else steps / memory.setting.full_steps[name]


def _harms(memory: Memory, name: str, worth: _Worth) -> bool:
    if memory.standing[name].probation:
        return worth.total.low(LIKELY) <= 0
    # Where the others harm too, the step is too long: then only who is twice as bad stands out.
    others = worth.others if worth.others.value > 0 else worth.others.over(0.5)
    return worth.total.high(SURE) < 0 and (worth.each - others).high(SURE) < 0


def _leave_out(memory: Memory, round: int, name: str, worth: _Worth) -> list[Decision]:
    own = memory.standing[name]
    numbers = {"gain": worth.total.value, "gain_high": worth.total.high(SURE), "trust": own.trust}
    if own.probation:
        own.did_harm()
        why = f"{name} was on probation, and its update does not make the public loss better beyond noise"
        again = memory.quarantine(round, name, "its update on probation did not help", numbers)
        return [Decision(round, "leave out", why, (name,), numbers), *again]
    why = f"{name} is left out: its update makes the public loss {-worth.total.value:.4f} worse, beyond noise"
    if own.relative is not None and own.relative > 0:
        why += "; it was useful in earlier rounds, so its data may have changed"
        numbers["worth_before"] = own.relative
    own.did_harm()
    decisions = [Decision(round, "leave out", why, (name,), numbers)]
    if own.harmed >= memory.setting.agent.quarantine_after:
        why = f"its update made the public loss worse in {own.harmed} rounds in a row"
        decisions += memory.quarantine(round, name, why, {"rounds_in_a_row": own.harmed})
    return decisions


def _look_back(memory: Memory, round: int, kept: Sequence[tuple[str, _Worth]]) -> list[Decision]:
    """Trust in those whose updates are taken; what they were worth, where the round's gain is beyond noise."""
    decisions = []
    common = mean([worth.each for _, worth in kept]) if len(kept) > 2 else None
    if common is not None and common.low(LIKELY) <= 0:
        common = None
    for name, worth in kept:
        own, before = memory.standing[name], memory.standing[name].relative
        if own.probation:
            numbers = {"gain": worth.total.value, "gain_low": worth.total.low(LIKELY), "trust": own.trust}
            why = f"{name} is taken back: its update makes the public loss {worth.total.value:.4f} better, beyond noise"
            decisions.append(Decision(round, "readmit", why, (name,), numbers))
        own.did_well()
        if common is None:
            continue
        relative = worth.each.over(common)
        if before is not None and before > 0 and relative.high(SURE) < DRIFTED * before:
            own.lose_trust()
            why = f"{name} is worth {relative.value:.2f} of the others and was worth {before:.2f}: its data may drift"
            told = {"worth": relative.value, "worth_before": before, "trust": own.trust}
            decisions.append(Decision(round, "drift", why, (name,), told))
        own.was_worth(relative.value, relative.error)
    return decisions


def _weights(
    memory: Memory,
    facts: Weighing,
    kept: Sequence[str],
    prior: Mapping[str, int],
    together: Losses | None,
    judge: Judge,
) -> tuple[dict[str, int], Losses, Decision]:
    standing, records = memory.standing, facts.records
    plain = whole_weights({name: records[name] * standing[name].weight for name in kept})
    expected = together if together is not None and plain == prior else judge(Trial("by records", plain))
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
            why = f"updates count by records: weights by worth would be {better.value:+.4f} better, which is noise"
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

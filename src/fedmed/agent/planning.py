"""Before a round: who is asked, how many steps, at which rate, until when; or that the run ends. reasoning -> HERE."""

from __future__ import annotations

import statistics
from dataclasses import replace

from fedmed.agent.facts import Decision, Opening
from fedmed.agent.memory import LIKELY, Memory, listed
from fedmed.agent.standing import LONGEST_SILENCE
from fedmed.types import RoundPlan

SPARE_TIME = 0.9  # of a deadline is planned for
LITTLE = 0.005  # of the public loss: a smaller gain is none

Reason = tuple[str, dict[str, float]]


def opens(memory: Memory, facts: Opening) -> tuple[RoundPlan | None, list[Decision]]:
    """The plan of a round, or None to stop before it."""
    decisions = _learn(memory, facts)
    reason = _no_gain(memory) or _over_budget(memory, facts)
    if reason is None:
        there, more = _available(memory, facts)
        decisions += more
        reason = _too_few(memory, there)
    if reason is not None:
        return None, [*decisions, Decision(facts.round, "stop", reason[0], numbers=reason[1])]
    plan = replace(memory.setting.everybody, hospitals=there).plan(facts.round)
    if not memory.setting.masked:
        plan = replace(plan, min_replies=min(memory.setting.fewest, len(plan.hospitals)))
    deadline = _deadline(memory)
    steps = {name: _steps(memory, name, deadline) for name in plan.hospitals}
    fewer = {name: own for name, own in steps.items() if own < memory.setting.full_steps[name]}
    memory.plan = replace(plan, steps=fewer, rate_scale=memory.rate_scale, deadline_s=deadline)
    return memory.plan, [*decisions, *_asked(memory, memory.plan)]


def _learn(memory: Memory, facts: Opening) -> list[Decision]:
    """Who replied in the round before, and who must be left alone for a while."""
    decisions = []
    for name in facts.arrived:
        memory.standing[name].replied(facts.step_seconds.get(name))
    for name in facts.silent:
        memory.standing[name].was_silent()
    for name in facts.refused:
        memory.standing[name].did_harm()
    for name in (*facts.silent, *facts.refused):
        own = memory.standing[name]
        if own.silent >= LONGEST_SILENCE:
            why, rounds = f"it did not reply in {own.silent} rounds in a row", own.silent
        elif own.harmed >= memory.setting.agent.quarantine_after:
            why, rounds = f"its replies could not be used in {own.harmed} rounds in a row", own.harmed
        else:
            continue
        decisions += memory.quarantine(facts.round - 1, name, why, {"rounds_in_a_row": rounds})
    return decisions


def _no_gain(memory: Memory) -> Reason | None:
    over = memory.setting.agent.stop_after
    if over is None or len(memory.losses) <= over:
        return None
    gain = memory.noise.less(memory.losses[-1 - over], memory.losses[-1])
    small = LITTLE * memory.noise.loss(memory.losses[-1])
    if gain.high(LIKELY) >= small:  # a gain may hide in the noise: that nothing is seen is no reason to stop
        return None
    why = f"the last {over} rounds took {gain.value:.4f} from the public loss, surely less than {small:.4f}"
    return why, {"gain": gain.value, "gain_high": gain.high(LIKELY), "little": small, "rounds": over}


def _over_budget(memory: Memory, facts: Opening) -> Reason | None:
    agent = memory.setting.agent
    for what, limit, spent, needed in (
        ("bytes", agent.max_bytes, facts.bytes_spent, facts.bytes_next),
        ("seconds", agent.max_seconds, facts.seconds_spent, facts.seconds_next),
    ):
        if limit is not None and spent + needed > limit:
            why = f"another round of about {needed:,.0f} {what} would pass the {limit:,.0f} that the run may take"
            return why, {"spent": float(spent), "next_round": float(needed), "limit": float(limit)}
    return None


def _available(memory: Memory, facts: Opening) -> tuple[tuple[str, ...], list[Decision]]:
    """Who may be asked, and why others are not."""
    decisions, there, limit = [], [], memory.setting.agent.max_epsilon
    for name, own in memory.standing.items():
        if own.until is not None and facts.round >= own.until:
            own.come_back()
            why = f"{name} is asked again; its update counts only if it makes the public loss better"
            decisions.append(Decision(facts.round, "probation", why, (name,), {"quarantines": own.quarantines}))
        epsilon = facts.epsilon.get(name, 0.0)
        if limit is not None and epsilon > limit:
            why = f"{name} is not asked: another round would take its ε to {epsilon:.3g}, {limit:g} is the most"
            decisions.append(Decision(facts.round, "spare", why, (name,), {"epsilon": epsilon, "limit": limit}))
        elif own.until is None:
            there.append(name)
    return tuple(there), decisions


def _too_few(memory: Memory, there: tuple[str, ...]) -> Reason | None:
    everybody = memory.setting.hospitals
    needed = len(everybody) if memory.setting.masked else memory.setting.fewest
    if len(there) >= needed:
        return None
    away = [name for name in everybody if name not in there]
    why = f"without {listed(away)} {len(there)} hospitals are left, and a round needs {needed}"
    return why, {"left": len(there), "needed": needed}


def _deadline(memory: Memory) -> float | None:
    factor = memory.setting.agent.deadline_factor
    known = [
        own.step_seconds * memory.setting.full_steps[name]
        for name, own in memory.standing.items()
        if own.step_seconds is not None
    ]
    return factor * statistics.median(known) if factor is not None and known else None


def _steps(memory: Memory, name: str, deadline: float | None) -> int:
    own, full = memory.standing[name], memory.setting.full_steps[name]
    if not memory.setting.bounds_steps:
        return full
    steps = max(1, int(full * own.share))
    if deadline is not None and own.step_seconds:
        steps = min(steps, max(1, int(SPARE_TIME * deadline / own.step_seconds)))
    return steps


def _asked(memory: Memory, plan: RoundPlan) -> list[Decision]:
    number, asked = len(memory.setting.hospitals), len(plan.hospitals)
    away = [name for name, own in memory.standing.items() if own.until is not None]
    why = f"all {asked} hospitals take part" if asked == number else f"{asked} of {number} hospitals take part"
    if away:
        why += f"; {listed(away)} in quarantine"
    numbers: dict[str, float] = {"asked": asked, "hospitals": number, "min_replies": plan.min_replies}
    if plan.rate_scale != 1.0:
        why += f"; at {plan.rate_scale:g} of the learning rate, as a round was rolled back"
        numbers["rate_scale"] = plan.rate_scale
    if plan.deadline_s is not None:
        numbers["deadline_s"] = plan.deadline_s
    decisions = [Decision(plan.round, "ask", why, plan.hospitals, numbers)]
    for name, steps in plan.steps.items():
        full, silences = memory.setting.full_steps[name], memory.standing[name].silences
        why = f"{name} gets {steps} of {full} steps, so that its reply comes in time"
        told = {"steps": steps, "full": full, "silent_rounds": silences}
        decisions.append(Decision(plan.round, "shorten", why, (name,), told))
    return decisions

"""Every decision of the coordinator agent, from facts and a judge made up for it."""

from __future__ import annotations

import numpy as np
import pytest

from fedmed.agent.facts import Closing, Opening, Setting, Weighing
from fedmed.agent.judging import whole_weights
from fedmed.agent.reasoning import Reasoning
from fedmed.config.schema import AgentSection
from fedmed.federated.fixed_point import LARGEST_TOTAL_WEIGHT
from fedmed.utils.random_streams import stream

pytestmark = pytest.mark.unit

HOSPITALS = tuple("abcdef")
RECORDS = dict(zip(HOSPITALS, (100, 120, 80, 100, 150, 50), strict=True))
NUMBER = 24
TOKENS = (10,) * NUMBER
START = 3.0 * 10  # nats of a public record


def setting(**changes) -> Setting:
    agent = AgentSection(enabled=True, **changes.pop("agent", {}))
    steps = dict.fromkeys(HOSPITALS, 8)
    return Setting(**{"hospitals": HOSPITALS, "rounds": 9, "seed": 17, "agent": agent, "tokens": TOKENS,
                      "full_steps": steps, **changes})  # fmt: skip


class World:
    """A judge in which every hospital takes so many nats from each public record, for its share of the weight.

    ``noise``: of a record, for each hospital and round; it moves with the hospital's share, as real differences do.
    """

    def __init__(self, noise=0.2):
        self.round, self.noise, self.base = 0, noise, np.full(NUMBER, START)
        self.worth: dict[str, float] = {}
        self.asked: list = []

    def __call__(self, trial):
        self.asked.append(trial)
        if trial.name == "before":
            return self.base
        total = sum(trial.weights.values())
        nats = self.base.copy()
        for name, weight in trial.weights.items():
            if name not in trial.silenced:
                drawn = stream(3, name, self.round).normal(0.0, self.noise, NUMBER)
                nats = nats - weight / total * (self.worth[name] + drawn)
        return nats


def play(reasoning, world, worth, *, agree=None, silent=(), refused=(), **facts):
    """One round; returns its plan, what was weighed, and its decisions by kind."""
    world.round += 1
    world.worth = dict.fromkeys(HOSPITALS, 2.0) | worth
    opening = Opening(
        world.round, arrived=tuple(n for n in reasoning.asked if n not in (*silent, *refused)), silent=tuple(silent),
        refused=tuple(refused), **facts,
    )  # fmt: skip
    plan, told = reasoning.opens(opening)
    if plan is None:
        return None, None, {one.decision: one for one in told}
    agreement = dict.fromkeys(plan.hospitals, 0.1) | (agree or {})
    weighed, more = reasoning.weighs(
        Weighing(world.round, {name: RECORDS[name] for name in plan.hospitals}, plan.min_replies, agreement), world
    )
    expected = reasoning.memory.expected
    why, last = reasoning.closes(Closing(world.round), world)
    if why is None:
        world.base = expected
    kinds: dict = {}
    for one in (*told, *more, *last):
        assert one.reason
        assert all(np.isfinite(value) for value in one.numbers.values())
        kinds.setdefault(one.decision, []).append(one)
    return plan, weighed, kinds


def test_where_nothing_is_wrong_the_weights_are_those_of_the_records_and_everybody_is_asked():
    reasoning, world = Reasoning(setting()), World()
    for _ in range(3):
        plan, weighed, told = play(reasoning, world, {})
        assert plan.hospitals == HOSPITALS
        assert weighed.weights == whole_weights(RECORDS)
        assert not weighed.left_out
        assert set(told) == {"ask", "weigh", "keep"}


LIE = {"worth": {"f": -2.0}, "agree": {"f": -0.1}}


def test_an_update_against_the_others_is_left_out_and_after_two_rounds_not_asked_for():
    reasoning, world = Reasoning(setting()), World()
    _, weighed, told = play(reasoning, world, **LIE)
    assert set(weighed.left_out) == {"f"}
    assert set(weighed.weights) == set("abcde")
    assert "points against the others" in weighed.left_out["f"]
    assert "quarantine" not in told
    _, _, told = play(reasoning, world, **LIE)
    assert told["quarantine"][0].hospitals == ("f",)
    asked = [play(reasoning, world, {})[0].hospitals for _ in range(2)]
    assert asked == [HOSPITALS[:-1]] * 2
    plan, weighed, told = play(reasoning, world, {"f": 2.0})
    assert plan.hospitals == HOSPITALS
    assert {"probation", "readmit"} <= set(told)
    assert weighed.weights["f"] / sum(weighed.weights.values()) < 50 / 600  # back, at half its trust


def test_public_records_speak_for_an_update_against_the_others_where_it_helps_beyond_noise():
    reasoning, world = Reasoning(setting()), World()
    _, weighed, _ = play(reasoning, world, {"f": 2.0}, agree={"f": -0.1})
    assert not weighed.left_out
    assert set(play(reasoning, world, {"f": -0.5}, agree={"f": -0.1})[1].left_out) == {"f"}


def test_where_hospitals_have_no_common_direction_none_is_left_out_for_its_own():
    reasoning, world = Reasoning(setting()), World()
    agree = dict.fromkeys(HOSPITALS, 0.01) | {"f": -0.2}
    assert not play(reasoning, world, {"f": 0.0}, agree=agree)[1].left_out


def test_an_update_that_harms_and_does_not_agree_is_left_out_at_once_one_that_agrees_after_a_warning():
    reasoning, world = Reasoning(setting()), World()
    _, weighed, told = play(reasoning, world, {"e": -2.0, "f": -2.0}, agree={"e": 0.02})
    assert set(weighed.left_out) == {"e"}
    assert "worse, beyond noise" in weighed.left_out["e"]
    assert told["warn"][0].hospitals == ("f",)
    assert reasoning.memory.standing["f"].trust == 0.5
    _, weighed, told = play(reasoning, world, {"f": -2.0})
    assert set(weighed.left_out) == {"f"}
    assert "as it did in the round before" in weighed.left_out["f"]


def test_on_probation_an_update_that_does_no_good_is_not_taken_and_the_quarantine_doubles():
    reasoning, world = Reasoning(setting(rounds=20)), World()
    for _ in range(4):
        play(reasoning, world, **LIE)
    _, weighed, told = play(reasoning, world, {"f": 0.0})
    assert set(weighed.left_out) == {"f"}
    assert told["quarantine"][0].numbers["rounds"] == 4
    assert [play(reasoning, world, {})[0].hospitals for _ in range(4)] == [HOSPITALS[:-1]] * 4
    assert play(reasoning, world, {})[0].hospitals == HOSPITALS


def test_a_step_that_is_too_long_for_everybody_is_nobodys_fault_and_the_round_is_rolled_back():
    reasoning, world = Reasoning(setting()), World()
    before = world.base
    plan, weighed, told = play(reasoning, world, dict.fromkeys(HOSPITALS, -1.0))
    assert not weighed.left_out
    assert told["roll back"]
    assert world.base is before
    assert plan.rate_scale == 1.0
    assert play(reasoning, world, {})[0].rate_scale == 0.5


def test_nobody_is_left_out_where_too_few_would_be_left():
    reasoning, world = Reasoning(setting(min_replies=5)), World()
    _, weighed, told = play(reasoning, world, {"e": -3.0, "f": -3.0}, agree={"e": -0.1, "f": -0.1})
    assert not weighed.left_out
    assert told["take all"][0].hospitals == ("e", "f")
    assert "leave out" not in told


def test_a_less_useful_hospital_weighs_less_where_the_judge_finds_that_better():
    reasoning, world = Reasoning(setting()), World(noise=0.02)
    shares = []
    for _ in range(3):
        _, weighed, told = play(reasoning, world, {"a": 0.4})
        shares.append(weighed.weights["a"] / sum(weighed.weights.values()))
    assert shares[2] < 0.75 * 100 / 600
    assert "by what they were worth" in told["weigh"][0].reason
    assert {trial.name for trial in world.asked} >= {"before", "all", "without a", "by worth"}


def test_a_hospital_that_agrees_far_less_than_before_counts_a_quarter_until_it_agrees_again():
    reasoning, world = Reasoning(setting()), World(noise=2.0)
    play(reasoning, world, {})
    _, _, told = play(reasoning, world, {"b": 0.0}, agree={"b": 0.02})
    assert told["drift"][0].hospitals == ("b",)
    _, weighed, _ = play(reasoning, world, {"b": 0.0}, agree=dict.fromkeys(HOSPITALS, 0.04))  # tells nobody apart
    assert weighed.weights["b"] / weighed.weights["a"] <= 1.2 / 4
    assert [reasoning.memory.standing[name].trust for name in "bc"] == [0.25, 1.0]
    play(reasoning, world, {"b": 0.0})
    assert reasoning.memory.standing["b"].trust > 0.25


def test_a_run_that_surely_gains_next_to_nothing_ends():
    reasoning, world = Reasoning(setting(agent={"stop_after": 2})), World()
    play(reasoning, world, {})
    flat = dict.fromkeys(HOSPITALS, 0.0)
    play(reasoning, world, flat)
    play(reasoning, world, flat)
    plan, _, told = play(reasoning, world, flat)
    assert plan is None
    assert "surely less than" in told["stop"].reason


def test_that_no_gain_is_seen_in_the_noise_does_not_end_a_run():
    reasoning, world = Reasoning(setting(agent={"stop_after": 1}, rounds=20)), World(noise=3.0)
    assert all(play(reasoning, world, {})[0] is not None for _ in range(2))
    assert all(play(reasoning, world, dict.fromkeys(HOSPITALS, 0.0))[0] is not None for _ in range(3))


@pytest.mark.parametrize(
    ("limit", "spent", "ends"),
    [
        ({"max_bytes": 1000}, {"bytes_spent": 700, "bytes_next": 301}, True),
        ({"max_bytes": 1000}, {"bytes_spent": 700, "bytes_next": 300}, False),
        ({"max_seconds": 60.0}, {"seconds_spent": 50.0, "seconds_next": 11.0}, True),
        ({"max_seconds": 60.0}, {"seconds_spent": 50.0, "seconds_next": 10.0}, False),
    ],
)
def test_no_round_is_begun_that_would_pass_a_budget(limit, spent, ends):
    plan, told = Reasoning(setting(agent=limit)).opens(Opening(1, **spent))
    assert (plan is None) is ends
    assert [one.decision for one in told] == (["stop"] if ends else ["ask"])


def test_a_hospital_whose_epsilon_would_pass_the_limit_is_not_asked_and_too_few_others_end_the_run():
    reasoning = Reasoning(setting(agent={"max_epsilon": 4.0}))
    plan, _ = reasoning.opens(Opening(1, epsilon={"a": 4.5, "b": 3.9}))
    assert plan.hospitals == HOSPITALS[1:]
    plan, told = reasoning.opens(Opening(1, epsilon=dict.fromkeys("abc", 5.0)))
    assert plan is None
    assert "a round needs 4" in told[-1].reason


def test_a_hospital_that_is_silent_gets_half_the_steps_each_time_and_more_after_it_replied():
    reasoning, world = Reasoning(setting(rounds=20)), World()
    play(reasoning, world, {})
    assert play(reasoning, world, {}, silent="e")[0].steps == {"e": 4}
    assert [play(reasoning, world, {})[0].steps for _ in range(6)] == [{"e": 4}] * 5 + [{}]
    assert play(reasoning, world, {}, silent="e")[0].steps == {"e": 4}
    assert [play(reasoning, world, {})[0].steps for _ in range(6)] == [{"e": 4}] * 6  # it proved right: not so soon


def test_a_hospital_that_is_silent_four_times_is_not_asked_for_a_while():
    reasoning, world = Reasoning(setting(rounds=20)), World()
    play(reasoning, world, {})
    plans = [play(reasoning, world, {}, silent="e")[0] for _ in range(4)]
    assert [plan.hospitals for plan in plans] == [HOSPITALS] * 3 + [tuple("abcdf")]


def test_a_slow_hospital_gets_the_steps_that_fit_the_deadline():
    reasoning = Reasoning(setting(agent={"deadline_factor": 1.5}))
    assert reasoning.opens(Opening(1))[0].deadline_s is None
    pace = dict.fromkeys(HOSPITALS, 1.0) | {"e": 4.0}
    plan, told = reasoning.opens(Opening(2, arrived=HOSPITALS, step_seconds=pace))
    assert plan.deadline_s == pytest.approx(12.0)
    assert plan.steps == {"e": 2}  # 8 s of the 12
    assert told[-1].decision == "shorten"


def test_replies_that_cannot_be_used_lead_to_quarantine():
    reasoning, world = Reasoning(setting()), World()
    play(reasoning, world, {})
    play(reasoning, world, {}, refused="d")
    plan, _, told = play(reasoning, world, {}, refused="d")
    # An update that is admitted in between proves it good again, so nothing is held against it.
    assert plan.hospitals == HOSPITALS
    assert "quarantine" not in told
    reasoning.memory.standing["d"].harmed = 1
    assert reasoning.opens(Opening(9, refused=("d",)))[0].hospitals == tuple("abcef")


def test_under_masks_the_cohort_stays_and_steps_and_results_are_still_decided():
    reasoning = Reasoning(setting(masked=True, agent={"weigh": False}))
    plan, _ = reasoning.opens(Opening(1))
    assert plan == reasoning.memory.setting.everybody.plan(1)
    for number in range(2, 8):
        plan, _ = reasoning.opens(Opening(number, arrived=tuple("abcdf"), silent=("e",)))
    assert plan.hospitals == HOSPITALS
    assert plan.steps == {"e": 1}
    worse = {"before": np.full(NUMBER, 20.0), "after": 20.0 + stream(1, "x").uniform(0.1, 1.0, NUMBER)}
    why, _ = reasoning.closes(Closing(7), lambda trial: worse[trial.name])
    assert "worse" in why


def test_under_privacy_noise_no_steps_are_taken_away():
    reasoning = Reasoning(setting(bounds_steps=False))
    reasoning.opens(Opening(1))
    assert reasoning.opens(Opening(2, silent=("e",)))[0].steps == {}


def test_weights_that_a_sum_could_not_hold_are_made_smaller():
    assert whole_weights({"a": 16 * 30, "b": 16 * 20}) == {"a": 3, "b": 2}
    most = whole_weights({"a": 32 * (LARGEST_TOTAL_WEIGHT // 2) + 1, "b": 1})
    assert sum(most.values()) <= LARGEST_TOTAL_WEIGHT
    assert min(most.values()) >= 1


def test_of_many_hospitals_only_those_in_doubt_are_judged_one_by_one():
    names = tuple(f"h{number:02d}" for number in range(40))
    reasoning = Reasoning(setting(hospitals=names, full_steps=dict.fromkeys(names, 8)))
    plan, _ = reasoning.opens(Opening(1))
    reasoning.memory.standing["h39"].harmed = 1
    asked = []

    def judge(trial):
        asked.append(trial.name)
        return np.full(NUMBER, START)

    agreement = {name: 0.1 + 0.001 * number for number, name in enumerate(names)}
    weighed, _ = reasoning.weighs(Weighing(1, dict.fromkeys(names, 10), plan.min_replies, agreement), judge)
    assert asked == ["before", "all", *(f"without h{number:02d}" for number in range(15)), "without h39"]
    assert set(weighed.weights) == set(names)

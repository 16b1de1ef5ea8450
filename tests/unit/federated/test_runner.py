"""Who takes part, when a run stops, and what it leaves behind on the way."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest

from fedmed.config.schema import PrivacySection
from fedmed.errors import FederationError, QuorumError
from fedmed.federated.algorithms.fedavg import FedAvg
from fedmed.federated.runner import AllOrSampled, FederationState, run_rounds
from fedmed.federated.simulation import SimulationTransport

pytestmark = pytest.mark.unit


@dataclass
class Replies:
    """A transport whose replies are given beforehand, by round."""

    by_round: dict
    committed: list = field(default_factory=list)

    def exchange(self, plan, global_state, algorithm):
        yield from self.by_round[plan.round]

    def commit(self, report):
        self.committed.append(report.round)
        return {}


def run(toy, transport, policy, *, rounds=3, start=None):
    seen = []
    final = run_rounds(
        start or FederationState(0, toy.state("start")),
        algorithm=FedAvg(),
        transport=transport,
        policy=policy,
        rounds=rounds,
        on_round=lambda state, report: seen.append((state, report)),
    )
    return final, seen


def test_without_sampling_every_hospital_is_asked_and_all_must_reply():
    plan = AllOrSampled(("a", "b", "c"), rounds=4, seed=17, run_id="r").plan(2, ())
    assert (plan.hospitals, plan.min_replies, plan.round, plan.rounds) == (("a", "b", "c"), 3, 2, 4)


def test_a_sample_depends_on_seed_and_round_alone_and_repeats_nobody():
    hospitals = tuple(f"h{index}" for index in range(20))
    policy = AllOrSampled(hospitals, rounds=30, seed=17, hospitals_per_round=5, min_replies=4)
    samples = [policy.plan(number, ()).hospitals for number in range(1, 31)]
    assert samples == [policy.plan(number, ()).hospitals for number in range(1, 31)]
    assert all(len(set(sample)) == 5 for sample in samples)
    assert all(list(sample) == sorted(sample, key=hospitals.index) for sample in samples)
    assert len(set(samples)) > 25
    assert {name for sample in samples for name in sample} == set(hospitals)
    other_seed = AllOrSampled(hospitals, rounds=30, seed=18, hospitals_per_round=5)
    assert [other_seed.plan(number, ()).hospitals for number in range(1, 31)] != samples
    assert policy.plan(1, ()).min_replies == 4


def test_each_applied_round_is_told_once_with_its_history(toy):
    transport = SimulationTransport(toy.trainer(), {}, PrivacySection())
    final, seen = run(toy, transport, AllOrSampled(toy.hospitals, rounds=3, seed=17))
    assert [state.round for state, _ in seen] == [1, 2, 3]
    assert [len(state.history) for state, _ in seen] == [1, 2, 3]
    assert final.history == tuple(report for _, report in seen)
    assert final.history[0].num_samples == {"hospital_A": 10, "hospital_B": 20, "hospital_C": 30}
    assert set(final.history[0].metrics) == set(toy.hospitals)


def test_bytes_are_those_of_the_messages_the_float32_arrays_and_little_more(toy):
    transport = SimulationTransport(toy.trainer(), {}, PrivacySection())
    final, _ = run(toy, transport, AllOrSampled(toy.hospitals, rounds=1, seed=17), rounds=1)
    arrays = 3 * 4 * (2 * 5 + 4 * 2)
    assert arrays < final.history[0].bytes_down < arrays + 3 * 200
    assert arrays < final.history[0].bytes_up < arrays + 3 * 500


def test_a_policy_that_plans_nothing_stops_the_run(toy):
    class TwoRounds:
        def plan(self, round, history):
            assert len(history) == round - 1
            return toy.plan(round=round) if round <= 2 else None

    final, seen = run(toy, SimulationTransport(toy.trainer(), {}, PrivacySection()), TwoRounds(), rounds=9)
    assert final.round == 2
    assert len(seen) == 2


def test_a_round_below_its_quorum_ends_the_run_and_keeps_what_was_applied_before(toy):
    good = {name: np.full(array.shape, 0.5, np.float32) for name, array in toy.state("start").items()}
    transport = Replies({1: [toy.payload("hospital_A", good)], 2: [toy.payload("hospital_A", good, round=1)]})
    seen = []
    with pytest.raises(QuorumError, match="round 2"):
        run_rounds(
            FederationState(0, toy.state("start")),
            algorithm=FedAvg(),
            transport=transport,
            policy=AllOrSampled(("hospital_A",), rounds=2, seed=17),
            rounds=2,
            on_round=lambda state, report: seen.append(state),
        )
    assert [state.round for state in seen] == [1]
    assert transport.committed == [1]


def test_a_round_goes_on_without_a_hospital_when_the_quorum_holds(toy):
    good = {name: np.full(array.shape, 0.5, np.float32) for name, array in toy.state("start").items()}
    transport = Replies({1: [toy.payload("hospital_A", good), toy.payload("hospital_B", good)]})
    final, _ = run(toy, transport, AllOrSampled(toy.hospitals, rounds=1, seed=17, min_replies=2), rounds=1)
    assert final.history[0].admitted == ("hospital_A", "hospital_B")
    assert final.history[0].refused == {"hospital_C": "'hospital_C' did not reply"}


def test_a_plan_for_another_round_or_for_nobody_is_an_error(toy):
    class Wrong:
        def __init__(self, plan):
            self.fixed = plan

        def plan(self, round, history):
            return self.fixed

    for plan in (toy.plan(round=2), toy.plan(())):
        with pytest.raises(FederationError, match="plan for round 1"):
            run(toy, Replies({}), Wrong(plan))

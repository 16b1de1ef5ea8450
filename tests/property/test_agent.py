"""What holds of the coordinator agent whatever it is told: weights are weights, and its log decides as it did."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmed.agent.coordinator import Coordinator
from fedmed.agent.decision_log import DecisionLog, read_decisions, replay
from fedmed.agent.facts import Setting
from fedmed.config.schema import AgentSection, PrivacySection
from fedmed.federated.algorithms.fedavg import FedAvg
from fedmed.federated.runner import AllOrSampled, FederationState, run_rounds
from fedmed.federated.simulation import SimulationTransport
from fedmed.utils.random_streams import stream

pytestmark = pytest.mark.property

NUMBER, ROUNDS = 8, 5


class Distance:
    """A judge on no records: how far a state is from places near one target, in nats."""

    tokens = (5,) * NUMBER

    def __init__(self, toy, blind=False):
        self.places, self.blind = [toy.state(f"place {number}") for number in range(NUMBER)], blind

    def __call__(self, state):
        if self.blind:
            return [1.0] * NUMBER
        return [sum(float(np.sum((state[key] - place[key]) ** 2)) for key in state) for place in self.places]


class Unruly:
    """A transport on which replies are turned round, not finite, or missing, as drawn for every round and hospital."""

    def __init__(self, inner, what):
        self.inner, self.what = inner, what

    def exchange(self, plan, global_state, algorithm):
        for payload in self.inner.exchange(plan, global_state, algorithm):
            deed = self.what.get((plan.round, payload.hospital), "honest")
            factor = {"flipped": -3.0, "broken": float("nan")}.get(deed)
            if deed == "missing":
                continue
            yield (
                payload
                if factor is None
                else replace(
                    payload, arrays={key: (factor * array).astype(np.float32) for key, array in payload.arrays.items()}
                )
            )

    def commit(self, report):
        return self.inner.commit(report)


def agent_of(toy, folder, judge, **agent):
    setting = Setting(
        toy.hospitals, ROUNDS, 17, AgentSection(enabled=True, stop_after=None, **agent), judge.tokens,
        dict.fromkeys(toy.hospitals, 4), min_replies=1,
    )  # fmt: skip
    return Coordinator(setting, judge, DecisionLog(folder))


def rounds(toy, policy, overseer=None, deeds=None):
    transport = Unruly(SimulationTransport(toy.trainer(), {}, PrivacySection()), deeds or {})
    return run_rounds(
        FederationState(0, toy.state("start")), algorithm=FedAvg(), transport=transport, policy=policy, rounds=ROUNDS,
        on_round=lambda state, report: None, overseer=overseer,
    )  # fmt: skip


deeds = st.dictionaries(
    st.tuples(st.integers(1, ROUNDS), st.sampled_from(["hospital_B", "hospital_C"])),
    st.sampled_from(["flipped", "broken", "missing"]),
)


@settings(max_examples=15, deadline=None)
@given(deeds=deeds, after=st.integers(1, 3))
def test_weights_are_whole_and_positive_and_the_log_gives_the_same_decisions(toy, tmp_path_factory, deeds, after):
    folder = tmp_path_factory.mktemp("run")
    agent = agent_of(toy, folder, Distance(toy), quarantine_after=after)
    final = rounds(toy, agent, agent, deeds)
    for report in final.history:
        assert all(isinstance(weight, int) and weight >= 1 for weight in report.weights.values())
        if report.rolled_back is None:
            assert set(report.weights) == set(report.admitted)
        assert not set(report.admitted) & set(report.refused)
    for line in read_decisions(folder):
        shares = [value for name, value in line["numbers"].items() if name.startswith("share ")]
        assert not shares or abs(sum(shares) - 1.0) < 1e-9
        assert all(share > 0 for share in shares)
    again = replay(folder)
    assert again.differing == ()
    assert again.decisions == len(read_decisions(folder))


def test_a_judge_that_tells_nothing_apart_gives_fedavg_bit_for_bit(toy, tmp_path):
    class Together(type(toy)):
        """Hospitals that want nearly the same."""

        def trainer(self):
            first, *_ = super().trainer().targets.values()
            noise = {name: stream(1, name).normal(0.0, 0.02) for name in self.hospitals}
            moved = {
                name: {key: (one + by).astype(np.float32) for key, one in first.items()} for name, by in noise.items()
            }
            return replace(super().trainer(), targets=moved)

    toy = Together()
    plain = rounds(toy, AllOrSampled(toy.hospitals, ROUNDS, 17))
    agent = agent_of(toy, tmp_path, Distance(toy, blind=True))
    watched = rounds(toy, agent, agent)
    assert all(np.array_equal(array, watched.global_state[key]) for key, array in plain.global_state.items())
    assert [report.admitted for report in watched.history] == [report.admitted for report in plain.history]


def test_the_order_in_which_replies_come_decides_nothing(toy, tmp_path):
    class Shuffled(Unruly):
        def exchange(self, plan, global_state, algorithm):
            replies = list(super().exchange(plan, global_state, algorithm))
            yield from (replies[index] for index in stream(1, plan.round).permutation(len(replies)))

    states = []
    for name, kind in (("one", Unruly), ("two", Shuffled)):
        agent = agent_of(toy, tmp_path / name, Distance(toy))
        transport = kind(SimulationTransport(toy.trainer(), {}, PrivacySection()), {(2, "hospital_C"): "flipped"})
        states.append(
            run_rounds(
                FederationState(0, toy.state("start")), algorithm=FedAvg(), transport=transport, policy=agent,
                rounds=ROUNDS, on_round=lambda state, report: None, overseer=agent,
            ).global_state
        )  # fmt: skip
    assert all(np.array_equal(array, states[1][key]) for key, array in states[0].items())
    assert (tmp_path / "one/decisions.jsonl").read_text() == (tmp_path / "two/decisions.jsonl").read_text()

"""Whoever drops out whenever, the sum is exact or there is none; no order of messages gives a hospital's two shares."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from fedmed.errors import SecureSumError
from fedmed.privacy.secure_sum import hospital, server
from fedmed.privacy.secure_sum.messages import Advertise, Agreement, MaskedInput, Reveal, Shares

pytestmark = pytest.mark.property

PHASES = 5
SAYS = (Advertise, Shares, MaskedInput, Agreement, Reveal)


@dataclass
class Tree:
    """Every way in which hospitals can drop out, each state visited once: states are values, so branches share them.

    A hospital that drops out at a phase sends nothing from it on. ``patterns`` counts the 6^n assignments of a phase,
    or of never, to each hospital, that the visited paths stand for.
    """

    lab: object
    context: object
    one_phase: bool = False  # all that drop out do so at the same phase
    patterns: int = 0
    ends: Counter = field(default_factory=Counter)

    def run(self) -> Tree:
        self.vectors = self.lab.vectors(self.context)
        sent = self.lab.begin(self.context)
        self.visit(0, server.Advertising(self.context), sent, False)
        return self

    def visit(self, phase: int, state: object, sent: dict, dropped: bool) -> None:
        def choose(names: tuple[str, ...], state: object, heard: tuple[str, ...]) -> None:
            if names:
                if not (self.one_phase and dropped):
                    choose(names[1:], state, heard)
                choose(names[1:], server.receive(state, sent[names[0]][1]), (*heard, names[0]))
                return
            self.close(phase, state, sent, heard, dropped or len(heard) < len(sent))

        choose(tuple(sent), state, ())

    def close(self, phase: int, state: object, sent: dict, heard: tuple[str, ...], dropped: bool) -> None:
        if len(heard) < self.context.threshold:
            with pytest.raises(SecureSumError, match=f"only {len(heard)} hospitals"):
                server.advance(state)
            assert all(isinstance(message, SAYS[phase]) for _, message in sent.values())
            self.ends[f"stopped at {phase}"] += 1
            self.patterns += (PHASES - phase) ** len(heard)
            return
        after, outgoing = server.advance(state)
        if phase == PHASES - 1:
            expected = sum(self.vectors[name] for name in after.sum.hospitals)
            np.testing.assert_array_equal(after.sum.values, expected, strict=True)
            self.ends["summed"] += 1
            self.patterns += 1
            return
        assert tuple(name for name, _ in outgoing) == self.context.ordered(heard)
        replies = {}
        for name, message in outgoing:
            at, answers = hospital.step(sent[name][0], message)
            if phase == 1:
                at, *answers = hospital.contribute(at, self.vectors[name])
            replies[name] = (at, answers[0])
        self.visit(phase + 1, after, replies, dropped)


@pytest.mark.parametrize(("hospitals", "threshold"), [(2, 2), (3, 2), (3, 3), (4, 3), (4, 4), (5, 4), (5, 3), (6, 5)])
def test_with_every_hospital_dropping_out_at_every_phase_the_sum_is_exact_or_none(lab, hospitals, threshold):
    tree = Tree(lab, lab.context(hospitals, threshold=threshold)).run()
    assert tree.patterns == 6**hospitals
    assert set(tree.ends) == {"summed", *(f"stopped at {phase}" for phase in range(PHASES))}


@pytest.mark.parametrize("hospitals", [5, 6, 7, 8])
def test_with_every_set_of_hospitals_dropping_out_at_one_phase_the_sum_is_exact_or_none(lab, hospitals):
    context = lab.context(hospitals, bits=32 if hospitals % 2 else 64, length=1)
    tree = Tree(lab, context, one_phase=True).run()
    sets = [len(heard) for size in range(hospitals) for heard in itertools.combinations(range(hospitals), size)]
    summed = sum(size >= context.threshold for size in sets)
    assert tree.ends.pop("summed") == 1 + PHASES * summed
    assert tree.ends == {f"stopped at {phase}": len(sets) - summed for phase in range(PHASES)}


@pytest.mark.slow
@pytest.mark.parametrize(("hospitals", "threshold"), [(6, 4), (7, 5), (8, 7)])
def test_every_pattern_of_drop_outs_with_more_hospitals(lab, hospitals, threshold):
    assert Tree(lab, lab.context(hospitals, threshold=threshold, length=1)).run().patterns == 6**hospitals


@pytest.mark.parametrize(
    ("hospitals", "bits"), [(5, 64), (6, 32), (8, 64), (8, 32), (13, 64), (16, 64), (32, 32), (64, 64)]
)
def test_a_seeded_mixture_of_drop_outs_gives_the_exact_sum_over_the_wire(lab, hospitals, bits):
    draw = random.Random(hospitals)
    weights = tuple(draw.randint(1, 9) for _ in range(hospitals)) if hospitals % 2 == 0 else None
    context = lab.context(hospitals, bits=bits, length=7, weights=weights)
    gone = draw.sample(context.names, context.tolerated_drop_outs)
    drops = {name: draw.randrange(PHASES) for name in gone}
    vectors = lab.vectors(context, seed=hospitals)
    result = lab.run(context, vectors, drops=drops)
    assert result.hospitals == tuple(name for name in context.names if drops.get(name, PHASES) > 2)
    np.testing.assert_array_equal(result.values, sum(vectors[name] for name in result.hospitals), strict=True)
    assert result.total_weight == (weights and sum(context.weight(name) for name in result.hospitals))


class AnyOrder(RuleBasedStateMachine):
    """Messages of honest parties come late, twice, never or in any order. Nobody is ever called a liar."""

    def __init__(self) -> None:
        super().__init__()
        self.lab = AnyOrder.shared_lab

    @initialize(hospitals=st.integers(2, 5), seed=st.integers(0, 3))
    def start(self, hospitals: int, seed: int) -> None:
        self.context = self.lab.context(hospitals, threshold=hospitals // 2 + 1, length=2)
        self.vectors = self.lab.vectors(self.context, seed)
        self.sessions, self.to_server, self.to_hospital, self.said = {}, [], [], []
        for name in self.context.names:
            self.sessions[name] = hospital.HospitalSession(
                self.context, name, self.lab.identity(name), self.lab.pins(self.context),
                random=random.Random(f"{seed} {name}").randbytes,
            )  # fmt: skip
            self.say(self.sessions[name].advertisement)
        self.server, self.over = server.ServerSession(self.context), False

    def say(self, message: object) -> None:
        self.said.append(message)
        self.to_server.append(message)

    @precondition(lambda self: self.to_server)
    @rule(data=st.data(), keep=st.sampled_from([False, False, False, True]))
    def server_hears(self, data: st.DataObject, keep: bool) -> None:
        place = data.draw(st.integers(0, len(self.to_server) - 1))
        message = self.to_server[place] if keep else self.to_server.pop(place)
        if not self.over:
            self.server.receive(message)

    @precondition(lambda self: self.to_hospital)
    @rule(data=st.data(), keep=st.sampled_from([False, False, False, True]))
    def hospital_hears(self, data: st.DataObject, keep: bool) -> None:
        place = data.draw(st.integers(0, len(self.to_hospital) - 1))
        self.hospital_answers(*(self.to_hospital[place] if keep else self.to_hospital.pop(place)))

    @precondition(lambda self: self.to_server)
    @rule(data=st.data())
    def a_message_is_lost(self, data: st.DataObject) -> None:
        self.to_server.pop(data.draw(st.integers(0, len(self.to_server) - 1)))

    @rule(patient=st.sampled_from([True, True, True, False]))
    def the_server_closes_a_phase(self, patient: bool) -> None:
        if self.over:
            with pytest.raises(SecureSumError, match="ended with an error|is finished"):
                self.server.advance()
            return
        if patient:  # else it closes with whatever it has
            while self.to_hospital:
                self.hospital_answers(*self.to_hospital.pop(0))
            while self.to_server:
                self.server.receive(self.to_server.pop(0))
        try:
            self.to_hospital += self.server.advance()
        except SecureSumError as error:
            self.over, blamed = True, error.culprit
            assert not blamed
        if self.server.phase == "Finished":
            self.over = True
            AnyOrder.sums += 1
            result = self.server.result
            assert len(result.hospitals) >= self.context.threshold
            np.testing.assert_array_equal(result.values, sum(self.vectors[name] for name in result.hospitals))

    def hospital_answers(self, name: str, message: object) -> None:
        for reply in self.sessions[name].receive(message):
            self.say(reply)
        if self.sessions[name].phase == "Ready":
            self.say(self.sessions[name].contribute(self.vectors[name]))

    @invariant()
    def a_hospital_says_each_thing_once_and_never_gives_both_shares(self) -> None:
        said = Counter((message.sender, type(message)) for message in getattr(self, "said", []))
        assert not said or max(said.values()) == 1
        for message in getattr(self, "said", []):
            if isinstance(message, Reveal):
                assert not {name for name, _ in message.seeds} & {name for name, _ in message.keys}

    @invariant()
    def one_live_list_is_agreed_on(self) -> None:
        assert len({one.live for one in getattr(self, "said", []) if isinstance(one, Agreement)}) <= 1


def test_no_order_loss_or_doubling_of_messages_does_harm(lab):
    AnyOrder.shared_lab, AnyOrder.sums = lab, 0
    run_state_machine_as_test(
        AnyOrder, settings=settings(max_examples=60, stateful_step_count=25, deadline=None, derandomize=True)
    )
    assert AnyOrder.sums > 5

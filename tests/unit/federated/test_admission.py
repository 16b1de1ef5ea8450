"""What a round remembers of the rounds before: absurd lengths and replays."""

from __future__ import annotations

import numpy as np
import pytest

from fedmed.errors import UpdateRejectedError
from fedmed.federated.admission import ABSURD, Admission
from fedmed.types import RoundReport

pytestmark = pytest.mark.unit
SHAPES = {"w": (3,)}


def payload(toy, *values, round=2):
    return toy.payload("hospital_A", {"w": np.array(values, np.float32)}, round=round)


def test_a_norm_beyond_the_configured_one_is_refused(toy):
    plan = toy.plan(round=2)
    admit = Admission(plan, "fedavg", max_norm=5.0).admit
    assert admit(payload(toy, 3, 4, 0), SHAPES, ()).norm == pytest.approx(5.0)
    with pytest.raises(
        UpdateRejectedError, match=r"'hospital_A' is refused: its norm 5\.1 is above .*max_reply_norm 5"
    ):
        admit(payload(toy, 5.1, 0, 0), SHAPES, ())


def test_a_norm_far_beyond_all_that_was_seen_is_refused_without_any_setting(toy):
    history = [RoundReport(1, admitted=("hospital_A", "hospital_B"), norms={"hospital_A": 0.1, "hospital_B": 0.2})]
    admit = Admission(toy.plan(round=2), "fedavg", history).admit
    admit(payload(toy, 0.19 * ABSURD, 0, 0), SHAPES, ())
    with pytest.raises(UpdateRejectedError, match="more than 100 times the longest so far"):
        admit(payload(toy, 0.21 * ABSURD, 0, 0), SHAPES, ())


def test_tiny_replies_of_the_first_rounds_lock_nobody_out_later(toy):
    history = [RoundReport(1, admitted=("hospital_B",), norms={"hospital_B": 1e-9})]
    Admission(toy.plan(round=2), "fedavg", history).admit(payload(toy, 0.0005, 0, 0), SHAPES, ())


def test_a_reply_seen_before_is_a_replay_whoever_sends_it(toy):
    first = Admission(toy.plan(round=1), "fedavg").admit(payload(toy, 1, 2, 3, round=1), SHAPES, ())
    history = [RoundReport(1, admitted=("hospital_B",), digests={"hospital_B": first.digest})]
    admit = Admission(toy.plan(round=2), "fedavg", history).admit
    with pytest.raises(UpdateRejectedError, match="copy of a reply of round 1"):
        admit(payload(toy, 1, 2, 3), SHAPES, ())
    admit(payload(toy, 1, 2, 3.0001), SHAPES, ())


def test_two_rounds_in_which_nothing_moved_are_no_replay(toy):
    first = Admission(toy.plan(round=1), "fedavg").admit(payload(toy, 0, 0, 0, round=1), SHAPES, ())
    assert first.digest == ""
    history = [RoundReport(1, admitted=("hospital_A",), digests={"hospital_A": first.digest})]
    Admission(toy.plan(round=2), "fedavg", history).admit(payload(toy, 0, 0, 0), SHAPES, ())

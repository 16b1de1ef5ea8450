"""Both ways between hospitals and coordinator: what is lost comes later, and bytes are those of messages."""

from __future__ import annotations

import numpy as np
import pytest

from fedmed.config.schema import PrivacySection, WireSection
from fedmed.federated.links import Downlink, Uplink, apart
from fedmed.types import RoundReport
from fedmed.utils.random_streams import stream

pytestmark = pytest.mark.unit
KEY = "layer.lora_A.weight"
LOSSY = ("bf16", "int8", "int4", "topk")


def drawn(*names, shape=(8, 300)):
    return {KEY: stream(17, "links", *names).normal(0, 0.1, shape).astype(np.float32)}


def test_fp32_sends_what_it_was_given_and_keeps_nothing(toy):
    payload = toy.payload("hospital_A", drawn("a"))
    sent, kept = Uplink(PrivacySection()).send(payload, {})
    assert toy.same_bits(sent.arrays, payload.arrays)
    assert kept == {}
    assert sent.message_bytes > 4 * 8 * 300


@pytest.mark.parametrize("encoding", LOSSY)
def test_what_one_round_loses_a_later_one_sends(toy, encoding):
    """Sent and still owed together are, at every moment, all that was ever meant to be sent."""
    link = Uplink(PrivacySection(), WireSection(up=encoding))
    meant = arrived = np.zeros((8, 300))
    kept = {}
    for number in range(6):
        payload = toy.payload("hospital_A", drawn(number))
        sent, kept = link.send(payload, kept)
        meant = meant + payload.arrays[KEY]
        arrived = arrived + sent.arrays[KEY]
        np.testing.assert_allclose(arrived + kept[f"lost.{KEY}"], meant, atol=1e-5)
    assert np.linalg.norm(meant - arrived) > 0  # it did lose something


def test_an_array_that_is_not_sent_this_round_stays_owed(toy):
    link = Uplink(PrivacySection(), WireSection(up="int4"))
    _, kept = link.send(toy.payload("hospital_A", drawn("a")), {})
    _, later = link.send(toy.payload("hospital_A", {"layer.lora_B.weight": np.ones((4, 2), np.float32)}), kept)
    assert np.array_equal(later[f"lost.{KEY}"], kept[f"lost.{KEY}"])


def test_the_norm_bound_holds_for_what_is_encoded_with_what_was_owed(toy):
    link = Uplink(PrivacySection(max_update_norm=0.5), WireSection(up="int8"))
    kept = {}
    for number in range(4):
        sent, kept = link.send(toy.payload("hospital_A", drawn(number)), kept)
        step = 8 * 300 * np.square(np.abs(sent.arrays[KEY]).max() / 127 / 2)
        assert np.linalg.norm(sent.arrays[KEY]) <= 0.5 + np.sqrt(step)


def test_the_links_part_of_a_hospitals_state_is_told_apart():
    own, link = apart({"lost.a": np.ones(1), "b": np.zeros(1)})
    assert (set(own), set(link)) == ({"b"}, {"lost.a"})


def reports(*names):
    return (RoundReport(1, admitted=names),)


def test_only_what_changed_goes_to_a_hospital_that_is_up_to_date(toy):
    state = drawn("state") | {"frozen": np.ones((100, 100), np.float32)}
    held, everything = Downlink().send(state, None, (), toy.plan(), "fedavg")
    moved = state | drawn("later")
    _, some = Downlink().send(moved, held, reports(*toy.hospitals), toy.plan(round=2), "fedavg")
    _, one_late = Downlink().send(moved, held, reports(*toy.hospitals[:2]), toy.plan(round=2), "fedavg")
    assert everything > 3 * 4 * (8 * 300 + 100 * 100)
    assert 3 * 4 * 8 * 300 < some < 3 * (4 * 8 * 300 + 200)
    assert one_late == pytest.approx(everything / 3 + 2 * some / 3)


@pytest.mark.parametrize("encoding", LOSSY)
def test_hospitals_follow_the_server_although_every_difference_loses_something(toy, encoding):
    down = Downlink(WireSection(down=encoding, top_k_share=0.2))
    state = drawn("state")
    held, _ = down.send(state, None, (), toy.plan(), "fedavg")
    assert toy.same_bits(held, state)  # the first message is whole
    state = {KEY: state[KEY] + drawn("jump")[KEY]}
    gaps = []
    for number in range(2, 30):
        held, sent = down.send(state, held, reports(*toy.hospitals), toy.plan(round=number), "fedavg")
        gaps.append(float(np.linalg.norm(held[KEY] - state[KEY])))
    assert gaps[-1] < 0.01 * np.linalg.norm(drawn("jump")[KEY])
    assert gaps[0] > gaps[-1]
    assert sent < 3 * 4 * 8 * 300

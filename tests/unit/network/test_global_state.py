"""Coordinator and hospital hold the same global state to the bit, or the order is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fedmed.config.schema import WireSection
from fedmed.errors import WireError
from fedmed.federated.links import Downlink
from fedmed.network.global_state import pack_update, pack_whole, state_digest, unpack_state
from fedmed.types import AdapterState

pytestmark = pytest.mark.unit


def unpack(header: Any, body: bytes, known: AdapterState | None, *, round: int = 3) -> AdapterState:
    return unpack_state(header, body, known, round=round, algorithm="fedavg", top_k_share=0.5)


def test_a_whole_state_arrives_whatever_is_held(toy: Any) -> None:
    state = toy.state("new")
    header, body = pack_whole(state, round=3, algorithm="fedavg")
    for known in (None, {}, toy.state("old")):
        assert toy.same_bits(unpack(header, body, known), state)


@pytest.mark.parametrize("encoding", ["fp32", "bf16", "int8", "int4", "topk"])
def test_what_changed_gives_the_state_that_the_coordinator_counts_on(toy: Any, encoding: Any) -> None:
    known = toy.state("old")
    state = {**known, "layer.lora_B.weight": known["layer.lora_B.weight"] + np.float32(0.25)}
    link = Downlink(WireSection(down=encoding, top_k_share=0.5))
    update = link.update(state, known, 3, "fedavg")
    header, body = pack_update(update, known)
    assert set(header["arrays"]) == {"layer.lora_B.weight"}
    assert toy.same_bits(unpack(header, body, known), update.now)


def test_nothing_changed_is_an_empty_update(toy: Any) -> None:
    known = toy.state("old")
    header, body = pack_update(Downlink().update(known, known, 3, "fedavg"), known)
    assert header["arrays"] == {}
    assert toy.same_bits(unpack(header, body, known), known)


@pytest.mark.parametrize("encoding", ["fp32", "int4"])
def test_an_update_on_another_state_is_refused_with_what_to_send(toy: Any, encoding: Any) -> None:
    known = toy.state("old")
    header, body = pack_update(Downlink(WireSection(down=encoding)).update(toy.state("new"), known, 3, "fedavg"), known)
    for held in (None, {}, toy.state("other")):
        with pytest.raises(WireError, match="send the whole global state"):
            unpack(header, body, held)


def test_an_array_that_was_taken_away_is_noticed(toy: Any) -> None:
    known = toy.state("old")
    fewer = {"layer.lora_A.weight": known["layer.lora_A.weight"]}
    header, body = pack_update(Downlink().update(fewer, known, 3, "fedavg"), known)
    with pytest.raises(WireError, match="another global state"):
        unpack(header, body, known)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda header: {},
        lambda header: None,
        lambda header: {**header, "form": "delta"},
        lambda header: {**header, "more": 1},
        lambda header: {**header, "digest": "0" * 64},
        lambda header: {**header, "arrays": []},
        lambda header: {**header, "arrays": {name: [2**50] for name in header["arrays"]}},
        lambda header: {**header, "arrays": {name: [-1] for name in header["arrays"]}},
        lambda header: {**header, "arrays": {name: [1.0] for name in header["arrays"]}},
        lambda header: {**header, "arrays": {name: [2**40] * 8 for name in header["arrays"]}},
        lambda header: {**header, "arrays": {name: [True] * 2 for name in header["arrays"]}},
        lambda header: {**header, "arrays": {name: [5, 2] for name in header["arrays"]}},
    ],
)
def test_a_header_that_does_not_fit_is_refused(toy: Any, spoil: Callable[[Any], Any]) -> None:
    header, body = pack_whole(toy.state("new"), round=3, algorithm="fedavg")
    with pytest.raises(WireError):
        unpack(spoil(header), body, None)
    with pytest.raises(WireError, match="another round"):
        unpack(header, body, None, round=4)


def test_a_digest_tells_names_shapes_and_values_apart(toy: Any) -> None:
    state = toy.state("new")
    array = state["layer.lora_A.weight"]
    others = [
        {},
        {**state, "layer.lora_A.weight": array.reshape(5, 2)},
        {**state, "layer.lora_A.weight": -array},
        {name + "x": value for name, value in state.items()},
    ]
    assert len({state_digest(one) for one in [state, *others]}) == 5
    assert state_digest({**state, "layer.lora_A.weight": np.asfortranarray(array)}) == state_digest(state)

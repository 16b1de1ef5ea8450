"""Orders and replies come back as they were sent, and no changed byte of one is ever believed."""

from __future__ import annotations

import contextlib
import json
import random
import struct
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmed.errors import WireError
from fedmed.network.orders import (
    LARGEST_HEADER,
    LONGEST_LIFE,
    Order,
    Reply,
    decode_order,
    decode_reply,
    digest_of,
    encode_order,
    encode_reply,
    join,
    split,
)
from fedmed.privacy.secure_sum.keys import Identity

pytestmark = pytest.mark.property

KEY = Identity.generate(random.Random("coordinator").randbytes)
STRANGER = Identity.generate(random.Random("stranger").randbytes)
NOW = 1_900_000_000.0

names = st.text(st.characters(categories=("L", "N", "P", "S")), max_size=20)
counts = st.integers(0, 2**32 - 1)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
headers = st.dictionaries(st.text(max_size=8), values, max_size=4)
orders = st.builds(
    Order,
    kind=st.sampled_from(["hello", "train", "sum", "finish"]),
    run_id=names, round=counts, attempt=counts, hospital=names,
    expires=st.integers(int(NOW) + 1, int(NOW) + LONGEST_LIFE), header=headers, body=st.binary(max_size=60),
)  # fmt: skip
replies = st.builds(
    Reply,
    kind=st.sampled_from(["hello", "payload", "sum", "refused", "failed", "finished"]),
    run_id=names, round=counts, attempt=counts, hospital=names,
    answers=st.binary(min_size=32, max_size=32).map(bytes.hex), header=headers, body=st.binary(max_size=60),
)  # fmt: skip
ORDER = Order("train", "run", 3, 1, "hospital_A", int(NOW) + 60, {"algorithm": "fedavg"}, b"state")
REPLY = Reply("payload", "run", 3, 1, "hospital_A", "ab" * 32, {"num_samples": 7}, b"payload")


def read(raw: bytes) -> Order:
    return decode_order(raw, KEY.public, now=NOW)


@given(orders)
def test_an_order_comes_back_as_it_was_sent(order: Order) -> None:
    raw = encode_order(order, KEY.sign)
    assert read(raw) == order
    assert encode_order(read(raw), KEY.sign) == raw


@given(replies)
def test_a_reply_comes_back_as_it_was_sent(reply: Reply) -> None:
    assert decode_reply(encode_reply(reply, KEY.sign), KEY.public, reply.answers) == reply


@given(orders, st.data())
def test_an_order_with_any_changed_bit_is_refused(order: Order, data: st.DataObject) -> None:
    raw = bytearray(encode_order(order, KEY.sign))
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(WireError):
        read(bytes(raw))


@given(replies, st.data())
def test_a_cut_or_prolonged_or_spliced_reply_is_refused(reply: Reply, data: st.DataObject) -> None:
    raw = encode_reply(reply, KEY.sign)
    start = data.draw(st.integers(0, len(raw)))
    end = data.draw(st.integers(start, len(raw)))
    changed = raw[:start] + data.draw(st.binary(max_size=4)) + raw[end:]
    if changed != raw:
        with pytest.raises(WireError):
            decode_reply(changed, KEY.public)


@given(st.binary(max_size=300))
def test_garbage_is_refused(raw: bytes) -> None:
    with pytest.raises(WireError):
        read(raw)
    with pytest.raises(WireError):
        read(b"FMOR\x01\x00" + raw)
    assert len(digest_of(raw)) == 64


@given(orders, st.integers(1, LONGEST_LIFE))
def test_only_the_expiry_leaves_the_digest_of_an_order_as_it_was(order: Order, later: int) -> None:
    digest = digest_of(encode_order(order, KEY.sign))
    assert digest_of(encode_order(replace(order, expires=int(NOW) + later), KEY.sign)) == digest
    for change in ({"round": order.round ^ 1}, {"body": order.body + b"x"}, {"header": {**order.header, "x" * 9: 1}}):
        assert digest_of(encode_order(replace(order, **change), KEY.sign)) != digest  # type: ignore[arg-type]


@given(st.lists(st.binary(max_size=30), max_size=64))
def test_a_list_of_messages_comes_back(parts: list[bytes]) -> None:
    assert split(join(parts)) == tuple(parts)


@given(st.lists(st.binary(max_size=9), min_size=1, max_size=4), st.data())
def test_a_cut_list_of_messages_is_refused_or_shorter(parts: list[bytes], data: st.DataObject) -> None:
    raw = join(parts)
    cut = raw[: data.draw(st.integers(0, len(raw) - 1))]
    with contextlib.suppress(WireError):
        assert len(split(cut)) < len(parts)


def test_a_list_that_claims_more_than_it_has_is_refused_before_anything_is_copied() -> None:
    for claimed in (2**63, 2**64 - 1, 1):
        with pytest.raises(WireError):
            split(struct.pack("<Q", claimed))
    with pytest.raises(WireError, match="longer"):
        split(join([b""] * 65))


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (encode_order(ORDER, STRANGER.sign), "not signed by the coordinator's key"),
        (encode_order(replace(ORDER, expires=int(NOW) - 5), KEY.sign), "expired 5 s ago"),
        (encode_order(replace(ORDER, expires=int(NOW)), KEY.sign), "expired 0 s ago"),
        (encode_order(replace(ORDER, expires=int(NOW) + LONGEST_LIFE + 9), KEY.sign), "is the most"),
        (encode_reply(REPLY, KEY.sign), "no order"),
        (encode_order(ORDER, KEY.sign)[:4] + b"\x02" + encode_order(ORDER, KEY.sign)[5:], "version 2"),
    ],
)
def test_what_cannot_be_believed_is_told_plainly(raw: bytes, says: str) -> None:
    with pytest.raises(WireError, match=says):
        read(raw)


def test_a_reply_to_another_order_is_refused() -> None:
    raw = encode_reply(REPLY, KEY.sign)
    with pytest.raises(WireError, match="another order"):
        decode_reply(raw, KEY.public, "cd" * 32)
    with pytest.raises(WireError, match="hospital's key"):
        decode_reply(raw, STRANGER.public, REPLY.answers)


def test_a_frame_beyond_the_limit_is_refused_unread() -> None:
    raw = encode_order(ORDER, KEY.sign)
    assert decode_order(raw, KEY.public, limit=len(raw), now=NOW) == ORDER
    with pytest.raises(WireError, match="is the most"):
        decode_order(raw, KEY.public, limit=len(raw) - 1, now=NOW)


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "payload"}, {"round": -1}, {"round": True}, {"round": 2**32}, {"attempt": 1.0}, {"run_id": "a\nb"},
        {"hospital": "x" * 201}, {"hospital": None}, {"expires": -1}, {"expires": 1.5}, {"header": {1: 2}},
        {"header": {"x": float("nan")}}, {"header": {"x": b""}}, {"header": {"x": "y" * LARGEST_HEADER}},
        {"body": "text"}, {"header": None},
    ],
)  # fmt: skip
def test_an_order_that_could_not_be_read_cannot_be_written(change: dict[str, object]) -> None:
    with pytest.raises(WireError):
        encode_order(replace(ORDER, **change), KEY.sign)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text.replace('"round":3', '"round":-3'),
        lambda text: text.replace('"round":3', '"round":3,"round":3'),
        lambda text: text.replace('"round":3', '"round": 3'),
        lambda text: text.replace('"round":3', '"round":3e0'),
        lambda text: text.replace('"attempt":1,', ""),
        lambda text: text[:-1] + ',"more":1}',
        lambda text: "[" * 20_000,
        lambda text: "7",
    ],
)
def test_even_a_signed_header_has_one_spelling(spoil: Callable[[str], str]) -> None:
    plain = json.dumps(
        {"attempt": 1, "header": {}, "hospital": "hospital_A", "round": 3, "run_id": "run"}, separators=(",", ":")
    )
    assert read(signed(plain)).round == 3
    with pytest.raises(WireError):
        read(signed(spoil(plain)))


def signed(header: str, kind: int = 2, zero: int = 0) -> bytes:
    from fedmed.network import orders as module

    raw = header.encode()
    envelope = module._ENVELOPE.pack(b"FMOR", 1, kind, zero, int(NOW) + 60, len(raw), 0)
    return envelope + raw + KEY.sign(module._signed("order", envelope, raw))


@pytest.mark.parametrize(("kind", "zero"), [(0, 0), (5, 0), (2, 1)])
def test_a_kind_of_a_later_version_is_refused(kind: int, zero: int) -> None:
    plain = '{"attempt":1,"header":{},"hospital":"hospital_A","round":3,"run_id":"run"}'
    with pytest.raises(WireError, match="kind"):
        read(signed(plain, kind, zero))

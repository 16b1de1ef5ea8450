"""Messages are the same after the wire, and anything else is refused in one line before memory is taken."""

from __future__ import annotations

import hashlib
import random
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

from fedmed.errors import SecureSumError
from fedmed.privacy.secure_sum import hospital, server
from fedmed.privacy.secure_sum.message_bytes import decode, encode, message_limit
from fedmed.privacy.secure_sum.messages import (
    Advertise,
    Agreement,
    Delivery,
    KeyList,
    LiveList,
    MaskedInput,
    Reveal,
    Shares,
    UnmaskRequest,
)

pytestmark = pytest.mark.unit

KINDS = [Advertise, KeyList, Shares, Delivery, MaskedInput, LiveList, Agreement, UnmaskRequest, Reveal]


@pytest.fixture(scope="module")
def context(lab):
    return lab.context(4, length=6)


@pytest.fixture(scope="module")
def messages(lab, context):
    """One of each kind, out of an attempt in which hospital_B drops out after it dealt."""
    found, vectors = {}, lab.vectors(context)
    state, at = server.Advertising(context), {}
    for name, (begun, advertisement) in lab.begin(context).items():
        at[name], found[Advertise] = begun, advertisement
        state = server.receive(state, advertisement)
    for phase in range(4):
        state, outgoing = server.advance(state)
        for name, message in outgoing:
            found[type(message)] = message
            at[name], replies = hospital.step(at[name], message)
            if phase == 1 and name != "hospital_B":
                at[name], masked = hospital.contribute(at[name], vectors[name])
                replies = (masked,)
            for reply in replies:
                found[type(reply)] = reply
                state = server.receive(state, reply)
    return found


def sealed_anew(raw: bytes) -> bytes:
    """With a digest that fits: what somebody writes who knows the format."""
    return raw[:-16] + hashlib.blake2b(raw[:-16], digest_size=16).digest()


@pytest.mark.parametrize("kind", KINDS)
def test_a_message_is_the_same_after_the_wire(messages, context, kind):
    raw = encode(messages[kind], context)
    again = decode(raw, context)
    assert again == messages[kind]
    if kind is MaskedInput:
        np.testing.assert_array_equal(again.words, messages[kind].words, strict=True)
    assert encode(again, context) == raw
    assert len(raw) <= message_limit(context)


@pytest.mark.parametrize("kind", KINDS)
def test_a_message_cut_padded_or_with_a_flipped_bit_is_refused(messages, context, kind):
    raw, draw = encode(messages[kind], context), random.Random(1)
    spoiled = [raw[:cut] for cut in range(0, len(raw), max(1, len(raw) // 200))]
    spoiled += [raw + b"\0", raw + raw, b"\0" + raw]
    for bit in draw.sample(range(8 * len(raw)), 200):
        changed = bytearray(raw)
        changed[bit // 8] ^= 1 << bit % 8
        spoiled.append(bytes(changed))
    for wrong in spoiled:
        with pytest.raises(SecureSumError) as caught:
            decode(wrong, context)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_a_wrong_length_is_refused_also_under_a_right_digest(messages, context, kind):
    raw = encode(messages[kind], context)
    for body in (raw[48:-16] + b"\0", raw[48:-17], b"", raw[48:-16] * 2):
        head = raw[:40] + len(body).to_bytes(8, "little")
        with pytest.raises(SecureSumError, match="longer or shorter|not its length|lists|no row|no hospital"):
            decode(sealed_anew(head + body + bytes(16)), context)


def test_a_changed_byte_under_a_right_digest_gives_another_message_or_none(messages, context):
    draw = random.Random(2)
    for kind in KINDS:
        raw = encode(messages[kind], context)
        for place in draw.sample(range(len(raw) - 16), min(150, len(raw) - 16)):
            changed = bytearray(raw)
            changed[place] ^= draw.randrange(1, 256)
            wrong = sealed_anew(bytes(changed))
            try:
                read = decode(wrong, context)
            except SecureSumError:
                continue
            assert encode(read, context) == wrong  # nothing is read that is not also written


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (0, b"FMED", "none of a secure sum"),
        (4, b"\2\0", "version 2"),
        (6, b"\x09", "unknown kind, 9"),
        (7, b"\x04", "a sender that it cannot have, seat 4"),
        (7, b"\xff", "a sender that it cannot have, seat 255"),
        (8, b"\0" * 32, "a message of 'hospital_A' is for another run, round, attempt or cohort"),
    ],
)
def test_a_wrong_header_is_refused_by_what_is_wrong(messages, context, place, value, message):
    raw = bytearray(encode(messages[Agreement], context))
    raw[7] = 0
    raw[place : place + len(value)] = value
    with pytest.raises(SecureSumError, match=message):
        decode(sealed_anew(bytes(raw)), context)


def test_an_oversized_vector_is_refused_by_name_without_memory(messages, context):
    honest = encode(messages[MaskedInput], context)
    body = 50_000_000
    raw = honest[:40] + body.to_bytes(8, "little") + bytes(body) + bytes(16)
    tracemalloc.start()
    with pytest.raises(SecureSumError, match=f"'{messages[MaskedInput].sender}' has {len(raw)} bytes"):
        decode(raw, context)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100_000
    with pytest.raises(SecureSumError):
        decode(honest[:40] + (2**64 - 1).to_bytes(8, "little") + honest[48:], context)


def test_a_vector_is_read_without_a_copy_and_cannot_be_changed(messages, context):
    raw = encode(messages[MaskedInput], context)
    words = decode(raw, context).words
    assert np.shares_memory(words, np.frombuffer(raw, np.uint8))
    assert not words.flags.writeable


def test_hospitals_that_do_not_take_part_and_shares_outside_the_field_are_refused(messages, context):
    raw = bytearray(encode(messages[LiveList], context))
    raw[48] |= 0x10
    with pytest.raises(SecureSumError, match="hospitals that do not take part"):
        decode(sealed_anew(bytes(raw)), context)
    raw = bytearray(encode(messages[Reveal], context))
    raw[64:130] = b"\xff" * 66
    with pytest.raises(SecureSumError, match="share outside the field"):
        decode(sealed_anew(bytes(raw)), context)


@pytest.mark.parametrize("live", [("hospital_B", "hospital_A"), ("hospital_A", "hospital_A"), ("hospital_X",)])
def test_a_list_that_has_no_spelling_is_not_written(messages, context, live):
    with pytest.raises(SecureSumError, match="cannot be written"):
        encode(replace(messages[LiveList], live=live), context)

"""Messages come back as they went, encodings lose what they say and no more, and spoiled bytes are refused or valid."""

from __future__ import annotations

import contextlib
import hashlib
import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors import deserialize
from safetensors.numpy import load, save

from fedmed.errors import UpdateRejectedError, WireError
from fedmed.federated.wire import (
    ENCODINGS,
    LARGEST_HEADER,
    decode_arrays,
    decode_payload,
    decode_state,
    encode_arrays,
    encode_payload,
    encode_state,
    message_limit,
)
from fedmed.types import Payload, TrainMetrics
from fedmed.utils.random_streams import stream

pytestmark = pytest.mark.property

LARGEST = float(np.finfo(np.float32).max)
SMALLEST_NORMAL = float(np.finfo(np.float32).tiny)
LEVELS = {"int8": 127, "int4": 7}
LORA = {
    f"layers.{layer}.{name}": shape
    for layer in range(2)
    for name, shape in {"q.A": (16, 640), "q.B": (1024, 16), "k.A": (16, 640), "k.B": (256, 16)}.items()
}
METRICS = TrainMetrics(2.5, (0.1, 1 / 3, 2.0**-1074, 1e300, -0.0, 3.0, 2.7182818284590451, 1.0), 512, 99, 8, 1.25)

shapes = st.one_of(
    st.tuples(st.integers(0, 5), st.integers(0, 7)), st.tuples(st.integers(0, 9)), st.just(()), st.just((2, 1, 3))
)
# Every finite float32, and as often vectors without the extremes that flatten everything else.
values = st.one_of(st.floats(allow_nan=False, allow_infinity=False, width=32), st.floats(-4, 4, width=32))
states = st.dictionaries(
    st.sampled_from(["a.lora_A", "a.lora_B", "b", "c"]),
    shapes.flatmap(lambda shape: hnp.arrays(np.float32, shape, elements=values)),
    max_size=3,
)
several = settings(max_examples=60, deadline=None)


def template(arrays):
    return {name: array.shape for name, array in arrays.items()}


def there_and_back(arrays, encoding, share=0.3):
    body = encode_arrays(arrays, encoding, top_k_share=share)
    decoded = decode_arrays(body, encoding, template(arrays), top_k_share=share)
    assert_valid(decoded, template(arrays))
    return decoded


def assert_valid(arrays, shapes):
    assert {name: array.shape for name, array in arrays.items()} == dict(shapes)
    for array in arrays.values():
        assert array.dtype == np.float32
        assert array.flags.c_contiguous
        assert array.flags.writeable
        assert np.all(np.isfinite(array))


def flat(arrays):
    return np.concatenate([np.zeros(0, np.float32), *(arrays[name].ravel() for name in sorted(arrays))])


def vectors(array):
    """[vectors, length]: what shares one scale, said a second time."""
    if array.ndim == 2 and array.shape[0] > array.shape[1]:
        return array.swapaxes(0, 1)
    return array if array.ndim == 2 else array.reshape(1, array.size)


def gaussian(shapes, *names, spread=1.0):
    draw = stream(17, "wire", *names)
    return {name: draw.normal(0, spread, shape).astype(np.float32) for name, shape in shapes.items()}


def payload(arrays, **changes):
    fields = {"hospital": "hospital_A", "round": 3, "algorithm": "fedavg", "num_samples": 4137, "metrics": METRICS}
    return Payload(arrays=arrays, **{**fields, **changes})


def relative_error(decoded, arrays):
    return float(np.linalg.norm(flat(decoded) - flat(arrays)) / np.linalg.norm(flat(arrays)))


# --- what each encoding keeps


@several
@given(arrays=states)
def test_fp32_keeps_every_bit(arrays):
    decoded = there_and_back(arrays, "fp32")
    assert flat(decoded).tobytes() == flat(arrays).tobytes()


@several
@given(arrays=states)
def test_bf16_moves_a_value_by_at_most_two_to_the_minus_8_of_it(arrays):
    original, decoded = flat(arrays).astype(np.float64), flat(there_and_back(arrays, "bf16")).astype(np.float64)
    # Below the normal range the steps are equally wide, so there the bound is half a step.
    assert np.all(np.abs(decoded - original) <= np.maximum(np.abs(original), SMALLEST_NORMAL) * 2.0**-8)


def test_bf16_rounds_as_torch_does():
    torch = pytest.importorskip("torch")
    draw = stream(17, "bf16")
    bits = np.concatenate([draw.integers(0, 2**32, 20_000, dtype=np.uint32), np.arange(0, 2**31, 2**15, np.uint32)])
    some = bits.view(np.float32)
    some = some[np.isfinite(some) & (np.abs(some) < 3.3e38)]
    expected = torch.from_numpy(some.copy()).to(torch.bfloat16).to(torch.float32).numpy()
    assert there_and_back({"w": some}, "bf16")["w"].tobytes() == expected.tobytes()


@pytest.mark.parametrize("encoding", ["int8", "int4"])
@several
@given(arrays=states)
def test_a_quantised_value_moves_by_at_most_half_a_step_or_was_beyond_the_last(encoding, arrays):
    scales = load(encode_arrays(arrays, encoding))["s"]
    decoded = there_and_back(arrays, encoding)
    first = 0
    for name in sorted(arrays):
        before, after = (vectors(state[name]).astype(np.float64) for state in (arrays, decoded))
        scale = scales[first : first + len(before)].astype(np.float64)[:, None]
        first += len(before)
        last = LEVELS[encoding] * scale
        within = np.abs(before) <= last * (1 + 1e-6)
        assert np.all(within | (np.abs(after) >= last * (1 - 1e-6)))
        assert encoding == "int4" or np.all(within)
        assert np.all(np.abs(after - before)[within] <= (scale / 2 * (1 + 1e-4) + 0 * before)[within])
        assert np.all(after[np.broadcast_to(scale == 0, after.shape)] == 0)
        assert np.all((scale == 0).ravel() == ~np.any(before, axis=1))
    assert first == len(scales)


@several
@given(arrays=states)
def test_the_shared_out_step_of_int4_is_never_worse_than_the_full_one(arrays):
    decoded = there_and_back(arrays, "int4")
    for name, array in arrays.items():
        before, after = vectors(array).astype(np.float64), vectors(decoded[name]).astype(np.float64)
        step = np.abs(before).max(axis=1, initial=0, keepdims=True) / 7
        unit = np.where(step > SMALLEST_NORMAL, step, np.inf)  # coarser than any share where float32 runs out
        full = np.rint(before / unit) - before / unit
        ours = (after - before) / unit
        assert np.all(np.square(ours).sum(1) <= np.square(full).sum(1) * (1 + 1e-4) + 1e-9)


@several
@given(arrays=states, share=st.floats(0.01, 1))
def test_topk_keeps_exactly_the_largest_and_the_first_among_equals(arrays, share):
    original, decoded = flat(arrays), flat(there_and_back(arrays, "topk", share))
    kept = min(original.size, max(1, int(np.ceil(share * original.size))))
    order = sorted(range(original.size), key=lambda index: (-abs(original[index]), index))
    expected = np.zeros_like(original)
    expected[order[:kept]] = original[order[:kept]]
    assert decoded.tobytes() == expected.tobytes()


@pytest.mark.parametrize("encoding", ENCODINGS)
@several
@given(arrays=states)
def test_a_body_is_what_safetensors_itself_would_write(encoding, arrays):
    body = encode_arrays(arrays, encoding)
    if encoding == "bf16":  # numpy has no such type, so neither has safetensors.numpy
        [(name, tensor)] = deserialize(body)
        assert (name, tensor["dtype"], tensor["shape"]) == ("v", "BF16", [flat(arrays).size])
    else:
        assert save(load(body)) == body


@pytest.mark.parametrize("encoding", ENCODINGS)
@several
@given(arrays=states)
def test_equal_arrays_in_another_order_or_layout_give_equal_bytes(encoding, arrays):
    turned = {name: np.asfortranarray(arrays[name]) for name in reversed(arrays)}
    assert encode_arrays(turned, encoding) == encode_arrays(arrays, encoding)


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_no_encoder_takes_what_is_not_finite(encoding, bad):
    arrays = {"fine": np.ones(3, np.float32), "layer_3": np.array([0.0, bad], np.float32)}
    with pytest.raises(UpdateRejectedError, match="layer_3"):
        encode_arrays(arrays, encoding)


# Of the relative error after one round and after thirty; topk sends a value of the smallest half only now and then.
AFTER_ONE = {"fp32": 0.0, "bf16": 0.003, "int8": 0.01, "int4": 0.13, "topk": 0.90}
AFTER_THIRTY = {"fp32": 1e-6, "bf16": 0.0002, "int8": 0.0005, "int4": 0.01, "topk": 0.40}


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_with_error_feedback_the_mean_of_what_arrives_becomes_the_update(encoding):
    update = gaussian(LORA, "feedback", spread=0.01)
    left = {name: np.zeros_like(array) for name, array in update.items()}
    total = {name: np.zeros(array.shape, np.float64) for name, array in update.items()}
    errors = []
    for number in range(1, 31):
        wanted = {name: array + left[name] for name, array in update.items()}
        body = encode_arrays(wanted, encoding)
        sent = decode_arrays(body, encoding, LORA)
        left = {name: array - sent[name] for name, array in wanted.items()}
        for name, array in sent.items():
            total[name] += array
        errors.append(relative_error({name: array / number for name, array in total.items()}, update))
    assert errors[0] <= AFTER_ONE[encoding]
    assert errors[-1] <= AFTER_THIRTY[encoding]
    assert errors[-1] <= errors[14] * 0.75 or encoding == "fp32"  # it still goes down, about as 1 / rounds


# --- whole messages


@several
@given(
    arrays=states,
    encoding=st.sampled_from(ENCODINGS),
    hospital=st.text(min_size=1, max_size=200).filter(str.isprintable),
    losses=st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=20),
    counts=st.lists(st.integers(0, 2**63 - 1), min_size=5, max_size=5),
    shares_metrics=st.booleans(),
)
def test_everything_but_the_arrays_comes_back_exactly(arrays, encoding, hospital, losses, counts, shares_metrics):
    loss = losses[0] if losses else 0.0
    metrics = TrainMetrics(loss, tuple(losses), *counts[:3], loss) if shares_metrics else None
    before = payload(arrays, hospital=hospital, round=counts[3], num_samples=counts[4], metrics=metrics)
    message = encode_payload(before, encoding)
    after = decode_payload(message, template(arrays))
    assert len(message) <= message_limit(template(arrays), encoding)
    names = ("hospital", "round", "algorithm", "num_samples", "metrics")
    assert repr([getattr(after, name) for name in names]) == repr([getattr(before, name) for name in names])
    assert flat(after.arrays).tobytes() == flat(there_and_back(arrays, encoding, 0.05)).tobytes()

    state = decode_state(encode_state(arrays, encoding, round=counts[3], algorithm="fedavg"), template(arrays))
    assert (state.round, state.algorithm) == (counts[3], "fedavg")
    assert flat(state.arrays).tobytes() == flat(after.arrays).tobytes()


@pytest.mark.parametrize(("encoding", "width"), [("fp32", 4), ("bf16", 2)])
def test_a_message_adds_fewer_than_790_bytes_to_its_values(encoding, width):
    named = {f"base_model.model.model.layers.{n}.self_attn.q_proj.lora_A.weight": (16, 16) for n in range(54)}
    arrays = gaussian(named, "overhead")
    losses = tuple(float(loss) for loss in stream(17, "losses").normal(2, 1, 8))
    message = encode_payload(payload(arrays, metrics=TrainMetrics(losses[0], losses, 8192, 2048, 8, 12.34)), encoding)
    assert len(message) - 54 * 16 * 16 * width < 790


def test_four_bits_take_an_eighth_of_the_bytes_or_little_more():
    arrays = gaussian({"A": (16, 640), "B_q": (1024, 16), "B_k": (256, 16)}, "sizes")
    sizes = {encoding: len(encode_payload(payload(arrays), encoding)) for encoding in ENCODINGS}
    assert sizes["int4"] <= sizes["fp32"] / 7.5
    assert sizes["topk"] < sizes["int4"] < sizes["int8"] < sizes["bf16"] < sizes["fp32"]


# --- anything else

FUZZED = {"a.lora_A": (3, 7), "a.lora_B": (6, 3), "b": (5,)}
PER_ENCODING = 2_000
_ENVELOPE = struct.Struct("<4sHBBIQ")


def resealed(rest: bytes) -> bytes:
    """The digest computed anew, as somebody hostile would, so that the inner checks are reached."""
    return rest + hashlib.blake2b(rest, digest_size=16).digest()


def rebuilt(message: bytes, *, header: bytes | None = None, body: bytes | None = None) -> bytes:
    magic, version, kind, encoding, length, _ = _ENVELOPE.unpack_from(message)
    header = message[20 : 20 + length] if header is None else header
    body = message[20 + length : -16] if body is None else body
    return resealed(_ENVELOPE.pack(magic, version, kind, encoding, len(header), len(body)) + header + body)


def sections(message):
    length = _ENVELOPE.unpack_from(message)[4]
    return message[20 : 20 + length], message[20 + length : -16]


HEADER_VALUES = [
    b"null", b"true", b"-1", b"1.5", b"1e999", b"NaN", b"Infinity", b'""', b'"x"', b"[]", b"{}", b"[[[]]]", b"9" * 30,
    b"9" * 5000, b'"\\ud800"', b'"a\\nb"', b'"' + b"h" * 201 + b'"', b"[1,2]", b'["a"]', b"[null]", b"\xff", b"1E5",
]  # fmt: skip


def flip(draw, data: bytes, times: int) -> bytes:
    changed = bytearray(data)
    for _ in range(times if data else 0):
        changed[draw.integers(len(changed))] ^= 1 << int(draw.integers(8))
    return bytes(changed)


def mutated(draw: np.random.Generator, message: bytes, other: bytes) -> bytes:
    """One change to a good message; ``other`` is a good message in another encoding."""
    header, body = sections(message)
    kind = int(draw.integers(14))
    some = int(draw.integers(1, 9))
    if kind == 0:
        return message[: draw.integers(len(message))]
    if kind == 1:
        return message + draw.bytes(some)
    if kind == 2:
        return flip(draw, message, some)
    if kind == 3:
        return draw.bytes(int(draw.integers(400)))
    if kind == 4:  # the envelope's own fields
        fields = list(_ENVELOPE.unpack_from(message))
        place = int(draw.integers(6))
        fields[place] = draw.bytes(4) if place == 0 else int(draw.choice([0, 1, 2, 5, 6, 255]))
        return resealed(_ENVELOPE.pack(*fields) + message[20:-16])
    if kind == 5:  # lengths up to the largest that can be written
        fields = list(_ENVELOPE.unpack_from(message))
        fields[4], fields[5] = int(draw.integers(2**32)), int(draw.integers(2**63))
        return resealed(_ENVELOPE.pack(*fields) + message[20:-16])
    if kind == 6:
        return rebuilt(message, header=flip(draw, header, some))
    if kind in (7, 8):  # one value of the header
        start = header.index(b":", int(draw.integers(len(header) - 40))) + 1
        end = min(place for place in (header.find(b",", start), header.find(b"}", start)) if place > 0)
        return rebuilt(message, header=header[:start] + HEADER_VALUES[draw.integers(len(HEADER_VALUES))] + header[end:])
    if kind == 9:
        return rebuilt(message, body=flip(draw, body, some))
    if kind == 10:  # the values only, which the length checks let through
        start = 8 + struct.unpack_from("<Q", body)[0]
        new = draw.bytes(some)
        place = int(draw.integers(start, len(body) - len(new) + 1))
        return rebuilt(message, body=body[:place] + new + body[place + len(new) :])
    if kind == 11:
        return rebuilt(message, header=body, body=header)
    if kind == 12:  # the body of one encoding under the envelope of another
        return rebuilt(message, body=sections(other)[1]) if some % 2 else rebuilt(other, body=body)
    cut = int(draw.integers(len(body)))
    return rebuilt(message, body=body[:cut] + bytes(some % 3) + body[cut + some % 2 :])


def good_messages():
    arrays = gaussian(FUZZED, "fuzz")
    return {encoding: encode_payload(payload(arrays), encoding, top_k_share=0.2) for encoding in ENCODINGS}


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_ten_thousand_spoiled_messages_are_refused_or_still_make_sense(encoding):
    messages = good_messages()
    draw = stream(17, "wire", "fuzz", encoding)
    refused, read = {}, 0
    for _ in range(PER_ENCODING):
        other = messages[ENCODINGS[draw.integers(len(ENCODINGS))]]
        message = mutated(draw, messages[encoding], other)
        try:
            decoded = decode_payload(message, FUZZED, top_k_share=0.2)
        except WireError as error:
            refused[str(error)] = refused.get(str(error), 0) + 1
        else:
            assert_valid(decoded.arrays, FUZZED)
            encode_payload(decoded, encoding, top_k_share=0.2)  # so its other fields are valid too
            read += 1
    assert not any("\n" in what for what in refused)
    assert read > 0  # a changed value in the body is a different, and valid, message
    kinds = {"envelope", "letters", "digest", "JSON", "header cannot be used", "tensors", "names or shapes", "version"}
    assert all(any(word in what for what in refused) for word in kinds)


LARGE_HEADERS = [
    b"[" * LARGEST_HEADER,
    b'{"a":' * 13_000,
    b"[" + b"[]," * 21_000 + b"[]]",
    b'{"a":[' + b"{}," * 21_000 + b"{}]}",
    b"[" + b"1.5," * 16_000 + b"1.5]",
    b'"' + b"\\u00e9" * 10_000 + b'"',
    b"9" * LARGEST_HEADER,
]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_hostile_message_cannot_make_the_receiver_allocate(encoding):
    """At most 40 times the header's limit and 4 times what the arrays take, whatever the message says or holds.

    A list of empty objects is about the worst that JSON can become: 24 bytes for each of its own, and its second
    spelling on top.
    """
    shapes = {"A": (16, 640), "B": (1024, 16)}
    good = encode_payload(payload(gaussian(shapes, "memory")), encoding)
    draw = stream(17, "wire", "memory", encoding)
    hostile = [mutated(draw, good, good) for _ in range(60)] + [rebuilt(good, header=raw) for raw in LARGE_HEADERS]
    values = 4 * sum(rows * columns for rows, columns in shapes.values())
    tracemalloc.start()
    try:
        for message in [good, *hostile]:
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            with contextlib.suppress(WireError):
                decode_payload(message, shapes)
            assert tracemalloc.get_traced_memory()[1] - before <= 40 * LARGEST_HEADER + 4 * values
    finally:
        tracemalloc.stop()

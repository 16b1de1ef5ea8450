"""The wire format byte for byte, and what its errors say."""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import replace

import numpy as np
import pytest

from fedmed.errors import UpdateRejectedError, WireError
from fedmed.federated.wire import (
    ENCODINGS,
    decode_arrays,
    decode_payload,
    decode_state,
    encode_arrays,
    encode_payload,
    encode_state,
    message_limit,
)
from fedmed.types import Payload, TrainMetrics

pytestmark = pytest.mark.unit

METRICS = TrainMetrics(0.1, (0.25, 1e-05), 40, 12, 2, 3.5)
ARRAYS = {
    "layer.lora_B": np.array([[1.0, -2.0]], np.float32),
    "layer.lora_A": np.array([[0.5], [0.25], [-0.0]], np.float32),
}
PAYLOAD = Payload("Hôpital A", 3, "fedavg", ARRAYS, 4137, METRICS)
TEMPLATE = {"layer.lora_A": (3, 1), "layer.lora_B": (1, 2)}

GOLDEN_HEADER = (
    b'{"hospital":"H\\u00f4pital A","round":3,"algorithm":"fedavg","num_samples":4137,"metrics":{"loss":0.1,'
    b'"step_losses":[0.25,1e-05],"tokens":40,"answer_tokens":12,"steps":2,"seconds":3.5},"template":"%s"}'
    % hashlib.blake2b(b'[["layer.lora_A", [3, 1]], ["layer.lora_B", [1, 2]]]', digest_size=8).hexdigest().encode()
)
GOLDEN_BODY = (
    struct.pack("<Q", 56)
    + b'{"v":{"dtype":"F32","shape":[5],"data_offsets":[0,20]}} '
    + struct.pack("<5f", 0.5, 0.25, -0.0, 1.0, -2.0)
)


def seal(header: bytes = GOLDEN_HEADER, body: bytes = GOLDEN_BODY, *, magic=b"FMED", version=1, kind=1, encoding=1):
    message = magic + struct.pack("<HBBIQ", version, kind, encoding, len(header), len(body)) + header + body
    return message + hashlib.blake2b(message, digest_size=16).digest()


def header(**changes) -> bytes:
    return json.dumps({**json.loads(GOLDEN_HEADER), **changes}, separators=(",", ":")).encode()


def metrics(**changes) -> bytes:
    return header(metrics={**json.loads(GOLDEN_HEADER)["metrics"], **changes})


def body(**parts) -> bytes:
    """A safetensors blob written by hand: name=(type, count, raw)."""
    entries, raw = {}, b""
    for name, (dtype, count, data) in parts.items():
        entries[name] = {"dtype": dtype, "shape": [count], "data_offsets": [len(raw), len(raw) + len(data)]}
        raw += data
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + raw


def test_a_message_of_fp32_is_these_bytes():
    message = encode_payload(PAYLOAD, "fp32")
    assert message == seal()
    assert message[:20].hex() == f"464d454401000101{len(GOLDEN_HEADER):02x}0000005400000000000000"
    decoded = decode_payload(message, TEMPLATE)
    assert replace(decoded, arrays={}) == replace(PAYLOAD, arrays={})
    assert {name: array.tobytes() for name, array in decoded.arrays.items()} == {
        name: array.tobytes() for name, array in ARRAYS.items()
    }


def test_the_bodies_of_the_other_encodings_are_these_bytes():
    """lora_A [3, 1] has one scale for its column, lora_B [1, 2] one for its row; both are powers of two here."""
    arrays = {
        "layer.lora_A": np.array([[63.5], [32.0], [-1.0]], np.float32),
        "layer.lora_B": np.array([[127.0, -3.0]], np.float32),
    }
    assert encode_arrays(arrays, "int8") == body(
        s=("F32", 2, struct.pack("<2f", 0.5, 1.0)), q=("I8", 5, struct.pack("<5b", 127, 64, -2, 127, -3))
    )
    arrays = {
        "layer.lora_A": np.array([[3.5], [1.0], [-0.5]], np.float32),
        "layer.lora_B": np.array([[7.0, -3.0]], np.float32),
    }
    assert encode_arrays(arrays, "int4") == body(
        s=("F32", 2, struct.pack("<2f", 0.5, 1.0)), q=("U8", 3, bytes([0xAF, 0xF7, 0x05]))
    )
    assert encode_arrays(arrays, "topk", top_k_share=0.4) == body(
        v=("F32", 2, struct.pack("<2f", 3.5, 7.0)), i=("U32", 2, struct.pack("<2I", 0, 3))
    )
    assert encode_arrays(arrays, "bf16") == body(
        v=("BF16", 5, struct.pack("<5H", 0x4060, 0x3F80, 0xBF00, 0x40E0, 0xC040))
    )


def test_a_state_carries_no_hospital():
    message = encode_state(ARRAYS, "fp32", round=0, algorithm="fedavg")
    state = decode_state(message, TEMPLATE)
    assert (state.round, state.algorithm, state.arrays.keys()) == (0, "fedavg", ARRAYS.keys())
    with pytest.raises(WireError, match="the message is no payload: its kind is 2"):
        decode_payload(message, TEMPLATE)
    with pytest.raises(WireError, match="the message is no state: its kind is 1"):
        decode_state(encode_payload(PAYLOAD, "fp32"), TEMPLATE)


NESTED = b'{"hospital":' + b"[" * 60_000 + b"]" * 5_000 + b"}"
REFUSED = {
    "empty": (b"", "ends after 0 bytes, inside its envelope"),
    "envelope cut": (seal()[:35], "ends after 35 bytes, inside its envelope"),
    "truncated": (seal()[:-1], f"has {len(seal()) - 1} bytes, its envelope says {len(seal())}"),
    "padded": (seal() + b"\0", f"has {len(seal()) + 1} bytes, its envelope says {len(seal())}"),
    "bit flipped": (seal()[:60] + bytes([seal()[60] ^ 4]) + seal()[61:], "damaged on the way: its digest does not"),
    "digest flipped": (seal()[:-1] + bytes([seal()[-1] ^ 1]), "damaged on the way"),
    "other letters": (seal(magic=b"PK\3\4"), "does not start with the letters FMED"),
    "version": (seal(version=2), "has version 2, this end reads 1"),
    "kind": (seal(kind=9), "is no payload: its kind is 9"),
    "encoding 0": (seal(encoding=0), "has encoding 0, which is not known"),
    "encoding 6": (seal(encoding=6), "has encoding 6, which is not known"),
    "large header": (seal(b"x" * 65_537), "header takes 65537 bytes, 65536 is the most"),
    "large body": (seal(body=GOLDEN_BODY + b"\0"), "body takes 85 bytes, this adapter in fp32 84"),
    "other encoding": (seal(encoding=2), "body takes 84 bytes, this adapter in bf16 74"),
    "other template": (seal(header(template="0" * 16)), "made for an adapter of other names or shapes"),
    "no template": (seal(b"{}"), "made for an adapter of other names or shapes"),
    "pickle": (seal(b"\x80\x04N."), "no JSON object as FED-MED writes it"),
    "list": (seal(b"[]"), "no JSON object as FED-MED writes it"),
    "spaces": (seal(GOLDEN_HEADER + b" "), "no JSON object as FED-MED writes it"),
    "key twice": (seal(b'{"round":1,' + GOLDEN_HEADER[1:]), "no JSON object as FED-MED writes it"),
    "NaN": (seal(GOLDEN_HEADER.replace(b"0.1,", b"NaN,")), "no JSON object as FED-MED writes it"),
    "infinite": (seal(GOLDEN_HEADER.replace(b"0.1,", b"1e999,")), "no JSON object as FED-MED writes it"),
    "nested": (seal(NESTED), "no JSON object as FED-MED writes it"),
    "digits": (seal(GOLDEN_HEADER.replace(b"4137", b"9" * 5000)), "no JSON object as FED-MED writes it"),
    "extra key": (seal(header(secret=1)), "its keys are not those of a payload"),
    "hospital 201": (seal(header(hospital="h" * 201)), "the hospital's name is not 1 to 200 printable characters"),
    "hospital lines": (seal(header(hospital="a\nb")), "the hospital's name is not 1 to 200 printable characters"),
    "hospital half": (seal(header(hospital="\ud800")), "the hospital's name is not 1 to 200 printable characters"),
    "hospital number": (seal(header(hospital=7)), "the hospital's name is not 1 to 200 printable characters"),
    "algorithm": (seal(header(algorithm="")), "the algorithm's name is not 1 to 200 printable characters"),
    "round": (seal(header(round=True)), "the round is not a whole number from 0"),
    "records": (seal(header(num_samples=-1)), "the number of records is not a whole number from 0"),
    "records float": (seal(header(num_samples=1.0)), "the number of records is not a whole number from 0"),
    "metrics": (seal(header(metrics=[])), "its metrics have other keys than a training's"),
    "metrics key": (seal(metrics(more=1)), "its metrics have other keys than a training's"),
    "losses": (seal(metrics(step_losses={})), "its step losses are no list"),
    "loss text": (seal(metrics(loss="low")), "its losses or its time are not finite numbers"),
    "loss whole": (seal(metrics(step_losses=[1])), "its losses or its time are not finite numbers"),
    "counts": (seal(metrics(tokens=2**63)), "its counts are not whole numbers from 0"),
    "other tensors": (seal(body=GOLDEN_BODY.replace(b'"v"', b'"w"')), "does not hold the tensors of this adapter"),
    "not finite": (seal(body=GOLDEN_BODY[:-4] + struct.pack("<f", np.nan)), "holds values that are not finite"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_wrong_is_said_in_one_line(case):
    message, expected = REFUSED[case]
    with pytest.raises(WireError) as caught:
        decode_payload(message, TEMPLATE)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.hint
    assert caught.value.exit_code == 53


def test_no_error_repeats_what_the_sender_wrote():
    for change in ({"hospital": "SECRET\n"}, {"algorithm": ["SECRET"]}, {"round": "SECRET"}, {"SECRET": 1}):
        with pytest.raises(WireError) as caught:
            decode_payload(seal(header(**change)), TEMPLATE)
        assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize(
    ("encoding", "parts", "expected"),
    [
        ("topk", {"v": ("F32", 1, bytes(4)), "i": ("U32", 1, struct.pack("<I", 3))}, "ascending or out of range"),
        ("int8", {"s": ("F32", 1, struct.pack("<f", -1)), "q": ("I8", 3, bytes(3))}, "scales are not finite numbers"),
        ("int8", {"s": ("F32", 1, struct.pack("<f", np.inf)), "q": ("I8", 3, bytes(3))}, "scales are not finite"),
        ("int8", {"s": ("F32", 1, struct.pack("<f", 3e38)), "q": ("I8", 3, b"\x7f\0\0")}, "values that are not finite"),
        ("int8", {"s": ("F32", 1, struct.pack("<f", 1)), "q": ("I8", 3, b"\x80\0\0")}, "a level that its encoding"),
        ("int4", {"s": ("F32", 1, struct.pack("<f", 1)), "q": ("U8", 2, b"\x80\x08")}, "a level that its encoding"),
        ("int4", {"s": ("F32", 1, struct.pack("<f", 1)), "q": ("U8", 2, b"\x88\x18")}, "last half byte is not empty"),
        ("bf16", {"v": ("BF16", 3, b"\0\0\0\0\x80\x7f")}, "values that are not finite"),
        ("fp32", {"v": ("F32", 3, bytes(13))}, "length is not that of this adapter"),
        ("fp32", {"v": ("I32", 3, bytes(12))}, "does not hold the tensors of this adapter"),
    ],
)  # fmt: skip
def test_a_body_that_no_encoder_makes_is_refused(encoding, parts, expected):
    with pytest.raises(WireError, match=expected):
        decode_arrays(body(**parts), encoding, {"w": (3,)})


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_the_ends_of_float32_stay_finite_and_a_vector_of_zeros_stays_zero(encoding):
    largest, smallest = np.finfo(np.float32).max, np.finfo(np.float32).smallest_subnormal
    rows = [[largest, -largest, 0], [largest, largest / 2, 0], [9 * smallest, -smallest, 0], [0, 0, 0]]
    for row in rows:
        array = np.array(row, np.float32)
        decoded = decode_arrays(encode_arrays({"w": array}, encoding), encoding, {"w": (3,)})["w"]
        assert np.all(np.isfinite(decoded))
        assert decoded[2] == 0
        allowed = (0.1 if encoding == "int4" else 2.0**-8) * float(array[0])
        assert abs(float(decoded[0]) - float(array[0])) <= max(allowed, 2.0**-134)  # half of bf16's smallest step


def test_a_scale_is_rounded_up_so_that_the_largest_value_fits_into_its_levels():
    smallest = np.finfo(np.float32).smallest_subnormal
    array = np.array([190, -2], np.float32) * smallest  # 190 / 127 of the smallest step: 2, and not 1
    assert decode_arrays(encode_arrays({"w": array}, "int8"), "int8", {"w": (2,)})["w"].tolist() == array.tolist()


def test_topk_indices_ascend():
    for indices, fine in [((0, 2), True), ((2, 0), False), ((1, 1), False)]:
        raw = body(v=("F32", 2, struct.pack("<2f", 1, 2)), i=("U32", 2, struct.pack("<2I", *indices)))
        if fine:
            assert decode_arrays(raw, "topk", {"w": (3,)}, top_k_share=0.5)["w"].tolist() == [1, 0, 2]
        else:
            with pytest.raises(WireError, match="ascending"):
                decode_arrays(raw, "topk", {"w": (3,)}, top_k_share=0.5)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"hospital": "h" * 201}, "the hospital's name is not 1 to 200 printable characters"),
        ({"num_samples": -1}, "the number of records is not a whole number from 0"),
        ({"metrics": replace(METRICS, loss=float("nan"))}, "its losses or its time are not finite numbers"),
        ({"metrics": replace(METRICS, step_losses=(1.0, float("inf")))}, "its losses or its time are not finite"),
        ({"metrics": replace(METRICS, step_losses=(1.0,) * 20_000)}, "its header takes 80.* bytes, 65536 is the most"),
        ({"arrays": {"w": np.zeros(2, np.float64)}}, "array 'w' is not float32"),
        ({"arrays": {"w": np.array([np.nan], np.float32)}}, "array 'w' has values that are not finite"),
    ],
)
def test_a_sender_learns_what_cannot_be_sent(change, expected):
    with pytest.raises(UpdateRejectedError, match=expected):
        encode_payload(replace(PAYLOAD, **change), "fp32")


def test_whole_numbers_among_the_losses_come_back_as_the_floats_they_are():
    decoded = decode_payload(encode_payload(replace(PAYLOAD, metrics=replace(METRICS, seconds=0)), "fp32"), TEMPLATE)
    assert type(decoded.metrics.seconds) is float


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_the_limit_is_the_envelope_the_largest_header_and_the_exact_body(encoding):
    assert message_limit(TEMPLATE, encoding) == 20 + 65_536 + len(encode_arrays(ARRAYS, encoding)) + 16


@pytest.mark.parametrize("share", [0.0, -0.1, 1.5, float("nan")])
def test_a_share_that_keeps_nothing_or_more_than_all_is_a_mistake_of_the_caller(share):
    with pytest.raises(ValueError, match="share above 0 and at most 1"):
        encode_arrays(ARRAYS, "topk", top_k_share=share)


def test_an_encoding_that_does_not_exist_is_a_mistake_of_the_caller():
    with pytest.raises(ValueError, match="'fp64' is none of fp32, bf16, int8, int4, topk"):
        encode_arrays(ARRAYS, "fp64")

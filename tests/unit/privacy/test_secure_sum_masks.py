"""Masks cancel, wrap and look random; bounds leave no way for a sum to wrap unseen."""

from __future__ import annotations

import random
import tracemalloc

import numpy as np
import pytest

from fedmed.errors import SecureSumError
from fedmed.privacy.secure_sum.bounds import Bounds, choose_scale, from_words, quantise, to_words
from fedmed.privacy.secure_sum.context import packed
from fedmed.privacy.secure_sum.keys import public_of
from fedmed.privacy.secure_sum.masks import CHUNK_BYTES, add_mask, pair_seed, pair_sign, self_seed

pytestmark = pytest.mark.unit


def chacha20(key: bytes, blocks: int) -> bytes:
    """RFC 8439's key stream under a zero nonce from block 0, in plain Python."""

    def rotated(value: int, bits: int) -> int:
        return (value << bits | value >> (32 - bits)) & 0xFFFFFFFF

    def quarter(s: list[int], a: int, b: int, c: int, d: int) -> None:
        for x, y, z, bits in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
            s[x] = (s[x] + s[y]) & 0xFFFFFFFF
            s[z] = rotated(s[z] ^ s[x], bits)

    stream = b""
    for block in range(blocks):
        start = [int.from_bytes(part, "little") for part in (b"expa", b"nd 3", b"2-by", b"te k")]
        start += [int.from_bytes(key[place : place + 4], "little") for place in range(0, 32, 4)] + [block, 0, 0, 0]
        state = list(start)
        for _ in range(10):
            for columns in ((0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15)):
                quarter(state, *columns)
            for diagonals in ((0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14)):
                quarter(state, *diagonals)
        stream += b"".join((a + b & 0xFFFFFFFF).to_bytes(4, "little") for a, b in zip(state, start, strict=True))
    return stream


@pytest.mark.parametrize("dtype", ["<u4", "<u8"])
def test_a_mask_is_the_key_stream_of_its_seed(dtype):
    seed = random.Random(1).randbytes(32)
    words = np.zeros(640 // np.dtype(dtype).itemsize, dtype=dtype)
    add_mask(words, seed, sign=1)
    assert words.tobytes() == chacha20(seed, 10)


@pytest.mark.parametrize("dtype", ["<u4", "<u8"])
@pytest.mark.parametrize("size", [1, 5, CHUNK_BYTES // 8, CHUNK_BYTES // 8 + 1, CHUNK_BYTES // 2 + 3])
def test_a_mask_taken_away_leaves_what_was_there_at_any_length(dtype, size):
    words = np.arange(size, dtype=dtype) - np.array(3, dtype=dtype)
    before = words.copy()
    add_mask(words, b"s" * 32, sign=1)
    assert (words != before).mean() > 0.99
    add_mask(words, b"s" * 32, sign=-1)
    np.testing.assert_array_equal(words, before)


def test_a_longer_mask_begins_like_a_shorter_one_across_chunks():
    long, short = np.zeros(CHUNK_BYTES // 4, "<u8"), np.zeros(CHUNK_BYTES // 8 + 7, "<u8")
    for words in (long, short):
        add_mask(words, b"s" * 32, sign=1)
    np.testing.assert_array_equal(long[: short.size], short)
    assert len(np.unique(long)) == long.size  # no chunk comes twice


def test_adding_a_mask_takes_no_memory_beside_its_chunks():
    words = np.zeros(1 << 20, "<u8")
    tracemalloc.start()
    add_mask(words, b"s" * 32, sign=1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * CHUNK_BYTES < words.nbytes / 4


def test_a_seed_of_another_length_is_refused():
    with pytest.raises(SecureSumError, match="seed of a mask"):
        add_mask(np.zeros(1, "<u4"), b"short", sign=1)


def test_two_hospitals_derive_one_seed_and_opposite_signs(lab):
    context, other = lab.context(3), lab.context(3, attempt=1)
    a, b = random.Random(1).randbytes(32), random.Random(2).randbytes(32)
    pair = ("hospital_A", "hospital_C")
    seed = pair_seed(a, public_of(b), context, b"v" * 32, *pair)
    assert seed == pair_seed(b, public_of(a), context, b"v" * 32, *pair[::-1])
    assert pair_sign(context, *pair) == -pair_sign(context, *pair[::-1]) == 1
    others = [
        pair_seed(a, public_of(b), other, b"v" * 32, *pair),
        pair_seed(a, public_of(b), context, b"w" * 32, *pair),
        pair_seed(a, public_of(b), context, b"v" * 32, "hospital_A", "hospital_B"),
        self_seed(a, context, "hospital_A"),
        self_seed(a, context, "hospital_B"),
        self_seed(a, other, "hospital_A"),
    ]
    assert len({seed, *others}) == 7


def test_masks_come_from_what_nobody_else_knows(lab):
    """By the library's own HKDF and X25519: the pair's from their secret, a hospital's own from what it drew."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    context, view = lab.context(3), b"v" * 32
    a, b = random.Random(1).randbytes(32), random.Random(2).randbytes(32)
    names = [b"hospital_A", b"hospital_C"]

    def by_hand(secret, purpose, *parts):
        info = packed(f"key {purpose}", context.digest, *parts)
        return HKDF(hashes.SHA256(), 32, salt=context.digest, info=info).derive(secret)

    shared = X25519PrivateKey.from_private_bytes(a).exchange(X25519PrivateKey.from_private_bytes(b).public_key())
    assert pair_seed(a, public_of(b), context, view, "hospital_A", "hospital_C") == by_hand(
        shared, "pair mask", view, *names
    )
    assert self_seed(a, context, "hospital_A") == by_hand(a, "self mask", names[0])
    assert self_seed(a, context, "hospital_A") != self_seed(b, context, "hospital_A")
    third = random.Random(3).randbytes(32)
    assert pair_seed(third, public_of(b), context, view, "hospital_A", "hospital_C") != by_hand(
        shared, "pair mask", view, *names
    )


def test_fedmeds_own_integers_fit_64_bits_and_one_more_bit_does_not():
    assert Bounds(64, 4, 2**38, 2**24).largest_sum == 2**62
    with pytest.raises(SecureSumError, match="could wrap around in 64 bits"):
        Bounds(64, 4, 2**39, 2**24)
    Bounds(32, 2, (2**31 - 1) // 2, 2)
    with pytest.raises(SecureSumError, match="could wrap around in 32 bits"):
        Bounds(32, 2, 2**30, 2)


@pytest.mark.parametrize("values", [(16, 2, 1, 2), (64, 1, 1, 2), (64, 65, 1, 99), (64, 2, 0, 2), (64, 4, 1, 3)])
def test_bounds_that_bound_nothing_are_refused(values):
    with pytest.raises(SecureSumError):
        Bounds(*values)


def test_without_public_weights_each_hospital_has_an_equal_part():
    bounds = Bounds(64, 4, 100, 10)
    assert bounds.limit(3) == 300
    assert bounds.limit(None) == 200
    assert 4 * bounds.limit(None) <= bounds.largest_sum


@pytest.mark.parametrize("bits", [32, 64])
def test_signed_integers_survive_as_words_up_to_the_limit(bits):
    bounds = Bounds(bits, 2, (2 ** (bits - 1) - 1) // 2, 2)
    limit = bounds.limit(1)
    values = np.array([limit, -limit, 0, 1, -1])
    words = to_words(values, bounds, limit, "A")
    assert words.dtype.itemsize * 8 == bits
    np.testing.assert_array_equal(from_words(words + words, bounds, 2 * limit), 2 * values)
    assert not np.shares_memory(words, values)


@pytest.mark.parametrize("value", [101, -101, 2**63 - 1, -(2**63)])
def test_a_hospital_refuses_to_mask_an_integer_beyond_its_bound_and_keeps_it_to_itself(value):
    with pytest.raises(SecureSumError, match="'hospital_A' is beyond its declared bound of 100") as caught:
        to_words(np.array([0, value]), Bounds(64, 2, 100, 2), 100, "hospital_A")
    assert str(value) not in str(caught.value)


@pytest.mark.parametrize("values", [np.zeros(2, "u8"), np.zeros(2), np.zeros((1, 2), "i8")])
def test_only_a_row_of_signed_integers_is_masked(values):
    with pytest.raises(SecureSumError, match="one row of signed integers"):
        to_words(values, Bounds(64, 2, 100, 2), 100, "A")


def test_a_sum_beyond_all_declared_bounds_is_refused():
    with pytest.raises(SecureSumError, match="a hospital sent numbers out of range"):
        from_words(np.array([201], "<u8"), Bounds(64, 2, 100, 2), 200)


def test_the_64_bit_scale_is_fedmeds():
    chosen = choose_scale(64, 64.0, 2**24)
    assert (chosen.scale, chosen.largest_value) == (2.0**32, 2**38)


@pytest.mark.parametrize("largest", [1e-6, 0.3, 1.0, 1.5, 64.0, 1e9])
@pytest.mark.parametrize("weight", [2, 7, 4000, 2**24])
def test_the_32_bit_scale_is_the_finest_that_fits_and_rounds_by_half_a_unit(largest, weight):
    chosen = choose_scale(32, largest, weight)
    Bounds(32, 2, chosen.largest_value, weight)
    finer = int(np.ceil(largest * 2.0 ** (chosen.exponent + 1)))
    assert finer * weight >= 2**31
    values = np.random.default_rng(1).uniform(-largest, largest, 1000)
    values[:2] = largest, -largest
    rounded = quantise(values, chosen)
    assert np.abs(rounded).max() <= chosen.largest_value
    assert np.abs(rounded / chosen.scale - values).max() <= chosen.error == 0.5 / chosen.scale


def test_values_that_cannot_be_rounded_are_refused():
    chosen = choose_scale(32, 1.0, 4)
    for value in (1.1, np.nan, np.inf):
        with pytest.raises(SecureSumError, match="not finite or beyond"):
            quantise(np.array([0.0, value]), chosen)
    for wrong in ((16, 1.0, 1), (32, 0.0, 1), (32, np.nan, 1), (32, 1.0, 0), (32, 1.0, 2**31)):
        with pytest.raises(SecureSumError):
            choose_scale(*wrong)

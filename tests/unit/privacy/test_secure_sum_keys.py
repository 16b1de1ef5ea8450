"""Keys of one attempt are worth nothing in another, and a weak key is refused by its owner's name."""

from __future__ import annotations

import hashlib
import hmac
import random
import secrets

import pytest

from fedmed.errors import SecureSumError
from fedmed.privacy.secure_sum import hospital
from fedmed.privacy.secure_sum.bounds import Bounds
from fedmed.privacy.secure_sum.context import Context, Participant, default_threshold, packed
from fedmed.privacy.secure_sum.keys import (
    Identity,
    agree,
    derive,
    is_canonical,
    is_signed,
    public_of,
    seal,
    unseal,
)

pytestmark = pytest.mark.unit

# The u-coordinates of order 1, 2, 4 and 8 on the curve and its twist: RFC 7748's field, Bernstein's list.
LOW_ORDER = [
    bytes(32),
    (1).to_bytes(32, "little"),
    bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
    (2**255 - 20).to_bytes(32, "little"),
]


def test_rfc_7748_section_6_gives_the_published_secret():
    bob = bytes.fromhex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb")
    alice_public = bytes.fromhex("8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a")
    assert public_of(bob).hex() == "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f"
    assert agree(bob, alice_public, "A").hex() == "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742"


@pytest.mark.parametrize("public", LOW_ORDER, ids=lambda key: key.hex()[:8])
def test_a_key_of_low_order_is_refused_by_name(public):
    with pytest.raises(SecureSumError, match="'hospital_B' is zero, of low order") as caught:
        agree(random.Random(1).randbytes(32), public, "hospital_B")
    assert caught.value.culprit == "hospital_B"


def test_a_second_spelling_of_a_key_is_refused():
    public = public_of(b"k" * 32)
    for other in (public[:31] + bytes([public[31] | 0x80]), (2**255 - 19 + 9).to_bytes(32, "little"), public[:31]):
        assert not is_canonical(other)
        with pytest.raises(SecureSumError, match="not canonical"):
            agree(b"p" * 32, other, "B")


def test_hkdf_is_rfc_5869_with_context_as_salt_and_packed_info():
    context, info = b"c" * 32, packed("key purpose", b"c" * 32, b"x")
    middle = hmac.digest(context, b"secret", "sha256")
    assert derive(b"secret", "purpose", context, b"x") == hmac.digest(middle, info + b"\x01", "sha256")


def test_keys_of_other_purposes_contexts_and_parties_are_others():
    made = [
        derive(b"s" * 32, purpose, context, *parts)
        for purpose in ("channel", "pair mask")
        for context in (b"a" * 32, b"b" * 32)
        for parts in ((), (b"x",), (b"x", b"y"), (b"xy",), (b"y", b"x"))
    ]
    assert len(set(made)) == len(made)


def test_packing_is_unambiguous():
    made = [packed("d", *parts) for parts in ((), (b"",), (b"", b""), (b"ab",), (b"a", b"b"), (b"b", b"a"))]
    made += [packed("da", b"b"), packed("dab")]
    assert len(set(made)) == len(made)


def test_what_is_sealed_opens_with_the_same_key_and_bound_bytes_only():
    sealed = seal(b"k" * 32, b"plain", b"bound", secrets.token_bytes)
    assert unseal(b"k" * 32, sealed, b"bound") == b"plain"
    assert unseal(b"K" * 32, sealed, b"bound") is None
    assert unseal(b"k" * 32, sealed, b"other") is None
    assert unseal(b"k" * 32, sealed[:-1], b"bound") is None
    assert unseal(b"k" * 32, b"", b"bound") is None
    assert seal(b"k" * 32, b"plain", b"bound", secrets.token_bytes) != sealed


def test_a_signature_is_its_owners_over_these_bytes():
    one, other = Identity.generate(), Identity.generate()
    signature = one.sign(b"text")
    assert is_signed(one.public, signature, b"text")
    assert not is_signed(one.public, signature, b"test")
    assert not is_signed(other.public, signature, b"text")
    assert not is_signed(one.public, b"", b"text")
    assert not is_signed(b"short", signature, b"text")
    assert one.fingerprint == hashlib.sha256(one.public).digest()


def test_keys_are_fresh_in_every_attempt_with_the_systems_generator(lab):
    context = lab.context(2)
    shown = [
        key
        for _ in range(20)
        for entry in [hospital.begin(context, "hospital_A", lab.identity("hospital_A"), lab.pins(context))[1]]
        for key in (entry.channel, entry.mask)
    ]
    assert len(set(shown)) == 40
    assert hospital.begin.__kwdefaults__["random"] is secrets.token_bytes


def test_every_setting_changes_the_digest_of_the_context(lab):
    base = {
        "run_id": "run",
        "round": 1,
        "attempt": 0,
        "threshold": 3,
        "length": 3,
        "value": 100,
        "weights": (1, 1, 1, 1),
    }
    contexts = [lab.context(4, **base)]
    changes = {
        "run_id": "run2", "round": 2, "attempt": 1, "threshold": 4, "length": 4, "value": 101, "weights": (1, 1, 2, 1),
    }  # fmt: skip
    contexts += [lab.context(4, **(base | {key: value})) for key, value in changes.items()]
    contexts += [
        lab.context(4, **(base | {"weights": None})),
        lab.context(4, **base, bits=32),
        lab.context(5, threshold=3),
    ]
    order = contexts[0].participants[::-1]
    contexts.append(Context("run", 1, 0, order, 3, contexts[0].bounds, 3, (1, 1, 1, 1)))
    assert len({one.digest for one in contexts}) == len(contexts)
    assert lab.context(4, **base).digest == contexts[0].digest


@pytest.mark.parametrize(
    ("hospitals", "threshold", "drop_outs", "colluders"),
    [(2, 2, 0, 1), (3, 3, 0, 2), (4, 3, 1, 1), (6, 5, 1, 3), (9, 7, 2, 4), (16, 11, 5, 5), (64, 43, 21, 21)],
)
def test_the_default_threshold_bears_these(lab, hospitals, threshold, drop_outs, colluders):
    context = lab.context(hospitals)
    assert default_threshold(hospitals) == context.threshold == threshold
    assert (context.tolerated_drop_outs, context.tolerated_colluders) == (drop_outs, colluders)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"threshold": 2}, "threshold of 2 among 4"),
        ({"threshold": 5}, "threshold of 5 among 4"),
        ({"round": -1}, "round -1"),
        ({"attempt": 2**32}, "attempt 4294967296"),
        ({"length": 0}, "vector of 0 numbers"),
        ({"length": 2**30 + 1}, "vector of 1073741825 numbers"),
        ({"run_id": "two\nlines"}, "name that cannot be used"),
        ({"run_id": ""}, "name that cannot be used"),
        ({"weights": (1, 1, 1)}, "public weights"),
        ({"weights": (0, 1, 1, 2)}, "public weights"),
        ({"weights": (9, 9, 9, 9)}, "public weights"),
    ],
)
def test_a_context_that_cannot_be_is_refused(lab, change, message):
    good = {"run_id": "run", "round": 0, "attempt": 0, "threshold": 3, "length": 2, "weights": (1, 1, 1, 1)}
    participants = lab.context(4).participants
    values = good | change
    with pytest.raises(SecureSumError, match=message):
        Context(
            values["run_id"], values["round"], values["attempt"], participants, values["threshold"],
            Bounds(64, 4, 100, 4), values["length"], values["weights"],
        )  # fmt: skip


def test_doubled_names_and_identities_and_the_servers_name_are_refused(lab):
    a, b = lab.context(2).participants
    for pair, message in (
        ((a, Participant(a.name, b.fingerprint)), "same name"),
        ((a, Participant(b.name, a.fingerprint)), "same identity"),
        ((a, Participant("the server", b.fingerprint)), "cannot be called"),
        ((a, Participant(b.name, b"short")), "no SHA-256"),
        ((a,), "1 hospitals take part"),
    ):
        with pytest.raises(SecureSumError, match=message):
            Context("run", 0, 0, pair, 2, Bounds(64, 2, 1, 2), 1)

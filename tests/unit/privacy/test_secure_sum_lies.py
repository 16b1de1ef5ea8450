"""Every lie in a secure sum is an error that names the liar, and costs nobody a secret."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import pytest

from fedmed.errors import SecureSumError
from fedmed.privacy.secure_sum import hospital, server
from fedmed.privacy.secure_sum.context import Context
from fedmed.privacy.secure_sum.keys import public_of
from fedmed.privacy.secure_sum.messages import (
    Advertise,
    Agreement,
    Dealt,
    Delivery,
    KeyList,
    LiveList,
    MaskedInput,
    Opened,
    Row,
    Shares,
    UnmaskRequest,
    sign,
)

pytestmark = pytest.mark.unit

A, B, C, D = (f"hospital_{letter}" for letter in "ABCD")
SERVER = "the server"
LOW_ORDER = [bytes(32), (1).to_bytes(32, "little"), (2**255 - 20).to_bytes(32, "little")]
LOW_ORDER += [bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800")]
TWICE_SPELLED = (2**255 - 19 + 9).to_bytes(32, "little")
ADVERTISE, SHARE, MASK, AGREE, REVEAL = range(5)


@dataclass
class Scene:
    """An attempt of four, three needed, in the middle of a phase; ``drop`` left after it dealt its shares."""

    context: Context
    at: dict[str, object]  # the hospitals
    said: dict[str, object]  # what each of them has just said
    without_b: object  # the server, which has heard that from all but hospital_B
    out: dict[str, object]  # what it sends once it has heard hospital_B too


def scene(lab, phase: int, *, drop: str = "", seed: int = 0, meddle: Mapping[tuple[int, str], Callable] = {}) -> Scene:
    """Play up to a phase; ``meddle`` changes what a hospital says at a phase, (phase, name) -> function."""
    context = lab.context(4, length=6)
    vectors = lab.vectors(context)
    at, said, state = {}, {}, server.Advertising(context)
    for name, begun in lab.begin(context, seed).items():
        at[name], said[name] = begun
    for now in range(5):
        said = {name: meddle.get((now, name), lambda message: message)(message) for name, message in said.items()}
        if now >= MASK:
            said.pop(drop, None)
        without_b = state
        for name, message in said.items():
            if name != B:
                without_b = server.receive(without_b, message)
            state = server.receive(state, message)
        state, outgoing = server.advance(state)
        out = dict(outgoing)
        if now == phase:
            return Scene(context, at, said, without_b, out)
        said = {}
        for name, message in out.items():
            at[name], replies = hospital.step(at[name], message)
            if now == SHARE and name != drop:
                at[name], masked = hospital.contribute(at[name], vectors[name])
                replies = (masked,)
            if replies:
                said[name] = replies[0]
    raise AssertionError


def signed(lab, message, **changes):
    """The message as its sender would lie it."""
    return sign(replace(message, **changes), lab.identity(message.sender))


def with_entry(listed: KeyList, name: str, **changes) -> KeyList:
    return replace(
        listed, entries=tuple(replace(one, **changes) if one.sender == name else one for one in listed.entries)
    )


def with_signed_entry(lab, listed: KeyList, name: str, **changes) -> KeyList:
    return replace(
        listed, entries=tuple(signed(lab, one, **changes) if one.sender == name else one for one in listed.entries)
    )


def with_dealt(delivery: Delivery, name: str, change: Callable) -> Delivery:
    return replace(delivery, dealt=tuple(change(one) if one.dealer == name else one for one in delivery.dealt))


def elsewhere(lab, name: str, **where) -> Advertise:
    """The keys of a hospital in another attempt."""
    return lab.begin(lab.context(4, length=6, **where))[name][1]


def other_key() -> bytes:
    return public_of(random.Random("another").randbytes(32))


# What the server, or somebody through it, tells hospital_A: (phase, the lie, what the error says, who is to blame).
TO_A = {
    "a substituted mask key": (
        ADVERTISE, lambda lab, s: with_entry(s.out[A], B, mask=other_key()), f"'{B}' does not carry its signature",
        SERVER,
    ),
    "a substituted channel key": (
        ADVERTISE, lambda lab, s: with_entry(s.out[A], C, channel=other_key()), f"'{C}' does not carry its signature",
        SERVER,
    ),
    "keys under another identity": (
        ADVERTISE,
        lambda lab, s: with_entry(s.out[A], B, identity=lab.identity("mallory").public),
        f"identity shown for '{B}' is not the pinned one", SERVER,
    ),
    "keys of another attempt": (
        ADVERTISE,
        lambda lab, s: replace(s.out[A], entries=(*s.out[A].entries[:3], elsewhere(lab, D, attempt=1))),
        f"keys of '{D}' are for another run, round, attempt or cohort", SERVER,
    ),
    "keys of another round said to be of this one": (
        ADVERTISE,
        lambda lab, s: replace(
            s.out[A], entries=(*s.out[A].entries[:3], replace(elsewhere(lab, D, round=2), context=s.context.digest))
        ),
        f"'{D}' does not carry its signature", SERVER,
    ),
    "the key of another hospital": (
        ADVERTISE,
        lambda lab, s: with_signed_entry(lab, s.out[A], D, mask=s.out[A].entries[1].mask),
        f"'{D}' shows a public key that is also one of '{B}'", "",
    ),
    "the key of this hospital": (
        ADVERTISE,
        lambda lab, s: with_signed_entry(lab, s.out[A], D, mask=s.out[A].entries[0].channel),
        f"'{D}' shows a public key that is also one of '{A}'", "",
    ),
    "one key for two purposes": (
        ADVERTISE,
        lambda lab, s: with_signed_entry(lab, s.out[A], C, mask=s.out[A].entries[2].channel),
        f"'{C}' shows a public key that is also one of '{C}'", C,
    ),
    **{
        f"a {what} key {key.hex()[:8]}": (
            ADVERTISE,
            lambda lab, s, what=what, key=key: with_signed_entry(lab, s.out[A], B, **{what: key}),
            f"public key of '{B}' is zero, of low order or not canonical", B,
        )
        for what in ("mask", "channel")
        for key in [*LOW_ORDER, TWICE_SPELLED]
    },
    "another key of its own": (
        ADVERTISE, lambda lab, s: with_signed_entry(lab, s.out[A], A, mask=other_key()), f"other keys of '{A}'", SERVER,
    ),
    "a key list without it": (
        ADVERTISE, lambda lab, s: replace(s.out[A], entries=s.out[A].entries[1:]), f"other keys of '{A}'", SERVER,
    ),
    "a key list below the threshold": (
        ADVERTISE, lambda lab, s: replace(s.out[A], entries=s.out[A].entries[:2]), "2 hospitals where 3 are needed",
        SERVER,
    ),
    "a key list with a hospital twice": (
        ADVERTISE,
        lambda lab, s: replace(s.out[A], entries=(*s.out[A].entries, s.out[A].entries[3])), "a hospital twice", SERVER,
    ),
    "shares of a forged dealer": (
        SHARE, lambda lab, s: with_dealt(s.out[A], B, lambda one: replace(one, signature=bytes(64))),
        f"shares of '{B}' that it did not sign", SERVER,
    ),
    "a share with a flipped bit": (
        SHARE,
        lambda lab, s: with_dealt(
            s.out[A], B, lambda one: replace(one, row=replace(one.row, sealed=one.row.sealed[:-1] + b"\0"))
        ),
        f"shares of '{B}' that it did not sign", SERVER,
    ),
    "another commitment of a dealer": (
        SHARE, lambda lab, s: with_dealt(s.out[A], C, lambda one: replace(one, row=replace(one.row, key=bytes(32)))),
        f"shares of '{C}' that it did not sign", SERVER,
    ),
    "another seed digest of a dealer": (
        SHARE, lambda lab, s: with_dealt(s.out[A], C, lambda one: replace(one, seed_digest=bytes(32))),
        f"shares of '{C}' that it did not sign", SERVER,
    ),
    "fewer row digests than hospitals": (
        SHARE, lambda lab, s: with_dealt(s.out[A], C, lambda one: replace(one, row_digests=one.row_digests[:2])),
        f"shares of '{C}' that it did not sign", SERVER,
    ),
    "another hospital's delivery": (SHARE, lambda lab, s: s.out[B], "for another hospital or key list", SERVER),
    "shares for another key list": (
        SHARE, lambda lab, s: replace(s.out[A], recipients=s.out[A].recipients[:3]), "for another hospital or key list",
        SERVER,
    ),
    "a delivery without its own shares": (
        SHARE, lambda lab, s: replace(s.out[A], dealt=s.out[A].dealt[1:]), f"leaves out what '{A}' has dealt", SERVER,
    ),
    "a delivery below the threshold": (
        SHARE, lambda lab, s: replace(s.out[A], dealt=s.out[A].dealt[:2]), "2 hospitals where 3 are needed", SERVER,
    ),
    "a delivery with a dealer twice": (
        SHARE, lambda lab, s: replace(s.out[A], dealt=(*s.out[A].dealt, s.out[A].dealt[3])), "a hospital twice", SERVER,
    ),
    "a live list without it": (MASK, lambda lab, s: LiveList(s.context.digest, (B, C, D)), f"leaves out '{A}'", SERVER),
    "a live list below the threshold": (MASK, lambda lab, s: LiveList(s.context.digest, (A, B)), "2 hospitals", SERVER),
    "a live list with a stranger": (
        MASK, lambda lab, s: LiveList(s.context.digest, (A, B, C, "hospital_X")), "forges the live list", SERVER,
    ),
    "a live list with a hospital twice": (
        MASK, lambda lab, s: LiveList(s.context.digest, (A, A, B, C)), "forges the live list", SERVER,
    ),
    "a second live list": (
        AGREE, lambda lab, s: LiveList(s.context.digest, (A, B, C)), f"sends a LiveList to '{A}' in state Agreed",
        SERVER,
    ),
    "too few agreements": (
        AGREE, lambda lab, s: replace(s.out[A], agreements=s.out[A].agreements[:2]), "2 agreements where 3", SERVER,
    ),
    "one agreement three times": (
        AGREE, lambda lab, s: replace(s.out[A], agreements=(s.out[A].agreements[0],) * 3), "a hospital twice", SERVER,
    ),
    "a forged agreement": (
        AGREE,
        lambda lab, s: replace(
            s.out[A], agreements=(*s.out[A].agreements[:3], replace(s.out[A].agreements[3], signature=bytes(64)))
        ),
        f"'{D}' does not carry its signature", SERVER,
    ),
    **{
        f"a hospital that saw another {what}": (
            AGREE,
            lambda lab, s, change=change: replace(
                s.out[A], agreements=(*s.out[A].agreements[:3], signed(lab, s.out[A].agreements[3], **change))
            ),
            f"'{D}' has signed that it saw another {what} than '{A}'", SERVER,
        )
        for what, change in {
            "key list": {"keys": bytes(32)}, "dealt shares": {"dealt": bytes(32)}, "live list": {"live": (A, C, D)},
        }.items()
    },
}  # fmt: skip


@pytest.mark.parametrize("lie", TO_A)
def test_a_hospital_names_who_lies_to_it(lab, lie):
    phase, make, message, culprit = TO_A[lie]
    played = scene(lab, phase)
    # In phase AGREE the hospital has signed and waits; what is sent is the request to unmask.
    with pytest.raises(SecureSumError, match=message) as caught:
        hospital.step(played.at[A], make(lab, played))
    assert caught.value.culprit == culprit
    assert "\n" not in str(caught.value)
    hospital.step(played.at[A], played.out[A])  # the truth would have passed


# What hospital_B tells the server.
TO_SERVER = {
    "keys with a broken signature": (
        ADVERTISE, lambda lab, s: replace(s.said[B], mask=other_key()), f"'{B}' does not carry its signature", "",
    ),
    "keys under another identity": (
        ADVERTISE, lambda lab, s: replace(s.said[B], identity=lab.identity("mallory").public),
        f"identity shown for '{B}'", "",
    ),
    "keys of another attempt": (
        ADVERTISE, lambda lab, s: elsewhere(lab, B, attempt=1), f"'{B}' is for another run, round, attempt", "",
    ),
    "keys of another round said to be of this one": (
        ADVERTISE, lambda lab, s: replace(elsewhere(lab, B, round=2), context=s.context.digest),
        f"'{B}' does not carry its signature", "",
    ),
    "the key of another hospital": (
        ADVERTISE, lambda lab, s: signed(lab, s.said[B], mask=s.said[D].mask), f"'{B}' shows .* one of '{D}'", "",
    ),
    "one key for two purposes": (
        ADVERTISE, lambda lab, s: signed(lab, s.said[B], mask=s.said[B].channel), f"'{B}' shows .* one of '{B}'", B,
    ),
    **{
        f"a {what} key {key.hex()[:8]}": (
            ADVERTISE, lambda lab, s, what=what, key=key: signed(lab, s.said[B], **{what: key}),
            f"public key of '{B}' is zero, of low order or not canonical", B,
        )
        for what in ("mask", "channel")
        for key in [*LOW_ORDER, TWICE_SPELLED]
    },
    "a message of a stranger": (
        ADVERTISE, lambda lab, s: signed(lab, replace(s.said[B], sender="hospital_X")), "'hospital_X' has no seat", "",
    ),
    "a vector before it was asked": (
        ADVERTISE, lambda lab, s: MaskedInput(s.context.digest, B, bytes(32), np.zeros(6, "<u8")),
        f"'{B}' sends a MaskedInput before it was asked", "",
    ),
    "shares for another key list": (
        SHARE, lambda lab, s: signed(lab, s.said[B], keys=bytes(32)), f"'{B}' has dealt shares for another key list", B,
    ),
    "shares for fewer hospitals": (
        SHARE, lambda lab, s: signed(lab, s.said[B], recipients=(A, B, C), rows=s.said[B].rows[:3]),
        f"'{B}' has dealt shares for another key list", B,
    ),
    "fewer rows than hospitals": (
        SHARE, lambda lab, s: replace(s.said[B], rows=s.said[B].rows[:3]), f"'{B}' has not dealt one row", "",
    ),
    "shares with a broken signature": (
        SHARE, lambda lab, s: replace(s.said[B], seed_digest=bytes(32)), f"'{B}' does not carry its signature", "",
    ),
    "a vector of another length": (
        MASK, lambda lab, s: signed(lab, s.said[B], words=np.zeros(7, "<u8")), f"'{B}' sends a vector that is not",
        "",
    ),
    "a vector of other words": (
        MASK, lambda lab, s: signed(lab, s.said[B], words=np.zeros(6, "<u4")), f"'{B}' sends .* not 6 words of 64", "",
    ),
    "a vector with a broken signature": (
        MASK, lambda lab, s: replace(s.said[B], words=s.said[B].words + np.uint64(1)), f"'{B}' does not carry", "",
    ),
    "a vector for other dealt shares": (
        MASK, lambda lab, s: signed(lab, s.said[B], dealt=bytes(32)), f"'{B}' has masked its vector for other", B,
    ),
    "an agreement to another live list": (
        AGREE, lambda lab, s: signed(lab, s.said[B], live=(A, B, C)), f"'{B}' signs another view", B,
    ),
    "an agreement with a broken signature": (
        AGREE, lambda lab, s: replace(s.said[B], live=(A, B, C)), f"'{B}' does not carry its signature", "",
    ),
    "a wrong share of a seed": (
        REVEAL,
        lambda lab, s: signed(
            lab, s.said[B], seeds=((A, Opened(5, s.said[B].seeds[0][1].nonce)), *s.said[B].seeds[1:])
        ),
        f"'{B}' reveals a wrong share of the seed of '{A}'", B,
    ),
    "its share of one for that of another": (
        REVEAL,
        lambda lab, s: signed(
            lab, s.said[B], seeds=((A, s.said[B].seeds[1][1]), (B, s.said[B].seeds[0][1]), *s.said[B].seeds[2:])
        ),
        f"'{B}' reveals a wrong share of the seed of '{A}'", B,
    ),
    "both shares of one hospital": (
        REVEAL, lambda lab, s: signed(lab, s.said[B], keys=((A, Opened(5, bytes(32))),)), f"'{B}' reveals other shares",
        B,
    ),
    "fewer shares than asked for": (
        REVEAL, lambda lab, s: signed(lab, s.said[B], seeds=s.said[B].seeds[:3]), f"'{B}' reveals other shares", B,
    ),
    "shares with a broken signature at the end": (
        REVEAL, lambda lab, s: replace(s.said[B], signature=bytes(64)), f"'{B}' does not carry its signature", "",
    ),
}  # fmt: skip


@pytest.mark.parametrize("lie", TO_SERVER)
def test_the_server_names_who_lies_to_it_and_hears_the_truth_afterwards(lab, lie):
    phase, make, message, culprit = TO_SERVER[lie]
    played = scene(lab, phase)
    with pytest.raises(SecureSumError, match=message) as caught:
        server.receive(played.without_b, make(lab, played))
    assert caught.value.culprit == culprit
    assert "\n" not in str(caught.value)
    server.advance(server.receive(played.without_b, played.said[B]))


def test_a_wrong_share_of_a_dropped_hospitals_key_names_who_reveals_it(lab):
    played = scene(lab, REVEAL, drop=D)
    honest = played.said[B]
    assert [name for name, _ in honest.keys] == [D]
    lie = signed(lab, honest, keys=((D, Opened(5, honest.keys[0][1].nonce)),))
    with pytest.raises(SecureSumError, match=f"'{B}' reveals a wrong share of the key of '{D}'"):
        server.receive(played.without_b, lie)


SECOND = {
    ADVERTISE: lambda lab, s: signed(lab, s.said[A], mask=other_key()),
    SHARE: lambda lab, s: signed(lab, s.said[A], seed_digest=bytes(32)),
    MASK: lambda lab, s: signed(lab, s.said[A], words=np.zeros(6, "<u8")),
    AGREE: lambda lab, s: signed(lab, s.said[A], live=(A, B, C)),
    REVEAL: lambda lab, s: signed(lab, s.said[A], seeds=s.said[A].seeds[:2]),
}


@pytest.mark.parametrize("phase", SECOND)
def test_a_second_message_with_another_content_names_its_sender_and_a_copy_changes_nothing(lab, phase):
    played = scene(lab, phase)
    assert server.receive(played.without_b, played.said[A]) is played.without_b
    with pytest.raises(SecureSumError, match=f"'{A}' sends a second") as caught:
        server.receive(played.without_b, SECOND[phase](lab, played))
    assert caught.value.culprit == A
    with pytest.raises(SecureSumError, match=f"'{A}' does not carry its signature") as caught:
        server.receive(played.without_b, replace(played.said[A], signature=bytes(64)))
    assert caught.value.culprit == "", "anybody can write a hospital's name under a message"


@pytest.mark.parametrize("phase", range(5))
def test_messages_of_other_attempts_are_refused_on_both_sides_at_every_phase(lab, phase):
    played = scene(lab, phase)
    for other in (lab.context(4, length=6, attempt=1), lab.context(4, length=6, round=0), lab.context(4, length=5)):
        with pytest.raises(SecureSumError, match=f"'{B}' is for another run, round, attempt or cohort"):
            server.receive(played.without_b, replace(played.said[B], context=other.digest))
        if phase < REVEAL:
            with pytest.raises(SecureSumError, match="the server sends a message of another run"):
                hospital.step(played.at[A], replace(played.out[A], context=other.digest))


@pytest.mark.parametrize("phase", [ADVERTISE, SHARE, MASK, AGREE])
def test_a_message_that_comes_twice_is_answered_once(lab, phase):
    played = scene(lab, phase)
    after, _ = hospital.step(played.at[A], played.out[A])
    assert hospital.step(after, played.out[A]) == (after, ())


def test_a_late_message_changes_nothing(lab):
    early, late = scene(lab, ADVERTISE), scene(lab, MASK)
    assert server.receive(late.without_b, early.said[B]) is late.without_b


def test_messages_out_of_turn_are_the_servers_fault(lab):
    played, later = scene(lab, ADVERTISE), scene(lab, AGREE)
    for message in (later.out[A], LiveList(played.context.digest, (A, B, C))):
        with pytest.raises(SecureSumError, match=f"to '{A}' in state Advertised") as caught:
            hospital.step(played.at[A], message)
        assert caught.value.culprit == SERVER


# Dealers that lie in what only one recipient, or only the end, can see.
def spoil_row(lab, change: Callable[[Row], Row]) -> Callable[[Shares], Shares]:
    return lambda shares: signed(lab, shares, rows=(change(shares.rows[0]), *shares.rows[1:]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda row: replace(row, sealed=bytes(len(row.sealed))), f"'{B}' has sealed shares for '{A}' that cannot be"),
        (lambda row: replace(row, seed=bytes(32)), f"'{B}' has dealt '{A}' a wrong share of its seed"),
        (lambda row: replace(row, key=bytes(32)), f"'{B}' has dealt '{A}' a wrong share of its key"),
        (lambda row: replace(row, key=row.seed, seed=row.key), f"'{B}' has dealt '{A}' a wrong share of its seed"),
    ],
)
def test_a_dealer_whose_share_does_not_match_its_commitment_is_named_by_the_recipient_alone(lab, change, message):
    played = scene(lab, SHARE, meddle={(SHARE, B): spoil_row(lab, change)})
    with pytest.raises(SecureSumError, match=message) as caught:
        hospital.step(played.at[A], played.out[A])
    assert caught.value.culprit == B
    hospital.step(played.at[C], played.out[C])


@pytest.mark.parametrize(("what", "drop"), [("seed", ""), ("key", D)])
def test_a_dealer_whose_shares_are_of_another_secret_is_named_at_the_end(lab, monkeypatch, what, drop):
    """hospital_D shares out another secret than it uses; nobody can see that before the shares are put together."""
    honest, calls = hospital.split, []

    def of_another_secret(secret, points, threshold, source):
        calls.append(what)
        liar = len(calls) == (7 if what == "seed" else 8)  # each hospital in turn shares its seed, then its key
        return honest(bytes(32) if liar else secret, points, threshold, source)

    monkeypatch.setattr(hospital, "split", of_another_secret)
    with pytest.raises(SecureSumError, match=f"shares of the {what} that '{D}' dealt do not give the {what}") as caught:
        scene(lab, REVEAL, drop=drop)
    assert caught.value.culprit == D
    assert len(calls) == 8


@pytest.mark.parametrize("split_in", ["key list", "dealt shares", "live list"])
def test_a_server_that_shows_different_lists_to_different_hospitals_gets_no_share(lab, split_in):
    """It is as bold as it can be: it shows each half a consistent world, and forwards all agreements it has."""
    context = lab.context(4, length=6)
    begun, vectors = lab.begin(context), lab.vectors(context)
    at = {name: state for name, (state, _) in begun.items()}
    entries = {name: entry for name, (_, entry) in begun.items()}
    worlds = {A: (A, B, C), B: (A, B, C), C: (A, B, C, D), D: (A, B, C, D)}
    everybody = (A, B, C, D)

    def seen(name: str, what: str) -> tuple[str, ...]:
        return worlds[name] if split_in == what else everybody

    shares, agreements = {}, {}
    for name in everybody:
        listed = tuple(entries[one] for one in seen(name, "key list"))
        at[name], (shares[name],) = hospital.step(at[name], KeyList(context.digest, listed))
    stopped = {}
    for name in everybody:
        keys, dealers = seen(name, "key list"), seen(name, "dealt shares")
        delivery = _delivery(context, name, keys, {one: shares[one] for one in dealers if one in keys})
        try:
            at[name], _ = hospital.step(at[name], delivery)
            at[name], _ = hospital.contribute(at[name], vectors[name])
            live = tuple(one for one in seen(name, "live list") if one in dealers and one in keys)
            at[name], (agreements[name],) = hospital.step(at[name], LiveList(context.digest, live))
        except SecureSumError as error:
            stopped[name] = error
    for name in agreements:
        for signers in ((A, B, C), (A, C, D), (B, C, D), everybody):
            request = UnmaskRequest(context.digest, tuple(agreements[one] for one in signers if one in agreements))
            with pytest.raises(SecureSumError) as caught:
                hospital.step(at[name], request)
            assert caught.value.culprit == SERVER
            stopped.setdefault(name, caught.value)
    assert set(stopped) == set(everybody)
    assert all(error.culprit == SERVER for error in stopped.values())
    if split_in == "key list":
        assert not agreements  # shares are signed for a key list, so this shows earlier


def test_a_hospital_that_shows_two_sets_of_keys_makes_no_honest_dealer_look_like_a_liar(lab):
    """hospital_D signs other keys for A than for the others, with the server's help; B's shares are honest."""
    context = lab.context(4, length=6)
    begun = lab.begin(context)
    entries = tuple(entry for _, entry in begun.values())
    for_a = (*entries[:3], signed(lab, entries[3], mask=other_key()))
    at_a, (shares_a,) = hospital.step(begun[A][0], KeyList(context.digest, for_a))
    shares = {A: shares_a}
    for name in (B, C, D):
        _, (shares[name],) = hospital.step(begun[name][0], KeyList(context.digest, entries))
    with pytest.raises(
        SecureSumError, match=f"shares of '{B}' that it did not sign for the key list of '{A}'"
    ) as caught:
        hospital.step(at_a, _delivery(context, A, (A, B, C, D), shares))
    assert caught.value.culprit == SERVER


def _delivery(context: Context, name: str, keys: tuple[str, ...], shares: dict[str, Shares]) -> Delivery:
    dealt = []
    for dealer, one in shares.items():
        if name in one.recipients:
            row = one.rows[one.recipients.index(name)]
            dealt.append(Dealt(dealer, one.seed_digest, one.row_digests(), row, one.signature))
    return Delivery(context.digest, name, keys, tuple(dealt))


def test_a_second_request_to_unmask_gets_nothing(lab):
    played = scene(lab, AGREE, drop=D)
    done, (reveal,) = hospital.step(played.at[A], played.out[A])
    assert isinstance(done, hospital.Done)
    assert [name for name, _ in reveal.seeds] == [A, B, C]
    assert [name for name, _ in reveal.keys] == [D]
    for message in (
        replace(played.out[A], agreements=played.out[A].agreements[::-1]),
        LiveList(played.context.digest, (A, B, C, D)),
    ):
        with pytest.raises(SecureSumError, match=f"to '{A}' in state Done"):
            hospital.step(done, message)


def test_a_vector_is_masked_once_and_at_its_time(lab):
    played = scene(lab, SHARE)
    vector = lab.vectors(played.context)[A]
    ready, _ = hospital.step(played.at[A], played.out[A])
    masked, _ = hospital.contribute(ready, vector)
    for state in (played.at[A], masked):
        with pytest.raises(SecureSumError, match=f"'{A}' can mask a vector once"):
            hospital.contribute(state, vector)
    with pytest.raises(SecureSumError, match=f"'{A}' wants to send 5 numbers, not 6"):
        hospital.contribute(ready, vector[:5])
    with pytest.raises(SecureSumError, match=f"'{A}' is beyond its declared bound"):
        hospital.contribute(ready, np.full(6, played.context.limit(A) + 1))


def test_a_session_is_dead_after_its_first_error(lab):
    context = lab.context(2)
    session = hospital.HospitalSession(context, A, lab.identity(A), lab.pins(context))
    with pytest.raises(SecureSumError, match="in state Advertised"):
        session.receive(LiveList(context.digest, (A, B)))
    assert (session.phase, session.revealed) == ("Dead", False)
    for call in (lambda: session.receive(KeyList(context.digest, ())), lambda: session.contribute(np.zeros(3, "i8"))):
        with pytest.raises(SecureSumError, match=f"the session of '{A}' ended with an error"):
            call()


def test_two_sessions_and_a_server_give_the_sum_and_tell_that_they_revealed(lab):
    context = lab.context(2)
    sessions = {
        name: hospital.HospitalSession(context, name, lab.identity(name), lab.pins(context)) for name in context.names
    }
    at_server, vectors = server.ServerSession(context), lab.vectors(context)
    with pytest.raises(SecureSumError, match="no sum yet"):
        _ = at_server.result
    for session in sessions.values():
        at_server.receive(session.advertisement)
    for _ in range(4):
        for name, message in at_server.advance():
            replies = sessions[name].receive(message)
            for reply in replies or (sessions[name].contribute(vectors[name]),):
                at_server.receive(reply)
    at_server.advance()
    np.testing.assert_array_equal(at_server.result.values, vectors[A] + vectors[B])
    assert all(session.revealed for session in sessions.values())


def test_a_server_session_is_dead_after_too_few_answers(lab):
    session = server.ServerSession(lab.context(3))
    with pytest.raises(SecureSumError, match=f"only 0 hospitals have shown keys where 3 are needed; missing: '{A}'"):
        session.advance()
    with pytest.raises(SecureSumError, match="ended with an error"):
        session.receive(next(iter(lab.begin(lab.context(3)).values()))[1])


@pytest.mark.parametrize("changed", [A, C])
def test_a_context_with_an_identity_that_is_not_pinned_is_not_entered(lab, changed):
    context = lab.context(3)
    pins = lab.pins(context) | ({} if changed == A else {changed: lab.identity("mallory").fingerprint})
    identity = lab.identity("mallory" if changed == A else A)
    with pytest.raises(
        SecureSumError, match=f"proposes '{changed}' with an identity that is not the pinned one"
    ) as caught:
        hospital.begin(context, A, identity, pins)
    assert caught.value.culprit == SERVER
    with pytest.raises(SecureSumError, match="proposes 'hospital_B'"):
        hospital.begin(context, A, lab.identity(A), {})
    with pytest.raises(SecureSumError, match="'hospital_X' has no seat"):
        hospital.begin(context, "hospital_X", lab.identity("x"), lab.pins(context))


def test_a_key_seen_in_an_earlier_attempt_is_refused_by_name_even_if_signed_anew(lab):
    played = scene(lab, ADVERTISE)
    used = {played.said[B].mask}
    state, own = hospital.begin(
        played.context, A, lab.identity(A), lab.pins(played.context), used=used, random=random.Random(1).randbytes
    )
    listed = replace(played.out[A], entries=(own, *played.out[A].entries[1:]))
    with pytest.raises(SecureSumError, match=f"'{B}' shows a key of an earlier attempt") as caught:
        hospital.step(state, listed)
    assert caught.value.culprit == B
    with pytest.raises(SecureSumError, match=f"'{B}' shows a key of an earlier attempt"):
        server.receive(server.Advertising(played.context, frozenset(used)), played.said[B])


def test_numbers_out_of_range_show_in_the_sum_though_nobody_can_say_whose_they_are(lab, monkeypatch):
    context = lab.context(3, value=100)
    vectors = {name: np.full(3, 100) for name in context.names}
    assert lab.run(context, vectors).values.tolist() == [300, 300, 300]
    monkeypatch.setattr(
        hospital, "to_words", lambda values, bounds, limit, who: values.astype("<u8") * (2 if who == A else 1)
    )
    with pytest.raises(SecureSumError, match="a hospital sent numbers out of range") as caught:
        lab.run(context, vectors)
    assert caught.value.culprit == ""
    assert isinstance(scene(lab, AGREE).said[B], Agreement)


def both_shares_come_out(lab, hospitals: int, threshold: int, colluders: int) -> bool:
    """A lying server wants the last hospital's seed and mask key. To some it shows a live list with that hospital,
    to others one without it; its colluders sign both lists and give away their own shares."""
    context = lab.context(hospitals, threshold=threshold)
    at, said, at_server = {}, {}, server.Advertising(context)
    for name, (state, message) in lab.begin(context).items():
        at[name], said[name] = state, message
    for _ in ("keys", "shares"):
        for message in said.values():
            at_server = server.receive(at_server, message)
        at_server, outgoing = server.advance(at_server)
        for name, message in outgoing:
            at[name], replies = hospital.step(at[name], message)
            said[name] = next(iter(replies), None)
    vectors = lab.vectors(context)
    for name in context.names:
        at[name], _ = hospital.contribute(at[name], vectors[name])
    bad, honest, victim = context.names[:colluders], context.names[colluders:-1], context.names[-1]
    for cut in range(len(honest) + 1):
        worlds = ((context.names, [victim, *honest[:cut]]), (context.names[:-1], list(honest[cut:])))
        shares = {"seeds": set(bad), "keys": set(bad)}
        for live, shown in worlds:
            agreed, agreements = {}, {}
            for name in shown:
                with contextlib.suppress(SecureSumError):  # a list below the threshold
                    agreed[name], (agreements[name],) = hospital.step(at[name], LiveList(context.digest, live))
            for name in bad:
                one = Agreement(context.digest, name, at[name].view.keys, at[name].dealt, live)
                agreements[name] = sign(one, lab.identity(name))
            request = UnmaskRequest(context.digest, tuple(agreements[name] for name in context.ordered(agreements)))
            for name, state in agreed.items():
                with contextlib.suppress(SecureSumError):  # too few agreements
                    _, (reveal,) = hospital.step(state, request)
                    for what in shares:
                        if victim in dict(getattr(reveal, what)):
                            shares[what].add(name)
        if all(len(holders) >= threshold for holders in shares.values()):
            return True
    return False


@pytest.mark.parametrize("hospitals", range(2, 7))
def test_a_lying_server_gets_both_shares_exactly_from_one_colluder_more_than_is_said(lab, hospitals):
    for threshold in range(hospitals // 2 + 1, hospitals + 1):
        borne = lab.context(hospitals, threshold=threshold).tolerated_colluders
        for colluders in range(hospitals - 1):
            assert both_shares_come_out(lab, hospitals, threshold, colluders) == (colluders > borne)


def test_a_hospital_does_not_enter_a_cohort_with_a_threshold_below_its_own(lab):
    context = lab.context(2)
    with pytest.raises(SecureSumError, match=f"threshold of 2 where '{A}' wants 3") as caught:
        hospital.begin(context, A, lab.identity(A), lab.pins(context), least=3)
    assert caught.value.culprit == SERVER


def test_after_shares_have_left_nobody_is_told_to_try_the_same_vectors_again(lab):
    at_reveal = scene(lab, REVEAL)
    with pytest.raises(SecureSumError) as caught:
        server.advance(replace(at_reveal.without_b, reveals={}))
    assert "must not be summed again" in caught.value.hint
    with pytest.raises(SecureSumError) as caught:
        server.advance(server.Advertising(at_reveal.context))
    assert "start a new attempt" in caught.value.hint

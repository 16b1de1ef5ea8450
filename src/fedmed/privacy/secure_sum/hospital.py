"""One hospital's side of a secure sum: states that hold only the secrets they still need. update -> HERE -> server.

    state        secrets it holds                          what it waits for
    Advertised   channel key, mask key                     KeyList
    Shared       both, own seed, own shares                Delivery
    Ready        mask key, own seed, shares of all         the hospital's own vector
    Masked       shares of all                             LiveList
    Agreed       shares of all                             UnmaskRequest
    Done         none

``begin``, ``step`` and ``contribute`` are functions from a state and a message to a new state and replies.
``HospitalSession`` holds the one state that counts and is dead after the first error: a state that could be used twice
would sign two live lists. Each message is answered once; the same message again gets no answer.

A hospital reveals, for each other, its share of the seed or its share of the mask key, never both. It chooses which
from the live list it signed itself, once, after at least t hospitals signed the same.

Not covered: time-outs, which are the transport's; whether to take part in a second attempt of a round after ``Done``
(the caller must refuse: two sums over different hospitals can be subtracted).
Source: Bonawitz et al. 2017, "Practical Secure Aggregation for Privacy-Preserving Machine Learning", the variant
with signatures and a consistency check, against a server that lies.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from numpy.typing import NDArray

from fedmed.errors import SecureSumError
from fedmed.privacy.secure_sum.bounds import to_words
from fedmed.privacy.secure_sum.context import SERVER, Context, packed
from fedmed.privacy.secure_sum.keys import KEY_BYTES, Identity, agree, derive, is_signed, public_of, seal, unseal
from fedmed.privacy.secure_sum.masks import add_mask, pair_seed, pair_sign, self_seed
from fedmed.privacy.secure_sum.messages import (
    NONCE_BYTES,
    Advertise,
    Agreement,
    Dealt,
    Delivery,
    FromServer,
    KeyList,
    LiveList,
    MaskedInput,
    Opened,
    Reveal,
    Row,
    Shares,
    UnmaskRequest,
    dealt_digest,
    keys_digest,
    opened_pair,
    pair_bytes,
    seed_digest,
    shares_signed,
    sign,
)
from fedmed.privacy.secure_sum.roster import check_agreement, check_distinct, check_entry
from fedmed.privacy.secure_sum.shamir import Random, split

_STOP = "this hospital takes no further part in the attempt"

Pairs: TypeAlias = Mapping[str, tuple[Opened, Opened]]
"""Dealer -> this hospital's shares of its seed and of its mask key."""


@dataclass(frozen=True, slots=True)
class Seat:
    """What every state knows."""

    context: Context
    name: str
    identity: Identity
    random: Random = field(repr=False)
    used: frozenset[bytes] = field(repr=False)
    answered: tuple[FromServer, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class View:
    """Which keys this hospital saw."""

    entries: Mapping[str, Advertise] = field(repr=False)
    keys: bytes

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.entries)


@dataclass(frozen=True, slots=True)
class Advertised:
    """Waits for the key list."""

    seat: Seat
    own: Advertise
    channel: bytes = field(repr=False)
    mask: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Shared:
    """Waits for the shares of others."""

    seat: Seat
    view: View
    own: Shares = field(repr=False)
    pair: tuple[Opened, Opened] = field(repr=False)
    channel: bytes = field(repr=False)
    mask: bytes = field(repr=False)
    seed: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Ready:
    """Waits for the hospital's own vector."""

    seat: Seat
    view: View
    dealers: tuple[str, ...]
    dealt: bytes
    pairs: Pairs = field(repr=False)
    mask: bytes = field(repr=False)
    seed: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Masked:
    """Has sent its vector; waits for the live list."""

    seat: Seat
    view: View
    dealers: tuple[str, ...]
    dealt: bytes
    pairs: Pairs = field(repr=False)


@dataclass(frozen=True, slots=True)
class Agreed:
    """Has signed a live list; waits for the others' agreement."""

    seat: Seat
    view: View
    dealers: tuple[str, ...]
    own: Agreement
    pairs: Pairs = field(repr=False)


@dataclass(frozen=True, slots=True)
class Done:
    """Has revealed, and holds no secret of the attempt any more."""

    seat: Seat


State: TypeAlias = Advertised | Shared | Ready | Masked | Agreed | Done


def begin(
    context: Context,
    name: str,
    identity: Identity,
    pins: Mapping[str, bytes],
    *,
    random: Random = secrets.token_bytes,
    used: Collection[bytes] = (),
    least: int = 2,
) -> tuple[Advertised, Advertise]:
    """Take a seat in an attempt.

    Args:
        context: the attempt, as proposed.
        name: this hospital's.
        identity: its key.
        pins: name -> fingerprint of the other hospitals, from outside the protocol.
        random: where keys, seeds and polynomials come from; another one than the default is for tests.
        used: public keys seen in earlier attempts, this hospital's own among them.
        least: the lowest threshold that this hospital puts up with; the server proposes the cohort, and could propose
            two.

    Returns:
        The state, and what goes to the server.

    Raises:
        SecureSumError: this hospital has no seat, a participant is not the one that is pinned, or the threshold is too
            low; names who lied.
    """
    for participant in context.participants:
        pinned = identity.fingerprint if participant.name == name else pins.get(participant.name)
        if pinned != participant.fingerprint:
            raise SecureSumError(
                f"the server proposes '{participant.name}' with an identity that is not the pinned one",
                "compare fingerprints with it by telephone",
                culprit=SERVER,
            )
    if name not in context:
        raise SecureSumError(f"'{name}' has no seat in this attempt", "ask the coordinator", culprit=SERVER)
    if context.threshold < least:
        raise SecureSumError(
            f"the server proposes a threshold of {context.threshold} where '{name}' wants {least}",
            _STOP,
            culprit=SERVER,
        )
    channel, mask = random(KEY_BYTES), random(KEY_BYTES)
    entry = Advertise(context.digest, name, identity.public, public_of(channel), public_of(mask))
    own = sign(entry, identity)
    return Advertised(Seat(context, name, identity, random, frozenset(used)), own, channel, mask), own


def step(state: State, message: FromServer) -> tuple[State, tuple[Shares | Agreement | Reveal, ...]]:
    """Answer a message of the server.

    Returns:
        The next state and the reply; the same state and none for a message that was answered already.

    Raises:
        SecureSumError: a lie, or a message out of turn; names who lied. The state must not be used again.
    """
    context = state.seat.context
    if message.context != context.digest:
        raise SecureSumError(
            "the server sends a message of another run, round, attempt or cohort", _STOP, culprit=SERVER
        )
    if message in state.seat.answered:
        return state, ()
    state = replace(state, seat=replace(state.seat, answered=(*state.seat.answered, message)))
    match state, message:
        case Advertised(), KeyList():
            shared, shares = _share(state, message)
            return shared, (shares,)
        case Shared(), Delivery():
            return _open(state, message), ()
        case Masked(), LiveList():
            agreed, agreement = _agree(state, message)
            return agreed, (agreement,)
        case Agreed(), UnmaskRequest():
            done, reveal = _reveal(state, message)
            return done, (reveal,)
        case _:
            raise _lie(
                f"sends a {type(message).__name__} to '{state.seat.name}' in state {type(state).__name__}: a second "
                "one with another content, or out of turn"
            )


def contribute(state: State, values: NDArray[Any]) -> tuple[Masked, MaskedInput]:
    """Mask this hospital's own vector, once.

    Args:
        state: ``Ready``.
        values: one row of ``context.length`` signed integers, weight included; left as it is.

    Raises:
        SecureSumError: not the time for it, another length, or an integer beyond the hospital's declared bound.
    """
    seat = state.seat
    if not isinstance(state, Ready):
        raise SecureSumError(f"'{seat.name}' can mask a vector once, after shares were dealt", _STOP, culprit=seat.name)
    context, view = seat.context, state.view
    if values.shape != (context.length,):
        raise SecureSumError(
            f"'{seat.name}' wants to send {values.size} numbers, not {context.length}",
            "it trained another adapter",
            culprit=seat.name,
        )
    words = to_words(values, context.bounds, context.limit(seat.name), seat.name)
    add_mask(words, self_seed(state.seed, context, seat.name), sign=1)
    for peer in state.dealers:
        if peer != seat.name:
            seed = pair_seed(state.mask, view.entries[peer].mask, context, view.keys, seat.name, peer)
            add_mask(words, seed, sign=pair_sign(context, seat.name, peer))
    words.flags.writeable = False
    masked = sign(MaskedInput(context.digest, seat.name, state.dealt, words), seat.identity)
    return Masked(seat, view, state.dealers, state.dealt, state.pairs), masked


class HospitalSession:
    """One attempt of one hospital: owns its state, which no caller can keep, and dies at the first error.

    Arguments as in ``begin``.
    """

    def __init__(
        self,
        context: Context,
        name: str,
        identity: Identity,
        pins: Mapping[str, bytes],
        *,
        random: Random = secrets.token_bytes,
        used: Collection[bytes] = (),
        least: int = 2,
    ) -> None:
        self._name = name
        self._revealed = False
        self._state: State | None
        self._state, self.advertisement = begin(context, name, identity, pins, random=random, used=used, least=least)

    def __repr__(self) -> str:
        return f"HospitalSession({self._name!r}, {self.phase})"

    @property
    def phase(self) -> str:
        """Name of the state, or "Dead"."""
        return "Dead" if self._state is None else type(self._state).__name__

    @property
    def revealed(self) -> bool:
        """Whether shares have left: then the same vector must not go into another attempt."""
        return self._revealed

    def receive(self, message: FromServer) -> tuple[Shares | Agreement | Reveal, ...]:
        """See ``step``."""
        state = self._take()
        after, replies = step(state, message)
        self._state, self._revealed = after, self._revealed or isinstance(after, Done)
        return replies

    def contribute(self, values: NDArray[Any]) -> MaskedInput:
        """See the function ``contribute``."""
        state = self._take()
        self._state, masked = contribute(state, values)
        return masked

    def _take(self) -> State:
        state, self._state = self._state, None
        if state is None:
            raise SecureSumError(f"the session of '{self._name}' ended with an error", "a new attempt takes a new one")
        return state


def _share(state: Advertised, message: KeyList) -> tuple[Shared, Shares]:
    seat, context, entries = state.seat, state.seat.context, {entry.sender: entry for entry in message.entries}
    if context.ordered(entries) != tuple(entry.sender for entry in message.entries):
        raise _lie("shows a key list with a hospital twice, unknown or out of order")
    if entries.get(seat.name) != state.own:
        raise _lie(f"shows other keys of '{seat.name}' than it sent, or none")
    if len(entries) < context.threshold:
        raise _lie(f"shows a key list of {len(entries)} hospitals where {context.threshold} are needed")
    for entry in message.entries:
        if entry.sender != seat.name:
            check_entry(entry, context, state.channel, seat.used, relay=SERVER)
    check_distinct(message.entries)
    view = View(entries, keys_digest(context, message.entries))
    seed = seat.random(KEY_BYTES)
    points = [context.point(name) for name in entries]
    of_seed, of_key = (split(secret, points, context.threshold, seat.random) for secret in (seed, state.mask))
    pairs = {
        name: (
            Opened(of_seed[context.point(name)], seat.random(NONCE_BYTES)),
            Opened(of_key[context.point(name)], seat.random(NONCE_BYTES)),
        )
        for name in entries
    }
    rows = tuple(_row(state, view, name, pair) for name, pair in pairs.items())
    shares = Shares(
        context.digest,
        seat.name,
        view.keys,
        seed_digest(context, seat.name, seed),
        view.names,
        rows,
    )
    own = sign(shares, seat.identity)
    return Shared(seat, view, own, pairs[seat.name], state.channel, state.mask, seed), own


def _row(state: Advertised, view: View, recipient: str, pair: tuple[Opened, Opened]) -> Row:
    seat = state.seat
    attempt, dealer = seat.context.digest, seat.name
    of_seed, of_key = (
        one.commitment(attempt, dealer, recipient, what) for one, what in zip(pair, ("seed", "key"), strict=True)
    )
    if recipient == dealer:
        return Row(of_seed, of_key, b"")
    key = _channel_key(state.channel, view, seat.context, recipient, dealer, recipient)
    bound = _bound(seat.context, view, dealer, recipient)
    return Row(of_seed, of_key, seal(key, pair_bytes(*pair), bound, seat.random))


def _channel_key(private: bytes, view: View, context: Context, peer: str, dealer: str, recipient: str) -> bytes:
    """One key for each direction."""
    secret = agree(private, view.entries[peer].channel, peer)
    return derive(secret, "channel", context.digest, view.keys, dealer.encode(), recipient.encode())


def _bound(context: Context, view: View, dealer: str, recipient: str) -> bytes:
    return packed("sealed", context.digest, view.keys, dealer.encode(), recipient.encode())


def _open(state: Shared, message: Delivery) -> Ready:
    seat, context, view = state.seat, state.seat.context, state.view
    dealers = tuple(one.dealer for one in message.dealt)
    if message.recipient != seat.name or message.recipients != view.names:
        raise _lie(f"delivers shares to '{seat.name}' that are for another hospital or key list")
    if context.ordered([name for name in dealers if name in view.entries]) != dealers:
        raise _lie("delivers shares of a hospital twice, out of order, or of one whose keys it did not show")
    if len(dealers) < context.threshold:
        raise _lie(f"delivers shares of {len(dealers)} hospitals where {context.threshold} are needed")
    if seat.name not in dealers:
        raise _lie(f"leaves out what '{seat.name}' has dealt itself")
    pairs = {one.dealer: _pair(state, one) for one in message.dealt}
    dealt = dealt_digest(context, view.keys, [(one.dealer, one.seed_digest, one.row_digests) for one in message.dealt])
    return Ready(seat, view, dealers, dealt, pairs, state.mask, state.seed)


def _pair(state: Shared, one: Dealt) -> tuple[Opened, Opened]:
    """This hospital's shares from one dealer, checked against what the dealer signed."""
    seat, context, view, dealer = state.seat, state.seat.context, state.view, one.dealer
    mine = view.names.index(seat.name)
    signed = shares_signed(context.digest, dealer, view.keys, one.seed_digest, one.row_digests)
    if (
        len(one.row_digests) != len(view.names)
        or one.row.digest(context.digest, dealer, seat.name) != one.row_digests[mine]
        or not is_signed(view.entries[dealer].identity, one.signature, signed)
    ):
        raise _lie(f"delivers shares of '{dealer}' that it did not sign for the key list of '{seat.name}'")
    if dealer == seat.name:
        if one.row_digests != state.own.row_digests() or one.seed_digest != state.own.seed_digest:
            raise _lie(f"delivers other shares of '{dealer}' than it dealt")
        return state.pair
    key = _channel_key(state.channel, view, context, dealer, dealer, seat.name)
    plain = unseal(key, one.row.sealed, _bound(context, view, dealer, seat.name))
    pair = None if plain is None else opened_pair(plain)
    if pair is None:
        # The dealer signed these very bytes, so nobody else can have spoiled them.
        raise SecureSumError(
            f"'{dealer}' has sealed shares for '{seat.name}' that cannot be opened", _STOP, culprit=dealer
        )
    for share, commitment, what in zip(pair, (one.row.seed, one.row.key), ("seed", "key"), strict=True):
        if share.commitment(context.digest, dealer, seat.name, what) != commitment:
            raise SecureSumError(
                f"'{dealer}' has dealt '{seat.name}' a wrong share of its {what}: it does not match its commitment",
                _STOP,
                culprit=dealer,
            )
    return pair


def _agree(state: Masked, message: LiveList) -> tuple[Agreed, Agreement]:
    seat, context, live = state.seat, state.seat.context, message.live
    if context.ordered([name for name in live if name in state.dealers]) != live:
        raise _lie("forges the live list: it has a hospital twice, out of order, or one that dealt no shares")
    if len(live) < context.threshold:
        raise _lie(f"shows a live list of {len(live)} hospitals where {context.threshold} are needed")
    if seat.name not in live:
        raise _lie(f"forges the live list: it leaves out '{seat.name}', which has sent its vector")
    agreement = Agreement(context.digest, seat.name, state.view.keys, state.dealt, live)
    own = sign(agreement, seat.identity)
    return Agreed(seat, state.view, state.dealers, own, state.pairs), own


def _reveal(state: Agreed, message: UnmaskRequest) -> tuple[Done, Reveal]:
    seat, context, own = state.seat, state.seat.context, state.own
    signers = tuple(one.sender for one in message.agreements)
    if context.ordered([name for name in signers if name in own.live]) != signers:
        raise _lie("shows agreements of a hospital twice, out of order, or of one that is not live")
    if len(signers) < context.threshold:
        raise _lie(f"shows {len(signers)} agreements where {context.threshold} are needed")
    for one in message.agreements:
        check_agreement(one, own, state.view.entries[one.sender].identity)
    live = set(own.live)
    seeds = tuple((name, state.pairs[name][0]) for name in state.dealers if name in live)
    keys = tuple((name, state.pairs[name][1]) for name in state.dealers if name not in live)
    reveal = sign(Reveal(context.digest, seat.name, seeds, keys), seat.identity)
    return Done(seat), reveal


def _lie(what: str) -> SecureSumError:
    return SecureSumError(f"{SERVER} {what}", _STOP, culprit=SERVER)

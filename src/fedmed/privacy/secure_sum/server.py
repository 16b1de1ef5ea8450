"""The server's side of a secure sum: it forwards, adds, and unmasks the sum alone. hospitals -> HERE -> mean.

    Advertising -> Sharing -> Masking -> Agreeing -> Unmasking -> Finished

``receive`` takes one hospital's message into the state; ``advance`` closes a phase with whoever has answered, at least
t, and gives what goes out. When to close is the transport's business. A message that is refused leaves the state as it
was; one that came before, or comes after its phase, changes nothing.

The server keeps one running vector. What it holds of a hospital is the sum of all masked vectors, never one of them.

Not covered: authenticity of the server; choosing who is asked; leaving a liar out of the next attempt, for which
errors carry ``culprit``.
Source: Bonawitz et al. 2017.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedmed.errors import SecureSumError
from fedmed.privacy.secure_sum.bounds import Words, from_words
from fedmed.privacy.secure_sum.context import SERVER, Context
from fedmed.privacy.secure_sum.keys import KEY_BYTES, public_of
from fedmed.privacy.secure_sum.masks import add_mask, pair_seed, pair_sign, self_seed
from fedmed.privacy.secure_sum.messages import (
    Advertise,
    Agreement,
    Dealt,
    Delivery,
    FromHospital,
    FromServer,
    KeyList,
    LiveList,
    MaskedInput,
    Reveal,
    Shares,
    UnmaskRequest,
    check_signature,
    dealt_digest,
    keys_digest,
    seed_digest,
)
from fedmed.privacy.secure_sum.roster import check_agreement, check_distinct, check_entry
from fedmed.privacy.secure_sum.shamir import combine

_LEFT_OUT = "without another message it counts as dropped out"
_NOTHING_LEFT = "nothing was unmasked; start a new attempt when they are back"
_NEVER_AGAIN = "shares have left: these vectors must not be summed again, go on with the next round"


@dataclass(frozen=True, slots=True)
class Sum:
    """What comes out: the exact sum, of whom, and their weight if weights are public."""

    values: NDArray[np.int64] = field(repr=False)
    hospitals: tuple[str, ...]
    total_weight: int | None


@dataclass(frozen=True, slots=True)
class Advertising:
    """Collects keys."""

    context: Context
    used: frozenset[bytes] = field(default=frozenset(), repr=False)
    entries: Mapping[str, Advertise] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class Sharing:
    """Collects shares."""

    context: Context
    entries: Mapping[str, Advertise] = field(repr=False)
    keys: bytes
    shares: Mapping[str, Shares] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class Masking:
    """Collects masked vectors, as their sum; ``signatures`` tells whose are in it."""

    context: Context
    entries: Mapping[str, Advertise] = field(repr=False)
    keys: bytes
    shares: Mapping[str, Shares] = field(repr=False)
    dealt: bytes
    total: Words = field(repr=False)
    signatures: Mapping[str, bytes] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class Agreeing:
    """Collects agreements on the live list."""

    masking: Masking
    expected: Agreement
    agreements: Mapping[str, Agreement] = field(default_factory=dict, repr=False)

    @property
    def context(self) -> Context:
        return self.masking.context


@dataclass(frozen=True, slots=True)
class Unmasking:
    """Collects revealed shares."""

    masking: Masking
    live: tuple[str, ...]
    reveals: Mapping[str, Reveal] = field(default_factory=dict, repr=False)

    @property
    def context(self) -> Context:
        return self.masking.context


@dataclass(frozen=True, slots=True)
class Finished:
    """Holds the sum, and no share or key any more."""

    context: Context
    sum: Sum


State: TypeAlias = Advertising | Sharing | Masking | Agreeing | Unmasking | Finished
Outgoing: TypeAlias = tuple[tuple[str, FromServer], ...]
"""(hospital, what goes to it)."""

_PHASES = (Advertising, Sharing, Masking, Agreeing, Unmasking, Finished)
_TAKEN_IN = (Advertise, Shares, MaskedInput, Agreement, Reveal)


def receive(state: State, message: FromHospital) -> State:
    """Take a hospital's message into the state.

    Returns:
        The next state; the same one for a message that came before or comes late.

    Raises:
        SecureSumError: a lie, a message of another attempt, or one out of turn; names the hospital, and as ``culprit``
            only where its signature proves it. ``state`` remains good: the message counts as if it had not come.
    """
    context, sender = state.context, message.sender
    if message.context != context.digest:
        raise SecureSumError(f"a message of '{sender}' is for another run, round, attempt or cohort", _LEFT_OUT)
    if sender not in context:
        raise SecureSumError(f"'{sender}' has no seat in this attempt", "it must not be heard")
    now, meant = _PHASES.index(type(state)), _TAKEN_IN.index(type(message))
    if meant < now:
        return state  # late: the phase was closed without it, or with its first copy
    match state, message:
        case Advertising(), Advertise():
            return _take_keys(state, message)
        case Sharing(), Shares():
            return _take_shares(state, message)
        case Masking(), MaskedInput():
            return _take_vector(state, message)
        case Agreeing(), Agreement():
            return _take_agreement(state, message)
        case Unmasking(), Reveal():
            return _take_reveal(state, message)
        case _:
            raise SecureSumError(f"'{sender}' sends a {type(message).__name__} before it was asked", _LEFT_OUT)


def advance(state: State) -> tuple[State, Outgoing]:
    """Close a phase.

    Returns:
        The next state, and what goes to whom; with ``Finished`` comes the sum.

    Raises:
        SecureSumError: fewer than t hospitals have answered (names those that have not), or what was revealed does not
            fit what its dealer published (names the dealer). The attempt is over.
    """
    match state:
        case Advertising():
            return _close_keys(state)
        case Sharing():
            return _close_shares(state)
        case Masking():
            return _close_vectors(state)
        case Agreeing():
            return _close_agreements(state)
        case Unmasking():
            return _close_reveals(state), ()
        case Finished():
            raise SecureSumError("the sum is finished", "the next one is a new attempt")


class ServerSession:
    """One attempt at the server: owns the state, survives a refused message, is dead after a failed ``advance``."""

    def __init__(self, context: Context, *, used: Collection[bytes] = ()) -> None:
        self._state: State | None = Advertising(context, frozenset(used))

    def __repr__(self) -> str:
        return f"ServerSession({self.phase})"

    @property
    def phase(self) -> str:
        """Name of the state, or "Dead"."""
        return "Dead" if self._state is None else type(self._state).__name__

    @property
    def result(self) -> Sum:
        """The sum, once it is there."""
        if not isinstance(self._state, Finished):
            raise SecureSumError("there is no sum yet", "every phase has to be closed first")
        return self._state.sum

    def receive(self, message: FromHospital) -> None:
        """See the function ``receive``."""
        self._state = receive(self._alive(), message)

    def advance(self) -> Outgoing:
        """See the function ``advance``."""
        state = self._alive()
        if not isinstance(state, Finished):  # a finished sum stays, whatever is asked of it
            self._state = None
        self._state, outgoing = advance(state)
        return outgoing

    def _alive(self) -> State:
        if self._state is None:
            raise SecureSumError("this attempt ended with an error", "a new attempt takes a new session")
        return self._state


def _take_keys(state: Advertising, message: Advertise) -> Advertising:
    name = message.sender
    if name in state.entries:
        _same(message, state.entries[name].signature, state.entries[name].identity)
        return state
    # Any private key shows whether a public one is of low order; nothing is agreed with this one.
    check_entry(message, state.context, secrets.token_bytes(KEY_BYTES), state.used)
    # The newcomer comes last, so that it is the one who is left out.
    check_distinct([*state.entries.values(), message])
    return replace(state, entries={**state.entries, name: message})


def _close_keys(state: Advertising) -> tuple[Sharing, Outgoing]:
    context = state.context
    _enough(context, state.entries, context.names, "shown keys")
    names = context.ordered(state.entries)
    entries = {name: state.entries[name] for name in names}
    listed = KeyList(context.digest, tuple(entries.values()))
    return Sharing(context, entries, keys_digest(context, listed.entries)), tuple((name, listed) for name in names)


def _take_shares(state: Sharing, message: Shares) -> Sharing:
    name = message.sender
    _member(name, state.entries, "it showed no keys")
    if name in state.shares:
        _same(message, state.shares[name].signature, state.entries[name].identity)
        return state
    if len(message.rows) != len(message.recipients):
        raise SecureSumError(f"'{name}' has not dealt one row to each hospital", _LEFT_OUT)
    check_signature(message, state.entries[name].identity)
    if message.keys != state.keys or message.recipients != tuple(state.entries):
        raise SecureSumError(f"'{name}' has dealt shares for another key list", _LEFT_OUT, culprit=name)
    return replace(state, shares={**state.shares, name: message})


def _close_shares(state: Sharing) -> tuple[Masking, Outgoing]:
    context = state.context
    _enough(context, state.shares, tuple(state.entries), "dealt shares")
    dealers = context.ordered(state.shares)
    shares = {name: state.shares[name] for name in dealers}
    digests = {name: one.row_digests() for name, one in shares.items()}
    dealt = dealt_digest(context, state.keys, [(name, shares[name].seed_digest, digests[name]) for name in dealers])
    total = np.zeros(context.length, dtype=context.bounds.dtype)
    recipients = tuple(state.entries)
    outgoing = []
    for name in dealers:
        place = recipients.index(name)
        mine = tuple(
            Dealt(dealer, one.seed_digest, digests[dealer], one.rows[place], one.signature)
            for dealer, one in shares.items()
        )
        outgoing.append((name, Delivery(context.digest, name, recipients, mine)))
    return Masking(context, state.entries, state.keys, shares, dealt, total), tuple(outgoing)


def _take_vector(state: Masking, message: MaskedInput) -> Masking:
    context, name = state.context, message.sender
    _member(name, state.shares, "it dealt no shares")
    if name in state.signatures:
        _same(message, state.signatures[name], state.entries[name].identity)
        return state
    if message.words.shape != (context.length,) or message.words.dtype != context.bounds.dtype:
        raise SecureSumError(
            f"'{name}' sends a vector that is not {context.length} words of {context.bounds.bits} bits", _LEFT_OUT
        )
    check_signature(message, state.entries[name].identity)
    if message.dealt != state.dealt:
        raise SecureSumError(f"'{name}' has masked its vector for other dealt shares", _LEFT_OUT, culprit=name)
    return replace(state, total=state.total + message.words, signatures={**state.signatures, name: message.signature})


def _close_vectors(state: Masking) -> tuple[Agreeing, Outgoing]:
    context = state.context
    _enough(context, state.signatures, tuple(state.shares), "sent a vector")
    live = context.ordered(state.signatures)
    expected = Agreement(context.digest, SERVER, state.keys, state.dealt, live)
    listed = LiveList(context.digest, live)
    return Agreeing(state, expected), tuple((name, listed) for name in live)


def _take_agreement(state: Agreeing, message: Agreement) -> Agreeing:
    name = message.sender
    _member(name, state.expected.live, "it is not live")
    if name in state.agreements:
        _same(message, state.agreements[name].signature, state.masking.entries[name].identity)
        return state
    check_signature(message, state.masking.entries[name].identity)
    try:
        check_agreement(message, state.expected, state.masking.entries[name].identity)
    except SecureSumError as error:
        # The server knows what it showed, so here the hospital is to blame.
        raise SecureSumError(f"'{name}' signs another view than it was shown", _LEFT_OUT, culprit=name) from error
    return replace(state, agreements={**state.agreements, name: message})


def _close_agreements(state: Agreeing) -> tuple[Unmasking, Outgoing]:
    context, live = state.context, state.expected.live
    _enough(context, state.agreements, live, "agreed on the live list")
    signers = context.ordered(state.agreements)
    request = UnmaskRequest(context.digest, tuple(state.agreements[name] for name in signers))
    return Unmasking(state.masking, live), tuple((name, request) for name in signers)


def _take_reveal(state: Unmasking, message: Reveal) -> Unmasking:
    context, name, shares = state.context, message.sender, state.masking.shares
    _member(name, state.live, "it is not live")
    if name in state.reveals:
        _same(message, state.reveals[name].signature, state.masking.entries[name].identity)
        return state
    check_signature(message, state.masking.entries[name].identity)
    dropped = tuple(dealer for dealer in shares if dealer not in state.live)
    if tuple(dealer for dealer, _ in message.seeds) != state.live or tuple(d for d, _ in message.keys) != dropped:
        raise SecureSumError(f"'{name}' reveals other shares than were asked for", _LEFT_OUT, culprit=name)
    place = tuple(state.masking.entries).index(name)
    for what, opened in (("seed", message.seeds), ("key", message.keys)):
        for dealer, one in opened:
            row = shares[dealer].rows[place]
            committed = row.seed if what == "seed" else row.key
            if one.commitment(context.digest, dealer, name, what) != committed:
                raise SecureSumError(
                    f"'{name}' reveals a wrong share of the {what} of '{dealer}': it does not match the commitment",
                    _LEFT_OUT,
                    culprit=name,
                )
    return replace(state, reveals={**state.reveals, name: message})


def _close_reveals(state: Unmasking) -> Finished:
    context, masking = state.context, state.masking
    _enough(context, state.reveals, state.live, "revealed shares", _NEVER_AGAIN)
    used = [(context.point(name), state.reveals[name]) for name in context.ordered(state.reveals)][: context.threshold]
    total = masking.total.copy()
    for place, name in enumerate(state.live):
        seed = _reconstruct(context, name, "seed", [(point, one.seeds[place][1].value) for point, one in used])
        if seed_digest(context, name, seed) != masking.shares[name].seed_digest:
            raise _bad_dealer(name, "seed")
        add_mask(total, self_seed(seed, context, name), sign=-1)
    dropped = tuple(name for name in masking.shares if name not in state.live)
    for place, name in enumerate(dropped):
        private = _reconstruct(context, name, "key", [(point, one.keys[place][1].value) for point, one in used])
        if public_of(private) != masking.entries[name].mask:
            raise _bad_dealer(name, "key")
        for other in state.live:
            # What ``other`` added for the pair is still in the sum, with its own sign.
            pair = pair_seed(private, masking.entries[other].mask, context, masking.keys, name, other)
            add_mask(total, pair, sign=-pair_sign(context, other, name))
    limit = sum(context.limit(name) for name in state.live)
    values = from_words(total, context.bounds, limit)
    values.flags.writeable = False
    weight = None if context.weights is None else sum(context.weights[context.seat(name)] for name in state.live)
    return Finished(context, Sum(values, state.live, weight))


def _reconstruct(context: Context, dealer: str, what: str, shares: list[tuple[int, int]]) -> bytes:
    try:
        return combine(shares, context.threshold)
    except SecureSumError as error:
        raise _bad_dealer(dealer, what) from error


def _bad_dealer(dealer: str, what: str) -> SecureSumError:
    """Every share matched the dealer's commitment, so only the dealer can have made them wrong."""
    return SecureSumError(
        f"the shares of the {what} that '{dealer}' dealt do not give the {what} it published",
        _NEVER_AGAIN,
        culprit=dealer,
    )


def _enough(
    context: Context, answered: Collection[str], asked: tuple[str, ...], what: str, hint: str = _NOTHING_LEFT
) -> None:
    if len(answered) < context.threshold:
        missing = ", ".join(f"'{name}'" for name in asked if name not in answered)
        raise SecureSumError(
            f"only {len(answered)} hospitals have {what} where {context.threshold} are needed; missing: {missing}",
            hint,
        )


def _member(name: str, members: Collection[str], why: str) -> None:
    if name not in members:
        raise SecureSumError(f"'{name}' takes no part in this phase: {why}", "it must not be heard")


def _same(message: FromHospital, signature: bytes, identity: bytes) -> None:
    """A signature covers all of a hospital's message, so the same signature is the same message."""
    if message.signature != signature:
        check_signature(message, identity)  # or anybody could make a hospital look like a liar
        raise SecureSumError(
            f"'{message.sender}' sends a second {type(message).__name__} with another content",
            "the first one counts",
            culprit=message.sender,
        )

"""Whose keys and whose word is this, and can it be used? messages -> HERE. Server and hospitals check alike."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from fedmed.errors import SecureSumError
from fedmed.privacy.secure_sum.context import SERVER, Context
from fedmed.privacy.secure_sum.keys import agree, fingerprint
from fedmed.privacy.secure_sum.messages import Advertise, Agreement, check_signature


def check_entry(
    entry: Advertise, context: Context, private: bytes, used: Collection[bytes] = (), *, relay: str = ""
) -> None:
    """One hospital's keys: of this attempt, under its pinned identity, of full order, never seen before.

    Args:
        entry: what it advertised.
        context: the attempt, with everybody's fingerprint.
        private: any X25519 private key; with a key of low order it would agree on zero.
        used: public keys of earlier attempts.
        relay: who handed them over, to blame for what the hospital never signed.

    Raises:
        SecureSumError: names the hospital.
    """
    name = entry.sender
    if entry.context != context.digest:
        raise SecureSumError(
            f"the keys of '{name}' are for another run, round, attempt or cohort",
            "each attempt takes fresh keys",
            culprit=relay,
        )
    if name not in context or fingerprint(entry.identity) != context.participants[context.seat(name)].fingerprint:
        raise SecureSumError(
            f"the identity shown for '{name}' is not the pinned one",
            "compare fingerprints with it by telephone",
            culprit=relay,
        )
    check_signature(entry, entry.identity, relay=relay)
    for key in (entry.channel, entry.mask):
        agree(private, key, name)
    if entry.channel in used or entry.mask in used:
        raise SecureSumError(
            f"'{name}' shows a key of an earlier attempt", "each attempt takes fresh keys", culprit=name
        )


def check_distinct(entries: Iterable[Advertise]) -> None:
    """No key twice, within a hospital or across hospitals.

    Raises:
        SecureSumError: names both hospitals. Where they are two, either may have copied the other's, so none is shown
            to have lied.
    """
    owners: dict[bytes, str] = {}
    for entry in entries:
        for key in (entry.channel, entry.mask):
            if key in owners:
                raise SecureSumError(
                    f"'{entry.sender}' shows a public key that is also one of '{owners[key]}'",
                    "each hospital draws two keys of its own",
                    culprit=entry.sender if owners[key] == entry.sender else "",
                )
            owners[key] = entry.sender


def check_agreement(one: Agreement, own: Agreement, identity: bytes) -> None:
    """Raise unless a hospital signed, and saw what ``own`` says.

    Raises:
        SecureSumError: not signed by it, or it saw something else: then the server showed different lists, or that
            hospital misreports what it saw. Names it.
    """
    check_signature(one, identity, relay=SERVER)
    for what, theirs, mine in (
        ("context", one.context, own.context),
        ("key list", one.keys, own.keys),
        ("dealt shares", one.dealt, own.dealt),
        ("live list", one.live, own.live),
    ):
        if theirs != mine:
            raise SecureSumError(
                f"'{one.sender}' has signed that it saw another {what} than '{own.sender}': the server shows different "
                f"lists to different hospitals, or '{one.sender}' misreports",
                "the attempt must end",
                culprit=SERVER,
            )

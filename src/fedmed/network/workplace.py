"""What a hospital gives its worker: a name, keys, records, a policy. site -> HERE -> worker."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from fedmed.data.gate.source import check_scanned
from fedmed.errors import DataNotFoundError
from fedmed.network.approvals import answer_to
from fedmed.network.policy import SitePolicy
from fedmed.network.site import Site
from fedmed.network.train_header import TrainHeader
from fedmed.privacy.secure_sum.keys import Identity


class Policy(Protocol):
    """What the worker asks a hospital's policy."""

    def refusals(
        self, header: Mapping[str, Any], *, run_id: str | None = None, model_digest: str | None = None
    ) -> tuple[str, ...]:
        """Why a training does not fit; empty: it does."""
        ...

    def sum_refusals(self, hospitals: int, threshold: int) -> tuple[str, ...]:
        """Why a secure sum does not fit."""
        ...

    def summary(self) -> dict[str, Any]:
        """What the coordinator may know of it; ``models`` lists the base models that may be loaded, by name."""
        ...


def _no_objection(_: TrainHeader) -> tuple[str, ...]:
    return ()


@dataclass(frozen=True, slots=True)
class Workplace:
    """What the hospital gives its worker; what may change while it runs is asked anew for each order.

    Args:
        name: the hospital's.
        folder: its own; ledger/, state/, outbox/ and adapters/ are the worker's.
        identity: signs replies and secure sums.
        coordinator_public: the pinned Ed25519 key.
        records: a file or folder.
        pins: name -> identity fingerprint of each hospital that is trusted.
        policy: what is accepted.
        consent: why a person has not agreed to a training; empty: nobody need, or somebody has.
    """

    name: str
    folder: Path
    identity: Identity
    coordinator_public: bytes
    records: Path
    pins: Callable[[], Mapping[str, bytes]]
    policy: Callable[[], Policy]
    consent: Callable[[TrainHeader], tuple[str, ...]] = _no_objection


def workplace_at(site: Site, *, passphrase: bytes | None = None, records: Path | None = None) -> Workplace:
    """A hospital's own folder as its worker sees it: policy, pins and answers of people are read anew for each order.

    Args:
        site: the folder.
        passphrase: of the identity key.
        records: a file or folder; None: the one that the site names.

    Raises:
        KeyFileError, SitePolicyError, RosterError: what is there cannot be used.
        DataNotFoundError: no records are named, or they are not there.
        UnscannedError: nobody scanned them, and the policy wants that.
    """
    where = records or site.data
    if where is None or not where.exists():
        raise DataNotFoundError(
            f"the records of '{site.name}' are not at {where}" if where else f"no records of '{site.name}' are named",
            "give their file or folder with --data",
        )
    if SitePolicy.read(site.policy_path).rules.records == "scanned":
        check_scanned(where, f"set 'records: any' in {site.policy_path}")
    site.pins()  # what is wrong is said now, rather than to the first order

    def consent(wanted: TrainHeader) -> tuple[str, ...]:
        if not SitePolicy.read(site.policy_path).ask:
            return ()
        said = answer_to(site.approvals, wanted)
        return () if said == "accepted" else (_WAITING[said],)

    return Workplace(
        site.name, site.path.absolute(), site.identity(passphrase), site.coordinator_public, where.absolute(),
        site.pins, lambda: SitePolicy.read(site.policy_path), consent,
    )  # fmt: skip


_WAITING = {
    "pending": "it waits for a person at the hospital: 'fedmed federation consent' there",
    "declined": "a person at the hospital declined it",
}

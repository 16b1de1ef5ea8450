"""What a federation enters into its audit log, and when. runner, transport -> HERE -> utils.audit_log.

    once         plan, approvals, manifests
    a round      decision, round; its head to every hospital; then charges, payloads, refusals, and what came of it
    at the end   adapters, evaluations, end, signature; the last head to every hospital

A round is entered before it begins, and its result before any checkpoint holds it. So a run that was killed and goes on
shows which rounds were begun again, and a checkpoint whose round is not in the log is not gone on from.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from fedmed.errors import AuditLogError, QuorumError
from fedmed.federated.runner import FederationState, Transport
from fedmed.privacy.accountant import event_as_dict
from fedmed.privacy.ledger import Ledger
from fedmed.types import (
    AdapterState,
    Algorithm,
    HospitalState,
    Payload,
    RoundPlan,
    RoundReport,
    SummedPayload,
)
from fedmed.utils.audit_events import event, reason
from fedmed.utils.audit_log import AuditLog, Head
from fedmed.utils.digests import arrays_sha256

Give: TypeAlias = Callable[[Head, int, int, bool], None]
"""Takes a head to every hospital: head, round, attempt, whether the run ended with it."""

Events: TypeAlias = list[dict[str, Any]]


class AuditTrail:
    """One run's entries.

    Args:
        log: open, of this run.
        give: takes heads to the hospitals; in a simulation each one's ``Witness.receive``.
        ledgers: hospital -> its ledger, where the coordinator may read it; none on a network.
    """

    def __init__(self, log: AuditLog, give: Give, ledgers: Mapping[str, Ledger]) -> None:
        self._log, self._give, self._ledgers = log, give, ledgers
        self._begun = Counter(line["round"] for line in log.found if line["kind"] == "round")
        self._charged = {(line["hospital"], line["line"]) for line in log.found if line["kind"] == "charge"}
        self._all: list[str] = next((line["hospitals"] for line in log.found if line["kind"] == "plan"), [])
        self._decisions: Events = []
        self._at = (0, 0)  # round and attempt that go on

    @property
    def new(self) -> bool:
        """Whether no plan was entered yet."""
        return not any(line["kind"] == "plan" for line in self._log.found)

    @property
    def head(self) -> Head:
        return self._log.head

    def planned(
        self, plan: Mapping[str, Any], manifests: Mapping[str, str], *, how: str, signatures: Mapping[str, str] = {}
    ) -> None:
        """Enter what was agreed to do, by whom, on which records.

        Args:
            plan: the fields of a line of kind ``plan``.
            manifests: hospital -> digest of what describes its records.
            how: hospitals agreed: "simulated", "signed".
            signatures: hospital -> its signature of the plan's digest, hexadecimal.
        """
        approvals = [
            event("approval", by=name, plan=plan["digest"], how=how, signature=signatures.get(name))
            for name in plan["hospitals"]
        ]
        records = [event("manifest", hospital=name, digest=digest) for name, digest in manifests.items()]
        self._all = plan["hospitals"]
        self._log.append(event("plan", **plan), *approvals, *records)

    def resumed(self, state: FederationState) -> None:
        """Enter that the run goes on from a checkpoint, after comparing the two.

        Raises:
            AuditLogError: the log does not know the checkpoint.
        """
        digest = arrays_sha256(state.global_state)
        done = [
            line["digest"] for line in self._log.found if line["kind"] == "applied" and line["round"] == state.round
        ]
        if state.round and digest not in done:
            raise AuditLogError(
                f"{self._log.path} does not know the state after round {state.round} that the checkpoint holds",
                "put back the log and the checkpoints of this run together, or start a new run",
            )
        again = max(0, max(self._begun, default=0) - state.round)
        self._log.append(*self._charges(), event("resume", after_round=state.round, digest=digest, again=again))

    def decide(
        self, round: int, decision: str, why: str, *, hospitals: Sequence[str] = (), numbers: Mapping[str, float] = {}
    ) -> None:
        """Keep a decision to be entered before its round begins, or with the next thing that is.

        Args:
            round: it is about.
            decision: one word: ask, weigh, quarantine, roll back, stop …
            why: one line.
            hospitals: it is about.
            numbers: behind it.
        """
        self._decisions.append(
            event(
                "decision", round=round, decision=decision, hospitals=list(hospitals), reason=reason(why),
                numbers=dict(numbers),
            )
        )  # fmt: skip

    def begins(self, plan: RoundPlan, state: AdapterState) -> Head:
        """Enter a round before it begins, and give its head to every hospital.

        Args:
            plan: who is asked.
            state: what they start from.
        """
        attempt = self._begun[plan.round]
        self._at = (plan.round, attempt)
        if not any(line["round"] == plan.round for line in self._decisions):  # a policy that gives no reasons
            asked, known = len(plan.hospitals), len(self._all)
            why = "all hospitals take part" if asked == known else f"{asked} of {known} hospitals take part"
            numbers = {"asked": asked, "hospitals": known, "min_replies": plan.min_replies}
            self.decide(plan.round, "ask", why, hospitals=plan.hospitals, numbers=numbers)
        head = self._log.append(
            *self._decided(),
            event(
                "round", round=plan.round, attempt=attempt, hospitals=list(plan.hospitals),
                min_replies=plan.min_replies, digest=arrays_sha256(state),
            ),
        )  # fmt: skip
        self._begun[plan.round] += 1
        self._give(head, *self._at, False)
        return head

    def applied(self, state: FederationState, report: RoundReport) -> None:
        """Enter what came of a round; before a checkpoint holds it."""
        round, attempt = self._at
        entries = self._decided() + self._charges()
        for name in report.admitted:
            entries.append(
                event(
                    "payload", round=round, attempt=attempt, hospital=name, digest=report.digests.get(name) or None,
                    weight=report.num_samples[name],
                )
            )  # fmt: skip
        entries += self._refusals(report.refused)
        entries.append(
            event(
                "applied", round=round, attempt=attempt, admitted=list(report.admitted),
                digest=arrays_sha256(state.global_state), update_norm=float(report.update_norm),
            )
        )  # fmt: skip
        self._log.append(*entries)

    def enter(self, *events: Mapping[str, Any]) -> None:
        """Other lines, made by ``event``: adapters, evaluations."""
        self._log.append(*self._decided(), *events)

    def ended(self, rounds: int) -> Head:
        """Sign, and give every hospital the head that covers the signature."""
        head = self._log.sign(*self._decided(), *self._charges(), event("end", rounds=rounds))
        self._give(head, rounds, max(0, self._begun[rounds] - 1), True)
        return head

    def stopped(self, error: BaseException) -> None:
        """Enter that the process ends before its run; of a round without quorum, who was refused and why."""
        refused = error.refused if isinstance(error, QuorumError) else {}
        self._log.append(
            *self._decided(), *self._charges(), *self._refusals(refused),
            event("stopped", reason=type(error).__name__),
        )  # fmt: skip

    def _decided(self) -> Events:
        decisions, self._decisions = self._decisions, []
        return decisions

    def _refusals(self, refused: Mapping[str, str]) -> Events:
        round, attempt = self._at
        return [
            event("refusal", round=round, attempt=attempt, hospital=name, reason=reason(why))
            for name, why in refused.items()
        ]

    def _charges(self) -> Events:
        """What ledgers hold of this run and the log does not yet; also what a killed process charged."""
        return [event("charge", **fields) for fields in self._new_charges()]

    def _new_charges(self) -> Iterator[dict[str, Any]]:
        for hospital, ledger in self._ledgers.items():
            digests = ledger.digests()
            for entry in ledger.entries():
                if entry.run_id != self._log.head.run or (hospital, entry.seq + 1) in self._charged:
                    continue
                self._charged.add((hospital, entry.seq + 1))
                yield {
                    "round": entry.round, "attempt": entry.attempt, "hospital": hospital, "unit": entry.event.unit,
                    "mechanism": event_as_dict(entry.event)["kind"], "line": entry.seq + 1, "head": digests[entry.seq],
                }  # fmt: skip


class AuditedTransport:
    """A transport whose rounds are entered before they begin.

    Args:
        inner: takes the plans.
        trail: of the run.
    """

    def __init__(self, inner: Transport, trail: AuditTrail) -> None:
        self._inner, self._trail = inner, trail

    def exchange(
        self, plan: RoundPlan, global_state: AdapterState, algorithm: Algorithm
    ) -> Iterator[Payload] | SummedPayload:
        """As the inner transport does, once the round is in the log and its head with the hospitals."""
        self._trail.begins(plan, global_state)
        return self._inner.exchange(plan, global_state, algorithm)

    def commit(self, report: RoundReport) -> Mapping[str, HospitalState]:
        return self._inner.commit(report)

"""The hospital's worker: it alone reads records, keys, policy and ledger. order -> HERE -> reply.

    hello    header nonce                                     -> hello: name, version, base model, policy, state held
    train    header config, config_digest, plan, algorithm,   -> payload: a ``wire`` payload or a masked vector; header
             admitted, state, base_model; body a ``wire``        num_samples, metrics, ledger_head, base_model, masked
             global state (global_state.py)
    sum      see hospital_sum.py                              -> sum: messages (``orders.split``)
    finish   header admitted; to get an adapter also config,  -> finished: saved
             algorithm, state, and the body
    any                                                       -> refused: reasons   |   failed: error, reasons, culprit

The relay and the coordinator are not trusted. An order counts only under the coordinator's pinned key; the hospital's
own policy is asked before anything is done; what is refused has changed nothing. A reply is on the disk before it
leaves, so an order that comes again gets the same bytes, and nothing is trained, charged or revealed twice. A reason
that leaves never holds a record's text or a path of this machine.

Not covered: a coordinator that sends a harmful global state or plan within the policy; who may read the site's folder.
"""

from __future__ import annotations

import logging
import re
import threading
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any
from urllib.parse import quote

from fedmed import __version__
from fedmed.config.load import config_digest
from fedmed.errors import (
    ConfigError,
    FederationError,
    FedMedError,
    ModelError,
    PlanRefusedError,
    PrivacyError,
    RunError,
    SecureSumError,
    TrainingError,
    WireError,
)
from fedmed.network.global_state import state_digest, unpack_state
from fedmed.network.hospital_half import HospitalHalf, unfit_settings
from fedmed.network.hospital_sum import HospitalSums
from fedmed.network.orders import (
    LARGEST_FRAME,
    Order,
    Reply,
    ReplyKind,
    decode_order,
    digest_of,
    encode_reply,
    join,
)
from fedmed.network.outbox import Key, Outbox
from fedmed.network.run_memory import RunMemory
from fedmed.network.train_header import TrainHeader
from fedmed.network.workplace import Workplace
from fedmed.privacy.secure_sum.context import default_threshold
from fedmed.types import AdapterState

log = logging.getLogger(__name__)

_MOST_SAID = 16  # answers of one secure sum that are kept for an order that comes again; an attempt has four
_LONGEST_REASON, _MOST_REASONS = 500, 50  # a coordinator's own text may be in them, and a header is short
_PATH = re.compile(r"(?<![\w.])~?/[^\s'\",;()]+")
_PLAIN = (ConfigError, FederationError, ModelError, PrivacyError, RunError, TrainingError)
"""Errors whose words leave: none of them quotes a record. Of all others only their name does."""


class Worker:
    """Answers orders, one at a time.

    Args:
        place: the hospital.
        half: trains; None: on the hospital's records and the model of each run.
        limit: longest order, in bytes.
    """

    def __init__(self, place: Workplace, half: HospitalHalf | None = None, *, limit: int = LARGEST_FRAME) -> None:
        self._place, self._limit = place, limit
        self._half = half or HospitalHalf(place.name, place.records, place.folder / "ledger")
        self._memory = RunMemory(place.folder / "state")
        self._outbox = Outbox(place.folder / "outbox")
        self._sums = HospitalSums(place.name, place.identity, self._memory)
        self._said: dict[str, bytes] = {}  # digest of an order of the secure sum at hand -> the reply
        self._held: AdapterState | None = None  # the newest global state
        self._busy = threading.Lock()

    def answer(self, raw: bytes) -> bytes:
        """The reply to any bytes; never raises an Exception."""
        with self._busy:
            asked = digest_of(raw)
            try:
                order = decode_order(raw, self._place.coordinator_public, limit=self._limit)
                if order.hospital != self._place.name:
                    raise WireError(f"the order is for another hospital than '{self._place.name}'")
            except WireError as error:
                log.warning("refused: %s", error.what)
                return self._reply("refused", None, asked, {"reasons": [error.what]})
            try:
                return self._act(order, asked)
            except PlanRefusedError as refused:
                reasons = [reason[:_LONGEST_REASON] for reason in refused.reasons or (refused.what,)][:_MOST_REASONS]
                log.warning("refused %s of round %d: %s", order.kind, order.round, "; ".join(reasons))
                return self._reply("refused", order, asked, {"reasons": reasons})
            except Exception as error:  # noqa: BLE001  (whatever fails here, the coordinator gets a signed line)
                log.error("failed %s of round %d: %s", order.kind, order.round, _for_the_log(error))
                header = {"error": type(error).__name__, "reasons": [self._for_others(error)]}
                if isinstance(error, SecureSumError):
                    header["culprit"] = error.culprit
                return self._reply("failed", order, asked, header)

    def _act(self, order: Order, asked: str) -> bytes:
        match order.kind:
            case "hello":
                return self._reply("hello", order, asked, self._greeting(order))
            case "train":
                return self._train(order, asked)
            case "sum":
                return self._sum(order, asked)
            case "finish":
                return self._finish(order, asked)

    def _greeting(self, order: Order) -> dict[str, Any]:
        nonce = order.header.get("nonce")
        if not isinstance(nonce, str) or len(nonce) > 200:
            raise _refused("the hello brings no nonce of at most 200 characters")
        return {
            "name": self._place.name,
            "nonce": nonce,
            "fedmed_version": __version__,
            "base_model": self._half.loaded_digest(),
            "accepts": self._place.policy().summary(),
            "held": None if self._held is None else state_digest(self._held),
        }

    def _train(self, order: Order, asked: str) -> bytes:
        key = Key(order.run_id, order.round, order.attempt)
        with _as_refusal():
            if self._memory.run(order.run_id).finished:
                raise FederationError("the run is finished here")
            said = self._outbox.find(key, asked)
            if said is not None:
                return said
            self._memory.check_new(order.run_id, order.round, order.attempt)
        wanted, digest = self._accepted(order)
        settings, plan = wanted.settings, wanted.plan
        with _as_refusal():
            self._memory.settle(order.run_id, config_digest(settings), digest)
            admitted = _admitted(order.header)
            kept = self._outbox.kept(order.run_id, admitted)
        state = self._global_state(order, wanted)
        masked = settings.privacy.secure_sum
        cohort = self._cohort(order, wanted) if masked else ()
        sent = self._half.train(settings, plan, state, kept, cohort)
        body = sent.message if sent.vector is None else self._sums.contribute(order, sent.vector)
        header = {
            "num_samples": sent.payload.num_samples,
            "metrics": None if sent.payload.metrics is None else asdict(sent.payload.metrics),
            "ledger_head": self._half.ledger_head(),
            "base_model": digest,
            "held": state_digest(state),
            "masked": masked,
        }
        reply = self._reply("payload", order, asked, header, body)
        self._outbox.put(key, asked, reply, sent.kept)
        self._memory.answered(order.run_id, order.round, order.attempt)
        self._outbox.tidy(order.run_id, admitted, key)
        return reply

    def _accepted(self, order: Order) -> tuple[TrainHeader, str | None]:
        """What a train order asks, once nothing is against it, and the digest of the base model here."""
        wanted = TrainHeader.read(order.header)
        plan, settings = wanted.plan, wanted.settings
        reasons = list(unfit_settings(settings, plan))
        if (plan.run_id, plan.round, plan.hospital) != (order.run_id, order.round, order.hospital):
            reasons.append("the plan is of another run, round or hospital than its order")
        if order.header.get("config_digest") != config_digest(settings):
            reasons.append("the settings do not have the digest that the order states: compare versions of FED-MED")
        policy = self._place.policy()
        allowed = policy.summary().get("models", ())
        known = any(model.get("name") == settings.model.name for model in allowed)
        digest = self._half.base_digest(settings) if known else None  # a model is loaded only where it is allowed
        wants = order.header.get("base_model")
        if wants is not None and wants != digest:
            reasons.append(f"the base model here has the digest {digest}, and the order wants {str(wants)[:64]}")
        reasons += policy.refusals(order.header, run_id=order.run_id, model_digest=digest)
        if not reasons:
            reasons += self._place.consent(wanted)
        if reasons:
            raise PlanRefusedError("; ".join(reasons), reasons=tuple(dict.fromkeys(reasons)))
        return wanted, digest

    def _global_state(self, order: Order, wanted: TrainHeader) -> AdapterState:
        with _as_refusal():
            self._held = unpack_state(
                order.header.get("state"), order.body, self._held, round=order.round, algorithm=wanted.algorithm,
                top_k_share=wanted.settings.federated.wire.top_k_share,
            )  # fmt: skip
        return self._held

    def _cohort(self, order: Order, wanted: TrainHeader) -> tuple[str, ...]:
        cohort = self._sums.cohort(order)
        if len(cohort) != wanted.plan.asked:
            raise _refused(f"the plan asks {wanted.plan.asked} hospitals, and {len(cohort)} are in the secure sum")
        least = wanted.settings.privacy.secure_sum_threshold or default_threshold(len(cohort))
        if self._sums.threshold(order) < least:
            raise _refused(f"the secure sum opens with {self._sums.threshold(order)} hospitals, the plan says {least}")
        return cohort

    def _sum(self, order: Order, asked: str) -> bytes:
        if asked in self._said:
            return self._said[asked]
        step = order.header.get("step")
        if step == "open":
            with _as_refusal():
                reasons, answers = self._sums.open(order, self._place.pins(), self._place.policy().sum_refusals)
            if reasons:
                raise PlanRefusedError("; ".join(reasons), reasons=reasons)
            self._said = {}
        elif step == "message":
            answers = self._sums.message(order)
        else:
            raise _refused("the order names no step of a secure sum that is known")
        reply = self._reply("sum", order, asked, {}, join(answers))
        if len(self._said) < _MOST_SAID:
            self._said[asked] = reply
        return reply

    def _finish(self, order: Order, asked: str) -> bytes:
        run = self._memory.run(order.run_id)
        place = self._place.folder / "adapters" / _file_name(order.run_id)
        if not run.finished and run.config_digest is not None and "state" in order.header:
            wanted = TrainHeader.read(order.header)
            if config_digest(wanted.settings) != run.config_digest:
                raise _refused("the run was begun under other settings here")
            with _as_refusal():
                kept = self._outbox.kept(order.run_id, _admitted(order.header))
            self._half.save_adapter(wanted.settings, self._global_state(order, wanted), kept, place)
        self._memory.finish(order.run_id)
        self._outbox.drop(order.run_id)
        self._sums.leave()
        return self._reply("finished", order, asked, {"saved": place.is_dir()})

    def _reply(
        self, kind: ReplyKind, order: Order | None, answers: str, header: Mapping[str, Any], body: bytes = b""
    ) -> bytes:
        of = (order.run_id, order.round, order.attempt) if order else ("", 0, 0)
        return encode_reply(Reply(kind, *of, self._place.name, answers, header, body), self._place.identity.sign)

    def _for_others(self, error: Exception) -> str:
        """One line that may leave the hospital."""
        if not isinstance(error, _PLAIN):
            return f"{type(error).__name__} at the hospital; its own log says where"
        words = error.what.replace(str(self._place.folder), "the hospital's folder")
        return " ".join(_PATH.sub("a path there", words).split())[:_LONGEST_REASON]


@contextmanager
def _as_refusal() -> Iterator[None]:
    """What an order asks cannot be, given what was before: told as a reason, not as a failure."""
    try:
        yield
    except FederationError as error:
        raise _refused(error.what + (f": {error.hint}" if error.hint else "")) from error


def _refused(why: str) -> PlanRefusedError:
    return PlanRefusedError(why, reasons=(why,))


def _admitted(header: Mapping[str, Any]) -> tuple[int, int] | None:
    admitted = header.get("admitted")
    if admitted is None:
        return None
    if isinstance(admitted, list) and len(admitted) == 2 and all(type(one) is int and one >= 0 for one in admitted):
        return admitted[0], admitted[1]
    raise WireError("the order's 'admitted' is neither null nor a round and an attempt")


def _file_name(run_id: str) -> str:
    return "run-" + quote(run_id, safe="")[:100]


def _for_the_log(error: Exception) -> str:
    """What happened and where; not the words of an error that is not ours, which may quote a record."""
    if isinstance(error, FedMedError):
        return str(error)
    frames = traceback.extract_tb(error.__traceback__)
    return f"{type(error).__name__} at {frames[-1].filename}:{frames[-1].lineno}" if frames else type(error).__name__

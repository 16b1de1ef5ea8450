"""The worker does what a signed, fresh and acceptable order says, once; of all else it says why not."""

from __future__ import annotations

import json
import os
import random
import stat
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from fedmed.config.load import config_digest
from fedmed.config.schema import FedMedConfig
from fedmed.errors import DataFormatError, TrainingError, WireError
from fedmed.federated.algorithms import get_algorithm
from fedmed.federated.wire import decode_payload
from fedmed.network import hospital_half
from fedmed.network.global_state import pack_whole, state_digest
from fedmed.network.hospital_half import HospitalHalf
from fedmed.network.orders import Order, Reply, decode_reply, digest_of, encode_order
from fedmed.network.run_memory import RunMemory
from fedmed.network.worker import Worker
from fedmed.network.workplace import Workplace
from fedmed.privacy.secure_sum.keys import Identity
from fedmed.types import LocalPlan, LocalTrainer

pytestmark = pytest.mark.unit

NAME, DIGEST = "hospital_A", "ab" * 32
COORDINATOR = Identity.generate(random.Random("coordinator").randbytes)
STRANGER = Identity.generate(random.Random("stranger").randbytes)
IDENTITY = Identity.generate(random.Random("identity").randbytes)


class OpenPolicy:
    """Accepts everything, or refuses with the reasons it is given."""

    def __init__(self, *reasons: str) -> None:
        self.reasons = reasons
        self.seen: list[str | None] = []

    def refusals(
        self, header: Mapping[str, Any], *, run_id: str | None = None, model_digest: str | None = None
    ) -> tuple[str, ...]:
        self.seen.append(model_digest)
        return self.reasons

    def sum_refusals(self, hospitals: int, threshold: int) -> tuple[str, ...]:
        return self.reasons

    def summary(self) -> dict[str, Any]:
        return {"models": [{"name": FedMedConfig().model.name, "digest": None}]}


class ToyHalf(HospitalHalf):
    """Trains on two small arrays, in numpy."""

    def __init__(self, trainer: LocalTrainer) -> None:
        super().__init__(NAME, Path("/nowhere"), Path("/nowhere"))
        self.trainer, self.trainings = trainer, 0
        self.fails: Exception | None = None

    def base_digest(self, asked: FedMedConfig) -> str:
        return DIGEST

    def loaded_digest(self) -> str | None:
        return None

    def _trainer(self, *args: Any) -> LocalTrainer:
        return self

    def run(self, jobs: Any) -> Any:
        self.trainings += 1
        if self.fails:
            raise self.fails
        return self.trainer.run(jobs)


class Lab:
    """One worker, and orders for it."""

    def __init__(self, folder: Path, toy: Any) -> None:
        self.folder, self.toy = folder, toy
        self.policy = OpenPolicy()
        self.half = ToyHalf(toy.trainer((NAME, "hospital_B")))
        self.config = FedMedConfig()
        self.worker = self.restarted()

    def restarted(self, **changes: Any) -> Worker:
        place = Workplace(
            NAME, self.folder, IDENTITY, COORDINATOR.public, Path("/nowhere"), dict, lambda: self.policy, **changes
        )
        return Worker(place, self.half)

    def order(self, round: int = 1, attempt: int = 0, *, expires: float = 60, **header: Any) -> Order:
        state, body = pack_whole(self.toy.state("global", round), round=round, algorithm="fedavg")
        plan = LocalPlan("run", round, self.config.federated.rounds, NAME, self.config.federated.seed, asked=4)
        full = {
            "config": self.config.as_dict(), "config_digest": config_digest(self.config), "plan": asdict(plan),
            "algorithm": "fedavg", "admitted": None, "state": state, "base_model": DIGEST, **header,
        }  # fmt: skip
        return Order("train", "run", round, attempt, NAME, int(time.time() + expires), full, body)

    def ask(self, order: Order, key: Identity = COORDINATOR) -> Reply:
        raw = encode_order(order, key.sign)
        return decode_reply(self.worker.answer(raw), IDENTITY.public, digest_of(raw))

    def refused(self, order: Order, says: str, key: Identity = COORDINATOR) -> None:
        """Refused with this reason, untrained, and the same order is not remembered."""
        before = self.half.trainings
        reply = self.ask(order, key)
        assert reply.kind == "refused"
        assert says in "; ".join(reply.header["reasons"])
        assert reply.body == b""
        assert self.half.trainings == before


@pytest.fixture
def lab(tmp_path: Path, toy: Any) -> Lab:
    return Lab(tmp_path / "site", toy)


def test_a_train_order_is_answered_with_the_payload_that_a_simulation_makes(lab: Lab) -> None:
    reply = lab.ask(lab.order())
    assert reply.kind == "payload"
    algorithm, start = get_algorithm(lab.config.federated), lab.toy.state("global", 1)
    plan = LocalPlan("run", 1, 10, NAME, 17, asked=4)
    job = algorithm.begin(start, {}, plan)
    (result,) = lab.half.trainer.run([job])
    expected, _ = algorithm.finish(job, result, {})
    payload = decode_payload(reply.body, algorithm.template(start, plan))
    assert lab.toy.same_bits(payload.arrays, expected.arrays)
    assert payload.num_samples == reply.header["num_samples"] == 10
    assert reply.header["metrics"]["loss"] == result.metrics.loss
    assert (reply.header["ledger_head"], reply.header["base_model"]) == (None, DIGEST)
    assert reply.header["held"] == state_digest(start)
    assert lab.policy.seen == [DIGEST]


def test_a_hello_tells_who_is_here_and_what_it_accepts(lab: Lab) -> None:
    hello = Order("hello", "", 0, 0, NAME, int(time.time()) + 60, {"nonce": "n" * 32})
    reply = lab.ask(hello)
    assert reply.kind == "hello"
    assert (reply.header["name"], reply.header["nonce"], reply.header["held"]) == (NAME, "n" * 32, None)
    assert reply.header["accepts"] == lab.policy.summary()
    lab.ask(lab.order())
    assert lab.ask(hello).header["held"] == state_digest(lab.toy.state("global", 1))
    lab.refused(replace(hello, header={}), "nonce")


def test_the_same_order_again_gets_the_same_bytes_and_trains_once_also_after_a_restart(lab: Lab) -> None:
    raw = encode_order(lab.order(), COORDINATOR.sign)
    first = lab.worker.answer(raw)
    later = encode_order(lab.order(expires=600), COORDINATOR.sign)
    assert later != raw
    assert lab.worker.answer(raw) == lab.worker.answer(later) == lab.restarted().answer(raw) == first
    assert lab.half.trainings == 1


def test_a_worker_killed_between_training_and_reply_gives_the_same_bytes(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = encode_order(lab.order(), COORDINATOR.sign)

    def dies(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(RunMemory, "answered", dies)
    with pytest.raises(KeyboardInterrupt):
        lab.worker.answer(raw)
    monkeypatch.undo()
    reply = lab.restarted().answer(raw)
    assert decode_reply(reply, IDENTITY.public, digest_of(raw)).kind == "payload"
    assert lab.half.trainings == 1


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda raw: b"", "inside its envelope"),
        (lambda raw: b"garbage " * 40, "no order of FED-MED"),
        (lambda raw: raw[:-1] + bytes([raw[-1] ^ 1]), "not signed by the coordinator"),
        (lambda raw: raw[:60] + bytes([raw[60] ^ 1]) + raw[61:], "not signed by the coordinator"),
        (lambda raw: raw[:-64] + bytes(64), "not signed by the coordinator"),
        (lambda raw: raw[:4] + b"\x09" + raw[5:], "version 9"),
    ],
)
def test_bytes_that_are_no_order_get_a_signed_refusal_and_no_update(
    lab: Lab, spoil: Callable[[bytes], bytes], says: str
) -> None:
    raw = spoil(encode_order(lab.order(), COORDINATOR.sign))
    reply = decode_reply(lab.worker.answer(raw), IDENTITY.public, digest_of(raw))
    assert (reply.kind, reply.run_id, reply.body) == ("refused", "", b"")
    assert says in reply.header["reasons"][0]
    assert lab.half.trainings == 0


def test_a_forged_foreign_or_expired_order_gets_no_update(lab: Lab) -> None:
    lab.refused(lab.order(), "not signed by the coordinator", STRANGER)
    lab.refused(replace(lab.order(), hospital="hospital_B"), "another hospital")
    lab.refused(lab.order(expires=-5), "expired")


def test_a_replayed_or_stale_order_gets_no_update(lab: Lab) -> None:
    for round in range(1, 8):
        assert lab.ask(lab.order(round)).kind == "payload"
    lab.refused(lab.order(1), "stale")  # its answer is no longer kept
    lab.refused(lab.order(7, 0, admitted=[6, 0]), "another order was answered in round 7, attempt 0")
    assert lab.ask(lab.order(5, 1)).kind == "payload"  # a coordinator that went back to a checkpoint


def test_a_finished_run_stays_finished(lab: Lab) -> None:
    lab.ask(lab.order())
    finish = Order("finish", "run", 10, 0, NAME, int(time.time()) + 60, {"admitted": [1, 0]})
    first = lab.ask(finish)
    assert (first.kind, first.header) == ("finished", {"saved": False})
    assert lab.ask(finish) == first
    lab.worker = lab.restarted()
    lab.refused(lab.order(), "finished")
    lab.refused(lab.order(2), "finished")
    lab.refused(replace(lab.order(), kind="sum", header={"step": "open"}, body=b""), "cohort")
    assert list((lab.folder / "outbox").iterdir()) == []


def test_all_reasons_of_the_policy_and_of_the_order_itself_are_told(lab: Lab) -> None:
    lab.policy.reasons = ("too many rounds", "no noise")
    plan = {**lab.order().header["plan"], "round": 2, "seed": 5}
    reply = lab.ask(lab.order(plan=plan, config_digest="0" * 64, base_model="cd" * 32))
    assert reply.kind == "refused"
    told = "; ".join(reply.header["reasons"])
    for part in ("too many rounds", "no noise", "another run, round or hospital", "another seed", "digest"):
        assert part in told
    assert lab.half.trainings == 0
    lab.policy.reasons = ("x" * 10_000,) * 10_000
    assert len(lab.ask(lab.order()).header["reasons"]) == 1
    lab.policy.reasons = tuple(f"{number} " + "x" * 10_000 for number in range(10_000))
    assert len(str(lab.ask(lab.order()).header["reasons"])) < 30_000
    lab.policy.reasons = ()
    assert lab.ask(lab.order()).kind == "payload"  # a refusal is not remembered


def test_a_model_that_the_policy_does_not_name_is_not_even_loaded(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ToyHalf, "base_digest", lambda *_: pytest.fail("it was loaded"))
    model = lab.config.model.model_copy(update={"name": "somebody/model"})
    lab.config = lab.config.model_copy(update={"model": model})
    lab.refused(lab.order(), "digest")
    assert lab.policy.seen == [None]


def test_a_person_is_asked_only_about_what_the_policy_lets_through(lab: Lab) -> None:
    asked = []
    lab.worker = lab.restarted(consent=lambda wanted: asked.append(wanted.plan.round) or ("a person must agree",))
    lab.refused(lab.order(), "a person must agree")
    lab.policy.reasons = ("no",)
    lab.refused(lab.order(), "no")
    assert asked == [1]


def test_settings_that_no_hospital_can_do_are_refused(lab: Lab) -> None:
    for privacy, says in [
        ({"example": {"epsilon": 8.0, "noise_seed": 1}}, "noise_seed"),
        ({"hospital": {"epsilon": 8.0}}, "noise_multiplier must be set"),
        ({"secure_sum_threshold": 3}, "does nothing"),
    ]:
        lab.config = FedMedConfig.model_validate({"privacy": privacy})
        lab.refused(lab.order(), says)


def test_a_run_under_masks_needs_a_seat_first(lab: Lab) -> None:
    lab.config = FedMedConfig.model_validate({"privacy": {"secure_sum": True}})
    reply = lab.ask(lab.order())
    assert (reply.kind, reply.header["error"]) == ("failed", "SecureSumError")
    assert "has no seat" in reply.header["reasons"][0]
    assert lab.half.trainings == 0


def test_settings_and_base_model_of_a_run_cannot_be_changed_midway(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.ask(lab.order())
    monkeypatch.setattr(ToyHalf, "base_digest", lambda *_: "cd" * 32)
    lab.refused(lab.order(2, base_model=None), "base model at this hospital has changed")
    monkeypatch.undo()
    lab.config = FedMedConfig.model_validate({"training": {"learning_rate": 0.5}})
    lab.refused(lab.order(2), "other settings")


def test_a_failure_is_told_in_one_line_without_a_records_text_or_a_path(
    lab: Lab, caplog: pytest.LogCaptureFixture
) -> None:
    secret = "Mrs Example has asthma"
    for error, told in [
        (ValueError(secret), "ValueError at the hospital"),
        (DataFormatError(f"row 3 says {secret}"), "DataFormatError at the hospital"),
        (TrainingError(f"no room in\n{lab.folder} or '/home/x/y z'"), "no room in the hospital's folder or 'a path"),
    ]:
        lab.half.fails = error
        reply = lab.ask(lab.order())
        assert reply.kind == "failed"
        assert reply.header["error"] == type(error).__name__
        (reason,) = reply.header["reasons"]
        assert told in reason
        assert secret not in reason
        assert "\n" not in reason
    assert f"ValueError at {__file__}" in caplog.text
    lab.half.fails = None
    assert lab.ask(lab.order()).kind == "payload"  # the same order again: nothing was answered under it


def test_a_full_disk_lets_no_reply_leave(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    order, real = lab.order(), os.fsync

    def full(handle: int) -> None:
        if "outbox" in str(Path(f"/proc/self/fd/{handle}").readlink()):
            raise OSError(28, "No space left on device")
        real(handle)

    monkeypatch.setattr(os, "fsync", full)
    reply = lab.ask(order)
    assert (reply.kind, reply.header["error"]) == ("failed", "DiskFullError")
    monkeypatch.undo()
    assert lab.ask(order).kind == "payload"


def test_a_state_that_does_not_come_out_as_stated_is_refused(lab: Lab) -> None:
    order = lab.order()
    changed = {**order.header["state"], "form": "changed", "known": state_digest({})}
    lab.refused(lab.order(state=changed), "send the whole global state")
    lab.refused(replace(order, body=order.body[:-1]), "bytes")
    lab.refused(replace(order, header={**order.header, "admitted": "last"}), "'admitted'")
    lab.refused(lab.order(admitted=[4, 2]), "no longer has what it kept in round 4, attempt 2")


def test_what_is_refused_leaves_no_file_but_the_workers_own_folders(lab: Lab) -> None:
    lab.policy.reasons = ("no",)
    lab.ask(lab.order())
    assert sorted(path.name for path in lab.folder.iterdir()) == ["outbox", "state"]
    assert [*(lab.folder / "outbox").iterdir(), *(lab.folder / "state").iterdir()] == []
    for path in lab.folder.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o700


def test_lost_encoding_errors_are_sent_later_only_if_the_payload_was_admitted(lab: Lab) -> None:
    lab.config = FedMedConfig.model_validate({"federated": {"wire": {"up": "int4"}}})
    first = lab.ask(lab.order(1))
    after_admission = lab.ask(lab.order(2, 0, admitted=[1, 0]))
    after_loss = lab.ask(lab.order(2, 1, admitted=None))
    assert first.kind == after_admission.kind == after_loss.kind == "payload"
    assert after_admission.body != after_loss.body
    assert lab.ask(lab.order(2, 2, admitted=[1, 0])).body == after_admission.body


def test_only_training_rows_are_trained_on(tmp_path: Path) -> None:
    rows = [
        {"question": f"What is {number}?", "answer": "A number.", "split": side}
        for number, side in enumerate(["train", "test", "", "validation"])
    ]
    (tmp_path / "records.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    half = HospitalHalf(NAME, tmp_path / "records.jsonl", tmp_path)
    assert [row["question"] for row in half._train_records()] == ["What is 0?", "What is 2?"]


def test_what_settings_say_of_the_coordinators_files_counts_for_nothing() -> None:
    asked = FedMedConfig.model_validate({"privacy": {"ledgers": "/their/ledgers"}})
    config = hospital_half._at_home(asked)
    assert config.privacy.ledgers is None
    assert config.training.dataset.token_cache is False  # no copy of a record is made


def test_an_order_longer_than_the_limit_is_refused_unread(lab: Lab) -> None:
    place = Workplace(NAME, lab.folder, IDENTITY, COORDINATOR.public, Path(), dict, lambda: lab.policy)
    raw = encode_order(lab.order(), COORDINATOR.sign)
    reply = Worker(place, lab.half, limit=len(raw) - 1).answer(raw)
    with pytest.raises(WireError):
        decode_reply(reply, STRANGER.public)
    assert "is the most" in decode_reply(reply, IDENTITY.public).header["reasons"][0]

"""A worker in a folder that ``fedmed federation join`` made: its keys, its policy and its person decide."""

from __future__ import annotations

import contextlib
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from fedmed.config.load import config_digest, load_config
from fedmed.data.records import FIELDS, text_features
from fedmed.data.split_folder import write_split
from fedmed.errors import DataFormatError, DataNotFoundError, SitePolicyError, UnscannedError
from fedmed.network.approvals import answer, pending
from fedmed.network.enrolment import join
from fedmed.network.federation_folder import FederationFolder
from fedmed.network.global_state import pack_whole
from fedmed.network.hospital_half import HospitalHalf
from fedmed.network.orders import Order, Reply, decode_reply, digest_of, encode_order
from fedmed.network.site import Site
from fedmed.network.worker import Worker
from fedmed.network.workplace import workplace_at
from fedmed.types import LocalPlan

pytestmark = pytest.mark.unit


class ToyHalf(HospitalHalf):
    def __init__(self, trainer: Any) -> None:
        super().__init__("hospital_A", Path("/nowhere"), Path("/nowhere"))
        self._toy = trainer

    def base_digest(self, asked: Any) -> str:
        return "ab" * 32

    def _trainer(self, *args: Any) -> Any:
        return self._toy


class Lab:
    def __init__(self, folder: Path, toy: Any) -> None:
        self.coordinator = FederationFolder.create(folder / "federation", ["localhost"])
        (folder / "records.jsonl").write_text('{"question": "What is 1?", "answer": "A number."}\n')
        self.site: Site = join(
            str(self.coordinator.path), "hospital_A", folder / "hospital_A", data=folder / "records.jsonl"
        ).site
        self.toy = toy
        self.edit_policy("records: scanned", "records: any")
        self.worker = Worker(workplace_at(self.site), ToyHalf(toy.trainer()))

    def edit_policy(self, old: str, new: str) -> None:
        text = self.site.policy_path.read_text()
        assert old in text
        self.site.policy_path.write_text(text.replace(old, new))

    def ask(self, kind: Any, round: int = 1, *settings: str) -> Reply:
        config = load_config(None, (), settings)
        state, body = pack_whole(self.toy.state("global"), round=round, algorithm="fedavg")
        plan = LocalPlan("run", round, config.federated.rounds, "hospital_A", config.federated.seed, asked=4)
        header = {
            "config": config.as_dict(), "config_digest": config_digest(config), "plan": asdict(plan),
            "algorithm": "fedavg", "admitted": None, "state": state, "nonce": "1",
        }  # fmt: skip
        order = Order(kind, "run", round, 0, "hospital_A", int(time.time()) + 60, header, body)
        raw = encode_order(order, self.coordinator.coordinator().sign)
        return decode_reply(self.worker.answer(raw), self.site.identity().public, digest_of(raw))


@pytest.fixture
def lab(tmp_path: Path, toy: Any) -> Lab:
    return Lab(tmp_path, toy)


def test_what_the_packaged_policy_accepts_is_done_and_what_it_does_not_is_refused_with_every_reason(lab: Lab) -> None:
    hello = lab.ask("hello")
    assert hello.header["accepts"]["limits"]["rounds"] == 100
    assert lab.ask("train").kind == "payload"
    reply = lab.ask("train", 2, "federated.rounds=101", "model.name=somebody/model", "training.epochs=6")
    assert reply.kind == "refused"
    told = "; ".join(reply.header["reasons"])
    for part in ("101 rounds are more than 100", "'somebody/model' is not among", "6 epochs a round are more than 5"):
        assert part in told


def test_a_policy_that_was_edited_holds_from_the_next_order_on(lab: Lab) -> None:
    lab.edit_policy("secure_sum: allowed", "secure_sum: required")
    assert "sends nothing without masks" in lab.ask("train").header["reasons"][0]
    lab.edit_policy("secure_sum: required", "secure_sum: [")
    reply = lab.ask("train")
    assert (reply.kind, reply.header["error"]) == ("failed", "SitePolicyError")
    assert str(lab.site.path) not in reply.header["reasons"][0]
    with pytest.raises(SitePolicyError):
        workplace_at(lab.site)


def test_a_person_is_waited_for_where_the_policy_says_so(lab: Lab) -> None:
    lab.edit_policy("ask: false", "ask: true")
    assert "waits for a person" in lab.ask("train").header["reasons"][0]
    (waiting,) = pending(lab.site.approvals)
    answer(lab.site.approvals, waiting.digest, accepted=False)
    assert "declined" in lab.ask("train").header["reasons"][0]
    answer(lab.site.approvals, waiting.digest, accepted=True)
    assert lab.ask("train").kind == "payload"
    assert lab.ask("train", 2).kind == "payload"  # one answer for the whole run


def test_records_that_nobody_scanned_are_refused_unless_the_policy_takes_any(lab: Lab, tmp_path: Path) -> None:
    lab.edit_policy("records: any", "records: scanned")
    with pytest.raises(UnscannedError, match="no share of records that went through the data gate"):
        workplace_at(lab.site)
    row = dict.fromkeys(FIELDS, "x") | {"split": "train", "group": "g"}
    share = {"hospital_A": Dataset.from_list([row], features=text_features())}
    for status, passes in (("scanned", True), ("public", True), ("unscanned", False)):
        write_split(share, tmp_path / status, strategy="iid", alpha=None, seed=17, gate={"status": status})
        for where in (tmp_path / status, tmp_path / status / "hospital_A"):
            with contextlib.nullcontext() if passes else pytest.raises(UnscannedError):
                workplace_at(lab.site, records=where)
    (tmp_path / "scanned" / "hospital_A" / "train.parquet").write_bytes(b"other records")
    with pytest.raises(DataFormatError, match="checksum"):
        workplace_at(lab.site, records=tmp_path / "scanned" / "hospital_A")


def test_records_that_are_not_there_are_said_at_the_start(lab: Lab, tmp_path: Path) -> None:
    with pytest.raises(DataNotFoundError, match="are not at"):
        workplace_at(lab.site, records=tmp_path / "absent")

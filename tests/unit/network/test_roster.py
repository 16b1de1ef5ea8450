"""The roster: who may take part, and that nobody comes back with a key that was revoked."""

import json
import threading
from pathlib import Path

import pytest

from fedmed.errors import RosterError
from fedmed.network.joining import JoinRequest, make_invitation, make_request
from fedmed.network.key_files import new_identity, new_node_key, read_ec_key
from fedmed.network.roster import Roster, change_roster, now_and_who
from fedmed.privacy.secure_sum.keys import Identity

pytestmark = pytest.mark.unit

WHEN, BY = "2026-01-02T03:04:05+00:00", "anna"
INVITATION = make_invitation(Identity(b"c" * 32), "fl.example.org", 9443, "-")


@pytest.fixture
def request_of(tmp_path):
    made = iter(range(100))

    def make(name: str, identity: Identity | None = None, node: Path | None = None) -> JoinRequest:
        at = tmp_path / f"keys{next(made)}"
        identity = identity or new_identity(at / "identity.key")
        if node is None:
            node = at / "node.key"
            new_node_key(node)
        return make_request(INVITATION, name, identity, read_ec_key(node))

    return make


def test_a_hospital_waits_is_approved_and_revoked(request_of) -> None:
    asked = request_of("hospital_A")
    roster = Roster().with_request(asked, "0f3a", WHEN, BY)
    assert roster.approved() == ()
    assert roster.member("hospital_A").status == "waiting"
    roster = roster.approve("hospital_A", "later", "bert")
    member = roster.member("hospital_A")
    assert roster.approved() == ("hospital_A",)
    assert (member.joined, member.changed, member.by) == (WHEN, "later", "bert")
    assert roster.approve("hospital_A", "even later", "x") == roster
    roster = roster.revoke("hospital_A", "last", BY)
    assert roster.approved() == ()
    assert roster.revoke("hospital_A", "even later", "x") == roster


def test_a_revoked_hospital_is_not_approved_again(request_of) -> None:
    asked = request_of("hospital_A")
    roster = (
        Roster().with_request(asked, "0f3a", WHEN, BY).approve("hospital_A", WHEN, BY).revoke("hospital_A", WHEN, BY)
    )
    with pytest.raises(RosterError, match="revoked"):
        roster.approve("hospital_A", WHEN, BY)
    with pytest.raises(RosterError, match="which was revoked"):
        roster.with_request(asked, "0f3a", WHEN, BY)


def test_a_revoked_key_never_comes_back_under_any_name_nor_after_new_keys(request_of, tmp_path) -> None:
    identity, node = new_identity(tmp_path / "i.key"), tmp_path / "n.key"
    new_node_key(node)
    roster = (
        Roster().with_request(request_of("hospital_A", identity, node), "0f3a", WHEN, BY).revoke("hospital_A", WHEN, BY)
    )
    again = roster.with_request(request_of("hospital_A"), "1111", WHEN, BY).approve("hospital_A", WHEN, BY)
    assert again.approved() == ("hospital_A",)
    for known in (roster, again):
        for name in ("hospital_A", "hospital_B"):
            for keys in ((identity, node), (identity, None), (None, node)):
                with pytest.raises(RosterError):
                    known.with_request(request_of(name, *keys), "2222", WHEN, BY)


@pytest.mark.parametrize("name", ["hospital_A", "HOSPITAL_a"])
def test_a_second_hospital_of_the_same_name_is_refused(request_of, name) -> None:
    roster = Roster().with_request(request_of("hospital_A"), "0f3a", WHEN, BY)
    with pytest.raises(RosterError, match="already"):
        roster.with_request(request_of(name), "1111", WHEN, BY)


def test_a_second_hospital_with_a_key_of_the_first_is_refused(request_of, tmp_path) -> None:
    identity, node = new_identity(tmp_path / "i.key"), tmp_path / "n.key"
    new_node_key(node)
    roster = Roster().with_request(request_of("hospital_A", identity, node), "0f3a", WHEN, BY)
    for keys in ((identity, None), (None, node)):
        with pytest.raises(RosterError, match="a key of 'hospital_A'"):
            roster.with_request(request_of("hospital_B", *keys), "1111", WHEN, BY)


def test_the_same_request_twice_changes_nothing(request_of) -> None:
    asked = request_of("hospital_A")
    roster = Roster().with_request(asked, "0f3a", WHEN, BY).approve("hospital_A", WHEN, BY)
    assert roster.with_request(asked, "0f3a", "later", "x") == roster
    assert roster.knows(asked)


def test_nobody_unknown_is_approved_or_revoked(request_of) -> None:
    roster = Roster().with_request(request_of("hospital_A"), "0f3a", WHEN, BY)
    for change in (roster.approve, roster.revoke):
        with pytest.raises(RosterError, match="the roster knows hospital_A"):
            change("hospital_X", WHEN, BY)


def test_a_roster_is_read_as_it_was_written(request_of, tmp_path) -> None:
    roster = Roster().with_request(request_of("hospital_A"), "0f3a", WHEN, BY).revoke("hospital_A", WHEN, BY)
    roster = roster.with_request(request_of("hospital_A"), "1111", WHEN, BY).with_request(
        request_of("b"), "2", WHEN, BY
    )
    roster.write(tmp_path / "roster.json")
    assert Roster.read(tmp_path / "roster.json") == roster


def test_a_roster_that_was_tampered_with_is_refused(request_of, tmp_path) -> None:
    path = tmp_path / "roster.json"
    Roster().with_request(request_of("hospital_A"), "0f3a", WHEN, BY).write(path)
    good = json.loads(path.read_text())
    entry = good["hospital_A"]
    for bad in (
        {"hospital_A": entry, "hospital_B": entry},
        {"../a": entry},
        {"hospital_A": {**entry, "status": "welcome"}},
        {"hospital_A": {**entry, "extra": 1}},
        [entry],
    ):
        path.write_text(json.dumps(bad))
        with pytest.raises(RosterError):
            Roster.read(path)
    path.write_text("{")
    with pytest.raises(RosterError, match="not JSON"):
        Roster.read(path)


def test_changes_at_the_same_time_are_all_kept(request_of, tmp_path) -> None:
    path = tmp_path / "roster.json"
    Roster().write(path)
    asked = [request_of(f"hospital_{n}") for n in range(8)]
    threads = [
        threading.Thread(target=change_roster, args=(path, lambda r, one=one: r.with_request(one, "f", *now_and_who())))
        for one in asked
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(Roster.read(path).members) == 8

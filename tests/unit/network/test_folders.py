"""From an empty disk to approved hospitals that know each other, and what stops somebody who is not one of them."""

import json
import stat

import pytest

from fedmed.errors import (
    CertificateError,
    JoinError,
    KeyFileError,
    OutputNotWritableError,
    RosterError,
    SiteFolderError,
)
from fedmed.network import invitation_source
from fedmed.network.enrolment import join, pin_request, pin_text
from fedmed.network.federation_folder import FederationFolder
from fedmed.network.invitation_source import find_invitation
from fedmed.network.joining import make_invitation
from fedmed.network.site import Site
from fedmed.network.status import coordinator_status, hospital_status, is_site
from fedmed.privacy.secure_sum.keys import Identity

pytestmark = pytest.mark.unit

GOOD = b"six random words make one"


@pytest.fixture
def federation(tmp_path):
    return FederationFolder.create(tmp_path / "fed", ["fl.example.org"])


@pytest.fixture
def hospital(federation, tmp_path):
    def make(name: str, **more):
        return join(str(federation.path), name, tmp_path / f"at_{name}_{len(list(tmp_path.iterdir()))}", **more).site

    return make


def test_from_nothing_to_an_approved_hospital(federation, hospital) -> None:
    site = hospital("hospital_A")
    assert federation.take_in_requests() == ()
    assert federation.roster().approved() == ()
    assert federation.roster().member("hospital_A").fingerprint == site.fingerprint()
    federation.approve("hospital_A", site.fingerprint().upper().replace("-", " "))
    assert federation.roster().approved() == ("hospital_A",)
    assert bytes.fromhex(federation.invitation().coordinator_public) == federation.coordinator().public
    assert site.coordinator_public == federation.coordinator().public
    assert site.ca_pem.read_bytes() == federation.ca_pem.read_bytes()
    federation.revoke("hospital_A")
    assert federation.roster().approved() == ()


def test_only_public_keys_leave_and_every_private_one_is_its_owners_alone(federation, hospital) -> None:
    site = hospital("hospital_A")
    for folder in (federation.path, site.path):
        private = {path.name for path in folder.rglob("*") if path.is_file() and b"PRIVATE" in path.read_bytes()}
        assert private == {path.name for path in folder.glob("*.key")}
        assert {stat.S_IMODE(path.stat().st_mode) for path in folder.glob("*.key")} == {0o600}
    assert site.identity().private.hex() not in site.request_path.read_text()


def test_a_passphrase_encrypts_every_private_key_of_both_folders(tmp_path) -> None:
    federation = FederationFolder.create(tmp_path / "fed", ["127.0.0.1"], passphrase=GOOD)
    site = join(str(federation.path), "hospital_A", tmp_path / "a", passphrase=GOOD).site
    for folder in (federation.path, site.path):
        assert all(b"ENCRYPTED" in path.read_bytes() for path in folder.glob("*.key"))
    assert site.identity(GOOD).public.hex() == site.request().identity_public
    with pytest.raises(KeyFileError):
        federation.coordinator()


def test_nothing_is_left_of_a_folder_that_could_not_be_made(tmp_path, federation) -> None:
    before = set(tmp_path.iterdir())
    with pytest.raises(CertificateError):
        FederationFolder.create(tmp_path / "x", ["Bad Host"])
    with pytest.raises(KeyFileError, match="fewer"):
        FederationFolder.create(tmp_path / "x", ["127.0.0.1"], passphrase=b"short")
    for name in ("", "a b", "../x", "ä", "a" * 65, "-a"):
        with pytest.raises(JoinError):
            join(str(federation.path), name, tmp_path / "x")
    assert set(tmp_path.iterdir()) == before


def test_a_folder_that_is_there_is_left_alone(tmp_path, federation, hospital) -> None:
    before = federation.coordinator().public
    with pytest.raises(SiteFolderError, match="there already"):
        FederationFolder.create(federation.path, ["127.0.0.1"])
    with pytest.raises(SiteFolderError, match="there already"):
        Site.create(hospital("hospital_A").path, federation.invitation(), "hospital_B")
    assert federation.coordinator().public == before
    with pytest.raises(SiteFolderError, match="not a coordinator's folder"):
        FederationFolder.open(tmp_path)
    with pytest.raises(SiteFolderError, match="not a hospital's folder"):
        Site.read(tmp_path)


def test_a_false_invitation_shows_in_the_fingerprint_that_two_people_compare(tmp_path, federation) -> None:
    """Somebody in between hands out an invitation of his own and passes the hospital's keys on, signed as his."""
    between = FederationFolder.create(tmp_path / "between", ["fl.example.org"])
    site = join(str(between.path), "hospital_A", tmp_path / "a").site
    with pytest.raises(JoinError, match="another federation"):
        federation.take_in(site.request_path)
    his = join(str(federation.path), "hospital_A", tmp_path / "b").site  # his own keys, under the hospital's name
    federation.take_in_requests()
    with pytest.raises(RosterError, match="another fingerprint") as caught:
        federation.approve("hospital_A", site.fingerprint())
    assert his.fingerprint() not in str(caught.value)  # or it would be copied and tried


def test_another_authority_in_an_invitation_shows_too(tmp_path, federation) -> None:
    other = FederationFolder.create(tmp_path / "other", ["fl.example.org"])
    mixed = make_invitation(federation.coordinator(), "fl.example.org", 9443, other.ca_pem.read_text())
    site = Site.create(tmp_path / "a", mixed, "hospital_A")
    assert federation.take_in(site.request_path).fingerprint != site.fingerprint()


def test_a_bad_request_keeps_no_good_one_out(federation, hospital) -> None:
    good = hospital("hospital_B")
    (federation.requests / "hospital_A.json").write_text("{}")
    (federation.requests / "hospital_C.json").write_bytes(good.request_path.read_bytes())
    refused = federation.take_in_requests()
    assert len(refused) == 2
    assert "hospital_B" in federation.roster().members


def test_a_name_that_is_taken_is_refused_before_keys_are_made(federation, hospital, tmp_path) -> None:
    hospital("hospital_A")
    for name in ("hospital_A", "HOSPITAL_A"):
        federation.take_in_requests()
        with pytest.raises(RosterError, match="already"):
            join(str(federation.path), name, tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_a_coordinators_folder_that_may_only_be_read_leaves_the_request_to_be_carried(
    federation, tmp_path, monkeypatch
) -> None:
    def refuse(*_: object) -> None:
        raise OutputNotWritableError("cannot write", "x")

    monkeypatch.setattr(FederationFolder, "leave_request", refuse)
    joined = join(str(federation.path), "hospital_A", tmp_path / "a")
    assert joined.delivered is None
    assert federation.take_in(joined.site.request_path).status == "waiting"


def test_a_revoked_hospital_joins_again_only_with_new_keys(federation, hospital) -> None:
    old = hospital("hospital_A")
    federation.take_in_requests()
    federation.approve("hospital_A", old.fingerprint())
    federation.revoke("hospital_A")
    new = hospital("hospital_A")
    assert federation.take_in_requests() == ()
    federation.approve("hospital_A", new.fingerprint())
    with pytest.raises(RosterError, match="revoked"):
        federation.take_in(old.request_path)


def test_pins_are_what_a_person_compared_and_nothing_else(hospital) -> None:
    a, b, c = (hospital(f"hospital_{letter}") for letter in "ABC")
    assert dict(a.pins()) == {"hospital_A": a.identity().fingerprint}
    assert pin_request(a, b.request_path, b.fingerprint()) == "hospital_B"
    assert pin_text(a, f"hospital_C={c.identity().fingerprint.hex().upper()}") == "hospital_C"
    assert a.pins()["hospital_B"] == b.identity().fingerprint
    with pytest.raises(RosterError, match="another fingerprint"):
        pin_request(a, b.request_path, c.fingerprint())
    with pytest.raises(RosterError, match="another identity"):
        a.pin("hospital_B", bytes(32))
    with pytest.raises(RosterError, match="pinned as 'hospital_C'"):
        a.pin("hospital_D", c.identity().fingerprint)
    with pytest.raises(RosterError, match="itself"):
        a.pin("Hospital_A", bytes(32))
    for text in ("hospital_D", "hospital_D=12", f"a b={'00' * 32}", f"={'00' * 32}"):
        with pytest.raises(RosterError):
            pin_text(a, text)
    a.pin("hospital_B", bytes(32), replace=True)
    assert Site.read(a.path).pins()["hospital_B"] == bytes(32)


def test_damaged_files_are_clear_errors(hospital, federation) -> None:
    site = hospital("hospital_A")
    site.pins_path.write_text('{"hospital_B": 3}')
    with pytest.raises(RosterError):
        site.pins()
    (site.path / "site.json").write_text('{"format": 2}')
    with pytest.raises(SiteFolderError, match="format"):
        Site.read(site.path)
    federation.invitation_path.write_text("[]")
    with pytest.raises(JoinError):
        federation.invitation()


def test_status_says_how_both_folders_stand_in_plain_json(federation, hospital) -> None:
    site = hospital("hospital_A")
    shown = json.loads(json.dumps(coordinator_status(federation)))
    assert [(one["name"], one["status"]) for one in shown["hospitals"]] == [("hospital_A", "waiting")]
    assert shown["last_run"] is None
    assert shown["warnings"] == []
    (federation.runs / "run-1").mkdir()
    (federation.runs / "run-1" / "summary.json").write_text('{"status": "finished"}')
    assert coordinator_status(federation)["last_run"] == {"run": "run-1", "status": "finished"}
    told = json.loads(json.dumps(hospital_status(site)))
    assert told["fingerprint"] == shown["hospitals"][0]["fingerprint"]
    assert is_site(site.path)
    assert not is_site(federation.path)


def test_an_address_needs_a_fingerprint_and_encryption(federation, monkeypatch) -> None:
    class Answer:
        def __init__(self, body: bytes, url: str) -> None:
            self.body, self.url = body, url

        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

        def geturl(self) -> str:
            return self.url

        def read(self, limit: int) -> bytes:
            return self.body[:limit]

    body, right = federation.invitation_path.read_bytes(), federation.invitation().fingerprint
    asked: list[str] = []

    def answers(body: bytes, url: str = "https://x.org/i") -> None:
        monkeypatch.setattr(
            invitation_source.urllib.request, "urlopen", lambda at, timeout: asked.append(at) or Answer(body, url)
        )

    answers(body)
    for where in ("https://x.org/i", "http://x.org/i"):
        with pytest.raises(JoinError, match="could be anybody's"):
            find_invitation(where)
    for where in ("http://x.org/i", "file:///etc/passwd", "ftp://x.org/i", "https://"):
        with pytest.raises(JoinError, match="no https address"):
            find_invitation(where, right)
    assert asked == []
    assert find_invitation("https://x.org/i", right) == federation.invitation()
    with pytest.raises(JoinError, match="not the one"):
        find_invitation("https://x.org/i", "0000-0000-0000-0000-0000-0000")
    answers(body, "http://x.org/i")
    with pytest.raises(JoinError, match="without encryption"):
        find_invitation("https://x.org/i", right)
    answers(b"x" * 10**6)
    with pytest.raises(JoinError, match="longer"):
        find_invitation("https://x.org/i", right)


def test_an_invitation_that_is_not_there_is_a_clear_error(tmp_path) -> None:
    for where in (tmp_path / "none.json", tmp_path):
        with pytest.raises(JoinError, match="there is no invitation"):
            find_invitation(str(where))


def test_the_coordinators_identity_is_the_one_in_the_invitation(federation) -> None:
    assert isinstance(federation.coordinator(), Identity)

"""``fedmed federation``: two people set up a federation with these commands alone, and every misstep is one line."""

import json
from pathlib import Path

import pytest

from fedmed.cli import federation_coordinator, federation_hospital, federation_options
from fedmed.cli.app import main

pytestmark = pytest.mark.unit


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FEDMED_PASSPHRASE", raising=False)
    monkeypatch.setattr(federation_options, "is_interactive", lambda: False)
    return tmp_path


@pytest.fixture
def fedmed(capsys):
    def run(*words: str, code: int = 0) -> str:
        capsys.readouterr()
        assert main(["federation", *words]) == code, capsys.readouterr().err
        shown = capsys.readouterr()
        return shown.err if code else shown.out

    return run


def told(text: str) -> dict:
    return json.loads(text)


def test_two_people_set_up_a_federation(fedmed) -> None:
    made = told(fedmed("init", "fed", "--host", "fl.example.org", "--json"))
    joined = told(fedmed("join", "fed", "--name", "hospital_A", "--fingerprint", made["fingerprint"], "--json"))
    assert joined["delivered"].endswith("requests/hospital_A.json")
    waiting = told(fedmed("status", "--folder", "fed", "--json"))["hospitals"]
    assert [(one["name"], one["status"]) for one in waiting] == [("hospital_A", "waiting")]
    said = told(fedmed("approve", "hospital_A", "--folder", "fed", "--fingerprint", joined["fingerprint"], "--json"))
    assert said["status"] == "approved"
    assert "approved" in fedmed("status", "--folder", "fed")
    assert "hospital_A of federation" in fedmed("status", "--folder", "hospital_A")
    assert "revoked" in fedmed("revoke", "hospital_A", "--folder", "fed")
    assert told(fedmed("renew", "--folder", "fed", "--json"))["days_left"] == 364


def test_a_carried_request_and_a_pin(fedmed) -> None:
    fedmed("init", "fed", "--host", "127.0.0.1")
    a, b = (told(fedmed("join", "fed/invitation.json", "--name", f"hospital_{x}", "--json")) for x in "AB")
    assert a["delivered"] is None
    words = ("approve", "hospital_A", "--folder", "fed", "--request", a["request"], "--fingerprint", a["fingerprint"])
    assert "approved" in fedmed(*words)
    fedmed("pin", b["request"], "--fingerprint", b["fingerprint"], "--folder", "hospital_A")
    assert set(told(fedmed("pin", "--folder", "hospital_A", "--json"))) == {"hospital_A", "hospital_B"}


def test_nobody_is_approved_or_pinned_without_a_comparison(fedmed) -> None:
    fedmed("init", "fed", "--host", "127.0.0.1")
    fedmed("join", "fed", "--name", "hospital_A")
    fedmed("join", "fed", "--name", "hospital_B")
    assert "nobody compared" in fedmed("approve", "hospital_A", "--folder", "fed", code=114)
    assert "another fingerprint" in fedmed("approve", "hospital_A", "--folder", "fed", "--fingerprint", "1", code=114)
    assert "nobody compared" in fedmed("pin", "hospital_B/request.json", "--folder", "hospital_A", code=114)


def test_a_person_at_a_terminal_types_what_the_other_reads_out(fedmed, monkeypatch) -> None:
    for module in (federation_coordinator, federation_hospital):
        monkeypatch.setattr(module, "is_interactive", lambda: True)
    fedmed("init", "fed", "--host", "127.0.0.1")
    read_out = told(fedmed("join", "fed", "--name", "hospital_A", "--json"))["fingerprint"]
    monkeypatch.setattr("typer.prompt", lambda *_, **__: read_out)
    assert "approved" in fedmed("approve", "hospital_A", "--folder", "fed")


def test_passphrases_come_from_the_environment_or_a_prompt(fedmed, monkeypatch) -> None:
    monkeypatch.setenv("FEDMED_PASSPHRASE", "six random words make one")
    fedmed("init", "fed", "--host", "127.0.0.1")
    assert "ENCRYPTED" in Path("fed/ca.key").read_text()
    fedmed("renew", "--folder", "fed")
    monkeypatch.setenv("FEDMED_PASSPHRASE", "another one of that length")
    assert "wrong" in fedmed("renew", "--folder", "fed", code=111)
    monkeypatch.delenv("FEDMED_PASSPHRASE")
    assert "is encrypted" in fedmed("renew", "--folder", "fed", code=111)
    monkeypatch.setattr("typer.prompt", lambda *_, **__: "typed at the terminal")
    fedmed("join", "fed", "--name", "hospital_A", "--ask-passphrase")
    assert "ENCRYPTED" in Path("hospital_A/identity.key").read_text()
    monkeypatch.setattr(federation_options, "is_interactive", lambda: True)
    monkeypatch.setattr("typer.prompt", lambda *_, **__: "six random words make one")
    fedmed("renew", "--folder", "fed")


def test_a_person_consents_to_a_plan(fedmed) -> None:
    from fedmed.config.load import default_config
    from fedmed.network.approvals import answer_to
    from fedmed.network.train_header import TrainHeader
    from fedmed.types import LocalPlan

    fedmed("init", "fed", "--host", "127.0.0.1")
    fedmed("join", "fed", "--name", "hospital_A")
    assert "nothing waits" in fedmed("consent", "--folder", "hospital_A")
    asked = TrainHeader(default_config(), LocalPlan("run", 1, 10, "hospital_A", 17), "fedavg")
    assert answer_to(Path("hospital_A/approvals"), asked) == "pending"
    assert asked.digest()[:16] in fedmed("consent", "--folder", "hospital_A")
    assert "1 for a person" in fedmed("status", "--folder", "hospital_A")
    assert "accepted" in fedmed("consent", "--yes", asked.digest()[:16], "--folder", "hospital_A")
    assert answer_to(Path("hospital_A/approvals"), asked) == "accepted"
    assert "not both" in fedmed("consent", "--yes", "a", "--no", "b", "--folder", "hospital_A", code=2)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("status",), 115),
        (("approve", "hospital_A"), 115),
        (("pin",), 115),
        (("consent",), 115),
        (("renew",), 115),
        (("join", "nowhere", "--name", "a"), 113),
        (("join", "https://127.0.0.1:1/i", "--name", "a"), 113),
        (("init", "fed", "--host", "A B"), 112),
        (("init", "fed"), 2),
    ],
)
def test_a_misstep_is_one_line_that_names_the_next_step(fedmed, words, code) -> None:
    text = fedmed(*words, code=code)
    assert text.startswith("error: ")
    assert text.count("\n") == 1

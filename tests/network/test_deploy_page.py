"""What docs/deploy.md tells four administrators to type, and the units and the image beside it."""

from __future__ import annotations

import configparser
import json
import re
import shlex
from pathlib import Path

import pytest
import typer.main

pytest.importorskip("flwr")

from fedmed.cli.app import build_app, main

pytestmark = pytest.mark.network

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "deploy.md"
COMMANDS = re.findall(r"^(?:coordinator|hospital)\$ (fedmed .*)$", PAGE.read_text(encoding="utf-8"), re.M)
LASTING = ("server", "hospital", "run")  # tests/network/test_federation.py starts these


def _parsed(words: list[str]) -> None:
    """Raises where the command line does not exist, without carrying it out."""
    command = typer.main.get_command(build_app())
    for place, word in enumerate(words):
        subcommands = getattr(command, "commands", None)
        if subcommands is None:
            command.make_context(word, words[place:], resilient_parsing=False).close()
            return
        command = subcommands[word]


def test_the_page_leads_from_nothing_to_an_approved_and_pinned_hospital(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [
        {"question": f"Why is the sky of case {n} blue?", "answer": f"Light scatters, {n} times."} for n in range(20)
    ]
    Path("records.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    told: dict[str, str] = {}

    def typed(command: str) -> str:
        for name, fingerprint in told.items():
            command = command.replace(name, fingerprint)
        assert main(shlex.split(command)[1:]) == 0, capsys.readouterr().err
        return capsys.readouterr().out

    def fingerprint_in(said: str) -> str:
        found = re.search(r"^fingerprint\s+([0-9a-f-]+)", said, re.M)
        assert found, said
        return found[1]

    carried_out = []
    for command in COMMANDS:
        action = shlex.split(command)[2]
        if action in LASTING:
            continue
        said = typed(command)
        carried_out.append(action)
        if action == "init":
            told["F_INVITATION"] = fingerprint_in(said)
            Path("invitation.json").write_bytes(Path("federation/invitation.json").read_bytes())
        if action == "join":
            told["F_A"] = fingerprint_in(said)
            told["F_B"] = fingerprint_in(typed(command.replace("hospital_A", "hospital_B")))
    assert carried_out == ["init", "prepare", "join", "approve", "status", "pin", "status"]
    assert main(["federation", "status", "--folder", "federation", "--json"]) == 0
    shown = {one["name"]: one["status"] for one in json.loads(capsys.readouterr().out)["hospitals"]}
    assert shown == {"hospital_A": "approved"}
    assert "hospital_B" in json.loads(Path("hospital_A/roster.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("command", [one for one in COMMANDS if shlex.split(one)[2] in LASTING])
def test_a_command_that_lasts_is_one_that_exists(command: str) -> None:
    _parsed(shlex.split(command)[1:])


@pytest.mark.parametrize("unit", sorted((ROOT / "deploy" / "systemd").glob("*.service")), ids=lambda unit: unit.stem)
def test_a_unit_starts_a_command_that_exists(unit: Path) -> None:
    read = configparser.ConfigParser(interpolation=None)
    read.optionxform = str  # type: ignore[assignment,method-assign]
    read.read_string(unit.read_text(encoding="utf-8"))
    program, *words = shlex.split(read["Service"]["ExecStart"])
    assert Path(program).name == "fedmed"
    _parsed(words)
    assert read["Service"]["User"] != "root"
    assert read["Service"]["NoNewPrivileges"] == "yes"


def test_the_image_installs_extras_that_exist() -> None:
    text = (ROOT / "deploy" / "Containerfile").read_text(encoding="utf-8")
    (extras,) = re.findall(r"'/src\[([a-z,]+)\]'", text)
    declared = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert all(re.search(rf"^{extra} = \[", declared, re.M) for extra in extras.split(","))

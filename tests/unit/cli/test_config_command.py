"""``fedmed config show`` and ``fedmed config check``, as typed."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from fedmed.cli.app import main
from fedmed.config.load import dump_config, load_config

pytestmark = pytest.mark.unit

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Path]:
    monkeypatch.chdir(tmp_path)

    def write(name: str, text: str) -> Path:
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return write


def test_show_prints_the_resolved_settings_as_yaml(capsys: Capture) -> None:
    assert main(["config", "show", "--recipe", "quick", "--set", "federated.rounds=9"]) == 0
    shown = capsys.readouterr()
    assert yaml.safe_load(shown.out) == load_config("quick", (), ["federated.rounds=9"]).as_dict()
    assert shown.err == ""


def test_show_prints_json_for_machines(capsys: Capture) -> None:
    assert main(["config", "show", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == load_config().as_dict()


def test_check_says_ok_and_names_what_it_checked(settings: Callable[[str, str], Path], capsys: Capture) -> None:
    settings("my.yaml", "federated: {rounds: 3}\n")
    assert main(["config", "check", "my.yaml", "--recipe", "quick", "--set", "federated.seed=1"]) == 0
    assert capsys.readouterr().out.startswith("ok: recipe quick, my.yaml, federated.seed=1 (digest ")
    assert main(["config", "check"]) == 0
    assert capsys.readouterr().out.startswith("ok: the defaults (digest ")
    assert main(["config", "check", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ok"] is True


def test_check_takes_the_config_of_a_run(settings: Callable[[str, str], Path], capsys: Capture) -> None:
    settings("config.yaml", dump_config(load_config("quick"), {"seed": 17}))
    assert main(["config", "check", "config.yaml"]) == 0


def test_check_prints_every_problem_on_a_line_of_its_own(settings: Callable[[str, str], Path], capsys: Capture) -> None:
    settings("my.yaml", "federated:\n  rounds: -3\n  roundz: 1\n")
    assert main(["config", "check", "my.yaml", "--set", "model.lora.r=0"]) == 10
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.splitlines() == [
        "error: 3 settings cannot be used; see 'fedmed config show' for every key and its default",
        "  my.yaml:3: federated.roundz: no such setting, did you mean federated.rounds?",
        "  --set model.lora.r=0: model.lora.r: must be >= 1, is 0",
        "  my.yaml:2: federated.rounds: must be >= 1, is -3",
    ]


def test_one_problem_is_one_line(capsys: Capture) -> None:
    assert main(["config", "check", "--recipe", "quik"]) == 10
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: no recipe is called 'quik', did you mean quick?: there are ")

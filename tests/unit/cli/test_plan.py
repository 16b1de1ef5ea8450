"""``fedmed plan`` as a person or a program calls it."""

from __future__ import annotations

import json

import pytest

from fedmed.cli.app import main

pytestmark = pytest.mark.unit


def test_the_json_holds_what_a_program_decides_on(capsys):
    assert main(["plan", "--recipe", "gpu_32gb", "--json", "--tflops", "100"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["fits"] is True
    assert plan["peak_gib"] < 32
    assert {"weights", "adapters", "optimiser", "activations", "logits"} <= plan["breakdown"].keys()
    assert plan["time_s"] > 0
    arrays = 4 * plan["adapter_parameters"] * 4 * 10  # float32, hospitals, rounds
    assert arrays <= plan["wire_bytes"]["up"] < arrays + 40 * 200


def test_a_person_sees_whether_it_fits(capsys):
    assert main(["plan", "--set", "model.name=builtin:tiny-llama", "--budget-gib", "0.01"]) == 0
    assert "does NOT fit into" in capsys.readouterr().out


def test_a_config_file_alone_is_enough(tmp_path, capsys):
    shape = {"model_type": "qwen2", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
    (tmp_path / "config.json").write_text(json.dumps(shape | {"num_attention_heads": 4, "num_key_value_heads": 2}))
    assert main(["plan", "--model", str(tmp_path / "config.json"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["peak_gib"] > 0


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--model", "no/such"], 31, "there is no configuration for 'no/such' here: pass --model PATH/config.json"),
        (["--set", "model.lora.target_modules=[nothing]"], 33, "named 'nothing'"),
        (["--recipe", "nonsense"], 10, "nonsense"),
    ],
)
def test_bad_input_is_one_line_with_its_exit_code(words, code, said, capsys):
    assert main(["plan", *words]) == code
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_a_broken_config_file_is_named(tmp_path, capsys):
    broken = tmp_path / "config.json"
    broken.write_text("{")
    assert main(["plan", "--model", str(broken)]) == 32
    assert str(broken) in capsys.readouterr().err

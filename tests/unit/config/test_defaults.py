"""The five YAML files, the schema and the recipes say the same."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from fedmed.config.layers import dotted, setting_paths
from fedmed.config.load import DEFAULT_FILES, config_digest, load_config
from fedmed.config.recipes import find_recipe, list_recipes, recipe_folder
from fedmed.config.schema import FedMedConfig
from fedmed.errors import ConfigError

pytestmark = pytest.mark.unit

RECIPE_FILES = sorted(recipe_folder().rglob("*.y*ml"))


def leaves(values: dict[str, Any], known: set[tuple[str, ...]], above: tuple[str, ...] = ()) -> set[tuple[str, ...]]:
    found: set[tuple[str, ...]] = set()
    for key, value in values.items():
        path = (*above, key)
        found |= {path} if path in known or not isinstance(value, dict) else leaves(value, known, path)
    return found


@pytest.mark.parametrize("section", list(DEFAULT_FILES))
def test_a_default_file_holds_every_key_of_its_section_and_no_other(section: str) -> None:
    known = {path for path in setting_paths() if path[0] == section}
    in_file = leaves({section: yaml.safe_load(DEFAULT_FILES[section].read_text())}, known)
    assert {dotted(path) for path in in_file} == {dotted(path) for path in known}


@pytest.mark.parametrize("section", list(DEFAULT_FILES))
def test_a_plain_yaml_reader_reads_the_defaults_of_the_schema(section: str) -> None:
    in_file = yaml.safe_load(DEFAULT_FILES[section].read_text())
    assert in_file == FedMedConfig().as_dict()[section]


def test_the_default_files_resolve_to_the_defaults_of_the_schema() -> None:
    assert load_config() == FedMedConfig()
    assert config_digest(load_config()) == config_digest(FedMedConfig())


@pytest.mark.parametrize("section", list(DEFAULT_FILES))
def test_a_default_file_opens_with_how_to_check_and_run_it_and_comments_every_key(section: str) -> None:
    lines = DEFAULT_FILES[section].read_text().splitlines()
    assert lines[0].startswith(f"# {section}_config.yaml      Check: fedmed config check      Run: fedmed ")
    parents = {"lora", "generation", "dataset", "evaluation", "wire", "gate", "agent", "release"}
    keys = [line for line in lines[1:] if ":" in line and line.strip().split(":")[0] not in parents]
    assert [line for line in keys if " # " not in line] == []


def test_the_users_values_are_the_defaults() -> None:
    config = load_config()
    assert (config.model.lora.r, config.model.lora.alpha) == (16, 32)
    assert config.model.lora.target_modules == ("q_proj", "v_proj", "k_proj")
    assert (config.training.batch_size, config.training.gradient_accumulation_steps) == (2, 4)
    assert (config.training.learning_rate, config.training.epochs) == (1e-4, 2)
    assert config.training.dataset.max_samples == 30_000
    assert (config.federated.num_clients, config.federated.rounds, config.federated.algorithm) == (4, 10, "fedavg")
    assert (config.safety.min_confidence, config.safety.max_confidence) == (0.3, 0.95)


def test_there_are_the_three_recipes_and_each_is_listed() -> None:
    assert {"cpu_demo", "quick", "gpu_32gb"} <= set(list_recipes())
    assert set(list_recipes().values()) == set(RECIPE_FILES)


@pytest.mark.parametrize("path", RECIPE_FILES, ids=lambda path: path.relative_to(recipe_folder()).as_posix())
def test_a_recipe_loads_and_opens_with_the_command_that_runs_it(path: Path) -> None:
    name = path.relative_to(recipe_folder()).with_suffix("").as_posix()
    assert load_config(name) != load_config()
    head = path.read_text().split("\n\n")[0].splitlines()[:3]
    assert f"#   fedmed run --recipe {name}" in head


def test_the_full_recipe_is_the_users_configuration_for_a_large_model() -> None:
    config = load_config("gpu_32gb")
    assert config.training == load_config().training.model_copy(
        update={"precision": "bf16", "gradient_checkpointing": True}
    )
    assert config.model.dtype == "bf16"
    assert config.federated == load_config().federated


def test_an_unknown_recipe_names_those_there_are() -> None:
    with pytest.raises(
        ConfigError, match=r"no recipe is called 'cpu_dmo', did you mean cpu_demo\?: there are cpu_demo"
    ):
        find_recipe("cpu_dmo")


def test_recipes_of_an_installed_package_are_found_beside_its_modules(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "site-packages" / "fedmed"
    (package / "recipes" / "more").mkdir(parents=True)
    (package / "recipes" / "a.yaml").write_text("federated: {rounds: 1}\n")
    (package / "recipes" / "more" / "b.yaml").write_text("federated: {rounds: 2}\n")
    monkeypatch.setattr("fedmed.config.recipes._PACKAGE", package)
    assert list(list_recipes()) == ["a", "more/b"]
    assert load_config("more/b").federated.rounds == 2

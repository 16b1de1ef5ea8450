"""Layers, and every way in which settings can be wrong."""
# ruff: noqa: E501  (tables of whole messages)

from collections.abc import Callable
from pathlib import Path

import pytest

from fedmed.config.load import default_config, load_config, read_run_config
from fedmed.config.schema import FedMedConfig, SafetySection
from fedmed.errors import ConfigError

pytestmark = pytest.mark.unit

Problems = Callable[..., tuple[str, ...]]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    monkeypatch.chdir(tmp_path)

    def write(text: str | bytes, name: str = "my.yaml") -> Path:
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def problems(*files: Path, overrides: tuple[str, ...] = (), recipe: str | None = None) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        load_config(recipe, files, overrides)
    assert all("\n" not in problem for problem in caught.value.problems)
    return caught.value.problems


def test_later_layers_win_and_leave_other_keys_alone(write: Callable[..., Path]) -> None:
    one = write("federated: {rounds: 7, seed: 3}\ntraining:\n  dataset:\n    columns: {question: q}\n", "one.yaml")
    two = write("federated: {rounds: 8}\ntraining:\n  dataset:\n    columns: {answer: a}\n", "two.yaml")
    config = load_config("quick", [one, two], ["federated.num_clients=2", "federated.num_clients=3"])
    assert (config.federated.rounds, config.federated.seed, config.federated.num_clients) == (8, 3, 3)
    assert config.training.batch_size == load_config("quick").training.batch_size
    assert config.training.dataset.columns == {"question": "q", "answer": "a"}


@pytest.mark.parametrize(
    ("override", "read", "value"),
    [
        ("model.lora.target_modules=[q_proj]", lambda c: c.model.lora.target_modules, ("q_proj",)),
        ("training.max_grad_norm=null", lambda c: c.training.max_grad_norm, None),
        ("training.max_grad_norm=", lambda c: c.training.max_grad_norm, None),
        ("training.max_steps=4", lambda c: c.training.max_steps, 4),
        ("training.learning_rate=1e-6", lambda c: c.training.learning_rate, 1e-6),
        ("training.learning_rate=1", lambda c: c.training.learning_rate, 1.0),
        ("training.dataset.columns.question=prompt", lambda c: c.training.dataset.columns, {"question": "prompt"}),
        ("training.dataset.columns={answer: x}", lambda c: c.training.dataset.columns, {"answer": "x"}),
        ("training.dataset.name=2024-01-01", lambda c: c.training.dataset.name, "2024-01-01"),
        ("training.dataset.hub_split=no", lambda c: c.training.dataset.hub_split, "no"),
        ("model.name=a=b", lambda c: c.model.name, "a=b"),
        ("privacy.share_metrics=false", lambda c: c.privacy.share_metrics, False),
        ("model.lora={r: 4}", lambda c: (c.model.lora.r, c.model.lora.alpha), (4, 32.0)),
    ],
)
def test_an_override_is_read_as_yaml(override: str, read: Callable[[FedMedConfig], object], value: object) -> None:
    assert read(load_config(overrides=[override])) == value


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("federated.rounds=-3", "federated.rounds: must be >= 1, is -3"),
        ("federated.rounds='10'", 'federated.rounds: must be a whole number, is the text "10" (write it without quotes: 10)'),
        ("federated.rounds=010", 'federated.rounds: must be a whole number, is the text "010" (write it without quotes: 10)'),
        ("federated.rounds=true", "federated.rounds: must be a whole number, is true"),
        ("federated.rounds=2.0", "federated.rounds: must be a whole number, is 2.0"),
        ("federated.rounds=[1]", "federated.rounds: must be a whole number, is [1]"),
        ("federated.num_clients=0", "federated.num_clients: must be >= 1, is 0"),
        ("training.learning_rate='1e-4'", 'training.learning_rate: must be a number, is the text "1e-4" (write it without quotes: 0.0001)'),
        ("training.learning_rate=.nan", "training.learning_rate: must be a finite number, is NaN"),
        ("training.learning_rate=.inf", "training.learning_rate: must be a finite number, is Infinity"),
        ("training.learning_rate=true", "training.learning_rate: must be a number, is true"),
        ("training.dataset.test_fraction=1.0", "training.dataset.test_fraction: must be < 1, is 1.0"),
        ("privacy.share_metrics=1", "privacy.share_metrics: must be true or false, is 1"),
        ("privacy.share_metrics=no", 'privacy.share_metrics: must be true or false, is the text "no"'),
        ("model.name=3", "model.name: must be text, is 3"),
        ("model.name=''", 'model.name: must not be empty, is the text ""'),
        ("model.device=gpu", 'model.device: must be auto, cpu, cuda or cuda:N, is the text "gpu"'),
        ("model.lora.target_modules=q_proj", 'model.lora.target_modules: must be a list, is the text "q_proj"'),
        ("model.lora.target_modules=[]", "model.lora.target_modules: must not be empty, is []"),
        ("model.lora.target_modules=[a, 3]", "model.lora.target_modules.1: must be text, is 3"),
        ("model.lora=3", "model.lora: must hold 'key: value' lines, r, alpha, dropout …"),
        ("model.lora.rr=3", "model.lora.rr: no such setting, did you mean model.lora.r?"),
        ("federated.batch_size=3", "federated.batch_size: no such setting, did you mean training.batch_size?"),
        ("federatd.rounds=3", "federatd: no such setting, did you mean federated?"),
        ("zzz=3", "zzz: no such setting; there are model, training, federated, privacy, safety"),
        ("run.seed=3", "run: no such setting; there are model, training, federated, privacy, safety"),
        ("federated.split=by_speciality", "federated.split: must be 'iid', 'dirichlet', 'by_specialty' or 'by_source', is the text \"by_speciality\", did you mean by_specialty?"),
        ("model.quantization=8bit", "model.quantization: must be '4bit', is the text \"8bit\", did you mean 4bit?"),
        ("federated.hospitals_per_round=9", "federated: hospitals_per_round 9 is more than num_clients 4"),
        ("federated.min_replies=5", "federated: min_replies 5 is more than the 4 hospitals asked each round"),
        ("safety.min_confidence=0.96", "safety: min_confidence 0.96 must be below max_confidence 0.95"),
        ("model.prompt_template=Q", "model: prompt_template must contain {question} exactly once, and other braces doubled: {{ }}"),
        ("model.prompt_template='{question} {x}'", "model: prompt_template must contain {question} exactly once, and other braces doubled: {{ }}"),
        ("federated.rounds", "must read section.key=value, e.g. federated.rounds=2"),
        ("=3", "must read section.key=value, e.g. federated.rounds=2"),
        ("federated..rounds=3", "must read section.key=value, e.g. federated.rounds=2"),
        ("model.name=[1,", "not valid YAML: expected the node content, but found '<stream end>'"),
        ("model.name=!!python/name:os.system x", "model.name: cannot be read: could not determine a constructor for the tag 'tag:yaml.org,2002:python/name:os.system'"),
        ("model.name=!!int x", "model.name: cannot be read: invalid literal for int() with base 10: 'x'"),
    ],
)  # fmt: skip
def test_a_wrong_override_is_named_with_its_key_and_what_must_be(override: str, message: str) -> None:
    assert problems(overrides=(override,)) == (f"--set {override}: {message}",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("federated:\n  seed: 1\n  rounds: -3\n", "my.yaml:3: federated.rounds: must be >= 1, is -3"),
        ("federated:\n  rounds: 2\n  rounds: 3\n", "my.yaml:3: federated.rounds: given twice, first at my.yaml:2"),
        ("federated: {}\nfederated: {}\n", "my.yaml:2: federated: given twice, first at my.yaml:1"),
        ("model:\n  lora:\n    target_modules:\n    - a\n    - 3\n", "my.yaml:5: model.lora.target_modules.1: must be text, is 3"),
        ("training:\n  dataset:\n    columns:\n      question: q\n      answer: 3\n", "my.yaml:5: training.dataset.columns.answer: must be text, is 3"),
        ("training:\n  dataset:\n    columns:\n      question: q\n      question: r\n", "my.yaml:5: training.dataset.columns.question: given twice, first at my.yaml:4"),
        ("training:\n  dataset:\n    columns:\n      1: q\n", "my.yaml:4: training.dataset.columns: a key must be text, is 1"),
        ("federated:\n  hospitals_per_round: 9\n  seed: 4\n", "my.yaml:2: federated: hospitals_per_round 9 is more than num_clients 4"),
        ("federated:\n  batchsize: 1\n", "my.yaml:2: federated.batchsize: no such setting; there are rounds, num_clients, hospitals_per_round, min_replies, algorithm, fedprox_mu, server_learning_rate, server_momentum, residual, fedsb_factors, ranks, robust, tolerate, max_reply_norm, wire, agent, split, dirichlet_alpha, keep_rounds, seed"),
        ("- 1\n- 2\n", "my.yaml:1: must hold 'key: value' lines, model, training, federated …"),
        ("just text\n", "my.yaml:1: must hold 'key: value' lines, model, training, federated …"),
        ("federated: 3\n", "my.yaml:1: federated: must hold 'key: value' lines, rounds, num_clients, hospitals_per_round …"),
        ("a: [1\nb: 2\n", "my.yaml:2: not valid YAML: expected ',' or ']', but got ':'"),
        ("model: &a {name: x}\nsafety: *a\n", "my.yaml:2: not valid YAML: aliases (*name) are not used in settings"),
        ("a: 1\n---\nb: 2\n", "my.yaml:2: not valid YAML: but found another document"),
        ("[" * 1000, "my.yaml:1: not valid YAML: nested too deeply"),
        (b"\xff\xfe\x00\x01", "my.yaml: not a text file in UTF-8"),
        (b"a: \x00\x01", "my.yaml:1: not valid YAML: special characters are not allowed"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_named_with_the_line(write: Callable[..., Path], text: str | bytes, message: str) -> None:
    assert problems(write(text)) == (message,)


def test_a_missing_file_and_a_folder_are_named(write: Callable[..., Path], tmp_path: Path) -> None:
    assert problems(Path("gone.yaml"), tmp_path) == ("gone.yaml: no such file", ".: cannot be read (Is a directory)")


def test_an_empty_file_and_a_section_with_nothing_in_it_change_nothing(write: Callable[..., Path]) -> None:
    assert load_config(files=[write("", "a.yaml"), write("# nothing\nmodel:\n", "b.yaml")]) == FedMedConfig()


def test_all_problems_of_all_layers_are_reported_at_once(write: Callable[..., Path]) -> None:
    one = write("federated:\n  rounds: 0\n  roundz: 1\n", "one.yaml")
    two = write("training:\n  batch_size: '2'\n", "two.yaml")
    found = problems(one, two, Path("gone.yaml"), overrides=("safety.min_confidence=2", "nonsense"))
    assert len(found) == 6
    places = ("one.yaml:2:", "one.yaml:3:", "two.yaml:2:", "gone.yaml:", "--set safety", "--set nonsense")
    assert [sum(problem.startswith(place) for problem in found) for place in places] == [1] * 6


def test_the_layer_that_set_the_wrong_value_is_blamed_not_an_earlier_one(write: Callable[..., Path]) -> None:
    file = write("federated:\n  rounds: -1\n")
    assert problems(file, overrides=("federated.rounds=-2",)) == (
        "--set federated.rounds=-2: federated.rounds: must be >= 1, is -2",
    )
    assert load_config(files=[file], overrides=["federated.rounds=2"]).federated.rounds == 2


def test_a_rule_about_two_settings_blames_the_one_that_was_set_last(write: Callable[..., Path]) -> None:
    file = write("federated:\n  hospitals_per_round: 4\n")
    found = problems(file, overrides=("federated.num_clients=2", "federated.seed=1"))
    assert found == ("--set federated.num_clients=2: federated: hospitals_per_round 4 is more than num_clients 2",)


def test_a_long_wrong_value_is_cut_in_the_message() -> None:
    (found,) = problems(overrides=(f"federated.rounds={'x' * 5000}",))
    assert len(found.split("must be")[1]) < 150


def test_the_settings_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_config().federated.rounds = 3  # type: ignore[misc]


def test_a_section_by_itself_is_as_strict() -> None:
    with pytest.raises(ValueError, match="min_confidence"):
        SafetySection(min_confidence="0.3")  # type: ignore[arg-type]


def test_a_plain_script_takes_recipe_and_overrides_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FEDMED_RECIPE", raising=False)
    monkeypatch.delenv("FEDMED_SET", raising=False)
    assert default_config() == FedMedConfig()
    monkeypatch.setenv("FEDMED_RECIPE", "quick")
    monkeypatch.setenv("FEDMED_SET", "federated.rounds=1 'safety.disclaimer=Not medical advice.'")
    config = default_config()
    assert config.training == load_config("quick").training
    assert (config.federated.rounds, config.safety.disclaimer) == (1, "Not medical advice.")


def test_a_wrong_override_in_the_environment_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDMED_SET", "federated.rounds=0")
    with pytest.raises(ConfigError, match="^FEDMED_SET federated.rounds=0: federated.rounds: must be >= 1, is 0"):
        default_config()
    monkeypatch.setenv("FEDMED_SET", "'federated.rounds=1")
    with pytest.raises(ConfigError, match="FEDMED_SET cannot be split into words"):
        default_config()


def test_the_run_section_of_a_runs_config_is_passed_over(write: Callable[..., Path]) -> None:
    file = write("run: {seed: 17, anything: [1]}\nfederated: {rounds: 3}\n", "config.yaml")
    assert read_run_config(file).federated.rounds == load_config(files=[file]).federated.rounds == 3


def test_a_broken_runs_config_names_the_line(write: Callable[..., Path]) -> None:
    with pytest.raises(ConfigError, match="config.yaml:2: federated.rounds: must be >= 1"):
        read_run_config(write("federated:\n  rounds: 0\n", "config.yaml"))

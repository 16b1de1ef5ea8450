"""What a run's config.yaml keeps is what the run was given."""

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fedmed.config.load import config_digest, dump_config, load_config, read_run_config
from fedmed.config.schema import DatasetSection, FedMedConfig, LoraSection, ModelSection, SafetySection, TrainingSection

pytestmark = pytest.mark.property

texts = st.text(st.characters(codec="utf-8"), min_size=1, max_size=30).filter(lambda text: bool(text.strip()))
numbers = st.floats(min_value=1e-300, max_value=1e300)


@st.composite
def configs(draw: st.DrawFn) -> FedMedConfig:
    return FedMedConfig(
        model=ModelSection(
            name=draw(texts), answer_prefix=draw(st.text(st.characters(codec="utf-8"), max_size=9)),
            prompt_template=draw(texts).replace("{", "").replace("}", "") + "{question}",
            lora=LoraSection(alpha=draw(numbers), target_modules=tuple(draw(st.lists(texts, min_size=1, max_size=3)))),
        ),
        training=TrainingSection(
            learning_rate=draw(numbers), max_grad_norm=draw(st.none() | numbers),
            dataset=DatasetSection(columns=draw(st.dictionaries(texts, texts, max_size=3))),
        ),
        safety=SafetySection(disclaimer=draw(texts)),
    )  # fmt: skip


def with_name(name: str) -> FedMedConfig:
    return FedMedConfig(model=ModelSection(name=name))


@settings(max_examples=40, deadline=None)
@given(config=configs())
@example(with_name("1e-6"))
@example(with_name("010"))
@example(with_name("null"))
@example(with_name("no"))
@example(with_name("2024-01-01"))
@example(with_name("a: b # c\n\n  d\t\x07\u2028"))
def test_a_written_config_reads_back_as_itself(config: FedMedConfig) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "config.yaml"
        path.write_text(dump_config(config, {"seed": 17, "versions": {"torch": "2.13.0"}}), encoding="utf-8")
        back = read_run_config(path)
        assert back == config
        assert config_digest(back) == config_digest(config)
        plain = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert plain.pop("run") == {"seed": 17, "versions": {"torch": "2.13.0"}}
    assert plain == config.as_dict()


@settings(max_examples=10, deadline=None)
@given(rounds=st.integers(1, 10**9))
def test_the_digest_moves_with_any_setting(rounds: int) -> None:
    one = load_config(overrides=[f"federated.rounds={rounds}"])
    two = load_config(overrides=[f"federated.rounds={rounds + 1}"])
    assert config_digest(one) != config_digest(two)

"""A hospital's policy: everything that does not fit is said at once, and every key of the file has an effect."""

from dataclasses import asdict
from typing import Any

import pytest
import yaml

from fedmed.config.load import load_config
from fedmed.config.recipes import list_recipes
from fedmed.errors import PlanRefusedError, SitePolicyError
from fedmed.network.approvals import answer, answer_to, pending
from fedmed.network.policy import PACKAGED, SitePolicy
from fedmed.network.train_header import TrainHeader
from fedmed.types import RoundPlan

pytestmark = pytest.mark.unit

HOSPITALS = ("hospital_A", "hospital_B", "hospital_C", "hospital_D")
GEMMA = "builtin:gemma-3-270m"


def header(
    *settings: str, hospitals: tuple[str, ...] = HOSPITALS, recipe: str | None = None, **plan: Any
) -> dict[str, Any]:
    config = load_config(recipe, overrides=settings)
    round_plan = RoundPlan("run", 1, config.federated.rounds, hospitals, len(hospitals), 17)
    made = asdict(round_plan.for_hospital(hospitals[0])) | plan
    return {"config": config.as_dict(), "plan": made, "algorithm": config.federated.algorithm}


def policy(**changes: Any) -> SitePolicy:
    """The packaged policy with some keys changed, ``privacy__max_epsilon=8.0`` for one inside a section."""
    from fedmed.network.policy import PolicyFile

    rules = SitePolicy.read(PACKAGED).rules.model_dump()
    for key, value in changes.items():
        section, _, name = key.rpartition("__")
        (rules[section] if section else rules)[name] = value
    return SitePolicy(PolicyFile.model_validate(rules))


@pytest.mark.parametrize("recipe", [None, *list_recipes()])
def test_the_packaged_policy_accepts_every_recipe_with_a_packaged_model(recipe) -> None:
    asked = header(recipe=recipe)
    reasons = SitePolicy.read(PACKAGED).refusals(asked, run_id="run")
    packaged = asked["config"]["model"]["name"].startswith("builtin:")
    assert [reason.split("'")[0] for reason in reasons] == ([] if packaged else ["the model "])


@pytest.mark.parametrize(
    ("rule", "asked", "words"),
    [
        ({"algorithms": ("ffa",)}, (), "'fedavg' is not among ffa"),
        ({}, ("model.name=/etc",), "'/etc' is not among"),
        ({"models": ({"name": GEMMA, "digest": "00" * 32},)}, (), "not one that is allowed"),
        ({"limits__rounds": 9}, (), "10 rounds are more than 9"),
        ({"limits__local_epochs": 1}, (), "2 epochs a round are more than 1"),
        ({"limits__local_steps": 3}, ("training.max_steps=4",), "4 steps a round are more than 3"),
        ({"limits__records_per_step": 7}, (), "8 records a step are more than 7"),
        ({"privacy__max_epsilon": 8.0}, (), "epsilon is null"),
        ({"privacy__max_epsilon": 8.0}, ("privacy.example.epsilon=8.5",), "epsilon 8.5 is more than 8"),
        ({"privacy__max_epsilon": 8.0}, ("privacy.example.epsilon=8", "privacy.example.delta=0.1"), "delta 0.1"),
        ({"privacy__max_epsilon": 8.0, "privacy__unit": "patient"}, ("privacy.example.epsilon=8",), "wants patient"),
        ({"privacy__max_epsilon": 8.0}, ("privacy.example.epsilon=8", "privacy.example.noise_seed=1"), "subtract"),
        ({"privacy__secure_sum": "required"}, (), "nothing without masks"),
        ({"privacy__smallest_cohort": 5}, (), "4 hospitals are asked"),
        ({"privacy__smallest_cohort": 4}, ("privacy.secure_sum=true",), "sum of 3 hospitals"),
        ({"metrics": ("tokens", "num_samples")}, (), "loss and seconds would leave"),
        ({"metrics": ("loss", "tokens", "seconds")}, (), "number of training records"),
        ({}, ("privacy.audit.canaries=2",), "made-up records"),
    ],
)  # fmt: skip
def test_each_rule_refuses_what_it_is_about_and_nothing_else(rule, asked, words) -> None:
    reasons = policy(**rule).refusals(header(*asked))
    assert len(reasons) == 1, reasons
    assert words in reasons[0]


def test_what_fits_a_strict_policy_is_accepted() -> None:
    strict = policy(
        privacy__max_epsilon=8.0, privacy__secure_sum="required", privacy__smallest_cohort=3, metrics=(),
        models=({"name": GEMMA, "digest": "ab" * 32},),
    )  # fmt: skip
    asked = header("privacy.example.epsilon=8", "privacy.secure_sum=true")
    assert strict.refusals(asked, run_id="run", model_digest="ab" * 32) == ()
    assert strict.refusals(asked, run_id="run") != ()


def test_all_reasons_are_said_at_once() -> None:
    strict = policy(limits__rounds=1, limits__local_epochs=1, privacy__secure_sum="required", privacy__max_epsilon=1.0)
    assert len(strict.refusals(header())) == 4


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rounds": 101}, "101 rounds"),
        ({"round": 11}, "round 11 of 10"),
        ({"round": 0}, "round 0 of 10"),
        ({"run_id": "other"}, "another run"),
    ],
)
def test_a_plan_that_contradicts_its_order_or_settings_is_refused(change, words) -> None:
    assert any(words in reason for reason in policy().refusals(header(**change), run_id="run"))


@pytest.mark.parametrize(
    "broken",
    [
        {"algorithm": "ffa"},
        {"algorithm": 3},
        {"plan": None},
        {"config": {"training": {"epochs": "2"}}},
        {"config": {"x": 1}},
    ],
)
def test_a_header_of_another_shape_is_refused_with_the_key_that_is_wrong(broken) -> None:
    assert policy().refusals({**header(), **broken})


def test_a_sum_must_hide_the_hospital_among_enough_others() -> None:
    assert policy().sum_refusals(4, 3) == ()
    assert len(policy().sum_refusals(2, 2)) == 2
    assert len(policy().sum_refusals(4, 2)) == 1


def test_every_mistake_in_a_policy_file_is_named_with_its_line(tmp_path) -> None:
    path = tmp_path / "policy.yaml"
    good = PACKAGED.read_text()
    path.write_text(
        good.replace("rounds: 100 ", "rounds: 0 ")
        .replace("ask: false", "asks: no")
        .replace("unit: record ", "unit: recrod ")
    )
    with pytest.raises(SitePolicyError) as caught:
        SitePolicy.read(path)
    text, lines = str(caught.value), path.read_text().splitlines()
    for key in ("rounds: 0", "asks: no", "unit: recrod"):
        number = next(n for n, line in enumerate(lines, 1) if key in line)
        assert f"policy.yaml:{number}: " in text
    assert "ask is missing" in text
    assert "did you mean record?" in text


def test_no_rule_is_left_to_a_default(tmp_path) -> None:
    rules = yaml.safe_load(PACKAGED.read_text())
    rules["privacy"]["max_delta"] = 1e-5  # PyYAML reads 1.0e-5 as a number, and so it stays one
    path = tmp_path / "policy.yaml"

    def without(part: dict[str, Any], *keys: str) -> dict[str, Any]:
        return {k: without(v, *keys[1:]) if k == keys[0] else v for k, v in part.items() if (k,) != keys}

    paths = [(k,) for k in rules] + [(k, i) for k, v in rules.items() if isinstance(v, dict) for i in v]
    assert len(paths) == 17
    for keys in paths:
        path.write_text(yaml.safe_dump(without(rules, *keys)))
        with pytest.raises(SitePolicyError, match=f"{'.'.join(keys)} is missing"):
            SitePolicy.read(path)


@pytest.mark.parametrize("text", ["", "[]", "a: [", "format: 2", "\x00", "a: &x 1\nb: *x"])
def test_what_is_no_policy_is_refused(tmp_path, text) -> None:
    (tmp_path / "policy.yaml").write_text(text)
    with pytest.raises(SitePolicyError):
        SitePolicy.read(tmp_path / "policy.yaml")
    (tmp_path / "policy.yaml").write_bytes(b"\xff\xfe")
    with pytest.raises(SitePolicyError, match="UTF-8"):
        SitePolicy.read(tmp_path / "policy.yaml")


def test_a_person_is_asked_once_a_run_and_the_answer_holds_for_nothing_else(tmp_path) -> None:
    first = TrainHeader.read(header())
    assert answer_to(tmp_path, first) == "pending"
    assert [one.digest for one in pending(tmp_path)] == [first.digest()]
    answer(tmp_path, first.digest()[:8], True)
    assert pending(tmp_path) == ()
    assert answer_to(tmp_path, TrainHeader.read(header(round=2, asked=3))) == "accepted"
    for other in (
        header(run_id="other"),
        header("training.epochs=3"),
        header(rounds=9),
        header("federated.algorithm=ffa"),
    ):
        assert answer_to(tmp_path, TrainHeader.read(other)) == "pending"
    answer(tmp_path, first.digest(), False)
    assert answer_to(tmp_path, first) == "declined"


def test_what_cannot_be_answered_is_said(tmp_path) -> None:
    for digest in ("", "0f3a", "0f3a9c21", "../../etc", "F" * 64):
        with pytest.raises(PlanRefusedError):
            answer(tmp_path, digest, True)
    first = TrainHeader.read(header())
    answer_to(tmp_path, first)
    path = tmp_path / f"{first.digest()}.json"
    path.write_text(path.read_text().replace(first.digest(), "00" * 32))
    with pytest.raises(PlanRefusedError, match="another plan"):
        answer_to(tmp_path, first)
    path.write_text("{")
    with pytest.raises(PlanRefusedError, match="not JSON"):
        pending(tmp_path)


def test_a_coordinator_cannot_fill_the_disk_with_questions(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("fedmed.network.approvals._MANY", 3)
    for number in range(3):
        answer_to(tmp_path, TrainHeader.read(header(run_id=f"run-{number}")))
    with pytest.raises(PlanRefusedError, match="answer them first"):
        answer_to(tmp_path, TrainHeader.read(header(run_id="run-3")))

"""What cannot be combined is refused at once, all of it, with what can."""

from __future__ import annotations

import numpy as np
import pytest

from fedmed.config.load import load_config
from fedmed.errors import ConfigError, QuorumError
from fedmed.federated.algorithms import check_combination
from fedmed.federated.algorithms.fedavg import FedAvg
from fedmed.federated.server import apply_round
from fedmed.utils.random_streams import stream

pytestmark = pytest.mark.unit


def problems(*overrides):
    with pytest.raises(ConfigError) as caught:
        check_combination(load_config(None, (), overrides))
    return caught.value.problems


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["federated.algorithm=fedsb", "federated.ranks=[16,8,8,4]"], "not possible with fedsb: use fedavg, fedprox"),
        (["federated.ranks=[16,8]"], "2 entries for 4 hospitals"),
        (["federated.ranks=[32,8,8,4]"], "up to 32, model.lora.r is 16"),
        (["federated.ranks=[16,8,8,4]", "federated.robust=median"], "not possible with federated.robust"),
        (["federated.algorithm=flora", "federated.robust=median"], "not possible with flora: use fedavg"),
        (["federated.robust=krum"], "krum bears 0 hostile hospitals among the 4 of a round, federated.tolerate is 1"),
        (
            [
                "federated.robust=median",
                "federated.num_clients=9",
                "federated.hospitals_per_round=4",
                "federated.tolerate=2",
            ],
            "median bears 1 hostile hospitals among the 4 of a round",
        ),
        (["federated.algorithm=sketch", "federated.wire.up=int8"], "wire.up=int8 is not possible with sketch"),
        (["federated.algorithm=fedex", "federated.wire.down=int4"], "wire.down=int4 is not possible with fedex"),
        (["federated.algorithm=ffa", "model.lora.use_dora=true"], "use_dora is not possible with ffa"),
        (["federated.algorithm=fedsb", "model.lora.dropout=0.1"], "dropout is not possible with fedsb"),
        (["federated.algorithm=fedex", "model.quantization=4bit"], "which model.quantization freezes"),
    ],
)
def test_an_impossible_combination_is_an_error_that_names_what_is_possible(overrides, said):
    assert any(said in problem for problem in problems(*overrides))


def test_all_of_them_are_told_at_once():
    assert len(problems("federated.algorithm=sketch", "federated.wire.up=int8", "federated.robust=median")) == 2


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["federated.ranks=[16,8,8,4]", "federated.algorithm=sketch", "federated.residual=fold"],
        ["federated.robust=median", "federated.algorithm=ffa", "federated.wire.up=int4"],
        ["model.lora.use_dora=true", "federated.algorithm=fedadam"],
        ["model.quantization=4bit", "federated.algorithm=sketch"],
    ],
)
def test_what_is_possible_passes(overrides):
    check_combination(load_config(None, (), overrides))


def five(toy, bad):
    """Four honest hospitals' payloads and one more."""
    draw = stream(17, "five")
    honest = [
        toy.payload(f"h{number}", {"w": (np.ones(50) + draw.normal(0, 0.3, 50)).astype(np.float32)})
        for number in range(4)
    ]
    return [*honest, toy.payload("h4", {"w": bad.astype(np.float32)})]


@pytest.mark.parametrize("bad", [np.full(50, np.nan), np.full(50, -20.0)], ids=["refused", "left out"])
def test_krum_goes_on_with_four_of_five_where_the_fifth_was_caught(toy, bad):
    algorithm = FedAvg(robust="krum", tolerate=1)
    plan = toy.plan(("h0", "h1", "h2", "h3", "h4"), min_replies=4)
    new, _, report = apply_round({"w": np.zeros(50, np.float32)}, {}, algorithm, plan, five(toy, bad))
    assert report.admitted == ("h0", "h1", "h2", "h3")
    assert "'h4'" in report.refused["h4"]
    assert abs(float(new["w"].mean()) - 1) < 0.2


def test_krum_does_not_go_on_with_four_where_the_fifth_is_merely_absent(toy):
    algorithm = FedAvg(robust="krum", tolerate=1)
    plan = toy.plan(("h0", "h1", "h2", "h3", "h4"), min_replies=4)
    with pytest.raises(QuorumError, match="cannot tolerate 1 bad hospital among 4"):
        apply_round({"w": np.zeros(50, np.float32)}, {}, algorithm, plan, five(toy, np.ones(50))[:4])


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["privacy.secure_sum=true"], "hides what federated.agent.weigh must see; with federated.agent.weigh=false it"),
        (["federated.algorithm=fedsa"], "federated.agent is not possible with fedsa"),
        (["federated.robust=median"], "federated.robust and federated.agent.weigh both say"),
        (["privacy.hospital.epsilon=8.0"], "privacy.hospital.epsilon is for equal weights"),
        (["federated.agent.max_epsilon=4.0"], "max_epsilon needs privacy.example.epsilon"),
    ],
)
def test_the_agent_is_refused_where_it_cannot_see_and_what_still_works_is_named(overrides, said):
    assert any(said in problem for problem in problems("federated.agent.enabled=true", *overrides))
    if "weigh" in said:
        check_combination(
            load_config(None, (), ["federated.agent.enabled=true", "federated.agent.weigh=false", *overrides])
        )

"""What cannot be combined is refused at once, all of it, with what can."""

from __future__ import annotations

import pytest

from fedmed.config.load import load_config
from fedmed.errors import ConfigError
from fedmed.federated.algorithms import check_combination

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
        (["federated.algorithm=flora", "federated.robust=krum"], "not possible with flora: use fedavg"),
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

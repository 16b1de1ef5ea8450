"""What the planner says about bytes against what messages had."""

from __future__ import annotations

import numpy as np
import pytest

from fedmed.config.load import load_config
from fedmed.config.schema import PrivacySection
from fedmed.federated.algorithms import get_algorithm
from fedmed.federated.links import Downlink
from fedmed.federated.runner import AllOrSampled, FederationState, run_rounds
from fedmed.federated.simulation import SimulationTransport
from fedmed.federated.traffic import traffic

pytestmark = pytest.mark.unit
HEADERS = 700  # of one message, at most


@pytest.mark.parametrize(
    "settings",
    [
        ["federated.algorithm=fedavg"],
        ["federated.algorithm=fedavg", "federated.wire.up=int4", "federated.wire.down=int8"],
        ["federated.algorithm=fedavg", "federated.ranks=[2,2,1,1,1,1]"],
        ["federated.algorithm=ffa"],
        ["federated.algorithm=rolora"],
        ["federated.algorithm=rolora", "federated.wire.down=int8"],
        ["federated.algorithm=fedsb", "federated.wire.down=bf16"],
        ["federated.algorithm=fedsb", "federated.wire.up=bf16"],
        ["federated.algorithm=fedsa"],
        ["federated.algorithm=sketch"],
        ["federated.algorithm=sketch", "federated.ranks=[2,2,1,1,1,1]"],
    ],
)
def test_planned_bytes_are_those_of_the_messages(pairs_toy, settings):
    toy = pairs_toy
    config = load_config(None, (), [*settings, "federated.num_clients=6", "federated.rounds=3", "model.lora.r=2"])
    federated = config.federated
    algorithm = get_algorithm(federated)
    start, server = algorithm.start(toy.state("start"))
    ranks = dict(zip(toy.hospitals, federated.ranks or (), strict=False))
    final = run_rounds(
        FederationState(0, start, server_state=server),
        algorithm=algorithm,
        transport=SimulationTransport(toy.trainer(), {}, PrivacySection(), federated.wire),
        policy=AllOrSampled(toy.hospitals, rounds=3, seed=17, ranks=ranks),
        rounds=3,
        on_round=lambda state, report: None,
        downlink=Downlink(federated.wire),
    )
    planned = traffic(config, {key: np.shape(array) for key, array in toy.state("start").items()})
    up = sum(report.bytes_up for report in final.history)
    down = sum(report.bytes_down for report in final.history)
    messages = 3 * 6
    assert planned["up"] < up < planned["up"] + messages * HEADERS
    assert planned["down"] < down < planned["down"] + messages * HEADERS

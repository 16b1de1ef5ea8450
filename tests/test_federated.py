"""A tour of the federation, without a model: three hospitals, two small arrays, numpy only.

Each test is one thing that the federation promises; the rest of the suite asks for the details.
"""

from __future__ import annotations

import numpy as np
import pytest

from fedmed.config.schema import FederatedSection, FedMedConfig, PrivacySection
from fedmed.errors import QuorumError
from fedmed.federated.algorithms import get_algorithm
from fedmed.federated.checkpoint import load_latest, save_round
from fedmed.federated.client import FederatedClient
from fedmed.federated.runner import AllOrSampled, FederationState, run_rounds
from fedmed.federated.server import FederatedServer, apply_round
from fedmed.federated.simulation import SimulationTransport
from fedmed.types import RoundPlan

pytestmark = pytest.mark.unit

FEDAVG = get_algorithm(FederatedSection(algorithm="fedavg"))


def test_fedavg_is_the_mean_of_the_hospitals_weighted_by_their_records(toy):
    start = {"w": np.array([1.0, 1.0], np.float32)}
    plan = RoundPlan("tour", round=1, rounds=1, hospitals=("A", "B"), min_replies=2, seed=17)
    to_three = {"w": np.array([2.0, 0.0], np.float32)}  # a hospital sends its change, here from [1, 1] to [3, 1]
    to_five = {"w": np.array([0.0, 4.0], np.float32)}  # … and from [1, 1] to [1, 5]
    payloads = [toy.payload("A", to_three, num_samples=30), toy.payload("B", to_five, num_samples=10)]
    new, _, report = apply_round(start, {}, FEDAVG, plan, payloads)
    assert new["w"].tolist() == [2.5, 2.0]  # (30 * [3, 1] + 10 * [1, 5]) / 40
    assert report.admitted == ("A", "B")


def test_the_order_in_which_hospitals_reply_changes_no_bit(toy):
    payloads = [toy.payload(name, toy.state(name), num_samples=index + 1) for index, name in enumerate(toy.hospitals)]
    forwards, *_ = apply_round(toy.state("start"), {}, FEDAVG, toy.plan(), payloads)
    backwards, *_ = apply_round(toy.state("start"), {}, FEDAVG, toy.plan(), payloads[::-1])
    assert toy.same_bits(forwards, backwards)


def test_the_ten_round_loop_of_the_quick_start_brings_the_hospitals_together(toy):
    config = FedMedConfig()
    rows = [{"question": "q", "answer": "a", "split": "train"}]
    server = FederatedServer(toy.state("start", spread=5.0), config)
    clients = [FederatedClient(name, rows, config=config, trainer=toy.trainer()) for name in toy.hospitals]
    losses = []
    for _ in range(10):
        global_state = server.get_global_model_state()
        updates = [client.local_training(global_state) for client in clients]
        weights = [client.get_num_samples() for client in clients]
        aggregated = server.aggregate_updates(updates, weights)
        server.update_global_model(aggregated)
        losses.append(np.mean([update.metrics.loss for update in updates]))
    assert losses[-1] < 0.5 * losses[0]
    final, targets = server.get_global_model_state(), [toy.state("target", name) for name in toy.hospitals]
    for key in final:  # the minimum of the hospitals' quadratic losses together is the mean of their targets
        np.testing.assert_allclose(final[key], np.mean([target[key] for target in targets], axis=0), atol=0.05)


def test_the_loop_in_a_script_and_the_runner_end_with_the_same_bits(toy):
    config = FedMedConfig()
    trainer = toy.trainer()
    server = FederatedServer(toy.state("start"), config)
    row = {"question": "q", "answer": "a", "split": "train"}
    clients = [
        FederatedClient(name, [row] * trainer.num_samples[name], config=config, trainer=trainer)
        for name in toy.hospitals
    ]
    for _ in range(3):
        updates = [client.local_training(server.get_global_model_state()) for client in clients]
        weights = [client.get_num_samples() for client in clients]
        server.update_global_model(server.aggregate_updates(updates, weights))
    final = run_rounds(
        FederationState(round=0, global_state=toy.state("start")),
        algorithm=get_algorithm(config.federated),
        transport=SimulationTransport(trainer, {}, config.privacy),
        policy=AllOrSampled(toy.hospitals, rounds=config.federated.rounds, seed=config.federated.seed),
        rounds=3,
        on_round=lambda state, report: None,
    )
    assert toy.same_bits(server.get_global_model_state(), final.global_state)


def test_a_broken_hospital_is_refused_with_a_reason_and_the_others_go_on(toy):
    broken = {name: np.full_like(array, np.nan) for name, array in toy.state("start").items()}
    payloads = [toy.payload("hospital_A", toy.state("a")), toy.payload("hospital_B", broken)]
    *_, report = apply_round(toy.state("start"), {}, FEDAVG, toy.plan(min_replies=1), payloads)
    assert report.admitted == ("hospital_A",)
    assert "not finite" in report.refused["hospital_B"]


def test_without_a_quorum_the_round_is_abandoned_and_the_global_adapter_stays(toy):
    start = toy.state("start")
    with pytest.raises(QuorumError, match="1 usable replies and needs 2"):
        apply_round(start, {}, FEDAVG, toy.plan(min_replies=2), [toy.payload("hospital_A", toy.state("a"))])
    assert toy.same_bits(start, toy.state("start"))


def test_a_run_that_is_stopped_and_resumed_ends_with_the_same_adapter(toy, tmp_path):
    def run(start, rounds, on_round):
        return run_rounds(
            start,
            algorithm=FEDAVG,
            transport=SimulationTransport(toy.trainer(), start.hospital_states, PrivacySection()),
            policy=AllOrSampled(toy.hospitals, rounds=5, seed=17, hospitals_per_round=2),
            rounds=rounds,
            on_round=on_round,
        )

    fresh = FederationState(round=0, global_state=toy.state("start"))
    alone = run(fresh, 5, lambda state, report: None)
    run(fresh, 2, lambda state, report: save_round(tmp_path, state, config_digest="settings", keep=3))
    resumed = run(load_latest(tmp_path), 5, lambda state, report: None)
    assert toy.same_bits(resumed.global_state, alone.global_state)

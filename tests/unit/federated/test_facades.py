"""FederatedServer and FederatedClient: what a script may hand them, and what they say to the rest."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest

from fedmed.config.schema import FederatedSection, FedMedConfig, PrivacySection
from fedmed.errors import (
    AdapterMismatchError,
    DataFormatError,
    EmptyDataError,
    FederationError,
    ModelError,
    QuorumError,
)
from fedmed.federated.client import FederatedClient
from fedmed.federated.server import FederatedServer

pytestmark = pytest.mark.unit

ROWS = [{"question": f"q{index}", "answer": "a", "split": "train"} for index in range(3)]


@dataclass
class Recorder:
    """A trainer that also keeps the jobs it was given."""

    inner: object
    jobs: list = field(default_factory=list)

    def run(self, jobs):
        self.jobs.extend(jobs)
        yield from self.inner.run(jobs)


def server_at(toy, config=None):
    return FederatedServer(toy.state("start"), config or FedMedConfig())


def test_the_aggregate_of_trained_adapters_is_their_weighted_mean(toy):
    server = server_at(toy)
    updates = [toy.state("u", index) for index in range(3)]
    new = server.aggregate_updates(updates, [1, 2, 5])
    for key in new:
        expected = sum(w * u[key].astype(np.float64) for w, u in zip([1, 2, 5], updates, strict=True)) / 8
        np.testing.assert_allclose(new[key], expected, atol=1e-6)
        assert new[key].dtype == np.float32


def test_the_global_adapter_moves_only_when_told_to(toy):
    server = server_at(toy)
    aggregated = server.aggregate_updates([toy.state("u")], [4])
    assert toy.same_bits(server.get_global_model_state(), toy.state("start"))
    server.update_global_model(aggregated)
    assert toy.same_bits(server.get_global_model_state(), aggregated)
    assert server.round == 1


def test_what_a_script_does_to_its_copy_does_not_reach_the_server(toy):
    initial = toy.state("start")
    server = FederatedServer(initial, FedMedConfig())
    initial["layer.lora_A.weight"][:] = 9.0
    server.get_global_model_state()["layer.lora_A.weight"][:] = 9.0
    assert toy.same_bits(server.get_global_model_state(), toy.state("start"))


@pytest.mark.parametrize(
    ("updates", "weights", "message"),
    [
        (0, [], "no updates"),
        (2, [1], "2 updates came with 1 weights"),
        (2, [0, 0], "all weights are 0"),
        (2, [3, -1], "weight 1 is -1"),
        (2, [0.5, 0.5], "weight 0 is 0.5"),
        (2, [1, float("nan")], "weight 1 is nan"),
    ],
)
def test_weights_that_make_no_mean_are_named(toy, updates, weights, message):
    with pytest.raises(FederationError, match=message):
        server_at(toy).aggregate_updates([toy.state("u", index) for index in range(updates)], weights)


def test_an_update_of_weight_zero_is_left_out(toy):
    server = server_at(toy)
    alone = server.aggregate_updates([toy.state("u", 1)], [7])
    assert toy.same_bits(server.aggregate_updates([toy.state("u", 0), toy.state("u", 1)], [0, 7]), alone)


def test_numpy_weights_are_weights(toy):
    server = server_at(toy)
    updates = [toy.state("u", 0), toy.state("u", 1)]
    assert toy.same_bits(
        server.aggregate_updates(updates, np.array([3, 4])), server.aggregate_updates(updates, [3.0, 4.0])
    )


def test_an_update_that_is_not_finite_is_refused_by_name(toy):
    broken = toy.state("u")
    broken["layer.lora_B.weight"][0, 0] = np.inf
    with pytest.raises(QuorumError, match=r"update_1.*lora_B.*not finite"):
        server_at(toy).aggregate_updates([toy.state("v"), broken], [1, 1])


def test_an_adapter_of_other_shapes_is_refused_on_every_way_in(toy):
    server = server_at(toy)
    other = {"layer.lora_A.weight": np.zeros((2, 5), np.float32)}
    with pytest.raises(AdapterMismatchError, match="update_0"):
        server.aggregate_updates([other], [1])
    with pytest.raises(AdapterMismatchError, match="other arrays"):
        server.update_global_model(other)
    assert toy.same_bits(server.get_global_model_state(), toy.state("start"))


@pytest.mark.parametrize("thing", [42, "a model", None, {}, {"w": np.array([np.nan])}])
def test_only_a_model_or_an_adapter_can_start_a_server(thing):
    with pytest.raises(AdapterMismatchError):
        FederatedServer(thing, FedMedConfig())


def test_two_clients_of_one_name_are_told_apart_from_one(toy):
    trainer = toy.trainer()
    clients = [FederatedClient("hospital_A", ROWS, config=FedMedConfig(), trainer=trainer) for _ in range(2)]
    server = server_at(toy)
    updates = [client.local_training(server.get_global_model_state()) for client in clients]
    with pytest.raises(QuorumError, match="already admitted"):
        server.aggregate_updates(updates, [1, 1])


def test_a_client_counts_its_own_rounds_and_its_training_rows(toy):
    recorder = Recorder(toy.trainer())
    rows = [*ROWS, {"question": "q", "answer": "a", "split": "test"}, {"question": "q", "answer": "a"}]
    client = FederatedClient("hospital_A", rows, config=FedMedConfig(), trainer=recorder)
    assert client.get_num_samples() == 4
    start = toy.state("start")
    first, second = client.local_training(start), client.local_training(start)
    assert [job.round for job in recorder.jobs] == [1, 2]
    assert (first.round, second.round) == (1, 2)
    assert not toy.same_bits(first.state, second.state)
    assert toy.same_bits(start, toy.state("start"))


def test_a_client_of_fedprox_trains_with_its_proximal_term(toy):
    recorder = Recorder(toy.trainer())
    config = FedMedConfig(federated=FederatedSection(algorithm="fedprox", fedprox_mu=0.25))
    FederatedClient("hospital_A", ROWS, config=config, trainer=recorder).local_training(toy.state("start"))
    assert recorder.jobs[0].proximal_mu == 0.25


def test_a_clients_privacy_settings_bound_its_change_and_withhold_its_losses(toy):
    config = FedMedConfig(privacy=PrivacySection(share_metrics=False, max_update_norm=0.01))
    start = toy.state("start")
    result = FederatedClient("hospital_A", ROWS, config=config, trainer=toy.trainer()).local_training(start)
    norm = np.sqrt(sum(np.sum((result.state[key].astype(np.float64) - start[key]) ** 2) for key in start))
    assert 0.0099 < norm < 0.010001
    assert np.isnan(result.metrics.loss)
    assert result.metrics.tokens == 0


def test_a_client_with_nothing_to_train_on_is_named():
    with pytest.raises(EmptyDataError, match="hospital_C"):
        FederatedClient("hospital_C", [{"question": "q", "answer": "a", "split": "test"}], config=FedMedConfig())
    with pytest.raises(DataFormatError, match="row 1 of 'hospital_C'"):
        FederatedClient("hospital_C", [ROWS[0], {"question": "q"}], config=FedMedConfig())


def test_a_model_without_a_tokenizer_is_an_error_before_training(toy):
    client = FederatedClient("hospital_A", ROWS, model=object(), config=FedMedConfig())
    with pytest.raises(ModelError, match="fedmed_tokenizer"):
        client.local_training(toy.state("start"))

"""Each hospital's half, in one process."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest

from fedmed.config.schema import PrivacySection
from fedmed.errors import FederationError
from fedmed.federated.algorithms.fedavg import FedAvg
from fedmed.federated.algorithms.fedprox import FedProx
from fedmed.federated.server import apply_round
from fedmed.federated.simulation import SimulationTransport

pytestmark = pytest.mark.unit


class CountingFedAvg(FedAvg):
    """FedAvg that also counts, at each hospital, the rounds that were applied."""

    def finish(self, job, result, hospital_state):
        payload, _ = super().finish(job, result, hospital_state)
        return payload, {"rounds": hospital_state.get("rounds", np.zeros(1, np.int64)) + 1}


@dataclass
class Spoiled:
    """A trainer whose results are changed on the way out."""

    inner: object
    change: object

    def run(self, jobs):
        yield from self.change(list(self.inner.run(jobs)))


def exchange(toy, transport, algorithm, round=1):
    plan = toy.plan(round=round)
    return plan, list(transport.exchange(plan, toy.state("start"), algorithm))


def test_payloads_are_changes_of_the_adapter_and_name_their_hospital(toy):
    _, payloads = exchange(toy, SimulationTransport(toy.trainer(), {}, PrivacySection()), FedAvg())
    assert [payload.hospital for payload in payloads] == list(toy.hospitals)
    assert [payload.num_samples for payload in payloads] == [10, 20, 30]
    start, target = toy.state("start"), toy.state("target", "hospital_A")
    key = "layer.lora_A.weight"
    assert np.linalg.norm(start[key] + payloads[0].arrays[key] - target[key]) < np.linalg.norm(start[key] - target[key])


def test_payloads_come_one_by_one_as_the_trainer_finishes(toy):
    finished = []

    class Watched:
        def run(self, jobs):
            for result in toy.trainer().run(jobs):
                finished.append(result.hospital)
                yield result

    payloads = SimulationTransport(Watched(), {}, PrivacySection()).exchange(toy.plan(), toy.state("start"), FedAvg())
    next(payloads)
    assert finished == ["hospital_A"]


def test_privacy_settings_apply_before_a_payload_is_handed_over(toy):
    strict = PrivacySection(share_metrics=False, max_update_norm=0.1)
    _, payloads = exchange(toy, SimulationTransport(toy.trainer(), {}, strict), FedAvg())
    for payload in payloads:
        assert payload.metrics is None
        assert np.sqrt(sum(float(np.sum(np.square(a, dtype=np.float64))) for a in payload.arrays.values())) <= 0.1


def test_hospital_state_moves_only_when_the_round_is_applied(toy):
    transport = SimulationTransport(toy.trainer(), {}, PrivacySection())
    algorithm = CountingFedAvg()
    exchange(toy, transport, algorithm)  # abandoned: nobody commits it
    plan, payloads = exchange(toy, transport, algorithm)
    *_, report = apply_round(toy.state("start"), {}, algorithm, plan, payloads)
    states = transport.commit(report)
    assert {name: int(state["rounds"][0]) for name, state in states.items()} == dict.fromkeys(toy.hospitals, 1)


def test_a_refused_hospital_keeps_its_old_state(toy):
    transport = SimulationTransport(toy.trainer(), {}, PrivacySection())
    algorithm = CountingFedAvg()
    plan, payloads = exchange(toy, transport, algorithm)
    payloads[1].arrays["layer.lora_A.weight"][0, 0] = np.nan
    *_, report = apply_round(toy.state("start"), {}, algorithm, plan, payloads)
    assert set(transport.commit(report)) == {"hospital_A", "hospital_C"}


def test_states_from_a_checkpoint_are_gone_on_from(toy):
    kept = {"hospital_B": {"rounds": np.array([41])}}
    transport = SimulationTransport(toy.trainer(), kept, PrivacySection())
    algorithm = CountingFedAvg()
    plan, payloads = exchange(toy, transport, algorithm)
    *_, report = apply_round(toy.state("start"), {}, algorithm, plan, payloads)
    assert int(transport.commit(report)["hospital_B"]["rounds"][0]) == 42
    assert int(kept["hospital_B"]["rounds"][0]) == 41


@pytest.mark.parametrize(
    "change",
    [
        lambda results: [replace(results[0], hospital="hospital_Z")],
        lambda results: [results[0], results[0]],
        lambda results: [replace(results[0], round=9)],
    ],
)
def test_a_result_that_nobody_asked_for_is_an_error(toy, change):
    transport = SimulationTransport(Spoiled(toy.trainer(), change), {}, PrivacySection())
    with pytest.raises(FederationError, match="does not wait for"):
        exchange(toy, transport, FedAvg())


def test_a_hospital_whose_update_is_not_finite_sends_nothing_and_the_others_go_on(toy, caplog):
    def spoil(results):
        results[1].state["layer.lora_A.weight"][0, 0] = np.nan
        return results

    transport = SimulationTransport(Spoiled(toy.trainer(), spoil), {}, PrivacySection())
    plan, payloads = exchange(toy, transport, FedAvg())
    *_, report = apply_round(toy.state("start"), {}, FedAvg(), plan, payloads)
    assert report.admitted == ("hospital_A", "hospital_C")
    assert "'hospital_B' sends nothing: array 'layer.lora_A.weight' has values that are not finite" in caplog.text
    assert report.refused == {"hospital_B": "'hospital_B' did not reply"}


def test_a_training_of_many_steps_still_fits_into_its_message(toy):
    def lengthen(results):
        losses = tuple(float(number) for number in range(20_000))
        return [replace(result, metrics=replace(result.metrics, step_losses=losses)) for result in results]

    transport = SimulationTransport(Spoiled(toy.trainer(), lengthen), {}, PrivacySection())
    _, payloads = exchange(toy, transport, FedAvg())
    sent = payloads[0].metrics.step_losses
    assert (len(sent), sent[0], sent[-1]) == (256, 0.0, 19_999.0)
    assert list(sent) == sorted(sent)


def test_fedprox_stays_nearer_to_the_global_adapter_than_fedavg(toy):
    def distance(algorithm):
        _, payloads = exchange(toy, SimulationTransport(toy.trainer(), {}, PrivacySection()), algorithm)
        return sum(float(np.sum(array**2)) for payload in payloads for array in payload.arrays.values())

    assert distance(FedProx(1.0)) < 0.9 * distance(FedAvg())
    assert distance(FedProx(0.0)) == distance(FedAvg())

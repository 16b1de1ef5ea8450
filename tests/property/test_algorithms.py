"""The laws that every federated method must obey, each by the property that the method declares."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedmed.config.schema import FederatedSection, PrivacySection
from fedmed.errors import FederationError, QuorumError
from fedmed.federated.algorithms import ALGORITHMS, get_algorithm
from fedmed.federated.checkpoint import load_latest, save_round
from fedmed.federated.fixed_point import LARGEST_TOTAL_WEIGHT
from fedmed.federated.runner import AllOrSampled, FederationState, run_rounds
from fedmed.federated.server import apply_round
from fedmed.federated.simulation import SimulationTransport
from fedmed.types import TrainMetrics

pytestmark = [pytest.mark.property, pytest.mark.parametrize("name", sorted(ALGORITHMS))]

QUICK = settings(max_examples=25, deadline=None)
weights = st.lists(st.integers(1, 10_000), min_size=3, max_size=3)


def adapters(largest: float = 8.0):
    elements = st.floats(-largest, largest, width=32)
    return st.fixed_dictionaries(
        {
            "layer.lora_A.weight": hnp.arrays(np.float32, (2, 5), elements=elements),
            "layer.lora_B.weight": hnp.arrays(np.float32, (4, 2), elements=elements),
        }
    )


def algorithm_named(name):
    return get_algorithm(FederatedSection(algorithm=name))


def payloads_of(algorithm, toy, start, num_samples):
    """What three honest hospitals send after a local training."""
    trainer = replace(toy.trainer(), num_samples=dict(zip(toy.hospitals, num_samples, strict=True)))
    jobs = [algorithm.begin(start, {}, toy.plan().for_hospital(hospital)) for hospital in toy.hospitals]
    return [algorithm.finish(job, result, {})[0] for job, result in zip(jobs, trainer.run(jobs), strict=True)]


@QUICK
@given(start=adapters(), num_samples=weights, data=st.data())
def test_a_stream_gives_the_same_bits_in_any_order_of_arrival(name, toy, start, num_samples, data):
    algorithm = algorithm_named(name)
    payloads = payloads_of(algorithm, toy, start, num_samples)
    shuffled = data.draw(st.permutations(payloads))
    assert algorithm.traits.kind == "stream"
    one, report = apply_round(start, algorithm, toy.plan(), payloads)
    other, other_report = apply_round(start, algorithm, toy.plan(), shuffled)
    assert toy.same_bits(one, other)
    assert report == other_report


@QUICK
@given(start=adapters(), num_samples=weights, factor=st.integers(2, 50))
def test_only_the_ratio_of_weights_matters(name, toy, start, num_samples, factor):
    algorithm = algorithm_named(name)
    one, _ = apply_round(start, algorithm, toy.plan(), payloads_of(algorithm, toy, start, num_samples))
    scaled = payloads_of(algorithm, toy, start, [factor * weight for weight in num_samples])
    other, _ = apply_round(start, algorithm, toy.plan(), scaled)
    assert toy.same_bits(one, other)


@QUICK
@given(start=adapters(), num_samples=weights)
def test_updates_of_zero_leave_the_global_adapter_as_it_is(name, toy, start, num_samples):
    algorithm = algorithm_named(name)
    payloads = [
        replace(payload, arrays={key: np.zeros_like(array) for key, array in payload.arrays.items()})
        for payload in payloads_of(algorithm, toy, start, num_samples)
    ]
    new, report = apply_round(start, algorithm, toy.plan(), payloads)
    assert all(np.array_equal(new[key], start[key]) for key in start)
    assert report.update_norm == 0.0


@QUICK
@given(start=adapters(), trained=adapters(), weight=st.integers(1, LARGEST_TOTAL_WEIGHT))
def test_with_one_hospital_the_new_global_is_that_hospitals_adapter(name, toy, start, trained, weight):
    algorithm = algorithm_named(name)
    plan = toy.plan(("hospital_A",))
    job = algorithm.begin(start, {}, plan.for_hospital("hospital_A"))
    (result,) = toy.trainer().run([job])
    payload, _ = algorithm.finish(job, replace(result, state=trained, num_samples=weight), {})
    new, _ = apply_round(start, algorithm, plan, [payload])
    for key in start:
        # 2^-33 from fixed point; float32 rounds the change once and the sum once, each of magnitude <= 16.
        np.testing.assert_allclose(new[key], trained[key], rtol=0, atol=2.0**-33 + 2 * 16 * 2.0**-24)


@QUICK
@given(start=adapters(), num_samples=weights)
def test_the_declared_exactness_is_true(name, toy, start, num_samples):
    """Exact means: the global BA is the weighted mean of the hospitals' BA."""
    algorithm = algorithm_named(name)
    payloads = payloads_of(algorithm, toy, toy.state("start"), num_samples)
    start = toy.state("start")
    new, _ = apply_round(start, algorithm, toy.plan(), payloads)
    product = sum(
        weight * (start[b] + payload.arrays[b]) @ (start[a] + payload.arrays[a])
        for payload, weight in zip(payloads, num_samples, strict=True)
        for a, b in [("layer.lora_A.weight", "layer.lora_B.weight")]
    ) / sum(num_samples)
    error = np.linalg.norm(new["layer.lora_B.weight"] @ new["layer.lora_A.weight"] - product)
    assert (error < 1e-5 * np.linalg.norm(product)) == algorithm.traits.exact


def test_a_round_changes_nothing_it_was_given(name, toy):
    algorithm = algorithm_named(name)
    start = toy.state("start")
    payloads = payloads_of(algorithm, toy, start, [1, 2, 3])
    sent = [{key: array.copy() for key, array in payload.arrays.items()} for payload in payloads]
    apply_round(start, algorithm, toy.plan(), payloads)
    assert toy.same_bits(start, toy.state("start"))
    assert all(toy.same_bits(payload.arrays, before) for payload, before in zip(payloads, sent, strict=True))


def federation(toy, name, start, rounds, on_round, trainer=None):
    return run_rounds(
        start,
        algorithm=algorithm_named(name),
        transport=SimulationTransport(trainer or toy.trainer(), start.hospital_states, PrivacySection()),
        policy=AllOrSampled(toy.hospitals, rounds=6, seed=17, hospitals_per_round=2),
        rounds=rounds,
        on_round=on_round,
    )


def test_a_resumed_run_ends_with_the_bits_and_the_history_of_a_run_left_alone(name, toy, tmp_path):
    fresh = FederationState(0, toy.state("start"))
    alone = federation(toy, name, fresh, 6, lambda state, report: None)

    def save(state, report):
        save_round(tmp_path, state, config_digest="d", keep=2)

    stopped = federation(toy, name, fresh, 3, save)
    loaded = load_latest(tmp_path, config_digest="d")
    assert toy.same_bits(loaded.global_state, stopped.global_state)
    assert (loaded.round, loaded.history) == (3, stopped.history)

    resumed = federation(toy, name, loaded, 6, save)
    assert toy.same_bits(resumed.global_state, alone.global_state)
    assert resumed.history == alone.history


def test_training_together_lowers_the_loss_at_every_hospital_that_takes_part(name, toy):
    final = federation(toy, name, FederationState(0, toy.state("start", spread=5.0)), 6, lambda state, report: None)
    first, last = {}, {}
    for report in final.history:
        for hospital, metrics in report.metrics.items():
            first.setdefault(hospital, metrics.loss)
            last[hospital] = metrics.loss
    assert set(first) == set(toy.hospitals)
    assert all(last[hospital] < first[hospital] for hospital in first)


def put(value):
    def change(payload):
        arrays = {key: array.copy() for key, array in payload.arrays.items()}
        arrays["layer.lora_B.weight"][1, 1] = value
        return replace(payload, arrays=arrays)

    return change


def with_array(key, array):
    return lambda payload: replace(payload, arrays={**payload.arrays, key: array})


def with_metrics(**changes):
    honest = TrainMetrics(1.0, (1.0,), 10, 5, 1, 0.1)
    return lambda payload: replace(payload, metrics=replace(honest, **changes))


HOSTILE = {
    "not a number": (put(np.nan), "not finite"),
    "infinite": (put(np.inf), "not finite"),
    "huge": (put(1e6), "beyond"),
    "missing array": (lambda p: replace(p, arrays={"layer.lora_A.weight": p.arrays["layer.lora_A.weight"]}), "missing"),
    "no arrays": (lambda p: replace(p, arrays={}), "missing"),
    "extra array": (with_array("backdoor", np.zeros(1, np.float32)), "does not have"),
    "wrong shape": (with_array("layer.lora_B.weight", np.zeros((2, 4), np.float32)), "shape"),
    "broadcastable shape": (with_array("layer.lora_B.weight", np.zeros((1, 1), np.float32)), "shape"),
    "wrong dtype": (with_array("layer.lora_B.weight", np.zeros((4, 2), np.float64)), "float32"),
    "list for an array": (with_array("layer.lora_B.weight", [[0.0, 0.0]] * 4), "float32"),
    "objects": (with_array("layer.lora_B.weight", np.full((4, 2), None, dtype=object)), "float32"),
    "old round": (lambda p: replace(p, round=0), "round 0"),
    "other algorithm": (lambda p: replace(p, algorithm="fedsecret"), "fedsecret"),
    "nobody asked": (lambda p: replace(p, hospital="hospital_Z"), "not asked"),
    "no records": (lambda p: replace(p, num_samples=0), "number of records"),
    "negative records": (lambda p: replace(p, num_samples=-5), "number of records"),
    "too many records": (lambda p: replace(p, num_samples=2**40), "number of records"),
    "fractional records": (lambda p: replace(p, num_samples=1.5), "number of records"),
    "loss not a number": (with_metrics(loss=float("nan")), "losses"),
    "negative tokens": (with_metrics(tokens=-1), "counts"),
}


@pytest.mark.parametrize("attack", sorted(HOSTILE))
def test_a_hostile_payload_is_refused_and_leaves_no_trace(name, toy, attack):
    change, reason = HOSTILE[attack]
    algorithm = algorithm_named(name)
    start = toy.state("start")
    honest = payloads_of(algorithm, toy, start, [10, 20, 30])
    hostile = change(honest[1])
    new, report = apply_round(start, algorithm, toy.plan(), [honest[0], hostile, honest[2]])
    without, _ = apply_round(start, algorithm, toy.plan(), [honest[0], honest[2]])
    assert toy.same_bits(new, without)
    assert report.admitted == ("hospital_A", "hospital_C")
    assert hostile.hospital in report.refused[hostile.hospital]
    assert reason in report.refused[hostile.hospital]


def test_a_second_reply_is_refused_and_the_first_one_counts(name, toy):
    algorithm = algorithm_named(name)
    start = toy.state("start")
    honest = payloads_of(algorithm, toy, start, [10, 20, 30])
    new, report = apply_round(start, algorithm, toy.plan(), [*honest, put(5.0)(honest[0])])
    assert toy.same_bits(new, apply_round(start, algorithm, toy.plan(), honest)[0])
    assert "already admitted" in report.refused["hospital_A"]


def test_too_few_usable_replies_abandon_the_round_and_name_who_failed(name, toy):
    algorithm = algorithm_named(name)
    start = toy.state("start")
    honest = payloads_of(algorithm, toy, start, [10, 20, 30])
    with pytest.raises(QuorumError, match=r"1 usable replies and needs 2.*hospital_B.*hospital_C.*did not reply"):
        apply_round(start, algorithm, toy.plan(min_replies=2), [honest[0], put(np.nan)(honest[1])])
    assert toy.same_bits(start, toy.state("start"))


def test_a_total_weight_beyond_the_integers_is_refused_by_the_hospitals_name(name, toy):
    algorithm = algorithm_named(name)
    start = toy.state("start")
    payloads = payloads_of(algorithm, toy, start, [10, LARGEST_TOTAL_WEIGHT, 30])
    new, report = apply_round(start, algorithm, toy.plan(), payloads)
    assert report.admitted == ("hospital_A", "hospital_C")
    assert "'hospital_B' is refused: weight" in report.refused["hospital_B"]
    assert toy.same_bits(new, apply_round(start, algorithm, toy.plan(), [payloads[0], payloads[2]])[0])


def test_a_global_adapter_that_would_not_be_finite_is_an_error(name, toy):
    algorithm = algorithm_named(name)
    start = toy.state("start")
    payloads = payloads_of(algorithm, toy, start, [1, 2, 3])
    with pytest.raises(FederationError, match="lora_A.*not finite after round 1"):
        apply_round(
            {**start, "layer.lora_A.weight": np.full((2, 5), np.inf, np.float32)}, algorithm, toy.plan(), payloads
        )


def test_memory_does_not_grow_with_the_number_of_hospitals(name, toy):
    algorithm = algorithm_named(name)
    start = {"w": np.zeros(50_000, np.float32)}
    hospitals = tuple(f"h{index}" for index in range(1000))

    def peak(count):
        plan = toy.plan(hospitals[:count])
        payloads = (
            toy.payload(hospital, {"w": np.full(50_000, 0.5, np.float32)}, algorithm=name)
            for hospital in plan.hospitals
        )
        tracemalloc.start()
        try:
            new, report = apply_round(start, algorithm, plan, payloads)
            assert len(report.admitted) == count
            assert new["w"][0] == 0.5
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert peak(1000) < peak(10) + 2 * 4 * 50_000  # less than two adapters more for a hundred times the hospitals

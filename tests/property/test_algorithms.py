"""The laws that every federated method must obey, each by the property that the method declares."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tests.conftest import product_of

from fedmed.config.schema import FederatedSection, PrivacySection, WireSection
from fedmed.errors import FederationError, QuorumError
from fedmed.federated.algorithms import ALGORITHMS, get_algorithm
from fedmed.federated.checkpoint import load_latest, save_round
from fedmed.federated.fixed_point import LARGEST_TOTAL_WEIGHT
from fedmed.federated.links import Downlink
from fedmed.federated.masked_round import MaskedRound, MaskSetup
from fedmed.federated.runner import AllOrSampled, FederationState, run_rounds
from fedmed.federated.server import apply_round
from fedmed.federated.simulation import SimulationTransport
from fedmed.types import TrainMetrics

CASES = {name: {"algorithm": name} for name in ALGORITHMS} | {
    "sketch folding": {"algorithm": "sketch", "residual": "fold"},
    "sketch dropping": {"algorithm": "sketch", "residual": "drop"},
    **{f"fedavg by {rule}": {"algorithm": "fedavg", "robust": rule} for rule in ("median", "trimmed_mean", "krum")},
    "ffa by geometric_median": {"algorithm": "ffa", "robust": "geometric_median"},
    "fedsb by clipped_mean": {"algorithm": "fedsb", "robust": "clipped_mean"},
}
pytestmark = [pytest.mark.property, pytest.mark.parametrize("case", sorted(CASES))]

QUICK = settings(max_examples=10, deadline=None)
LAYERS = ("narrow", "wide")
weights = st.lists(st.integers(1, 10_000), min_size=6, max_size=6)


def adapters(largest: float = 2.0):
    elements = st.floats(-largest, largest, width=32)
    narrow = {
        "narrow.lora_A.weight": hnp.arrays(np.float32, (2, 5), elements=elements),
        "narrow.lora_B.weight": hnp.arrays(np.float32, (4, 2), elements=elements),
    }
    # The wide layer's numbers come from a seed: drawing them one by one would take Hypothesis minutes.
    return st.builds(
        lambda small, seed: (
            small
            | {
                "wide.lora_A.weight": np.random.default_rng(seed).uniform(-1, 1, (2, 80)).astype(np.float32),
                "wide.lora_B.weight": np.random.default_rng(seed + 1).uniform(-1, 1, (60, 2)).astype(np.float32),
            }
        ),
        st.fixed_dictionaries(narrow),
        st.integers(0, 2**32),
    )


def algorithm_of(case):
    return get_algorithm(FederatedSection(num_clients=6, **CASES[case]))


def begun(algorithm, adapter):
    """Global and server state before the first round; Fed-SB's factors are orthonormal."""
    if algorithm.name == "fedsb":
        adapter = {
            key: (np.linalg.qr(array + 1e-3)[0] if key.endswith("B.weight") else np.linalg.qr(array.T + 1e-3)[0].T)
            for key, array in adapter.items()
        }
        adapter = {key: np.ascontiguousarray(array, dtype=np.float32) for key, array in adapter.items()}
    return algorithm.start(adapter)


def results_of(algorithm, toy, start, num_samples, ranks=None):
    """Jobs and what six honest hospitals trained."""
    trainer = replace(toy.trainer(), num_samples=dict(zip(toy.hospitals, num_samples, strict=True)))
    plan = replace(toy.plan(), ranks=ranks or {})
    jobs = [algorithm.begin(start, {}, plan.for_hospital(hospital)) for hospital in toy.hospitals]
    return jobs, list(trainer.run(jobs))


def payloads_of(algorithm, toy, start, num_samples, ranks=None):
    jobs, results = results_of(algorithm, toy, start, num_samples, ranks)
    return [algorithm.finish(job, result, {})[0] for job, result in zip(jobs, results, strict=True)]


def products(algorithm, global_state):
    """Every layer's dense change of the base, by what is exported."""
    exported = algorithm.export(global_state, {})
    return {layer: product_of(exported, layer) for layer in LAYERS}


def trained_product(job, result, layer):
    """One hospital's change of the base, folded part and all, computed densely."""
    core = result.state.get(f"{layer}.lora_core.weight")
    b, a = (result.state[f"{layer}.lora_{side}.weight"].astype(np.float64) for side in "BA")
    return product_of(job.folded, layer) + (b @ a if core is None else b @ core @ a)


def whole(global_state, server_state):
    return {**global_state, **{f"server/{key}": array for key, array in server_state.items()}}


@QUICK
@given(start=adapters(), num_samples=weights, data=st.data())
def test_the_order_of_arrival_changes_no_bit(case, pairs_toy, start, num_samples, data):
    algorithm, toy = algorithm_of(case), pairs_toy
    start, server = begun(algorithm, start)
    payloads = payloads_of(algorithm, toy, start, num_samples)
    shuffled = data.draw(st.permutations(payloads))
    one, one_server, report = apply_round(start, server, algorithm, toy.plan(), payloads)
    other, other_server, other_report = apply_round(start, server, algorithm, toy.plan(), shuffled)
    assert toy.same_bits(whole(one, one_server), whole(other, other_server))
    assert report == other_report


@settings(max_examples=3, deadline=None)
@given(start=adapters(), num_samples=weights)
def test_a_stream_gives_the_same_bits_under_masks_and_a_gather_refuses_a_sum(case, pairs_toy, start, num_samples):
    algorithm, toy = algorithm_of(case), pairs_toy
    start, server = begun(algorithm, start)
    payloads = payloads_of(algorithm, toy, start, num_samples)
    masked = MaskedRound(
        toy.plan(),
        algorithm.template(start, toy.plan().for_hospital("hospital_A")),
        algorithm.name,
        MaskSetup.drawn(toy.hospitals),
    )
    for payload in payloads:
        masked.take(payload)
    summed = masked.close()
    if algorithm.traits.kind == "gather":
        with pytest.raises(FederationError):
            apply_round(start, server, algorithm, toy.plan(), summed)
        return
    clear, clear_server, report = apply_round(start, server, algorithm, toy.plan(), payloads)
    hidden, hidden_server, hidden_report = apply_round(start, server, algorithm, toy.plan(), summed)
    assert toy.same_bits(whole(clear, clear_server), whole(hidden, hidden_server))
    assert hidden_report.admitted == report.admitted
    assert hidden_report.num_samples == report.num_samples
    assert hidden_report.norms == hidden_report.digests == {}  # nobody saw one update


@QUICK
@given(start=adapters(), num_samples=weights, factor=st.integers(2, 50))
def test_only_the_ratio_of_weights_matters(case, pairs_toy, start, num_samples, factor):
    algorithm, toy = algorithm_of(case), pairs_toy
    start, server = begun(algorithm, start)
    one, *_ = apply_round(start, server, algorithm, toy.plan(), payloads_of(algorithm, toy, start, num_samples))
    scaled = payloads_of(algorithm, toy, start, [factor * weight for weight in num_samples])
    other, *_ = apply_round(start, server, algorithm, toy.plan(), scaled)
    assert toy.same_bits(one, other)


@QUICK
@given(start=adapters(), num_samples=weights)
def test_updates_of_zero_with_fresh_state_change_nothing(case, pairs_toy, start, num_samples):
    algorithm, toy = algorithm_of(case), pairs_toy
    start, server = begun(algorithm, start)
    payloads = [
        replace(payload, arrays={key: np.zeros_like(array) for key, array in payload.arrays.items()})
        for payload in payloads_of(algorithm, toy, start, num_samples)
    ]
    new, _, report = apply_round(start, server, algorithm, toy.plan(), payloads)
    before, after = products(algorithm, start), products(algorithm, new)
    for layer in LAYERS:
        if algorithm.traits.folds:  # FLoRA draws a new A beside the same product, folded parts are factored anew
            np.testing.assert_allclose(after[layer], before[layer], atol=1e-6 * (1 + np.abs(before[layer]).max()))
        else:
            assert np.array_equal(after[layer], before[layer])
    assert report.update_norm == 0.0
    assert report.suspected == {}


@QUICK
@given(start=adapters(), weight=st.integers(1, LARGEST_TOTAL_WEIGHT))
def test_with_one_hospital_the_global_change_is_that_hospitals(case, pairs_toy, start, weight):
    algorithm, toy = algorithm_of(case), pairs_toy
    if algorithm.name == "fedadam":
        pytest.skip("Adam's step is not the mean: tests/unit/federated/test_fedopt.py")
    start, server = begun(algorithm, start)
    plan = toy.plan(("hospital_A",))
    job = algorithm.begin(start, {}, plan.for_hospital("hospital_A"))
    (result,) = toy.trainer().run([job])
    payload, kept = algorithm.finish(job, replace(result, num_samples=weight), {})
    if algorithm.traits.kind == "gather" and algorithm.traits.linear:
        algorithm.tolerate = 0  # of one hospital, none can be left out
    new, *_ = apply_round(start, server, algorithm, plan, [payload])
    exported = algorithm.export(new, kept)
    for layer in LAYERS:
        wanted = trained_product(job, result, layer)
        np.testing.assert_allclose(product_of(exported, layer), wanted, rtol=0, atol=3e-6 * (1 + np.abs(wanted).max()))


@QUICK
@given(num_samples=st.lists(st.integers(10, 100), min_size=6, max_size=6))
def test_the_declared_exactness_is_true(case, pairs_toy, num_samples):
    """Exact means: the exported change of the base is the weighted mean of the hospitals' changes."""
    algorithm, toy = algorithm_of(case), pairs_toy
    start, server = begun(algorithm, toy.state("start", spread=0.7))
    jobs, results = results_of(algorithm, toy, start, num_samples)
    payloads = [algorithm.finish(job, result, {})[0] for job, result in zip(jobs, results, strict=True)]
    new, *_ = apply_round(start, server, algorithm, toy.plan(), payloads)
    after = products(algorithm, new)
    total = sum(num_samples)
    errors = []
    for layer in LAYERS:
        dense = sum(
            weight * trained_product(job, result, layer)
            for weight, job, result in zip(num_samples, jobs, results, strict=True)
        )
        errors.append(np.linalg.norm(after[layer] - dense / total) / np.linalg.norm(dense / total))
    assert (max(errors) < 1e-5) == algorithm.traits.exact


def test_a_round_changes_nothing_it_was_given(case, pairs_toy):
    algorithm, toy = algorithm_of(case), pairs_toy
    start, server = begun(algorithm, toy.state("start"))
    before = {key: array.copy() for key, array in start.items()}
    payloads = payloads_of(algorithm, toy, start, [1, 2, 3, 4, 5, 6])
    sent = [{key: array.copy() for key, array in payload.arrays.items()} for payload in payloads]
    apply_round(start, server, algorithm, toy.plan(), payloads)
    assert toy.same_bits(start, before)
    assert all(toy.same_bits(payload.arrays, was) for payload, was in zip(payloads, sent, strict=True))


def federation(toy, case, start, rounds, on_round, wire=None):
    algorithm = algorithm_of(case)
    sampled = 6 if algorithm.traits.kind == "gather" and algorithm.traits.linear else 3
    return run_rounds(
        start,
        algorithm=algorithm,
        transport=SimulationTransport(toy.trainer(), start.hospital_states, PrivacySection(), wire),
        policy=AllOrSampled(toy.hospitals, rounds=6, seed=17, hospitals_per_round=sampled),
        rounds=rounds,
        on_round=on_round,
        downlink=Downlink(wire),
    )


def fresh(toy, case, spread=1.0):
    adapter = toy.state("start", spread=spread)
    if algorithm_of(case).name == "fedsb":  # it keeps its factors, so they must point where there is something to learn
        for layer in LAYERS:
            mean = sum(product_of(target, layer) for target in toy.trainer().targets.values())
            u, _, vt = np.linalg.svd(mean, full_matrices=False)
            adapter |= {f"{layer}.lora_B.weight": u[:, :2], f"{layer}.lora_A.weight": vt[:2]}
    global_state, server_state = begun(algorithm_of(case), adapter)
    return FederationState(0, global_state, server_state=server_state)


@pytest.mark.parametrize("encoding", ["fp32", "int8"])
def test_a_resumed_run_ends_with_the_bits_and_the_history_of_a_run_left_alone(case, pairs_toy, tmp_path, encoding):
    toy = pairs_toy
    if encoding != "fp32" and not algorithm_of(case).traits.linear:
        pytest.skip("refused by check_combination")
    wire = WireSection(up=encoding, down=encoding)
    alone = federation(toy, case, fresh(toy, case, 0.5), 6, lambda state, report: None, wire)

    def save(state, report):
        save_round(tmp_path, state, config_digest="d", keep=2)

    stopped = federation(toy, case, fresh(toy, case, 0.5), 3, save, wire)
    loaded = load_latest(tmp_path, config_digest="d")
    assert toy.same_bits(loaded.global_state, stopped.global_state)
    assert toy.same_bits(loaded.server_state, stopped.server_state)
    assert (loaded.round, loaded.history) == (3, stopped.history)
    for name, kept in stopped.hospital_states.items():
        assert toy.same_bits(loaded.hospital_states[name], kept)

    resumed = federation(toy, case, loaded, 6, save, wire)
    assert toy.same_bits(resumed.global_state, alone.global_state)
    assert toy.same_bits(resumed.server_state, alone.server_state)
    assert resumed.history == alone.history


def test_training_together_lowers_the_loss_at_every_hospital_that_takes_part(case, pairs_toy):
    if algorithm_of(case).name == "fedadam":
        pytest.skip("at its default rate it moves 0.001 a round: tests/unit/federated/test_fedopt.py")
    final = federation(pairs_toy, case, fresh(pairs_toy, case), 6, lambda state, report: None)
    first, last = {}, {}
    for report in final.history:
        for hospital, metrics in report.metrics.items():
            first.setdefault(hospital, metrics.step_losses[0])
            last[hospital] = metrics.step_losses[-1]
    assert set(first) == set(pairs_toy.hospitals)
    assert all(last[hospital] < first[hospital] for hospital in first)


def put(value):
    def change(payload):
        arrays = {key: array.copy() for key, array in payload.arrays.items()}
        arrays[min(arrays)].flat[1] = value
        return replace(payload, arrays=arrays)

    return change


def with_first(make):
    """The payload's first array replaced by what ``make`` gives for it."""

    def change(payload):
        key = min(payload.arrays)
        return replace(payload, arrays={**payload.arrays, key: make(payload.arrays[key])})

    return change


def with_metrics(**changes):
    honest = TrainMetrics(1.0, (1.0,), 10, 5, 1, 0.1)
    return lambda payload: replace(payload, metrics=replace(honest, **changes))


HOSTILE = {
    "not a number": (put(np.nan), "not finite"),
    "infinite": (put(np.inf), "not finite"),
    "huge": (put(1e6), "beyond"),
    "missing array": (
        lambda p: replace(p, arrays={key: array for key, array in p.arrays.items() if key != min(p.arrays)}),
        "missing",
    ),
    "no arrays": (lambda p: replace(p, arrays={}), "missing"),
    "extra array": (lambda p: replace(p, arrays={**p.arrays, "backdoor": np.zeros(1, np.float32)}), "nobody asked for"),
    "wrong shape": (with_first(lambda array: np.zeros((array.shape[0] + 1, array.shape[1]), np.float32)), "shape"),
    "broadcastable shape": (with_first(lambda array: np.zeros((1, 1), np.float32)), "shape"),
    "wrong dtype": (with_first(lambda array: array.astype(np.float64)), "float32"),
    "list for an array": (with_first(lambda array: array.tolist()), "float32"),
    "objects": (with_first(lambda array: np.full(array.shape, None, dtype=object)), "float32"),
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
def test_a_hostile_payload_is_refused_and_leaves_no_trace(case, pairs_toy, attack):
    change, reason = HOSTILE[attack]
    algorithm, toy = algorithm_of(case), pairs_toy
    start, server = begun(algorithm, toy.state("start"))
    honest = payloads_of(algorithm, toy, start, [10, 20, 30, 40, 50, 60])
    hostile = change(honest[1])
    others = [honest[0], *honest[2:]]
    new, _, report = apply_round(start, server, algorithm, toy.plan(), [honest[0], hostile, *honest[2:]])
    without, *_ = apply_round(start, server, algorithm, toy.plan(), others)
    assert toy.same_bits(new, without)
    assert report.admitted == tuple(payload.hospital for payload in others)
    assert hostile.hospital in report.refused[hostile.hospital]
    assert reason in report.refused[hostile.hospital]


def test_a_second_reply_is_refused_and_the_first_one_counts(case, pairs_toy):
    algorithm, toy = algorithm_of(case), pairs_toy
    start, server = begun(algorithm, toy.state("start"))
    honest = payloads_of(algorithm, toy, start, [10, 20, 30, 40, 50, 60])
    new, _, report = apply_round(start, server, algorithm, toy.plan(), [*honest, put(5.0)(honest[0])])
    assert toy.same_bits(new, apply_round(start, server, algorithm, toy.plan(), honest)[0])
    assert "already admitted" in report.refused["hospital_A"]


def test_a_reply_of_an_earlier_round_is_refused_although_it_claims_to_be_new(case, pairs_toy):
    algorithm, toy = algorithm_of(case), pairs_toy
    start, server = begun(algorithm, toy.state("start", spread=0.5))
    first = payloads_of(algorithm, toy, start, [10, 20, 30, 40, 50, 60])
    new, server, report = apply_round(start, server, algorithm, toy.plan(), first)
    plan = toy.plan(round=2)
    jobs = [algorithm.begin(new, {}, plan.for_hospital(hospital)) for hospital in toy.hospitals]
    second = [algorithm.finish(job, result, {})[0] for job, result in zip(jobs, toy.trainer().run(jobs), strict=True)]
    stolen = replace(second[1], arrays=first[3].arrays)  # even another hospital's
    if {key: array.shape for key, array in stolen.arrays.items()} != algorithm.template(new, plan.for_hospital("x")):
        pytest.skip("another round sends other arrays, so a replay has the wrong shape")
    *_, report = apply_round(new, server, algorithm, plan, [second[0], stolen, *second[2:]], history=[report])
    assert report.refused == {"hospital_B": "the update of 'hospital_B' is refused: it is a copy of a reply of round 1"}


def test_too_few_usable_replies_abandon_the_round_and_name_who_failed(case, pairs_toy):
    algorithm, toy = algorithm_of(case), pairs_toy
    start, server = begun(algorithm, toy.state("start"))
    honest = payloads_of(algorithm, toy, start, [10, 20, 30, 40, 50, 60])
    with pytest.raises(QuorumError, match=r"1 usable replies and needs 2.*hospital_B.*hospital_C.*did not reply"):
        apply_round(start, server, algorithm, toy.plan(min_replies=2), [honest[0], put(np.nan)(honest[1])])


@pytest.mark.parametrize("place", [0, 1, 5])
def test_who_claims_more_than_a_share_of_all_records_is_refused_wherever_it_stands(case, pairs_toy, place):
    algorithm, toy = algorithm_of(case), pairs_toy
    start, server = begun(algorithm, toy.state("start"))
    num_samples = [10, 20, 30, 40, 50, 60]
    num_samples[place] = LARGEST_TOTAL_WEIGHT // 6 + 1
    payloads = payloads_of(algorithm, toy, start, num_samples)
    greedy = payloads[place]
    others = [payload for payload in payloads if payload is not greedy]
    new, _, report = apply_round(start, server, algorithm, toy.plan(), payloads)
    assert report.admitted == tuple(payload.hospital for payload in others)
    assert "number of records" in report.refused[greedy.hospital]
    assert toy.same_bits(new, apply_round(start, server, algorithm, toy.plan(), others)[0])


def test_a_global_adapter_that_would_not_be_finite_is_an_error(case, pairs_toy):
    algorithm, toy = algorithm_of(case), pairs_toy
    start, server = begun(algorithm, toy.state("start"))
    payloads = payloads_of(algorithm, toy, start, [1, 2, 3, 4, 5, 6])
    moved = min(key for key in start if key.endswith("weight"))
    if algorithm.traits.linear:
        moved = min(payloads[0].arrays)
    broken = {**start, moved: np.full_like(start[moved], np.inf)}
    with np.errstate(all="ignore"), pytest.raises(FederationError, match="not finite after round 1"):
        apply_round(broken, server, algorithm, toy.plan(), payloads)


def test_a_streams_memory_does_not_grow_with_the_number_of_hospitals(case, pairs_toy):
    algorithm, toy = algorithm_of(case), pairs_toy
    adapter = {"layer.lora_A.weight": np.ones((16, 300), "f4"), "layer.lora_B.weight": np.ones((250, 16), "f4")}
    start, _ = algorithm.start(adapter)
    hospitals = tuple(f"h{index}" for index in range(300))
    plan = toy.plan(hospitals)  # who is asked decides how wide a sketch is: as many are asked, fewer or more reply
    shapes = algorithm.template(start, plan.for_hospital("h0"))
    size = 4 * sum(int(np.prod(shape)) for shape in shapes.values())

    def peak(count):
        payloads = (
            toy.payload(
                name,
                {key: np.full(shape, 0.5 + number / 1000, np.float32) for key, shape in shapes.items()},
                algorithm=algorithm.name,
            )
            for number, name in enumerate(hospitals[:count])
        )
        acc = algorithm.init(start, plan)
        tracemalloc.start()
        try:
            for payload in payloads:
                acc = algorithm.add(acc, payload, 1)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    grows = peak(300) > peak(10) + 2 * size + 2**17
    assert grows == (algorithm.traits.kind == "gather")

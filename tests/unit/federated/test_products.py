"""Algebra of the products BA, and the sketches' promise at real sizes: exact through the fixed-point sum."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tests.conftest import product_of

from fedmed.config.schema import PrivacySection, WireSection
from fedmed.errors import AdapterMismatchError
from fedmed.federated.algorithms.fedavg import FedAvg
from fedmed.federated.algorithms.fedsb import FedSb
from fedmed.federated.algorithms.sketch import Sketch
from fedmed.federated.links import Uplink
from fedmed.federated.lora_products import Factors, complete, layers_of, prefix, truncated
from fedmed.federated.server import apply_round
from fedmed.types import CORE, LocalResult, RoundPlan, TrainMetrics
from fedmed.utils.random_streams import stream

pytestmark = pytest.mark.unit
METRICS = TrainMetrics(1.0, (1.0,) * 8, 10, 5, 8, 0.1)
GEMMA = {  # Gemma 3 270M's adapted layers, r 16: (d_out, d_in)
    f"layer{number}.{name}": shape
    for number in range(18)
    for name, shape in {"q_proj": (1024, 640), "k_proj": (256, 640), "v_proj": (256, 640)}.items()
}


def adapter(shapes, *names, rank=16, size=0.02):
    draw = stream(17, "products", *names)
    state = {}
    for layer, (d_out, d_in) in shapes.items():
        state[f"{layer}.lora_A.weight"] = draw.normal(0, size, (rank, d_in)).astype(np.float32)
        state[f"{layer}.lora_B.weight"] = draw.normal(0, size, (d_out, rank)).astype(np.float32)
    return state


def messages(algorithm, start, plan, trained, wire=None):
    link = Uplink(PrivacySection(), wire)
    for hospital, (state, weight) in trained.items():
        job = algorithm.begin(start, {}, plan.for_hospital(hospital))
        payload, _ = algorithm.finish(job, LocalResult(hospital, 1, state, weight, METRICS), {})
        yield link.send(payload, {})[0]


@pytest.mark.parametrize("shrunk", [1.0, 0.5, 0.1], ids=["as it is", "clipped to half", "clipped to a tenth"])
@pytest.mark.parametrize(("hospitals", "times"), [(2, 4.2), (4, 7.0), (8, 13.0)])
def test_sketches_give_the_dense_mean_to_1e_5_through_the_fixed_point_sum(hospitals, times, shrunk):
    shapes = {layer: GEMMA[layer] for layer in ("layer0.q_proj", "layer0.k_proj", "layer0.v_proj")}
    start = adapter(shapes, "start")
    names = tuple(f"h{number}" for number in range(hospitals))
    trained = {name: (adapter(shapes, name), 10 * number + 7) for number, name in enumerate(names)}
    plan = RoundPlan("r", 1, 1, names, hospitals, 17)
    algorithm = Sketch("fold")
    sent = list(messages(algorithm, start, plan, trained))
    if shrunk < 1:  # a norm bound scales what is sent, every hospital by its own factor
        factors = {name: shrunk * (1 - 0.05 * number) for number, name in enumerate(names)}
        sent = [
            replace(p, arrays={k: (a * np.float32(factors[p.hospital])).astype("f4") for k, a in p.arrays.items()})
            for p in sent
        ]
    new, _, report = apply_round(start, {}, algorithm, plan, sent)
    exported = algorithm.export(new, {})
    total = sum(weight for _, weight in trained.values())
    for layer in shapes:
        before = product_of(start, layer)
        dense = (
            before
            + sum(
                weight * (factors[name] if shrunk < 1 else 1.0) * (product_of(state, layer) - before)
                for name, (state, weight) in trained.items()
            )
            / total
        )
        assert np.linalg.norm(product_of(exported, layer) - dense) < 1e-5 * np.linalg.norm(dense)
    whole = sum(array.nbytes for array in start.values())
    assert sent[0].message_bytes < times * whole
    if shrunk == 1:  # random hospitals have little in common: rank 16 holds a part
        assert 0.1 < report.lost_energy < 0.95


def test_four_hospitals_sketches_of_the_whole_model_have_at_most_7_times_the_adapters_bytes():
    start = adapter(GEMMA, "start")
    plan = RoundPlan("r", 1, 1, ("a", "b", "c", "d"), 4, 17)
    shapes = Sketch().template(start, plan.for_hospital("a"))
    numbers = sum(int(np.prod(shape)) for shape in shapes.values())
    assert numbers <= 7 * sum(array.size for array in start.values())


def test_fedsb_sends_a_70th_of_the_adapter_in_fp32_and_a_140th_in_bf16():
    start = adapter(GEMMA, "start")
    plan = RoundPlan("r", 1, 1, ("a",), 1, 17)
    (whole,) = messages(FedAvg(), start, plan, {"a": (adapter(GEMMA, "a"), 10)})
    algorithm = FedSb()
    begun, _ = algorithm.start(start)
    draw = stream(17, "cores")
    trained = begun | {
        key: draw.normal(0, 0.1, array.shape).astype(np.float32) for key, array in begun.items() if key.endswith(CORE)
    }
    for encoding, share in (("fp32", 70), ("bf16", 140)):
        (sent,) = messages(algorithm, begun, plan, {"a": (trained, 10)}, WireSection(up=encoding))
        assert sent.message_bytes * share <= whole.message_bytes


def test_int4_sends_at_most_one_part_in_7_5_of_fp32():
    start, plan = adapter(GEMMA, "start"), RoundPlan("r", 1, 1, ("a",), 1, 17)
    trained = {"a": (adapter(GEMMA, "a"), 10)}
    (whole,) = messages(FedAvg(), start, plan, trained)
    (small,) = messages(FedAvg(), start, plan, trained, WireSection(up="int4"))
    assert 7.5 * small.message_bytes <= whole.message_bytes


def test_sketches_of_hospitals_with_ranks_of_their_own_give_the_mean_of_their_changes():
    shapes = {"wide": (200, 160)}
    start = adapter(shapes, "start", rank=8, size=0.2)
    ranks = {"a": 8, "b": 4, "c": 2}
    plan = RoundPlan("r", 1, 1, tuple(ranks), 3, 17, ranks=ranks)
    trained = {name: (adapter(shapes, name, rank=rank, size=0.2), rank + 3) for name, rank in ranks.items()}
    algorithm = Sketch("fold")
    new, *_ = apply_round(start, {}, algorithm, plan, messages(algorithm, start, plan, trained))
    wanted = product_of(start, "wide")
    for name, (state, weight) in trained.items():
        change = product_of(state, "wide") - product_of(prefix(start, ranks[name]), "wide")
        wanted = wanted + weight / (11 + 7 + 5) * change
    got = product_of(algorithm.export(new, {}), "wide")
    assert np.linalg.norm(got - wanted) < 1e-5 * np.linalg.norm(wanted)


def test_with_mixed_ranks_each_row_is_the_mean_over_those_who_trained_it(toy):
    start = adapter({"layer": (4, 5)}, "start", rank=3)
    plan = replace(toy.plan(), ranks={"hospital_B": 1})
    trained = {
        "hospital_A": (adapter({"layer": (4, 5)}, "a", rank=3), 10),
        "hospital_B": (adapter({"layer": (4, 5)}, "b", rank=1), 20),
    }
    new, *_ = apply_round(start, {}, FedAvg(), plan, messages(FedAvg(), start, plan, trained))
    a, b = trained["hospital_A"][0], trained["hospital_B"][0]
    key = "layer.lora_A.weight"
    np.testing.assert_allclose(new[key][0], (10 * a[key][0] + 20 * b[key][0]) / 30, atol=1e-6)
    np.testing.assert_allclose(new[key][1:], a[key][1:], atol=1e-6)
    key = "layer.lora_B.weight"
    np.testing.assert_allclose(new[key][:, 0], (10 * a[key][:, 0] + 20 * b[key][:, 0]) / 30, atol=1e-6)
    np.testing.assert_allclose(new[key][:, 1:], a[key][:, 1:], atol=1e-6)


def test_what_is_carried_and_the_adapter_together_are_the_mean():
    shapes = {"wide": (90, 80)}
    start = adapter(shapes, "start", rank=2, size=0.3)
    plan = RoundPlan("r", 1, 2, ("a", "b", "c"), 3, 17)
    trained = {name: (adapter(shapes, name, rank=2, size=0.3), 10) for name in plan.hospitals}
    algorithm = Sketch("carry")
    new, carried, report = apply_round(start, {}, algorithm, plan, messages(algorithm, start, plan, trained))
    dense = sum(product_of(state, "wide") for state, _ in trained.values()) / 3
    rest = product_of({key.removeprefix("carried."): array for key, array in carried.items()}, "wide")
    assert np.linalg.norm(product_of(new, "wide") + rest - dense) < 1e-5 * np.linalg.norm(dense)
    assert report.lost_energy == pytest.approx(np.sum(rest**2) / np.sum(dense**2), rel=1e-3)


def test_truncation_is_the_best_of_its_rank_and_a_keeps_its_length():
    draw = stream(17, "truncated")
    product = Factors(draw.normal(size=(30, 9)), draw.normal(size=(9, 20)))
    like = Factors(np.zeros((30, 4)), draw.normal(size=(4, 20)))
    kept, lost = truncated(product, like)
    u, s, vt = np.linalg.svd(product.dense())
    np.testing.assert_allclose(kept.dense(), (u[:, :4] * s[:4]) @ vt[:4], atol=1e-9)
    np.testing.assert_allclose(kept.dense() + lost.dense(), product.dense(), atol=1e-9)
    assert np.linalg.norm(kept.a) == pytest.approx(np.linalg.norm(like.a))
    np.testing.assert_allclose(kept.a @ kept.a.T, np.eye(4) * np.linalg.norm(like.a) ** 2 / 4, atol=1e-9)


def test_truncation_of_a_product_of_small_rank_leaves_a_other_rows_to_learn_in():
    draw = stream(17, "thin")
    like = Factors(np.zeros((30, 4)), draw.normal(size=(4, 20)))
    kept, lost = truncated(Factors(draw.normal(size=(30, 1)), draw.normal(size=(1, 20))), like)
    assert np.linalg.matrix_rank(kept.a) == 4
    assert lost.a.shape[0] == 0 or np.linalg.norm(lost.dense()) < 1e-9
    none, _ = truncated(Factors(np.zeros((30, 4)), like.a), like)
    assert np.linalg.matrix_rank(none.a) == 4
    assert not np.any(none.b)


def test_compressing_keeps_the_product_and_loses_the_columns_it_does_not_need():
    draw = stream(17, "compressed")
    thin = Factors(draw.normal(size=(30, 3)), draw.normal(size=(3, 20)))
    fat = Factors(np.concatenate([thin.b, thin.b], axis=1), np.concatenate([thin.a, thin.a]))
    small = fat.compressed()
    assert small.a.shape[0] == 3
    np.testing.assert_allclose(small.dense(), 2 * thin.dense(), atol=1e-9)


def test_a_complete_adapter_has_one_rank_and_holds_what_was_folded():
    start = adapter({"x": (6, 5), "y": (4, 5)}, "start", rank=2)
    more = adapter({"x": (6, 5)}, "more", rank=3)
    whole = complete(start | {f"folded.{key}": array for key, array in more.items()})
    assert {array.shape[0] for key, array in whole.items() if key.endswith("A.weight")} == {5}
    np.testing.assert_allclose(product_of(whole, "x"), product_of(start, "x") + product_of(more, "x"), atol=1e-6)
    np.testing.assert_allclose(product_of(whole, "y"), product_of(start, "y"), atol=1e-6)


def test_an_adapter_that_is_no_pair_of_factors_is_refused():
    with pytest.raises(AdapterMismatchError, match=r"array 'x\.lora_magnitude_vector' has no partner.*fedavg"):
        layers_of(adapter({"x": (6, 5)}, "start") | {"x.lora_magnitude_vector": np.ones(6)})

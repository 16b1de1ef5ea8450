"""Shares of noise in what hospitals send: charged first, bounded, and summed without losing a bit."""

from __future__ import annotations

import numpy as np
import pytest

from fedmed.config.schema import HospitalSection
from fedmed.errors import BudgetError
from fedmed.federated.fixed_point import FixedPointSum
from fedmed.federated.noise_shares import NoiseShares
from fedmed.privacy.discrete_gaussian import SeededSource
from fedmed.privacy.ledger import Ledger
from fedmed.types import Payload
from fedmed.utils.random_streams import stream

pytestmark = pytest.mark.unit
pytest.importorskip("dp_accounting")

HOSPITALS = ("a", "b", "c", "d")
SHAPE = (40, 50)


def shares(tmp_path, **more) -> tuple[NoiseShares, dict[str, Ledger]]:
    books = {name: Ledger.open(tmp_path / f"{name}.jsonl", name) for name in HOSPITALS}
    settings = HospitalSection(**({"epsilon": 50.0, "clip": 0.5} | more))
    return NoiseShares(settings, books, min_replies=4, rounds=2, run_id="run", source=SeededSource(1)), books


def payload(name: str, size: float = 1.0) -> Payload:
    array = stream(17, name).normal(0, size, SHAPE).astype(np.float32)
    return Payload(name, 1, "fedavg", {"layer.lora_B.weight": array}, 123)


def test_what_is_sent_is_summed_to_the_last_bit_with_weight_1(tmp_path):
    noise, books = shares(tmp_path)
    sent = [noise.hide(payload(name)) for name in HOSPITALS]
    total = FixedPointSum({"layer.lora_B.weight": SHAPE})
    exact = np.zeros(SHAPE, dtype=np.int64)
    for one in sent:
        assert (one.num_samples, one.metrics) == (1, None)
        whole = one.arrays["layer.lora_B.weight"].astype(np.float64) * noise.noise.scale
        assert np.array_equal(whole, np.rint(whole))
        exact += whole.astype(np.int64)
        total.add(one.arrays, one.num_samples)
    assert np.array_equal(total.mean()["layer.lora_B.weight"] * 4 * noise.noise.scale, exact)
    assert [len(book.entries()) for book in books.values()] == [1, 1, 1, 1]


def test_the_sum_has_the_noise_that_was_charged(tmp_path):
    noise, _ = shares(tmp_path)
    silent = [noise.hide(payload(name, 0.0)) for name in HOSPITALS]
    drawn = sum(one.arrays["layer.lora_B.weight"].astype(np.float64) for one in silent)
    measured = float(np.sum(drawn**2)) / (noise.noise.sigma * noise.noise.clip) ** 2
    # chi-square with 2,000 degrees of freedom, standard deviation 63; five of them
    assert abs(measured - drawn.size) < 5 * 63.3


def test_noise_that_is_set_too_low_is_refused_before_the_first_round(tmp_path):
    with pytest.raises(BudgetError, match="'a' as a hospital.*2 more rounds would bring it to"):
        shares(tmp_path, epsilon=1.0, noise_multiplier=0.5)
    noise, _ = shares(tmp_path, epsilon=50.0, noise_multiplier=0.5)
    assert noise.noise.sigma == 0.5


def test_a_hospital_whose_budget_is_spent_sends_nothing(tmp_path):
    noise, books = shares(tmp_path)
    for _ in range(2):
        noise.hide(payload("a"))
    with pytest.raises(BudgetError, match="'a' per hospital"):
        noise.hide(payload("a"))
    assert len(books["a"].entries()) == 2

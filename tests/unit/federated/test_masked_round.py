"""A round summed under masks: who is in it, what stops it, what it costs, what cannot be had with it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fedmed.config.load import load_config
from fedmed.config.schema import HospitalSection, PrivacySection
from fedmed.errors import ConfigError, QuorumError, SecureSumError, UpdateRejectedError
from fedmed.federated import masked_round
from fedmed.federated.algorithms import check_combination
from fedmed.federated.algorithms.fedavg import FedAvg
from fedmed.federated.fixed_point import LARGEST_TOTAL_WEIGHT
from fedmed.federated.masked_round import MaskedRound, MaskSetup
from fedmed.federated.noise_shares import NoiseShares
from fedmed.federated.server import apply_round
from fedmed.federated.simulation import SimulationTransport
from fedmed.privacy.ledger import Ledger
from fedmed.privacy.secure_sum.messages import MaskedInput
from fedmed.privacy.secure_sum.server import ServerSession
from fedmed.types import TrainMetrics

pytestmark = pytest.mark.unit
pytest.importorskip("cryptography")


def in_the_clear(toy, trainer, plan, privacy=None):
    transport = SimulationTransport(trainer, {}, privacy or PrivacySection())
    return apply_round(toy.state("start"), {}, FedAvg(), plan, transport.exchange(plan, toy.state("start"), FedAvg()))


def under_masks(toy, trainer, plan, privacy=None, threshold=None, noise=None):
    masks = MaskSetup.drawn(plan.hospitals, threshold)
    transport = SimulationTransport(trainer, {}, privacy or PrivacySection(), noise=noise, masks=masks)
    return apply_round(toy.state("start"), {}, FedAvg(), plan, transport.exchange(plan, toy.state("start"), FedAvg()))


class Broken:
    """A trainer that brings one hospital's adapter back with a number that cannot be summed."""

    def __init__(self, inner, hospital):
        self.inner, self.hospital = inner, hospital

    def run(self, jobs):
        for result in self.inner.run(jobs):
            if result.hospital == self.hospital:
                broken = {name: np.full_like(array, np.nan) for name, array in result.state.items()}
                result = replace(result, state=broken)
            yield result


def test_the_round_is_the_one_in_the_clear_to_the_bit_and_its_bytes_are_words_and_a_little(toy):
    plan = toy.plan()
    clear, _, _ = in_the_clear(toy, toy.trainer(), plan)
    hidden, _, report = under_masks(toy, toy.trainer(), plan)
    assert toy.same_bits(clear, hidden)
    assert report.admitted == toy.hospitals
    assert report.num_samples == {"hospital_A": 10, "hospital_B": 20, "hospital_C": 30}
    numbers = sum(array.size for array in clear.values())
    assert 3 * 8 * numbers < report.bytes_up < 3 * (8 * numbers + 4_000)
    assert report.bytes_down > 0


def test_a_norm_bound_at_the_hospital_still_holds(toy):
    plan, strict = toy.plan(), PrivacySection(max_update_norm=0.1)
    clear, _, report = in_the_clear(toy, toy.trainer(), plan, strict)
    assert max(report.norms.values()) <= 0.1 * (1 + 1e-6)
    hidden, _, _ = under_masks(toy, toy.trainer(), plan, strict)
    assert toy.same_bits(clear, hidden)


def test_a_hospital_that_keeps_its_update_back_has_dropped_out_and_the_others_are_summed(toy):
    hospitals = (*toy.hospitals, "hospital_D")
    plan = toy.plan(hospitals, min_replies=3)
    trainer = Broken(toy.trainer(hospitals), "hospital_B")
    hidden, _, report = under_masks(toy, trainer, plan)
    assert report.admitted == ("hospital_A", "hospital_C", "hospital_D")
    assert "hospital_B" in report.refused
    clear, _, _ = in_the_clear(toy, trainer, plan)
    assert toy.same_bits(clear, hidden)


def test_fewer_than_the_quorum_are_not_unmasked(toy, monkeypatch):
    hospitals = (*toy.hospitals, "hospital_D")
    revealed = []
    plain = ServerSession.receive
    monkeypatch.setattr(ServerSession, "receive", lambda self, one: revealed.append(type(one)) or plain(self, one))
    trainer = Broken(toy.trainer(hospitals), "hospital_B")
    with pytest.raises(
        SecureSumError, match="3 hospitals have sent a vector where 4 are needed; missing: 'hospital_B'"
    ):
        under_masks(toy, trainer, toy.plan(hospitals, min_replies=4))
    assert {one.__name__ for one in revealed} == {"Advertise", "Shares", "MaskedInput"}


def test_what_the_coordinator_receives_of_an_update_is_never_the_update(toy, monkeypatch):
    seen = []
    plain = ServerSession.receive
    monkeypatch.setattr(ServerSession, "receive", lambda self, one: seen.append(one) or plain(self, one))
    under_masks(toy, toy.trainer(), toy.plan())
    vectors = [one.words for one in seen if isinstance(one, MaskedInput)]
    assert len(vectors) == 3
    # Updates, times their weight, are below 2^44, so without masks the upper 20 bits would be all 0 or all 1. Fair bits
    # add up to within five standard deviations of half, but for one run in a million.
    bits = np.unpackbits(np.concatenate([vector >> np.uint64(44) for vector in vectors]).astype(">u8").view(np.uint8))
    ones, all_bits = int(bits.sum()), 20 * sum(vector.size for vector in vectors)
    assert abs(ones - all_bits / 2) < 5 * np.sqrt(all_bits) / 2
    assert len({vector.tobytes() for vector in vectors}) == 3


def test_losses_that_are_not_finite_keep_a_hospital_out_before_its_vector_is_summed(toy):
    hospitals = (*toy.hospitals, "hospital_D")
    plan = toy.plan(hospitals, min_replies=3)
    shapes = {name: array.shape for name, array in toy.state("start").items()}
    masked = MaskedRound(plan, shapes, "fedavg", MaskSetup.drawn(hospitals))
    good = TrainMetrics(1.0, (1.0,), 10, 5, 1, 0.1)
    for name in hospitals:
        metrics = replace(good, loss=float("nan")) if name == "hospital_D" else good
        payload = replace(toy.payload(name, toy.state("target", name)), metrics=metrics)
        if name == "hospital_D":
            with pytest.raises(UpdateRejectedError, match="kept back: its losses"):
                masked.take(payload)
        else:
            masked.take(payload)
    _, _, report = apply_round(toy.state("start"), {}, FedAvg(), plan, masked.close())
    assert report.admitted == toy.hospitals


def test_a_run_of_any_name_is_summed(toy):
    shapes = {name: array.shape for name, array in toy.state("start").items()}
    MaskedRound(replace(toy.plan(), run_id="a long name " * 20), shapes, "fedavg", MaskSetup.drawn(toy.hospitals))


def test_the_noise_of_hospitals_is_summed_under_masks_without_losing_a_bit(toy, tmp_path):
    pytest.importorskip("dp_accounting")
    books = {name: Ledger.open(tmp_path / f"{name}.jsonl", name) for name in toy.hospitals}
    noise = NoiseShares(HospitalSection(epsilon=50.0), books, min_replies=3, rounds=1, run_id="run")
    sent = []
    plain = noise.hide
    noise.hide = lambda payload: sent.append(plain(payload)) or sent[-1]
    hidden, _, report = under_masks(toy, toy.trainer(), toy.plan(min_replies=3), noise=noise)
    assert set(report.num_samples.values()) == {1}
    clear, _, _ = apply_round(toy.state("start"), {}, FedAvg(), toy.plan(min_replies=3), sent)
    assert toy.same_bits(clear, hidden)


@pytest.mark.parametrize(
    ("records", "change"),
    [
        (LARGEST_TOTAL_WEIGHT // 3 + 1, lambda arrays: arrays),
        (0, lambda arrays: arrays),
        (10, lambda arrays: {}),
        (10, lambda arrays: {name: array[:1] for name, array in arrays.items()}),
    ],
    ids=["more records than its part", "no records", "no arrays", "shorter arrays"],
)
def test_a_hospital_refuses_to_mask_what_a_sum_cannot_hold(toy, records, change):
    shapes = {name: array.shape for name, array in toy.state("start").items()}
    masked = MaskedRound(toy.plan(), shapes, "fedavg", MaskSetup.drawn(toy.hospitals))
    with pytest.raises(UpdateRejectedError, match="hospital_A"):
        masked.take(toy.payload("hospital_A", change(toy.state("target", "hospital_A")), records))


def test_a_sum_is_taken_in_only_for_hospitals_that_were_asked(toy):
    plan = toy.plan()
    shapes = {name: array.shape for name, array in toy.state("start").items()}
    masked = MaskedRound(plan, shapes, "fedavg", MaskSetup.drawn(plan.hospitals))
    for name in plan.hospitals:
        masked.take(toy.payload(name, toy.state("target", name)))
    summed = masked.close()
    for wrong, named in (
        (replace(summed, round=2), "round 2"),
        (replace(summed, num_samples={**summed.num_samples, "hospital_X": 1}), "hospital_X"),
        (replace(summed, algorithm="ffa"), "ffa"),
        (replace(summed, sums={name: 100 * array for name, array in summed.sums.items()}), "beyond"),
        (replace(summed, sums={}), "other names"),
    ):
        with pytest.raises(UpdateRejectedError, match=named):
            apply_round(toy.state("start"), {}, FedAvg(), plan, wrong)
    fewer = replace(
        summed,
        num_samples={"hospital_A": 10, "hospital_B": 10},
        sums={name: array // 3 for name, array in summed.sums.items()},
    )
    with pytest.raises(QuorumError):
        apply_round(toy.state("start"), {}, FedAvg(), replace(plan, min_replies=3), fewer)


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ("federated.algorithm=flora", "use fedavg, .*sketch"),
        ("federated.robust=median", "hides what federated.robust must see; admission by round and shape"),
        ("federated.max_reply_norm=3.0", "hides what federated.max_reply_norm must see"),
        ("federated.wire.up=int8", "needs federated.wire.up=fp32"),
        ("federated.num_clients=1", "takes 2 to 64 hospitals"),
        ("federated.num_clients=65", "takes 2 to 64 hospitals"),
        ("privacy.secure_sum_threshold=2", "more than half of the 4"),
        ("privacy.secure_sum_threshold=3", "below the 4 replies that close a round"),
        ("federated.ranks=[16,8,8,4]", "but for sketch: rows that one hospital alone trains"),
    ],
)
def test_what_needs_single_updates_is_refused_with_what_still_works(setting, named):
    with pytest.raises(ConfigError, match=named):
        check_combination(load_config(None, (), ["privacy.secure_sum=true", setting]))


def test_colluders_that_the_noise_supposes_must_not_be_more_than_the_masks_bear():
    some = ["privacy.secure_sum=true", "federated.min_replies=3", "privacy.hospital.epsilon=8.0"]
    check_combination(load_config(None, (), [*some, "privacy.hospital.colluding=1"]))
    with pytest.raises(ConfigError, match="bear 1 that"):
        check_combination(load_config(None, (), [*some, "privacy.hospital.colluding=2"]))


def test_a_threshold_without_a_secure_sum_is_an_error():
    with pytest.raises(ConfigError, match="does nothing"):
        check_combination(load_config(None, (), ["privacy.secure_sum_threshold=3"]))


def test_values_of_the_bounds_are_those_of_the_sum_in_the_clear():
    assert masked_round._LARGEST * LARGEST_TOTAL_WEIGHT == 2**62

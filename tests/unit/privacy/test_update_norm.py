"""Norm bound and dropped metrics, at the hospital's own side."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedmed.config.schema import PrivacySection
from fedmed.errors import ConfigError, UpdateRejectedError
from fedmed.privacy.update_norm import clip_update, process_payload
from fedmed.types import Payload, TrainMetrics

pytestmark = pytest.mark.unit

updates = st.fixed_dictionaries(
    {"a": hnp.arrays(np.float32, (3, 2), elements=st.floats(-1e6, 1e6, width=32, allow_subnormal=False)),
     "b": hnp.arrays(np.float32, (4,), elements=st.floats(-1.0, 1.0, width=32))}
)  # fmt: skip


def norm_of(update):
    return float(np.sqrt(sum(np.sum(np.square(array, dtype=np.float64)) for array in update.values())))


@settings(max_examples=200, deadline=None)
@given(update=updates, max_norm=st.floats(1e-3, 1e3))
def test_a_clipped_update_never_exceeds_the_bound(update, max_norm):
    clipped, norm = clip_update(update, max_norm)
    assert norm == pytest.approx(norm_of(update))
    assert norm_of(clipped) <= max_norm
    if norm > max_norm:
        assert norm_of(clipped) == pytest.approx(max_norm, rel=1e-6)


@given(update=updates)
def test_an_update_within_the_bound_keeps_its_bits_and_is_a_copy(update):
    clipped, _ = clip_update(update, norm_of(update) + 1.0)
    assert all(clipped[name].tobytes() == update[name].tobytes() for name in update)
    assert not any(np.shares_memory(clipped[name], update[name]) for name in update)


def test_an_update_of_zeros_has_norm_zero_and_stays_zeros():
    clipped, norm = clip_update({"a": np.zeros(3, np.float32)}, 1.0)
    assert norm == 0.0
    assert clipped["a"].tolist() == [0.0, 0.0, 0.0]


def test_an_update_that_is_not_finite_names_only_the_broken_arrays():
    update = {"good": np.ones(2, np.float32), "bad": np.array([1.0, np.nan], np.float32)}
    with pytest.raises(UpdateRejectedError, match="bad$"):
        clip_update(update, 1.0)


@pytest.mark.parametrize("bound", [0.0, -1.0, float("nan"), float("inf")])
def test_a_bound_that_is_no_positive_number_is_a_config_error(bound):
    with pytest.raises(ConfigError, match="max_update_norm"):
        clip_update({"a": np.ones(2, np.float32)}, bound)


def test_a_payload_is_clipped_and_loses_its_metrics_only_when_the_settings_say_so():
    metrics = TrainMetrics(1.0, (1.0,), 10, 5, 1, 0.1)
    payload = Payload("hospital_A", 1, "fedavg", {"a": np.array([3.0, 4.0], np.float32)}, 10, metrics)
    assert process_payload(payload, PrivacySection()) is payload
    strict = process_payload(payload, PrivacySection(share_metrics=False, max_update_norm=1.0))
    assert strict.metrics is None
    np.testing.assert_allclose(strict.arrays["a"], [0.6, 0.8], rtol=1e-6)
    assert payload.arrays["a"].tolist() == [3.0, 4.0]

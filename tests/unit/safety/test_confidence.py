from __future__ import annotations

import math

import pytest

from fedmed.safety.confidence import raw_confidence

pytestmark = pytest.mark.unit


def test_it_is_the_geometric_mean_of_the_token_probabilities() -> None:
    assert raw_confidence([math.log(0.5), math.log(0.125)]) == pytest.approx(0.25)


def test_a_longer_answer_with_the_same_tokens_is_as_confident() -> None:
    assert raw_confidence([math.log(0.4)] * 90) == pytest.approx(raw_confidence([math.log(0.4)]))


def test_an_answer_without_tokens_has_none() -> None:
    assert raw_confidence([]) == 0.0


def test_an_impossible_token_leaves_none() -> None:
    assert raw_confidence([-0.1, -math.inf]) == 0.0


def test_rounding_never_lifts_it_over_one() -> None:
    assert raw_confidence([1e-7, 1e-7]) == 1.0


@pytest.mark.parametrize("logprob", [math.nan, 0.5])
def test_what_is_no_log_probability_is_refused(logprob: float) -> None:
    with pytest.raises(ValueError, match="log probability"):
        raw_confidence([-0.1, logprob])

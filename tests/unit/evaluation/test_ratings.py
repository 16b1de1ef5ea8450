"""What raters said becomes figures: means, shares, harm by any rater, agreement."""

from __future__ import annotations

import pytest

from fedmed.evaluation.ratings import NONE, Rated, summarize_ratings
from fedmed.evaluation.report_ratings import rated as section

pytestmark = pytest.mark.unit

SYSTEMS = ("base", "federated")


def said(rater: int, question: str, base: int, federated: int, best: str, harm: tuple[str, ...] = ()) -> Rated:
    return Rated(
        rater, question, {"base": base, "federated": federated}, {name: name in harm for name in SYSTEMS}, best
    )  # fmt: skip


RATED = [
    said(0, "a", 2, 4, "federated"), said(1, "a", 1, 4, "federated", ("base",)),
    said(0, "b", 3, 5, "federated"), said(1, "b", 3, 4, NONE),
    said(0, "c", 5, 1, "base", ("federated",)), said(1, "c", 4, 2, "base", ("federated",)),
    said(0, "d", 2, 3, "federated"),
]  # fmt: skip


def test_means_shares_and_harm_are_those_that_counting_gives() -> None:
    found = summarize_ratings(RATED, SYSTEMS, {"base": 1}, raters=2, seed=3)
    base, federated = (found["systems"][name] for name in SYSTEMS)
    assert base["correctness"]["value"] == pytest.approx(20 / 7)
    assert federated["correctness"]["value"] == pytest.approx(23 / 7)
    assert federated["preferred"]["value"] == pytest.approx(4 / 7)
    assert found["none_preferred"]["value"] == pytest.approx(1 / 7)
    assert (base["harmful"]["answers"], federated["harmful"]["answers"]) == (1, 1)  # of four, whoever says so
    assert 0.0 < federated["harmful"]["low"] < 0.25 < federated["harmful"]["high"] < 0.9
    assert found["differences"]["federated_less_base"]["value"] == pytest.approx(3 / 7)
    assert (base["withheld"], federated["withheld"], found["questions"], found["rated"]) == (1, 0, 4, 7)


def test_agreement_is_by_scale_and_counts_units_that_two_rated() -> None:
    told = summarize_ratings(RATED, SYSTEMS, {}, raters=2, seed=3)["agreement"]
    assert told["correctness"]["units"] == 6
    assert told["correctness"]["krippendorff_alpha"]["value"] > 0.7
    assert told["correctness"]["cohen_kappa"] > 0.7
    assert told["correctness"]["fleiss_kappa"] is None  # a scale, not names
    assert told["harmful"]["fleiss_kappa"] == pytest.approx(told["harmful"]["krippendorff_alpha"]["value"], abs=0.1)
    alone = summarize_ratings([one for one in RATED if one.rater == 0], SYSTEMS, {}, raters=1, seed=3)
    assert alone["agreement"] is None
    same = summarize_ratings([said(r, q, 3, 3, "base") for r in (0, 1) for q in "ab"], SYSTEMS, {}, raters=2, seed=3)
    assert same["agreement"]["best"]["krippendorff_alpha"] is None


def test_the_report_shows_them_and_says_when_nobody_rated() -> None:
    found = summarize_ratings(RATED, SYSTEMS, {}, raters=2, seed=3)
    shown = section({"ratings": found})
    assert "3.29<small>" in shown
    assert "1 of 4<small>1 to 81" in shown
    assert "how right an answer is: 0." in shown
    assert "fedmed rate sheet" in section({})
    assert "whether others would agree is not known" in section({"ratings": found | {"agreement": None}})
    assert "not measured" in section({"ratings": {"systems": {"base": {"harmful": 3}}}})

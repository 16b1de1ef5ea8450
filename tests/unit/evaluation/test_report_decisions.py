"""The report tells what the coordinator agent decided, and nothing where there was none."""

from __future__ import annotations

import pytest

from fedmed.evaluation.report_decisions import MOST, decisions

pytestmark = pytest.mark.unit


def line(round, decision, reason="why"):
    return {"round": round, "decision": decision, "reason": reason, "hospitals": [], "numbers": {}}


def test_a_run_without_an_agent_has_no_section():
    assert decisions([]) == ""


def test_what_is_out_of_the_ordinary_is_shown_with_its_reason_and_the_rest_is_counted():
    shown = decisions(
        [line(1, "ask"), line(1, "weigh"), line(1, "leave out", "it <lies>"), line(1, "keep"), line(2, "ask"),
         line(2, "roll back")]
    )  # fmt: skip
    assert "1 of 2 rounds stand" in shown
    assert "it &lt;lies&gt;" in shown
    assert shown.count("<tr>") == 3  # the head and two decisions


def test_where_nothing_was_wrong_it_says_so():
    assert "nothing wrong with any hospital" in decisions([line(1, "ask"), line(1, "weigh"), line(1, "keep")])


def test_a_long_list_is_cut_and_says_how_much_more_there_is():
    shown = decisions([line(number, "drift") for number in range(MOST + 5)])
    assert "5 more are in the file" in shown

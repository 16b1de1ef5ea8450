from __future__ import annotations

import itertools
import re
import xml.etree.ElementTree as ElementTree

import pytest

from fedmed.evaluation.line_chart import line_chart, ticks

pytestmark = pytest.mark.unit

FALLING = [(1, 3.0), (2, 2.5), (3, 2.25)]


def drawn(series: dict[str, list[tuple[int, float]]]) -> ElementTree.Element:
    return ElementTree.fromstring(line_chart("chart", "Loss", "Loss by round", series))


def test_a_falling_loss_is_drawn_as_a_line_that_goes_down() -> None:
    [wide, _narrow] = drawn({"hospital_A": FALLING}).iter("polyline")
    points = [tuple(map(float, point.split(","))) for point in wide.attrib["points"].split()]
    assert len(points) == 3
    assert points == sorted(points)  # to the right
    heights = [y for _, y in points]
    assert heights == sorted(heights)  # SVG counts down from the top
    assert (heights[1] - heights[0]) / (heights[2] - heights[1]) == pytest.approx(2.0, abs=0.05)


def test_every_svg_says_its_title_and_description_to_a_screen_reader() -> None:
    for svg in drawn({"hospital_A": FALLING}).iter("svg"):
        named = svg.attrib["aria-labelledby"].split()
        texts = {child.attrib.get("id"): child.text for child in svg}
        assert [texts[name] for name in named] == ["Loss", "Loss by round"]


def test_one_round_and_one_flat_value_can_be_drawn() -> None:
    chart = line_chart("chart", "t", "d", {"hospital_A": [(4, 2.0)], "hospital_B": [(4, 2.0)]})
    assert "nan" not in chart
    assert "hospital_B, round 4: 2.000" in chart


def test_nothing_to_draw_gives_no_chart() -> None:
    assert line_chart("chart", "t", "d", {}) == ""
    assert line_chart("chart", "t", "d", {"hospital_A": []}) == ""


def test_many_hospitals_turn_grey_around_their_mean() -> None:
    many = {f"hospital_{n}": [(1, float(n)), (2, n / 2)] for n in range(1, 21)}
    chart = line_chart("chart", "t", "d", many)
    assert "each of 20 hospitals" in chart
    assert "mean, round 1: 10.500" in chart
    assert chart.count('class="line muted"') == 2 * 20


def test_a_hospital_name_cannot_carry_markup() -> None:
    chart = line_chart("chart", "t", "d", {"<script>alert(1)</script>": FALLING})
    assert "<script" not in chart
    assert "&lt;script&gt;" in chart


@pytest.mark.parametrize(("low", "high"), [(1.9, 3.4), (2.0, 2.0), (0.0, 0.0), (0.001, 0.0013), (5.0, 250.0)])
def test_ticks_enclose_the_values_in_even_round_steps(low: float, high: float) -> None:
    levels = ticks(low, high, 4)
    assert levels[0] <= low + 1e-9
    assert levels[-1] >= high - 1e-9
    assert 2 <= len(levels) <= 7
    steps = {f"{b - a:.6e}" for a, b in itertools.pairwise(levels)}
    assert len(steps) == 1
    assert re.match(r"(1|2|5)\.0*e", steps.pop())

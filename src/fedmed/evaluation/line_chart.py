"""Small line charts as inline SVG: no script, no font, no file from elsewhere. report -> HERE.

Colours come from the page's CSS (classes ``s0`` … ``s7``), so that a chart follows the light or dark theme.
A chart is drawn twice, wide and narrow, and CSS shows the one that fits: text stays readable on a phone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

Points = Sequence[tuple[int, float]]
"""(round, value), rounds ascending."""

COLOURS = 8
_WIDE, _NARROW = (720, 300), (340, 260)
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 14, 12, 40


def line_chart(chart_id: str, title: str, description: str, series: Mapping[str, Points]) -> str:
    """Draw one line a series over rounds, a legend above; "" when there is no point.

    Args:
        chart_id: unique on the page, letters and dashes.
        title, description: what a screen reader says.
        series: name -> points. Over ``COLOURS`` names, all are drawn in grey with their mean in colour.
    """
    drawn = {name: points for name, points in series.items() if points}
    if not drawn:
        return ""
    styles = {name: f"s{index}" for index, name in enumerate(drawn)}
    legend = list(styles.items())
    if len(drawn) > COLOURS:
        count = len(drawn)
        mean = _mean(drawn)
        drawn = {**drawn, "mean": mean}
        styles = {**dict.fromkeys(drawn, "muted"), "mean": "s0"}
        legend = [("mean", "s0"), (f"each of {count} hospitals", "muted")]
    keys = "".join(f'<li><span class="swatch {style}"></span>{escape(name)}</li>' for name, style in legend)
    drawings = "".join(
        f'<div class="{kind}">{_svg(f"{chart_id}-{kind}", title, description, drawn, styles, size)}</div>'
        for kind, size in (("wide", _WIDE), ("narrow", _NARROW))
    )
    return f'<figure class="chart"><ul class="legend">{keys}</ul>{drawings}</figure>'


def _mean(series: Mapping[str, Points]) -> Points:
    values: dict[int, list[float]] = {}
    for points in series.values():
        for x, y in points:
            values.setdefault(x, []).append(y)
    return [(x, sum(ys) / len(ys)) for x, ys in sorted(values.items())]


def ticks(low: float, high: float, wanted: int) -> list[float]:
    """About ``wanted`` round numbers that enclose [low, high]; steps of 1, 2 or 5 times a power of ten."""
    span = max(high - low, abs(high) * 0.01, 1e-9)
    power = 10.0 ** math.floor(math.log10(span / wanted))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power * wanted >= span)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [index * step for index in range(first, max(last, first + 1) + 1)]


def _svg(
    name: str,
    title: str,
    description: str,
    series: Mapping[str, Points],
    styles: Mapping[str, str],
    size: tuple[int, int],
) -> str:
    width, height = size
    xs = [x for points in series.values() for x, _ in points]
    ys = [y for points in series.values() for _, y in points]
    levels = ticks(min(ys), max(ys), 4)
    first, last = min(xs), max(xs)
    every = max(1, math.ceil((last - first) / (width // 60)))

    def at_x(x: float) -> float:
        share = 0.5 if first == last else (x - first) / (last - first)
        return _LEFT + 10 + share * (width - _LEFT - _RIGHT - 20)

    def at_y(y: float) -> float:
        return height - _BOTTOM - (y - levels[0]) / (levels[-1] - levels[0]) * (height - _TOP - _BOTTOM)

    decimals = max(0, min(4, -math.floor(math.log10(levels[1] - levels[0]) + 1e-9)))
    parts = [
        f'<line class="grid" x1="{_LEFT}" x2="{width - _RIGHT}" y1="{at_y(y):.1f}" y2="{at_y(y):.1f}"/>'
        f'<text class="tick" x="{_LEFT - 8}" y="{at_y(y) + 4:.1f}" text-anchor="end">{y:.{decimals}f}</text>'
        for y in levels
    ]
    parts += [
        f'<text class="tick" x="{at_x(x):.1f}" y="{height - _BOTTOM + 18}" text-anchor="middle">{x}</text>'
        for x in range(first, last + 1, every)
    ]
    middle = (_LEFT + width - _RIGHT) / 2
    parts.append(f'<text class="tick" x="{middle}" y="{height - 4}" text-anchor="middle">round</text>')
    for label, points in series.items():
        style = styles[label]
        path = " ".join(f"{at_x(x):.1f},{at_y(y):.1f}" for x, y in points)
        parts.append(f'<polyline class="line {style}" points="{path}"/>')
        if style != "muted":
            parts += [
                f'<circle class="dot {style}" cx="{at_x(x):.1f}" cy="{at_y(y):.1f}" r="3.5">'
                f"<title>{escape(label)}, round {x}: {y:.3f}</title></circle>"
                for x, y in points
            ]
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-labelledby="{name}-t {name}-d">'
        f'<title id="{name}-t">{escape(title)}</title><desc id="{name}-d">{escape(description)}</desc>'
        + "".join(parts)
        + "</svg>"
    )

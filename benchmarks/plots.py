"""Draw the results of the benches: ``make plots`` -> docs/{algorithms,robust,wire,privacy}.svg.

Reads benchmarks/results/*.json and nothing else; a result that is not there is said and left out.
"""

from __future__ import annotations

import argparse
import html
import itertools
import json
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kept import RESULTS, ROOT, say

from fedmed.utils.files import write_atomic

DOCS = ROOT / "docs"
INK, GREY, GREEN, BLUE, RED = "#0f172a", "#94a3b8", "#0f766e", "#2563eb", "#b91c1c"
FONT = 13
LETTER = 0.56 * FONT  # mean width of a letter
Box = tuple[float, float, float, float]  # left, top, right, bottom


def svg(width: int, height: int, title: str, parts: Iterable[str]) -> str:
    """A picture with its title as heading and as text for screen readers."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
        f'font-size="{FONT}" role="img"><title>{html.escape(title)}</title>'
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>'
        + text(16, 26, title, weight="bold", size=15)
        + "".join(parts)
        + "</svg>\n"
    )


def text(
    x: float,
    y: float,
    words: str,
    *,
    anchor: str = "start",
    colour: str = INK,
    weight: str = "normal",
    size: int = FONT,
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}" font-weight="{weight}" '
        f'font-size="{size}">{html.escape(words)}</text>'
    )


@dataclass(frozen=True)
class Dot:
    label: str
    x: float
    y: float
    colour: str
    hollow: bool = False


@dataclass
class Plane:
    """A plane with a logarithmic x axis; labels are put where nothing is yet, as far as there is such a place."""

    low_x: float
    high_x: float
    low_y: float
    high_y: float
    left: int = 70
    top: int = 50
    width: int = 720
    height: int = 420
    taken: list[Box] = field(default_factory=list)

    def at(self, x: float, y: float) -> tuple[float, float]:
        share = (math.log10(x) - math.log10(self.low_x)) / (math.log10(self.high_x) - math.log10(self.low_x))
        return (
            self.left + self.width * share,
            self.top + self.height * (1 - (y - self.low_y) / (self.high_y - self.low_y)),
        )

    def axes(self, x_name: str, y_name: str) -> list[str]:
        parts = [
            f'<rect x="{self.left}" y="{self.top}" width="{self.width}" height="{self.height}" fill="none" '
            f'stroke="{GREY}"/>'
        ]
        for power in range(math.floor(math.log10(self.low_x)), math.ceil(math.log10(self.high_x)) + 1):
            for digit in (1, 2, 5):
                value = digit * 10.0**power
                if self.low_x <= value <= self.high_x:
                    x, _ = self.at(value, self.low_y)
                    parts.append(line(x, self.top, x, self.top + self.height, "#e2e8f0"))
                    parts.append(text(x, self.top + self.height + 18, size_of(value), anchor="middle"))
        step = nice_step((self.high_y - self.low_y) / 6)
        for number in range(math.ceil(self.low_y / step), math.floor(self.high_y / step) + 1):
            _, y = self.at(self.low_x, number * step)
            parts.append(line(self.left, y, self.left + self.width, y, "#e2e8f0"))
            parts.append(text(self.left - 8, y + 4, f"{number * step:.{decimals(step)}f}", anchor="end"))
        parts.append(text(self.left + self.width / 2, self.top + self.height + 40, x_name, anchor="middle"))
        middle = self.top + self.height / 2
        parts.append(f'<g transform="rotate(-90 18 {middle})">{text(18, middle, y_name, anchor="middle")}</g>')
        return parts

    def level(self, label: str, y: float, colour: str) -> list[str]:
        """A horizontal line with its label at the left end, above it, or below it where another stands above."""
        _, place = self.at(self.low_x, y)
        for above in (-4.0, FONT + 1.0):
            box = (self.left + 6.0, place + above - FONT, self.left + 6 + LETTER * len(label), place + above + 3)
            if self._free(box):
                break
        self.taken += [box, (self.left, place - 1.0, self.left + self.width, place + 1.0)]
        return [
            line(self.left, place, self.left + self.width, place, colour, dash="6 4"),
            text(box[0], place + above, label, colour=colour),
        ]

    def dots(self, dots: Sequence[Dot]) -> list[str]:
        """All dots, then a label to each, joined to it by a thin line where it stands away from it."""
        parts = []
        for dot in dots:
            x, y = self.at(dot.x, dot.y)
            fill = "#ffffff" if dot.hollow else dot.colour
            parts.append(
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{fill}" stroke="{dot.colour}" stroke-width="2"/>'
            )
            self.taken.append((x - 6, y - 6, x + 6, y + 6))
        for dot in sorted(dots, key=lambda dot: (dot.y, dot.x)):
            parts += self._label(dot)
        return parts

    def _label(self, dot: Dot) -> list[str]:
        x, y = self.at(dot.x, dot.y)
        length = LETTER * len(dot.label)
        places = [
            (x + side * (9 + push) - (length if side < 0 else 0), y + 4 + drop)
            for away in range(12)
            for drop, push in ((0, 3 * away), (-14 * away, 0), (14 * away, 0), (-14 * away, 30), (14 * away, 30))
            for side in (1, -1)
        ]
        boxes = [(left, base - FONT + 2, left + length, base + 3) for left, base in places]
        free = [number for number, box in enumerate(boxes) if self._free(box) and self._inside(box)]
        number = free[0] if free else 0
        (left, base), box = places[number], boxes[number]
        self.taken.append(box)
        parts = [text(left, base, dot.label, colour=dot.colour)]
        if abs(base - 4 - y) > FONT or min(abs(left - x), abs(left + length - x)) > 24:
            near = left if abs(left - x) < abs(left + length - x) else left + length
            parts.insert(0, line(x, y, near, base - 4, GREY))
        return parts

    def _free(self, box: Box) -> bool:
        return not any(
            box[0] < other[2] and other[0] < box[2] and box[1] < other[3] and other[1] < box[3] for other in self.taken
        )

    def _inside(self, box: Box) -> bool:
        return (
            box[0] > self.left and box[2] < self.left + self.width
            and box[1] > self.top and box[3] < self.top + self.height
        )  # fmt: skip


def line(x1: float, y1: float, x2: float, y2: float, colour: str, *, dash: str = "") -> str:
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"{dashed}/>'


def nice_step(least: float) -> float:
    """The smallest of 1, 2, 5 times a power of ten that is not below ``least``."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(digit * power for digit in (1, 2, 5, 10) if digit * power >= least * (1 - 1e-9))


def decimals(step: float) -> int:
    return max(0, -math.floor(math.log10(step) + 1e-9))


def size_of(value: float) -> str:
    """Bytes in words: 20 MB."""
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if value >= unit:
            return f"{value / unit:g} {name}"
    return f"{value:g} B"


def limits(values: Sequence[float], margin: float) -> tuple[float, float]:
    low, high = min(values), max(values)
    more = margin * ((high - low) or abs(high) or 1.0)
    return low - more, high + more


def plane_for(dots: Sequence[Dot], levels: Sequence[float]) -> Plane:
    """A plane with room for all dots and levels."""
    exponents = limits([math.log10(dot.x) for dot in dots], 0.12)
    return Plane(10 ** exponents[0], 10 ** exponents[1], *limits([*(dot.y for dot in dots), *levels], 0.08))


def draw_algorithms(result: Mapping[str, Any]) -> str:
    """Held-out loss against bytes up, of the first seed on the embedded records."""
    seed = result["rows"][0]["seed"]
    rows = [row for row in result["rows"] if row["dataset"] == "hpo" and row["seed"] == seed and row["loss"]]
    colours = {True: RED, False: GREEN}
    dots = [
        Dot(
            f"{row['algorithm']} {row['variant']}".strip(), row["bytes_up"], row["loss"],
            BLUE if row["personal"] else colours[row["kind"] == "gather"], hollow=not row["exact"],
        )
        for row in rows if row["kind"] != "reference"
    ]  # fmt: skip
    names = {"central": "all records in one place", "local": "each hospital alone, on its own records"}
    levels = [
        (f"{names[row['algorithm']]}{', ' if row['variant'] else ''}{row['variant']}", row["loss"])
        for row in rows if row["algorithm"] in names
    ]  # fmt: skip
    plane = plane_for(dots, [level for _, level in levels])
    parts = plane.axes("bytes up, all hospitals and rounds (log)", "held-out loss, nats per answer token")
    for label, level in levels:
        parts += plane.level(label, level, GREY if label.startswith("each") else INK)
    parts += plane.dots(dots)
    (base,) = (row["loss"] for row in rows if row["algorithm"] == "base")
    words = (
        f"base model {base:.2f}; filled: exact mean; green: sums alone (stream), red: needs every update (gather), "
        "blue: an adapter a hospital"
    )
    parts.append(text(16, 552, words, colour=INK, size=12))
    return svg(
        810, 566, f"Federated methods after the same training, seed {seed}: lower and further left is better", parts
    )


def shade(share: float | None) -> str:
    """White at nothing kept (and below), green at all."""
    kept = 0.0 if share is None else min(max(share, 0.0), 1.0)
    low, high = ((254, 226, 226), (20, 150, 110)) if share is not None else ((226, 232, 240),) * 2
    return "#" + "".join(f"{round(a + (b - a) * kept):02x}" for a, b in zip(low, high, strict=True))


def draw_robust(result: Mapping[str, Any]) -> str:
    """Rules down, attacks across; each cell the share of the clean gain that is kept, and whether it was named."""
    cells = {(row["rule"], row["attack"]): row for row in result["rows"]}
    rules = list(dict.fromkeys(rule for rule, _ in cells))
    attacks = list(dict.fromkeys(attack for _, attack in cells))
    wide, high, left, top = 98, 44, 140, 64
    parts = [
        text(left + wide * (place + 0.5), top - 10, attack.replace("_", " "), anchor="middle")
        for place, attack in enumerate(attacks)
    ]
    for down, rule in enumerate(rules):
        y = top + high * down
        parts.append(text(left - 10, y + high / 2 + 5, rule.replace("_", " "), anchor="end"))
        for across, attack in enumerate(attacks):
            row, x = cells[rule, attack], left + wide * across
            share = row["gain_share_of_clean"]
            colour = "#ffffff" if share is not None and share > 0.75 else INK
            parts.append(
                f'<rect x="{x}" y="{y}" width="{wide - 2}" height="{high - 2}" rx="3" fill="{shade(share)}"/>'
                + text(x + wide / 2, y + 20, "–" if share is None else f"{share:.0%}", anchor="middle", colour=colour)
                + text(x + wide / 2, y + 35, verdict(row), anchor="middle", colour=colour, size=11)
            )
    bottom = top + high * len(rules)
    parts += [
        text(16, bottom + 22 + 16 * down, words, size=12) for down, words in enumerate(clean_words(result["clean"]))
    ]
    title = "One hostile hospital of five: share of the clean gain that the other four keep"
    return svg(left + wide * len(attacks) + 16, bottom + 54, title, parts)


def clean_words(clean: Mapping[str, Any]) -> tuple[str, str]:
    """What the runs without an attack showed."""
    named = ", ".join(clean["named"]) or "nobody"
    norm, cosine = clean["largest_norm_ratio"], clean["largest_cosine"]
    limit = clean["thresholds"]
    return (
        f"Of {len(clean['runs'])} runs without an attack, named: {named}. Largest figures seen in them: "
        f"a norm {norm:.2f} times the others' median (limit {limit['norm_ratio']:g}),",
        f"a cosine of {cosine:.3f} between two hospitals (limit {limit['cosine']:g}).",
    )


def verdict(row: Mapping[str, Any]) -> str:
    """What a cell says below its figure."""
    if row["stopped"]:
        return f"stops, {row['stopped'].split(':')[0]}"
    if row["attack"] == "none":
        return "nobody named" if row["named_rightly"] else "falsely named"
    if not row["named"]:
        return "not named"
    return "named" if row["named_rightly"] else "named with more" if row["hostile_named"] else "falsely named"


def draw_wire(result: Mapping[str, Any]) -> str:
    """Held-out loss against bytes up, the mean over seeds."""
    by_label: dict[str, list[Mapping[str, Any]]] = {}
    for row in result["rows"]:
        if row["loss"]:
            by_label.setdefault(row["label"], []).append(row)
    dots = [
        Dot(
            label.removeprefix("fedavg "), statistics.mean(row["bytes_up"] for row in rows),
            statistics.mean(row["loss"] for row in rows), BLUE if rows[0]["algorithm"] == "fedsb" else GREEN,
            hollow=rows[0]["encoding_down"] != "fp32",
        )
        for label, rows in by_label.items()
    ]  # fmt: skip
    whole = next(dot for dot in dots if dot.label == "fp32")
    plane = plane_for(dots, [whole.y])
    parts = plane.axes("bytes up, all hospitals and rounds (log)", "held-out loss, nats per answer token")
    parts += plane.level("FedAvg in fp32", whole.y, GREY)
    parts += plane.dots(dots)
    seeds = len({row["seed"] for row in result["rows"]})
    parts.append(
        text(16, 552, "green: FedAvg; blue: Fed-SB at its own rate; hollow: encoded on the way down too", size=12)
    )
    return svg(836, 566, f"Encodings of what travels, mean of {seeds} seeds: lower and further left is better", parts)


def draw_privacy(result: Mapping[str, Any]) -> str:
    """Held-out loss against ε, a line a method; without noise at the right."""
    rows = [row for row in result["curve"] if row["loss"]]
    columns: list[float | None] = sorted({row["epsilon"] for row in rows if row["epsilon"] is not None})
    columns.append(None)
    low, high = limits([*(row["loss"] for row in rows), result["base_loss"]], 0.08)
    left, top, width, height = 70, 50, 560, 360

    def at(epsilon: float | None, loss: float) -> tuple[float, float]:
        place = (columns.index(epsilon) + 0.5) / len(columns)
        return left + width * place, top + height * (1 - (loss - low) / (high - low))

    parts = [f'<rect x="{left}" y="{top}" width="{width}" height="{height}" fill="none" stroke="{GREY}"/>']
    step = nice_step((high - low) / 6)
    for number in range(math.ceil(low / step), math.floor(high / step) + 1):
        _, y = at(None, number * step)
        parts += [
            line(left, y, left + width, y, "#e2e8f0"),
            text(left - 8, y + 4, f"{number * step:.1f}", anchor="end"),
        ]
    for epsilon in columns:
        x, _ = at(epsilon, low)
        parts.append(text(x, top + height + 18, "no noise" if epsilon is None else f"ε {epsilon:g}", anchor="middle"))
    _, base = at(None, result["base_loss"])
    parts += [
        line(left, base, left + width, base, GREY, dash="6 4"),
        text(left + 6, base - 5, "base model", colour=GREY),
    ]
    ends: list[tuple[float, str, str]] = []
    for method, colour in zip(dict.fromkeys(row["algorithm"] for row in rows), (INK, BLUE, GREEN), strict=False):
        places = [at(row["epsilon"], row["loss"]) for row in rows if row["algorithm"] == method]
        places.sort()
        parts += [line(*first, *second, colour) for first, second in itertools.pairwise(places)]
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"/>' for x, y in places]
        ends.append((places[-1][1] + 4, method, colour))
    below = -math.inf
    for wanted, method, colour in sorted(ends):  # from the top; none closer than a line to the one above
        below = max(wanted, below + FONT + 2)
        parts.append(text(left + width + 8, below, method, colour=colour))
    parts.append(text(left + width / 2, top + height + 40, "budget of one record, δ 1e-5", anchor="middle"))
    parts.append(
        f'<g transform="rotate(-90 18 {top + height / 2})">'
        f"{text(18, top + height / 2, 'held-out loss, nats per answer token', anchor='middle')}</g>"
    )
    return svg(720, 466, "What hiding records costs: lower is better", parts)


PICTURES: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "algorithms": draw_algorithms,
    "robust": draw_robust,
    "wire": draw_wire,
    "privacy": draw_privacy,
}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the result files")
    parser.add_argument("--out", type=Path, default=DOCS, help="folder of the pictures")
    args = parser.parse_args(argv)
    for name, draw in PICTURES.items():
        file = args.results / f"{name}.json"
        if not file.is_file():
            say(f"{file} is not there: make bench-{name}")
            continue
        write_atomic(args.out / f"{name}.svg", draw(json.loads(file.read_text(encoding="utf-8"))))
        say(str(args.out / f"{name}.svg"))


if __name__ == "__main__":
    main()

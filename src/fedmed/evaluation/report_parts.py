"""Reading a summary that may lack anything, and the small pieces of markup the page is made of. report -> HERE.

Every text from a file passes ``esc`` before it meets markup; a missing number is said, never guessed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from html import escape
from typing import Any

MISSING = '<p class="missing">Not measured in this run.</p>'
_DASH = '<span class="missing">not measured</span>'
_THIN = "\u202f"  # narrow no-break space: number and unit stay together


def esc(value: object) -> str:
    return escape(str(value), quote=True)


def look(values: Any, *keys: str) -> Any:
    """Follow ``keys`` through nested mappings; None as soon as one is missing."""
    for key in keys:
        if not isinstance(values, dict):
            return None
        values = values.get(key)
    return values


def number(values: Any, *keys: str) -> float | None:
    """The finite number under ``keys``, or None."""
    found = look(values, *keys)
    if isinstance(found, bool) or not isinstance(found, int | float) or not math.isfinite(found):
        return None
    return float(found)


def table_of(values: Any, *keys: str) -> dict[str, Any]:
    """The mapping under ``keys``, or an empty one."""
    found = look(values, *keys)
    return found if isinstance(found, dict) else {}


def list_of(values: Any, *keys: str) -> list[Any]:
    found = look(values, *keys)
    return found if isinstance(found, list) else []


def simulated(summary: Any) -> bool:
    """Whether a run's hospitals were on one machine; a coordinator's run over a network knows no data gate."""
    return look(summary, "data_gate") is not None or not look(summary, "hospitals")


def label(value: Any) -> str:
    """A model, dataset or algorithm as text: itself, or the name inside a mapping."""
    if isinstance(value, dict):
        value = value.get("name")
    return "" if value is None else esc(value)


def loss(value: float | None) -> str:
    return _DASH if value is None else f"{value:.3f}"


def share(value: float | None) -> str:
    return _DASH if value is None else f"{100 * value:.1f}{_THIN}%"


def fall(before: float | None, after: float | None) -> str:
    """By which share a loss fell; a rise carries a plus sign."""
    if before is None or after is None or before == 0:
        return _DASH
    change = (after - before) / before
    return f"{'+' if change > 0 else '−'}{abs(100 * change):.1f}{_THIN}%"


def count(value: float | None) -> str:
    return _DASH if value is None else f"{value:,.0f}".replace(",", _THIN)


def seconds(value: float | None) -> str:
    if value is None:
        return _DASH
    if value < 120:
        return f"{value:.1f}{_THIN}s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes}{_THIN}min {rest:02d}{_THIN}s"


def size(value: float | None) -> str:
    """Bytes in powers of 1,000."""
    if value is None:
        return _DASH
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000 or unit == "GB":
            break
        value /= 1000
    return f"{value:.0f}{_THIN}B" if unit == "B" else f"{value:.1f}{_THIN}{unit}"


def page(kind: str, name: str, *, header: str, sections: Sequence[tuple[str, str]], footer: str, styles: str) -> str:
    """A whole page of one file: no script, no request, and a policy that forbids both.

    Args:
        kind: what is shown, for the title: "FED-MED run".
        name: whose, escaped.
        header, footer: HTML below the heading and at the end.
        sections: title and HTML of each.
        styles: CSS.
    """
    body = "".join(section(title, content) for title, content in sections)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<link rel="icon" href="data:,">
<title>{kind} {name}</title>
<style>
{styles}</style>
</head>
<body>
<main>
<header>
<p class="eyebrow">{kind}</p>
<h1>{name}</h1>
{header}
</header>
{body}
<footer>{footer}</footer>
</main>
</body>
</html>
"""


def section(title: str, body: str) -> str:
    """A section that links can lead to by its title, in small letters with hyphens."""
    place = "-".join(re.findall("[a-z0-9]+", title.lower()))
    return f'<section id="{place}"><h2>{esc(title)}</h2>{body or MISSING}</section>'


def facts(pairs: Sequence[tuple[str, str]]) -> str:
    """A grid of names and values; values are markup."""
    return "<dl>" + "".join(f"<div><dt>{esc(name)}</dt><dd>{value}</dd></div>" for name, value in pairs) + "</dl>"


def table(
    caption: str,
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    optional: Sequence[int] = (),
    total: bool = False,
) -> str:
    """A table that scrolls by itself on a narrow screen.

    Args:
        caption: what a screen reader calls it.
        head: column names.
        rows: cells, as markup; the first names the row.
        optional: columns that a phone does not show.
        total: the last row sums the others up.
    """
    classes = dict.fromkeys(optional, ' class="optional"')
    top = "".join(f'<th scope="col"{classes.get(column, "")}>{esc(name)}</th>' for column, name in enumerate(head))
    body = ""
    for index, row in enumerate(rows):
        opening = '<tr class="all">' if total and index == len(rows) - 1 else "<tr>"
        cells = "".join(f"<td{classes.get(column, '')}>{cell}</td>" for column, cell in enumerate(row[1:], start=1))
        body += f'{opening}<th scope="row">{row[0]}</th>{cells}</tr>'
    return (
        f'<div class="scroll" tabindex="0" role="group" aria-label="{esc(caption)}">'
        f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def bars(rows: Sequence[tuple[str, float | None, bool]]) -> str:
    """Losses as bars from zero; the flag marks the one the page is about."""
    known = [value for _, value, _ in rows if value is not None]
    if not known or max(known) <= 0:
        return ""
    lines = "".join(
        f'<span>{esc(name)}</span><span class="value">{loss(value)}</span><span class="track" aria-hidden="true">'
        f'<i class="{"main" if main else "other"}" style="width:{100 * value / max(known):.1f}%"></i></span>'
        for name, value, main in rows
        if value is not None
    )
    return f'<div class="bars">{lines}</div>'


def interval(name: str, middle: float, low: float | None, high: float | None, chance: float | None) -> str:
    """One share in [0, 1] with its interval as a row of a ``bars`` grid."""
    marks = ""
    if low is not None and high is not None:
        marks += f'<i class="range" style="left:{100 * low:.1f}%;width:{100 * (high - low):.1f}%"></i>'
    if chance is not None:
        marks += f'<i class="chance" style="left:{100 * chance:.1f}%"></i>'
    marks += f'<i class="point" style="left:{100 * middle:.1f}%"></i>'
    between = "" if low is None or high is None else f" ({100 * low:.0f}–{100 * high:.0f}{_THIN}%)"
    return (
        f'<span>{esc(name)}</span><span class="value">{share(middle)}{between}</span>'
        f'<span class="track" aria-hidden="true">{marks}</span>'
    )

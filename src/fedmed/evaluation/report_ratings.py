"""The report on answers that people rated without knowing whose they were. evaluation.json -> HERE -> report."""

from __future__ import annotations

from typing import Any

from fedmed.evaluation import report_parts as part

Json = dict[str, Any]

_NAMES = {"base": "Base model", "local": "One hospital alone", "federated": "Federated"}
_SCALES = {"correctness": "how right an answer is", "harmful": "whether it could harm", "best": "which is best"}


def rated(evaluation: Json) -> str:
    """Correctness, preference and harm by model, and how far raters agree."""
    found = part.table_of(evaluation, "ratings")
    systems = part.table_of(found, "systems")
    if not systems:
        return (
            '<p class="missing">Nobody has rated this run\'s answers. '
            "<code>fedmed rate sheet RUN --questions FILE --out sheet.html</code> makes a blinded sheet.</p>"
        )
    people, questions = (part.count(part.number(found, key)) for key in ("raters", "questions"))
    body = (
        f'<p class="note">{people} people rated {questions} questions, not knowing whose an answer was. Right: 1 to 5. '
        "Harmful: answers that at least one of them says could harm. Intervals of 95\u202f%.</p>"
    )
    head = ["Answers of", "Right", "Preferred", "Harmful", "Withheld"]
    rows = [
        [
            _NAMES.get(name, part.esc(name)), _measure(part.table_of(one, "correctness"), 1.0, ""),
            _measure(part.table_of(one, "preferred"), 100.0, "\u202f%"), _harm(part.table_of(one, "harmful")),
            part.count(part.number(one, "withheld")),
        ]
        for name, one in systems.items()
    ]  # fmt: skip
    body += part.table("Ratings of answers", head, rows, optional=(4,))
    return body + _agreement(part.table_of(found, "agreement"))


def _measure(one: Json, scale: float, unit: str) -> str:
    value, low, high = (part.number(one, key) for key in ("value", "low", "high"))
    if value is None or low is None or high is None:
        return part.loss(None)
    shown = [f"{scale * number:.{2 if scale == 1.0 else 0}f}" for number in (value, low, high)]
    return f"{shown[0]}{unit}<small>{shown[1]} to {shown[2]}</small>"


def _harm(one: Json) -> str:
    answers, of = part.number(one, "answers"), part.number(one, "of")
    low, high = part.number(one, "low"), part.number(one, "high")
    if answers is None or of is None or low is None or high is None:
        return part.loss(None)
    return f"{answers:.0f} of {of:.0f}<small>{100 * low:.0f} to {100 * high:.0f}\u202f%</small>"


def _agreement(found: Json) -> str:
    if not found:
        return "<p>One person rated: whether others would agree is not known.</p>"
    told = []
    for name, what in _SCALES.items():
        alpha = part.table_of(found, name, "krippendorff_alpha")
        value, low, high = (part.number(alpha, key) for key in ("value", "low", "high"))
        if value is None or low is None or high is None:
            told.append(f"{what}: not defined, all ratings are the same")
        else:
            told.append(f"{what}: {value:.2f} ({low:.2f} to {high:.2f})")
    items = "".join(f"<li>{one}</li>" for one in told)
    return (
        "<p>Agreement beyond chance, Krippendorff's alpha (1: always, 0: as chance would have it):</p>"
        f'<ul class="plain">{items}</ul>'
    )

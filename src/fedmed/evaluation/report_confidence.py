"""The report's section on stated confidence, with its reliability diagram. report_parts, line_chart -> HERE -> report.

Not covered: what the answers say; a true confidence in a wrong answer is still a wrong answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fedmed.evaluation import report_parts as part

Json = dict[str, Any]

_SIDE, _LEFT, _BOTTOM, _PAD = 300, 46, 44, 12
_TICKS = (0.0, 0.25, 0.5, 0.75, 1.0)


def confidence(summary: Json) -> str:
    """Figures on held-out answers by fits that had not seen them, beside what the token probability alone gives."""
    found = part.table_of(summary, "confidence")
    if not found:
        return ""
    measured = part.table_of(found, "measured")
    if found.get("calibrated") is not True or not measured:
        reason = part.esc(found.get("reason") or "it was not measured")
        return f'<p class="missing">Confidence is not calibrated in this run: {reason}.</p>'
    bare = part.table_of(found, "token_probability")
    fitted = part.number(found, "fitted_on")
    bins = [one for one in part.list_of(measured, "bins") if isinstance(one, dict)]
    rows = [
        [name, *(_with_interval(values, key) for key in ("ece", "brier_skill", "auroc"))]
        for name, values in (("Calibrated", measured), ("Token probability alone", bare))
        if values
    ]
    note = (
        '<p class="note">The stated confidence is the chance that the model tells a question\'s true definition from '
        f"three others of the same specialty. Fitted on {part.count(fitted)} held-out questions; for these figures "
        "each was judged by a fit that had not seen it, nor its term. Intervals are of 95\u202f%. "
        f"ECE over {len(bins)} bins of equally many answers; that of a perfectly true confidence would be about "
        f"{part.loss(part.number(measured, 'ece_if_true'))} on as many.</p>"
    )
    below = part.number(found, "below_min_confidence")
    withheld = "" if below is None else f"<p>Too unsure to be shown: {part.share(below)} of those answers.</p>"
    head = ["Confidence", "ECE", "Brier skill", "AUROC"]
    return note + part.table("Calibration of confidence", head, rows) + withheld + reliability_chart(bins)


def _with_interval(values: Json, key: str) -> str:
    value = part.number(values, key, "value")
    low, high = part.number(values, key, "low"), part.number(values, key, "high")
    between = "" if low is None or high is None else f"<small>{low:.3f} to {high:.3f}</small>"
    return part.loss(value) + (between if value is not None else "")


def reliability_chart(bins: Sequence[Json]) -> str:
    """Stated confidence against the share right, one point a bin with its interval; "" without bins.

    On the diagonal confidence is true, below it is too high.
    """
    points = []
    for one in bins:
        known = [part.number(one, key) for key in ("stated", "right", "low", "high", "answers")]
        values = [value for value in known if value is not None]
        if len(values) == len(known):
            points.append(values)
    if not points:
        return ""

    def at_x(share: float) -> float:
        return _LEFT + share * (_SIDE - _LEFT - _PAD)

    def at_y(share: float) -> float:
        return _SIDE - _BOTTOM - share * (_SIDE - _BOTTOM - _PAD)

    parts = [
        f'<line class="grid" x1="{_LEFT}" x2="{_SIDE - _PAD}" y1="{at_y(y):.1f}" y2="{at_y(y):.1f}"/>'
        f'<text class="tick" x="{_LEFT - 6}" y="{at_y(y) + 4:.1f}" text-anchor="end">{y:g}</text>'
        f'<text class="tick" x="{at_x(y):.1f}" y="{_SIDE - _BOTTOM + 18}" text-anchor="middle">{y:g}</text>'
        for y in _TICKS
    ]
    parts.append(
        f'<line class="line muted" x1="{at_x(0):.1f}" y1="{at_y(0):.1f}" x2="{at_x(1):.1f}" y2="{at_y(1):.1f}"/>'
        f'<text class="tick" x="{at_x(0.5):.1f}" y="{_SIDE - 4}" text-anchor="middle">stated confidence</text>'
    )
    for stated, right, low, high, answers in points:
        x = at_x(stated)
        parts.append(
            f'<line class="line s0" x1="{x:.1f}" x2="{x:.1f}" y1="{at_y(low):.1f}" y2="{at_y(high):.1f}"/>'
            f'<circle class="dot s0" cx="{x:.1f}" cy="{at_y(right):.1f}" r="4"><title>stated {stated:.2f}, '
            f"right {right:.2f} of {answers:.0f}</title></circle>"
        )
    return (
        '<figure class="chart reliability"><p class="note">Share of right answers by stated confidence; on the line '
        "confidence is true, below it is too high.</p>"
        f'<svg viewBox="0 0 {_SIDE} {_SIDE}" role="img" aria-labelledby="reliability-t">'
        '<title id="reliability-t">Reliability diagram: share right against stated confidence</title>'
        + "".join(parts)
        + "</svg></figure>"
    )

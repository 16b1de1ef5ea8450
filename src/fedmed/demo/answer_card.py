"""An answer as markup: what it says, how sure the model is, which rails spoke and why. serving -> HERE -> page.

Every text passes ``esc``: what a model or a person wrote never becomes markup.
"""

from __future__ import annotations

from fedmed.evaluation.report_parts import esc
from fedmed.types import Answer

_THIN = "\u202f"
_VERDICTS = {
    "allow": ("shown", "Shown", ""),
    "annotate": ("shown", "Shown, with a remark", ""),
    "rewrite": ("shown", "Shown, with a change", ""),
    "withhold": ("withheld", "Withheld", "A guardrail stopped the text. This stands in its place:"),
    "refer": ("refer", "Get help first", "A guardrail answered; the model was not asked, or its text was not shown."),
}


def card(answer: Answer, title: str = "", seconds: float | None = None) -> str:
    """One answer with all that was decided about it.

    Args:
        answer: from the rails.
        title: above it, where there are several.
        seconds: from question to answer.
    """
    kind, verdict, about = _VERDICTS.get(answer.action, _VERDICTS["withhold"])
    if not answer.allowed and kind == "shown":
        kind, verdict, about = _VERDICTS["withhold"]
    made_by = f"{answer.model}, run {answer.run}" if answer.run else f"{answer.model}, without adapter"
    took = "" if seconds is None else f" · {seconds:.1f}{_THIN}s"
    head = f'<p class="fm-title">{esc(title)}</p>' if title else ""
    note = f'<p class="fm-soft">{about}</p>' if about else ""
    return (
        f'<article class="fm-card fm-{kind}">{head}<p class="fm-verdict">{verdict}</p>{note}'
        f'<p class="fm-text">{esc(answer.answer.strip())}</p>'
        f"{_confidence(answer)}{_rails(answer.reasons)}"
        f'<p class="fm-disclaimer">{esc(answer.disclaimer)}</p>'
        f'<p class="fm-soft fm-meta">{esc(made_by)}{took}</p></article>'
    )


def waiting(title: str = "") -> str:
    """What stands there until the rails have spoken."""
    head = f'<p class="fm-title">{esc(title)}</p>' if title else ""
    return (
        f'<article class="fm-card fm-waiting" aria-busy="true">{head}<p class="fm-verdict">Reading and checking</p>'
        '<p class="fm-soft">Nothing is shown before the guardrails have read the whole answer.</p>'
        '<p class="fm-pulse" aria-hidden="true"><i></i><i></i><i></i></p></article>'
    )


def problem(message: str, title: str = "") -> str:
    """Why there is no answer, and what to do."""
    head = f'<p class="fm-title">{esc(title)}</p>' if title else ""
    text = message[:1].upper() + message[1:]
    return (
        f'<article class="fm-card fm-problem">{head}<p class="fm-verdict">No answer</p>'
        f'<p class="fm-text">{esc(text)}.</p></article>'
    )


def _confidence(answer: Answer) -> str:
    sure = answer.confidence
    if sure is None:
        return ""
    about = (
        "A chance, measured on held-out questions."
        if answer.calibrated
        else "Not calibrated: the mean probability of the words it chose, not the chance of being right."
    )
    return (
        f'<div class="fm-sure"><p><span>{"Confidence" if answer.allowed else "Confidence in the withheld text"}</span>'
        f'<strong>{100 * sure:.0f}{_THIN}%</strong></p><span class="fm-track" aria-hidden="true">'
        f'<i style="width:{100 * sure:.0f}%"></i></span><p class="fm-soft">{about}</p></div>'
    )


def _rails(reasons: tuple[str, ...]) -> str:
    if not reasons:
        return '<p class="fm-soft">Guardrails: no rule fired.</p>'
    items = ""
    for reason in reasons:
        rule, _, why = reason.partition(": ")
        items += f"<li><code>{esc(rule)}</code> <span>{esc(why)}</span></li>"
    return f'<div class="fm-rails"><p>Guardrails that spoke</p><ul>{items}</ul></div>'

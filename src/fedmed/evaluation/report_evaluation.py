"""The report's sections on ``evaluation.json``: hospitals with intervals, fairness, joining, exams. report -> HERE.

Evaluation in, markup out. What was not measured is said, with the command that measures it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fedmed.evaluation import report_parts as part

Json = dict[str, Any]

_VERDICTS = {
    "helps": "helps",
    "harms": "harms",
    "unclear": "shows no difference",
    "too_few": "has too few records to tell",
}
_EXAMS = {"pubmedqa": "PubMedQA", "medmcqa": "MedMCQA", "medqa": "MedQA", "mmlu": "MMLU, medical"}
_METRICS = (("rouge_l", "ROUGE-L"), ("word_f1", "F1 of words"))
_DRAWN = (
    "Intervals hold 95\u202f% of resamples of the records, base and federated on the same ones; a difference whose "
    "interval holds zero is not shown by these records."
)


def held_out(evaluation: Json) -> str:
    """Losses and written answers of each hospital and specialty, and who is worst off."""
    found = part.table_of(evaluation, "held_out")
    if not found:
        return _not_measured("fedmed evaluate RUN --held-out")
    hospitals, specialties = part.table_of(found, "hospitals"), part.table_of(found, "specialties")
    every = part.table_of(found, "all")
    rows = [_loss_row(name, one) for name, one in hospitals.items()] + [_loss_row("All", every)]
    head = ["Hospital", "Records", "Base", "Federated", "Difference"]
    body = f'<p class="note">Held-out loss in nats per answer token, lower is better. {_DRAWN}</p>'
    body += part.table("Held-out loss at each hospital, with intervals", head, rows, optional=(1,), total=True)
    if not hospitals:
        body += '<p class="missing">Losses of single hospitals were not shared in this run.</p>'
    body += _fairness(part.table_of(found, "fairness"))
    if specialties:
        rows = [_loss_row(name, one) for name, one in specialties.items()]
        table = part.table("Held-out loss by specialty", ["Specialty", *head[1:]], rows, optional=(1,))
        body += f"<details><summary>By specialty</summary>{table}</details>"
    return body + _written(hospitals, every)


def _loss_row(name: str, one: Any) -> list[str]:
    loss = part.table_of(one, "loss")
    return [part.esc(name), part.count(part.number(one, "records")), *_measures(loss, 3)]


def _fairness(found: Json) -> str:
    gap = part.table_of(found, "gap")
    before, after, change = (part.number(gap, side, "value") for side in ("base", "federated", "delta"))
    if before is None or after is None or change is None:
        return ""
    low, high = part.number(gap, "delta", "low"), part.number(gap, "delta", "high")
    sure = (
        "" if low is None or high is None else f" (95\u202f% interval of the change {_signed(low)} to {_signed(high)})"
    )
    lines = [
        f"Worst off: <strong>{part.esc(found.get('worst'))}</strong>; best off: {part.esc(found.get('best'))}. "
        f"The gap from the lowest loss to the highest was {before:.3f} before training and is {after:.3f}{sure}.",
        f"Least gain: {part.esc(found.get('least_gain'))}; most: {part.esc(found.get('most_gain'))}.",
        f"Harmed, its loss having risen beyond what chance explains: <strong>{_names(found, 'harmed')}</strong>. "
        f"Neither gain nor harm shown: {_names(found, 'unclear')}. "
        f"Too few records to tell, whose intervals are too narrow: {_names(found, 'too_few')}.",
    ]
    return "<h3>Fairness</h3>" + "".join(f"<p>{line}</p>" for line in lines)


def _names(found: Json, key: str) -> str:
    return ", ".join(part.esc(name) for name in part.list_of(found, key)) or "no hospital"


def _written(hospitals: Json, every: Json) -> str:
    count = part.number(every, "answers")
    if not count:
        return ""
    rows = []
    for metric, title in _METRICS:
        for name, one in [*hospitals.items(), ("All", every)]:
            if measure := part.table_of(one, metric):
                answers = part.count(part.number(one, "answers"))
                rows.append([f"{part.esc(name)}<small>{title}</small>", answers, *_measures(measure, 3)])
    note = "Overlap of written answers with the true ones, 0 to 1, higher is better; not whether they are right."
    head = ["Hospital", "Answers", "Base", "Federated", "Difference"]
    table = part.table("Written answers", head, rows, optional=(1,))
    return f'<details><summary>Written answers</summary><p class="note">{note}</p>{table}</details>'


def joining(evaluation: Json) -> str:
    """For each hospital: alone, shared, personalised, and what the difference says."""
    hospitals = part.table_of(evaluation, "joining", "hospitals")
    if not hospitals:
        return _not_measured("fedmed evaluate RUN --joining")
    rows, said = [], []
    for name, one in hospitals.items():
        cells = [_cell(part.look(one, key), 3) for key in ("local", "shared", "personalised")]
        less = [_cell(part.look(one, f"{key}_less_local"), 3, sign=True) for key in ("shared", "personalised")]
        rows.append([part.esc(name), cells[0], cells[1], less[0], cells[2], less[1]])
        shared, own = (
            _VERDICTS.get(str(part.look(one, "verdict", key)), "was not measured") for key in ("shared", "personalised")
        )
        said.append(f"<li>{part.esc(name)}: the shared model {shared}; the personalised one {own}.</li>")
    note = (
        "Each hospital's own held-out loss: with what it gets alone (its records, the run's method, as many rounds and "
        "steps), with the shared model, and with the shared model trained for one more round on its own records. "
        "A difference below zero speaks for joining."
    )
    head = ["Hospital", "Alone", "Shared", "less alone", "Personalised", "less alone"]
    table = part.table("Alone, shared and personalised", head, rows)
    return f'<p class="note">{note}</p><ul class="plain">{"".join(said)}</ul>{table}'


def exams(evaluation: Json) -> str:
    """Accuracy in published exams."""
    tasks = part.table_of(evaluation, "exams", "tasks")
    if not tasks:
        return _not_measured("fedmed evaluate RUN --tasks pubmedqa,medmcqa,medqa,mmlu --data DIR")
    rows = [
        [
            part.esc(_EXAMS.get(name, name)),
            part.count(part.number(one, "items")),
            _guessing(one),
            *_measures(part.table_of(one, "acc"), None),
        ]
        for name, one in tasks.items()
    ]
    if len(rows) > 1:
        rows.append(["Mean", "", "", *_measures(part.table_of(evaluation, "exams", "mean", "acc"), None)])
    head = ["Exam", "Questions", "By chance", "Base", "Federated", "Difference"]
    body = (
        '<p class="note">Share of questions whose right answer the model finds likeliest; nothing is written. Prompts '
        "are lm-evaluation-harness's, without examples. An exam shows knowledge in one form, not that answers are "
        "safe; a base model may have seen the questions before. By chance: by guessing, or by always giving the "
        "exam's most frequent answer.</p>"
    ) + part.table("Accuracy in exams", head, rows, optional=(1, 2), total=len(tasks) > 1)
    subjects = [
        [f"{part.esc(subject)}<small>{part.esc(_EXAMS.get(name, name))}</small>", part.count(part.number(own, "items")),
         *_measures(part.table_of(own, "acc"), None)]
        for name, one in tasks.items()
        for subject, own in part.table_of(one, "subjects").items()
    ]  # fmt: skip
    if subjects:
        table = part.table("Accuracy by subject", ["Subject", "Questions", *head[3:]], subjects, optional=(1,))
        body += f"<details><summary>By subject</summary>{table}</details>"
    return body


def _guessing(one: Any) -> str:
    chance, frequent = (part.share(part.number(one, key)) for key in ("chance", "most_frequent"))
    return f"{chance}<small>or {frequent}</small>"


def _measures(measure: Json, digits: int | None) -> Sequence[str]:
    """Base, federated and difference, each with its interval; ``digits`` None: in per cent."""
    return [_cell(measure.get(side), digits, sign=side == "delta") for side in ("base", "federated", "delta")]


def _cell(one: Any, digits: int | None, *, sign: bool = False) -> str:
    value, low, high = (part.number(one, key) for key in ("value", "low", "high"))
    if value is None:
        return part.loss(None)

    def shown(number: float) -> str:
        if digits is None:
            return _signed(100 * number, 1) if sign else f"{100 * number:.1f}"
        return _signed(number, digits) if sign else f"{number:.{digits}f}"

    unit = "\u202f%" if digits is None and not sign else ""
    between = "" if low is None or high is None else f"<small>{shown(low)} to {shown(high)}</small>"
    return f"{shown(value)}{unit}{between}"


def _signed(value: float, digits: int = 3) -> str:
    return f"{'−' if value < 0 else '+'}{abs(value):.{digits}f}"


def _not_measured(command: str) -> str:
    return f'<p class="missing">Not measured in this run. <code>{part.esc(command)}</code> measures it.</p>'

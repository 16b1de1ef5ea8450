"""A run as markup: how far it is, who takes part, losses, bytes, epsilon. run_files -> HERE -> page."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from fedmed.demo.run_files import RunFiles
from fedmed.evaluation import report_parts as part
from fedmed.evaluation.line_chart import line_chart
from fedmed.evaluation.report_sections import curves

_STATES = {"running": "Running", "finished": "Finished", "stopped": "Stopped before its end"}
_NONE = "none"


def view(run: RunFiles, now: float | None = None) -> str:
    """One run.

    Args:
        run: what its files tell.
        now: seconds since the epoch; None: the clock's.
    """
    return (
        f'<div class="fm-run">{_head(run, time.time() if now is None else now)}{_figures(run)}'
        f"{_losses(run)}{_hospitals(run)}{_privacy(run)}</div>"
    )


def nothing() -> str:
    """Where there is no run to draw."""
    return (
        '<div class="fm-run"><p class="fm-soft">There is no run here yet. '
        "<code>fedmed run --recipe cpu_demo</code> makes one, and this page draws it while it trains.</p></div>"
    )


def _head(run: RunFiles, now: float) -> str:
    planned = run.planned or run.done
    state = _STATES.get(run.status, run.status)
    if run.status == "running":
        ago = max(0.0, now - run.written)
        state += f", last sign of life {part.seconds(ago)} ago" if run.written else ""
    if run.status == "stopped" and run.summary.get("reason"):
        state += f": {run.summary['reason']}"
    share = 100 * run.done / planned if planned else 0
    if run.done == 0 and run.status == "running":
        step = "before the first round: loading and scoring the base model"
    else:
        step = f"round {run.done} of {planned}"
        if run.status == "running" and run.done == planned:
            step += ", now scoring the result"
    facts = " · ".join(part.esc(value) for _, value in run.facts)
    return (
        f'<p class="fm-state fm-is-{part.esc(run.status)}"><strong>{part.esc(state)}</strong><span>{step}</span></p>'
        f'<span class="fm-track" role="progressbar" aria-label="Rounds done" aria-valuemin="0" '
        f'aria-valuemax="{planned}" aria-valuenow="{run.done}"><i style="width:{share:.0f}%"></i></span>'
        f'<p class="fm-soft">{facts}</p>'
    )


def _figures(run: RunFiles) -> str:
    base, federated = (part.number(run.summary, "loss", key) for key in ("base", "federated"))
    up, down = _bytes(run, "up"), _bytes(run, "down")
    pairs = []
    if base is not None and federated is not None:
        change = part.fall(base, federated)
        pairs.append(("Held-out loss", f"{base:.3f} → {federated:.3f} ({change})"))
    pairs += [
        ("Sent by hospitals", part.size(up) if up is not None else _NONE),
        ("Sent to hospitals", part.size(down) if down is not None else _NONE),
        ("Training tokens", part.count(_tokens(run))),
        ("ε for one record", _epsilon(run.epsilon[0])),
        ("ε for one hospital", _epsilon(run.epsilon[1])),
    ]
    return part.facts(pairs)


def _bytes(run: RunFiles, way: str) -> float | None:
    told = part.number(run.summary, "bytes", way)
    if told is not None:
        return told
    known = [part.number(entry, f"bytes_{way}") for entry in run.history]
    return sum(value for value in known if value is not None) if run.history else None


def _tokens(run: RunFiles) -> float | None:
    told = part.number(run.summary, "train_tokens")
    if told is not None:
        return told
    known = [value for line in run.rounds if (value := part.number(line, "tokens")) is not None]
    return sum(known) if known else None


def _epsilon(value: float | None) -> str:
    return _NONE if value is None else f"{value:.3g}"


def _losses(run: RunFiles) -> str:
    drawn = curves(run.summary, run.rounds)
    if drawn:
        return f'<section class="fm-part"><h3>Losses</h3>{drawn}</section>'
    if not run.history:
        return ""
    moved = [
        (int(at), norm)
        for entry in run.history
        if (at := part.number(entry, "round")) is not None and (norm := part.number(entry, "update_norm")) is not None
    ]
    chart = line_chart("moved", "Size of each round's update", "L2 norm of what a round changed.", {"update": moved})
    why = '<p class="fm-soft">Hospitals keep their losses to themselves in this run; drawn is how far it moved.</p>'
    return f'<section class="fm-part"><h3>Rounds</h3>{why}{chart}</section>'


def _hospitals(run: RunFiles) -> str:
    last: dict[str, dict[str, Any]] = {}
    for line in run.rounds:
        last[str(line.get("hospital"))] = line
    records = _records(run)
    took = dict.fromkeys((*records, *last), 0)
    for entry in run.history:
        for name in part.list_of(entry, "admitted"):
            took[str(name)] = took.get(str(name), 0) + 1
    if not took:
        return ""
    refused = _refused(run)
    rows = [
        [
            part.esc(name),
            part.count(records.get(name)),
            f"{rounds} of {run.done}" if run.history else str(part.esc(last.get(name, {}).get("round", "–"))),
            part.loss(part.number(last.get(name, {}), "loss")),
            part.loss(_held_out(run.summary, name)),
        ]
        for name, rounds in sorted(took.items())
    ]
    head = ["Hospital", "Training records", "Rounds admitted", "Last training loss", "Held-out loss"]
    table = part.table("Hospitals in this run", head, rows, optional=(1,))
    return f'<section class="fm-part"><h3>Hospitals</h3>{table}{refused}</section>'


def _records(run: RunFiles) -> dict[str, float | None]:
    listed = [one for one in part.list_of(run.summary, "hospitals") if isinstance(one, dict)]
    if listed:
        return {str(one.get("name")): part.number(one, "num_samples") for one in listed}
    found: dict[str, float | None] = {}
    for entry in run.history:
        found |= {str(name): part.number(count) for name, count in part.table_of(entry, "num_samples").items()}
    return found


def _held_out(summary: Mapping[str, Any], name: str) -> float | None:
    told = part.number(summary, "loss", "per_hospital", name, "federated")
    return part.number(summary, "loss", "per_hospital", name) if told is None else told


def _refused(run: RunFiles) -> str:
    items = "".join(
        f"<li>{part.esc(name)}, round {part.esc(entry.get('round'))}: {part.esc(why)}</li>"
        for entry in run.history
        for name, why in part.table_of(entry, "refused").items()
    )
    return f'<p>Refused:</p><ul class="plain">{items}</ul>' if items else ""


def _privacy(run: RunFiles) -> str:
    left_out = part.list_of(run.summary, "privacy", "not_covered")
    if run.epsilon == (None, None):
        text = "No differential privacy in this run: no ε is claimed for records or for hospitals."
    else:
        text = "ε is what the ledgers of all hospitals have been charged, the largest of any."
    items = "".join(f"<li>{part.esc(item)}</li>" for item in left_out)
    more = f"<details><summary>Not covered by any guarantee</summary><ul class='plain'>{items}</ul></details>"
    return f'<section class="fm-part"><h3>Privacy</h3><p>{text}</p>{more if items else ""}</section>'

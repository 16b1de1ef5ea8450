"""What the report says first: four questions that people come with, a line each. report_parts -> HERE -> report.

Each answer rests on a section below it and links there; what was not measured is said.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fedmed.evaluation import report_parts as part

Json = dict[str, Any]


def four_lines(summary: Json, evaluation: Json, audit: Json, gate: Json) -> str:
    """The four answers.

    Args:
        summary: ``summary.json``.
        evaluation: ``evaluation.json``, or empty.
        audit: ``privacy_audit.json``, or empty.
        gate: as ``pipeline/run_report.py`` gives it, or empty.
    """
    asked = (
        ("Did it help each hospital?", _helped(summary, evaluation)),
        ("What did it cost in privacy?", _cost(part.table_of(summary, "privacy"), audit)),
        ("What would you sign?", _sign(gate)),
        ("What is not covered?", _not_covered(summary, evaluation)),
    )
    return '<dl class="four">' + "".join(f"<div><dt>{name}</dt><dd>{told}</dd></div>" for name, told in asked) + "</dl>"


def _helped(summary: Json, evaluation: Json) -> str:
    losses = part.table_of(summary, "loss", "per_hospital")
    changes = {
        str(name): after / before - 1
        for name, one in losses.items()
        if (before := part.number(one, "base")) and (after := part.number(one, "federated")) is not None
    }
    base, federated = part.number(summary, "loss", "base"), part.number(summary, "loss", "federated")
    if base is None or federated is None:
        return "Not measured yet."
    if not changes:
        told = f"Over all hospitals held-out loss changed by {part.fall(base, federated)}; single ones share no losses."
    else:
        worst = max(changes, key=lambda name: changes[name])
        fell = sum(change < 0 for change in changes.values())
        where = f"all {fell} hospitals" if fell == len(changes) else f"{fell} of {len(changes)} hospitals"
        told = f"Held-out loss fell at {where}; least at {part.esc(worst)}: {part.fall(1.0, 1.0 + changes[worst])}."
        harmed = part.list_of(evaluation, "held_out", "fairness", "harmed")
        if harmed:
            told += f" <strong>Harmed: {_listed(harmed)}.</strong>"
    return told + _format(summary) + _joining(summary, evaluation)


def _format(summary: Json) -> str:
    given = part.number(summary, "gain", "few_shot_share")
    if given is None or given <= 0:
        return ""
    return f" Worked examples in the prompt alone give {part.share(min(given, 1.0))} of the fall."


def _joining(summary: Json, evaluation: Json) -> str:
    found = part.table_of(evaluation, "joining", "hospitals")
    said = [str(part.look(one, "verdict", "shared")) for one in found.values()]
    if said:
        helps, harms = said.count("helps"), said.count("harms")
        told = f" Against training alone, sharing helps {helps} of {len(said)}"
        return told + (f" and <strong>harms {harms}</strong>." if harms else ".")
    alone, federated = part.number(summary, "comparison", "local", "loss"), part.number(summary, "loss", "federated")
    if alone and federated is not None:
        return f" Against each hospital alone: {part.fall(alone, federated)}."
    return " Whether joining beats training alone was not measured."


def _cost(privacy: Json, audit: Json) -> str:
    example, hospital = part.number(privacy, "example_epsilon"), part.number(privacy, "hospital_epsilon")
    told = []
    if example is not None:
        unit = part.esc(privacy.get("unit") or "record")
        told.append(f"ε {example:.3g} for one {unit}{_left(privacy, example)}.")
    if hospital is not None:
        told.append(f"ε {hospital:.3g} for one hospital.")
    if not told:
        told = [
            "<strong>Nothing is guaranteed:</strong> no noise was added, and the adapter may tell of single records."
        ]
    found = part.table_of(audit, "audit")
    if not found:
        return f"{told[0]} {' '.join(told[1:])} It was not attacked yet.".replace("  ", " ")
    aucs = [part.number(found, key, "auc") for key in ("by_loss", "by_ratio")]
    auc = max((value for value in aucs if value is not None), default=None)
    beyond = len(part.list_of(audit, "beyond"))
    limits = f"<strong>beyond {beyond} of the limits</strong>" if beyond else "within the limits"
    guessed = "" if auc is None else f" who was in it is guessed with AUC {auc:.2f} (0.5: not at all),"
    return f"{' '.join(told)} Attacked:{guessed} {limits}."


def _left(privacy: Json, spent: float) -> str:
    budget, delta = part.number(privacy, "example_budget"), part.number(privacy, "delta")
    at = "" if delta is None else f" at δ {delta:.0e}"
    return at + ("" if budget is None else f", {max(0.0, budget - spent):.2f} left of {budget:g}")


def _sign(gate: Json) -> str:
    checks = [one for one in part.list_of(gate, "checks") if isinstance(one, dict)]
    if not checks:
        return "Not looked at: <code>fedmed release RUN</code> tells what is missing."
    missing = [str(one.get("name")) for one in checks if one.get("kept") is not True]
    people = [name for name in missing if name.startswith("sign-off")]
    measured = [name for name in missing if name not in people]
    if measured:
        return f"Nothing yet. Not kept or not measured: {_listed(measured)}."
    adapter, evidence = (f"<code>{part.esc(str(gate.get(key))[:12])}…</code>" for key in ("adapter", "evidence_sha256"))
    about = f"the adapter {adapter} and what was measured of it, {evidence}, all within the limits"
    if people:
        return f"{about[0].upper()}{about[1:]}. Still to sign: {_listed([one.rpartition(' ')[2] for one in people])}."
    return f"{about[0].upper()}{about[1:]}; everybody who must has signed."


def _not_covered(summary: Json, evaluation: Json) -> str:
    rated = part.number(evaluation, "ratings", "questions")
    right = "which no figure here measures" if rated is None else f"beyond the {rated:.0f} questions that people rated"
    listed = [str(item) for item in part.list_of(summary, "privacy", "not_covered")]
    also = f'; and {len(listed)} things that <a href="#privacy">no privacy guarantee covers</a>' if listed else ""
    return f"Use with patients; whether an answer is right, {right}{also}."


def _listed(names: Sequence[Any]) -> str:
    return ", ".join(part.esc(name) for name in names)


def release(gate: Json) -> str:
    """What ``fedmed release`` asks for, and what this run shows; "" where nobody looked."""
    checks = [one for one in part.list_of(gate, "checks") if isinstance(one, dict)]
    if not checks:
        return ""
    rows = "".join(
        f'<li class="{"kept" if one.get("kept") is True else "open"}"><strong>{part.esc(one.get("name"))}</strong> '
        f"{part.esc(one.get('told'))}</li>"
        for one in checks
    )
    changed = part.list_of(gate, "overridden")
    other = f"<p>Other limits than the run was started with: {_listed(changed)}.</p>" if changed else ""
    released = gate.get("released")
    out = f"<p>Released {part.esc(released)}, in <code>release/</code>.</p>" if released else ""
    return (
        '<p class="note">What <code>fedmed release</code> asks for before it hands out the adapter. People sign for '
        "adapter, settings, measurements and limits together; a change of any makes signatures void.</p>"
        f'<ul class="checks">{rows}</ul>{other}{out}'
        '<p class="note">SHA-256 of what is signed</p>'
        f'<pre class="command">{part.esc(gate.get("evidence_sha256"))}</pre>'
    )

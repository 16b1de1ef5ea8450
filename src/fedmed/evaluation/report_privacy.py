"""The report on privacy: what was stated and spent, and what attacks found. report_parts -> HERE -> report."""

from __future__ import annotations

from typing import Any

from fedmed.evaluation import report_parts as part

Json = dict[str, Any]


def privacy(summary: Json) -> str:
    """Epsilons where there are any, and what they do not cover."""
    values = part.table_of(summary, "privacy")
    noised = any(part.number(values, f"{level}_epsilon") is not None for level in ("example", "hospital"))
    with_it = "and neither counts nor losses" if noised else "with the counts and losses it agreed to share"
    update = "one masked update" if values.get("secure_sum") else "one adapter update"
    stays = (
        "<p>Simulated in one process: all records were on this machine. "
        f"Between hospitals, {update} a round would leave each, {with_it}.</p>"
        if part.simulated(summary)
        else f"<p>Over a network: {update} a round left each hospital, {with_it}.</p>"
    )
    if not values:
        return stays + part.MISSING
    example, hospital = part.number(values, "example_epsilon"), part.number(values, "hospital_epsilon")
    if example is None and hospital is None:
        body = (
            "<p><strong>No differential privacy in this run:</strong> no ε is claimed for records or for hospitals.</p>"
        )
    else:
        delta = part.number(values, "delta")
        body = part.facts(
            [
                ("ε for one record", "none" if example is None else f"{example:.3g}"),
                ("ε for one hospital", "none" if hospital is None else f"{hospital:.3g}"),
                ("δ", "none" if delta is None else f"{delta:.0e}"),
            ]
        )
        body += _of_hospitals(part.table_of(values, "hospitals"), part.number(values, "example_budget"))
    left_out = part.list_of(values, "not_covered")
    if left_out:
        items = "".join(f"<li>{part.esc(item)}</li>" for item in left_out)
        body += f'<p>Not covered by any guarantee:</p><ul class="plain">{items}</ul>'
    return stays + body


def _of_hospitals(hospitals: Json, budget: float | None) -> str:
    """Spent and left at each hospital; ledgers of several runs count all of them."""
    columns: list[tuple[str, list[float | None]]] = [
        ("ε of a record", [part.number(one, "epsilon") for one in hospitals.values()]),
        ("ε of the hospital", [part.number(one, "hospital_epsilon") for one in hospitals.values()]),
    ]
    if budget is not None:
        left = [None if spent is None else max(0.0, budget - spent) for spent in columns[0][1]]
        columns.append((f"Left, of {budget:g}", left))
    columns = [column for column in columns if any(value is not None for value in column[1])]
    if not columns:
        return ""
    rows = [
        [part.esc(name), *("" if values[at] is None else f"{values[at]:.2f}" for _, values in columns)]
        for at, name in enumerate(hospitals)
    ]
    return part.table("Spent and left at each hospital", ["Hospital", *(title for title, _ in columns)], rows)


def attacked(audit: Json) -> str:
    """What attacks on the finished run found; "" where there was no audit."""
    found = part.table_of(audit, "audit")
    if not found:
        return ""
    rows = [
        [
            name,
            f"{part.number(attack, 'auc') or 0.0:.3f}",
            *(part.share(part.number(attack, at, "share")) for at in ("at_1_percent", "at_01_percent")),
        ]
        for name, attack in (("by loss", found.get("by_loss")), ("against the base model", found.get("by_ratio")))
    ]
    body = "<p>Guessing which records were trained on; by chance the AUC is 0.5, found as often as falsely.</p>"
    body += part.table(
        "Membership inference", ["membership", "AUC", "found at 1\u202f% false alarms", "at 0.1\u202f%"], rows
    )
    pairs = []
    if (above := part.number(found, "exposure", "mean")) is not None:
        chance = part.number(found, "exposure", "chance")
        pairs.append(("exposure of canaries", f"{above:.2f} bits, {chance:.2f} by chance"))
    if (bound := part.number(found, "epsilon", "epsilon")) is not None:
        claimed = part.number(found, "claimed_epsilon")
        pairs.append(("lower bound on ε", f"{bound:.2f}, " + (f"claimed {claimed:.2f}" if claimed else "none claimed")))
    for key, name in (("without_noise", "without noise"), ("with_the_runs_noise", "with the run's noise")):
        if (shown := part.number(audit, "inversion", key, "share")) is not None:
            pairs.append((f"words of one record found in its step, {name}", part.share(shown)))
    body += part.facts(pairs) if pairs else ""
    beyond = part.list_of(audit, "beyond")
    items = "".join(f"<li>{part.esc(item)}</li>" for item in beyond)
    verdict = f'<p>Beyond the limits:</p><ul class="plain">{items}</ul>' if beyond else "<p>Within all limits.</p>"
    return body + verdict

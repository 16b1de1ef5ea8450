"""The report's section on HIPAA and the GDPR: each control with its code, its test, and what this run shows. -> report.

Not covered: what the text of ``controls.py`` does not cover; no row says that a run complies.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedmed.evaluation import report_parts as part
from fedmed.evaluation.controls import CONTROLS, Control, Evidence

Json = dict[str, Any]

_LAWS = {
    "HIPAA": "HIPAA, Privacy and Security Rule (45 CFR part 164)",
    "GDPR": "General Data Protection Regulation (EU) 2016/679",
}
_HEAD = ("Asked", "What answers", "Evidence of this run", "Your own duty")


def compliance(summary: Json, config: Json, audit: Json, digests: Mapping[str, str], log: str) -> str:
    """One table a law.

    Args:
        summary: ``summary.json``.
        config: the settings, as plain values.
        audit: ``privacy_audit.json``, or empty.
        digests: file of the run's folder -> SHA-256.
        log: what verifying the audit log said, or empty.
    """
    shown = _evidence(summary, config, audit, digests, log)
    body = (
        "<p><strong>This is no certificate and claims none.</strong> The table says which control of the program "
        "speaks to which rule, where its code and a test of it are, and what this run shows. Whether you comply also "
        "depends on what stands in the last column, and on the law where you are.</p>"
    )
    for law, title in _LAWS.items():
        rows = "".join(_row(control, shown[control.evidence]) for control in CONTROLS if control.law == law)
        top = "".join(f'<th scope="col">{name}</th>' for name in _HEAD)
        body += f'<h3>{title}</h3><table class="controls"><thead><tr>{top}</tr></thead><tbody>{rows}</tbody></table>'
    return body


def _row(control: Control, evidence: str) -> str:
    places = [f"src/fedmed/{one}" for one in control.code] + list(control.tests)
    listed = "".join(f"<li><code>{part.esc(one)}</code></li>" for one in places)
    cells = (
        f"{part.esc(control.does)}<details><summary>Code and tests</summary><ul>{listed}</ul></details>",
        evidence,
        part.esc(control.remains),
    )
    marked = "".join(f'<td data-label="{name}">{cell}</td>' for name, cell in zip(_HEAD[1:], cells, strict=True))
    return f'<tr><th scope="row">{part.esc(control.where)}<small>{part.esc(control.asks)}</small></th>{marked}</tr>'


def _evidence(summary: Json, config: Json, audit: Json, digests: Mapping[str, str], log: str) -> dict[Evidence, str]:
    """What a run shows for each kind of control, as markup."""

    def file(name: str) -> str:
        return f"<small>{part.esc(name)} {short(digests[name])}</small>" if name in digests else ""

    shared = part.look(config, "privacy", "share_metrics")
    up = part.number(summary, "bytes", "up")
    sent = "not measured" if up is None else f"{part.size(up)} sent by all hospitals"
    metrics = {True: "; losses and counts shared", False: "; losses and counts kept"}.get(shared, "")
    head = part.look(summary, "audit_log", "head")
    gone = part.table_of(summary, "forgotten_records")
    return {
        "gate": part.esc(_gate(part.table_of(summary, "data_gate"))) + file("data_manifest.json"),
        "consent": part.esc(_consent(part.table_of(summary, "data_gate"))) + file("data_manifest.json"),
        "manifest": "What the records are, by digest" + file("data_manifest.json") + file("config.yaml"),
        "payloads": sent + part.esc(metrics) + file("rounds.jsonl"),
        "simulation": "Nothing: hospitals were simulated in one process, where this control has nothing to do"
        if part.simulated(summary)
        else "In the folders of coordinator and hospitals, not in the run's",
        "masks": ("Updates were" if part.look(summary, "privacy", "secure_sum") else "Nothing: updates were not")
        + " summed under masks"
        + file("config.yaml"),
        "log": (part.esc(log) or "Not verified") + (f"<small>head {short(str(head))}</small>" if head else ""),
        "digests": "Digests of the run's files, in its log" + file("adapter/adapter_model.safetensors"),
        "noise": part.esc(_noise(part.table_of(summary, "privacy"))) + file("config.yaml"),
        "attacks": (_attacks(audit) + file("privacy_audit.json")) if audit else "Nothing: not attacked yet",
        "forgotten": f"{part.count(part.number(gone, 'train'))} records it was trained on were forgotten since"
        if gone
        else "Nobody was forgotten since",
        "answers": part.esc(_answers(part.list_of(summary, "samples"))),
        "settings": "The limits it was started with" + file("config.yaml"),
    }  # fmt: skip


def short(digest: str) -> str:
    """A digest's beginning; the whole of it stands where the run is repeated from."""
    return f'<code title="{part.esc(digest)}">{part.esc(digest[:12])}…</code>'


def _gate(gate: Json) -> str:
    status = gate.get("status")
    if status == "public":
        return "Public records, used as they are"
    if status == "unscanned":
        return "Nothing: nobody scanned the records"
    if status == "scanned":
        found, whole = part.number(gate, "documents_with_findings"), part.number(gate, "documents")
        aside = part.number(gate, "quarantined")
        return f"Identifiers in {found or 0:,.0f} of {whole or 0:,.0f} documents, replaced; {aside or 0:,.0f} set aside"
    return "Not known"


def _consent(gate: Json) -> str:
    if gate.get("status") != "scanned":
        return _gate(gate)
    refused = part.number(gate, "refused", "no_consent")
    return f"{refused or 0:,.0f} records without consent were refused"


def _noise(privacy: Json) -> str:
    told = [
        f"ε {value:.3g} for one {what}"
        for what, value in (
            (privacy.get("unit") or "record", part.number(privacy, "example_epsilon")),
            ("hospital", part.number(privacy, "hospital_epsilon")),
        )
        if value is not None
    ]
    return "; ".join(told) or "Nothing: no noise was added"


def _attacks(audit: Json) -> str:
    beyond = part.list_of(audit, "beyond")
    return f"Beyond {len(beyond)} of its limits" if beyond else "Within its limits"


def _answers(samples: list[Any]) -> str:
    if not samples:
        return "No answer was shown by the run"
    withheld = sum(isinstance(one, dict) and one.get("allowed") is not True for one in samples)
    return f"{len(samples)} sample answers went through the rails, {withheld} withheld"

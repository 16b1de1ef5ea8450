"""The model card that travels with an adapter: what it is, what it cost, what it is not. a run's files -> HERE -> hub.

Hugging Face's format: YAML that the hub reads, then text for people. A path of this machine is in neither.

Not covered: what the hub asks for beyond that, such as a licence of the records; whoever uploads the card adds it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

_CARD = """---
{metadata}---

# LoRA adapter of run {run_id}

**For research and education only; not for clinical use.** What it says needs a health professional's review.

| | |
|---|---|
| base model | `{model}` (its own licence and terms apply) |
| data | {dataset}, {records} at {hospitals} hospitals, simulated in one process |
| data gate | {gate} |
| method | {algorithm}, {rounds} rounds, seed {seed} |
| held-out loss | {base:.3f} base, {federated:.3f} with this adapter (nats per answer token) |
| privacy | {privacy} |
| attacked | {attacked} |
| SHA-256 of the adapter | {digest} |
{released}
## Uses

To study federated training of medical question answering. Out of scope: patients, diagnosis, treatment, triage, advice
to anybody; answers shown without guardrails and without a professional's review.

## How good it is

{measured}

## Limits

- A lower held-out loss does not show that answers are right: part of it is the form of an answer.
- It repeats what its records and its base model hold, their gaps and biases among it.
- Not covered by any guarantee: {not_covered}.

## Load it

With PEFT, on the base model that FED-MED loads:

```python
from fedmed.model.load_model import load_model_and_tokenizer
from peft import PeftModel

base, tokenizer = load_model_and_tokenizer("{model}")
model = PeftModel.from_pretrained(base, "{folder}")
```
"""
_BUILTIN = {"builtin:gemma-3-270m": ("google/gemma-3-270m", "gemma")}  # the hub's name of it, and of its licence
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_EXAMS = {"pubmedqa": "PubMedQA", "medmcqa": "MedMCQA", "medqa": "MedQA", "mmlu": "MMLU, medical subjects"}


def model_card(
    summary: Mapping[str, Any],
    *,
    evaluation: Mapping[str, Any] | None = None,
    audit: Mapping[str, Any] | None = None,
    released: Mapping[str, Any] | None = None,
) -> str:
    """The card of a finished run.

    Args:
        summary: its ``summary.json``.
        evaluation: its ``evaluation.json``; None: there is none.
        audit: its ``privacy_audit.json``; None: it was not attacked.
        released: ``at`` and ``checks`` of a release; None: it is not released.
    """
    digest = summary["adapter_sha256"]
    exams = ((evaluation or {}).get("exams") or {}).get("tasks") or {}
    metadata = card_metadata(summary, exams)
    return _CARD.format(
        metadata=yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True),
        model=_public(summary["model"], "a local file"),
        run_id=summary["run_id"],
        dataset=f"`{shown}`" if (shown := _public(summary["dataset"], "")) else "the hospitals' own files",
        records=_records(summary["hospitals"]),
        gate=_gate(summary["data_gate"]),
        privacy=_privacy(summary["privacy"]),
        attacked=_attacked(audit),
        hospitals=len(summary["hospitals"]),
        algorithm=summary["algorithm"],
        rounds=summary["rounds"],
        seed=summary["seed"],
        base=summary["loss"]["base"],
        federated=summary["loss"]["federated"],
        released=_release(released) if released else "",
        measured=_measured(summary, exams),
        digest=f"`{digest}`" if digest else "none: every hospital has an adapter of its own",
        not_covered="; ".join(summary["privacy"]["not_covered"]),
        folder="release" if released else "adapter",
    )


def card_metadata(summary: Mapping[str, Any], exams: Mapping[str, Any]) -> dict[str, Any]:
    """What the hub reads of a card: names it knows and results, as plain values."""
    model, dataset = summary["model"], summary["dataset"]
    hub, licence = _BUILTIN.get(model, (model if _on_hub(model) else None, None))
    metadata: dict[str, Any] = {"language": "en"}
    if licence:
        metadata["license"] = licence
    metadata["library_name"] = "peft"
    if hub:
        metadata["base_model"] = hub
    if _on_hub(dataset):
        metadata["datasets"] = [dataset]
    metadata["pipeline_tag"] = "text-generation"
    metadata["tags"] = ["lora", "federated-learning", "medical"]
    results = [
        _result("text-generation", "held out of the run's records", _public(dataset, "own files"), "loss",
                "Held-out loss, nats per answer token", summary["loss"]["federated"]),
    ]  # fmt: skip
    results += [
        _result(
            "multiple-choice", _EXAMS.get(name, name), one["harness"], "accuracy", "Accuracy",
            one["acc"]["federated"]["value"],
        )
        for name, one in exams.items()
    ]  # fmt: skip
    metadata["model-index"] = [{"name": f"run {summary['run_id']}", "results": results}]
    return metadata


def _result(task: str, dataset: str, kind: str, metric: str, name: str, value: float) -> dict[str, Any]:
    return {
        "task": {"type": task},
        "dataset": {"name": dataset, "type": kind},
        "metrics": [{"type": metric, "name": name, "value": round(float(value), 4)}],
    }


def _on_hub(name: str) -> bool:
    return bool(_HUB_ID.fullmatch(name)) and not Path(name).exists()


def _public(name: str, otherwise: str) -> str:
    """A name that says nothing of this machine: ``hpo``, ``builtin:…`` or an id of the hub."""
    return name if name == "hpo" or name.startswith("builtin:") or _on_hub(name) else otherwise


def _measured(summary: Mapping[str, Any], exams: Mapping[str, Any]) -> str:
    rows = [("held-out loss", f"{summary['loss']['base']:.3f}", f"{summary['loss']['federated']:.3f}")]
    if few_shot := summary["evaluation"]["few_shot"]:
        rows.append((f"the same, base with {few_shot['examples']} worked examples", f"{few_shot['loss']:.3f}", ""))
    choice = summary["evaluation"]["multiple_choice"]
    if choice["base"] and choice["federated"]:
        what = f"multiple choice among four, {choice['federated']['total']} questions"
        rows.append((what, f"{choice['base']['accuracy']:.1%}", f"{choice['federated']['accuracy']:.1%}"))
    for name, one in exams.items():
        what = f"{_EXAMS.get(name, name)}, {one['items']} questions"
        rows.append((what, _with_interval(one["acc"]["base"]), _with_interval(one["acc"]["federated"])))
    gain = summary["gain"]
    fall = f"The held-out loss fell by {gain['relative']:.1%} (95 % interval {gain['low']:.1%} to {gain['high']:.1%})."
    lines = [f"| {what} | {base} | {federated} |" for what, base, federated in rows]
    return "\n".join(["| | base | with this adapter |", "|---|---|---|", *lines, "", fall])


def _with_interval(one: Mapping[str, float]) -> str:
    return f"{one['value']:.1%} ({one['low']:.1%} to {one['high']:.1%})"


def _records(hospitals: Sequence[Mapping[str, Any]]) -> str:
    counts = [hospital["num_samples"] for hospital in hospitals]
    return "training records, their number not told," if None in counts else f"{sum(counts)} training records"


def _gate(gate: Mapping[str, Any]) -> str:
    if gate["status"] == "public":
        return "public records, used as they are"
    if gate["status"] == "unscanned":
        return "**none: the records were not scanned for what identifies people**"
    return (
        f"scanned: identifiers in {gate['documents_with_findings']} of {gate['documents']} documents, replaced; "
        f"{gate['quarantined']} documents set aside; rules miss some"
    )


def _privacy(privacy: Mapping[str, Any]) -> str:
    bought = []
    if privacy["example_epsilon"] is not None:
        bought.append(f"ε {privacy['example_epsilon']:.3g} at δ {privacy['delta']:g} for one {privacy['unit']}")
    if privacy["hospital_epsilon"] is not None:
        bought.append(f"ε {privacy['hospital_epsilon']:.3g} for one hospital, against whoever sees sums alone")
    return (
        "differential privacy: " + "; ".join(bought)
        if bought
        else "no differential privacy: an attacker with the adapter may learn about single training records"
    )


def _attacked(audit: Mapping[str, Any] | None) -> str:
    if audit is None:
        return "not when this card was written"
    auc = max(audit["audit"][key]["auc"] for key in ("by_loss", "by_ratio"))
    beyond = "within its limits" if not audit["beyond"] else f"beyond its limits: {'; '.join(audit['beyond'])}"
    return _cell(f"membership guessed with AUC {auc:.2f} (0.5: not at all); {beyond}")


def _release(released: Mapping[str, Any]) -> str:
    rows = [f"| {_cell(check['name'])} | {_cell(check['told'])} |" for check in released["checks"]]
    return "\n".join(
        [f"\nReleased {released['at']}; `fedmed release verify` checks this folder.\n", "| | |", "|---|---|", *rows, ""]
    )


def _cell(text: str) -> str:
    return " ".join(str(text).split()).replace("|", "\\|")

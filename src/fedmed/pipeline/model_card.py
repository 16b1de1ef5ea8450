"""The model card that travels with an adapter: what it is, what it cost, what it is not. Hugging Face's card format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_CARD = """---
library_name: peft
base_model: {model}
tags:
- lora
- federated
- medical
---

# LoRA adapter of run {run_id}

**For research and education only; not for clinical use.** What it says needs a health professional's review.

| | |
|---|---|
| base model | `{model}` (its own licence and terms apply) |
| data | `{dataset}`, {records} at {hospitals} hospitals, simulated in one process |
| data gate | {gate} |
| method | {algorithm}, {rounds} rounds, seed {seed} |
| held-out loss | {base:.3f} base, {federated:.3f} with this adapter (nats per answer token) |
| privacy | {privacy} |
| SHA-256 of the adapter | {digest} |
{released}
Load it with PEFT, on the base model that FED-MED loads:

```python
from fedmed.model.load_model import load_model_and_tokenizer
from peft import PeftModel

base, tokenizer = load_model_and_tokenizer("{model}")
model = PeftModel.from_pretrained(base, "adapter")
```

Not covered by any guarantee: {not_covered}.
"""


def model_card(summary: Mapping[str, Any], *, released: Mapping[str, Any] | None = None) -> str:
    """The card of a finished run.

    Args:
        summary: its ``summary.json``.
        released: ``at`` and ``checks`` of a release; None: it is not released.
    """
    digest = summary["adapter_sha256"]
    return _CARD.format(
        model=summary["model"],
        run_id=summary["run_id"],
        dataset=summary["dataset"],
        records=_records(summary["hospitals"]),
        gate=_gate(summary["data_gate"]),
        privacy=_privacy(summary["privacy"]),
        hospitals=len(summary["hospitals"]),
        algorithm=summary["algorithm"],
        rounds=summary["rounds"],
        seed=summary["seed"],
        base=summary["loss"]["base"],
        federated=summary["loss"]["federated"],
        released=_release(released) if released else "",
        digest=f"`{digest}`" if digest else "none: every hospital has an adapter of its own",
        not_covered="; ".join(summary["privacy"]["not_covered"]),
    )


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


def _release(released: Mapping[str, Any]) -> str:
    rows = [f"| {_cell(check['name'])} | {_cell(check['told'])} |" for check in released["checks"]]
    return "\n".join(
        [f"\nReleased {released['at']}; `fedmed release verify` checks this folder.\n", "| | |", "|---|---|", *rows, ""]
    )


def _cell(text: str) -> str:
    return " ".join(str(text).split()).replace("|", "\\|")

"""The model card that travels with an adapter: what it is, what it cost, what it is not. Hugging Face's card format."""

from __future__ import annotations

from collections.abc import Mapping
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
| data | `{dataset}`, {records} training records available to {hospitals} hospitals, simulated in one process |
| method | {algorithm}, {rounds} rounds, seed {seed} |
| held-out loss | {base:.3f} base, {federated:.3f} with this adapter (nats per answer token) |
| privacy | no differential privacy: an attacker with the adapter may learn about single training records |
| SHA-256 of the adapter | {digest} |

Load it with PEFT, on the base model that FED-MED loads:

```python
from fedmed.model.load_model import load_model_and_tokenizer
from peft import PeftModel

base, tokenizer = load_model_and_tokenizer("{model}")
model = PeftModel.from_pretrained(base, "adapter")
```

Not covered by any guarantee: {not_covered}.
"""


def model_card(summary: Mapping[str, Any]) -> str:
    """The card of a finished run, from its ``summary.json``."""
    digest = summary["adapter_sha256"]
    return _CARD.format(
        model=summary["model"],
        run_id=summary["run_id"],
        dataset=summary["dataset"],
        records=sum(hospital["num_samples"] for hospital in summary["hospitals"]),
        hospitals=len(summary["hospitals"]),
        algorithm=summary["algorithm"],
        rounds=summary["rounds"],
        seed=summary["seed"],
        base=summary["loss"]["base"],
        federated=summary["loss"]["federated"],
        digest=f"`{digest}`" if digest else "none: every hospital has an adapter of its own",
        not_covered="; ".join(summary["privacy"]["not_covered"]),
    )

"""``fedmed guard``: the guardrails over a file, without any model."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command(name="guard", epilog="Example: fedmed guard --input questions.jsonl --out judged.jsonl")(guard)


def guard(
    source: Annotated[
        Path, typer.Option("--input", metavar="FILE", help='JSONL of {"id", "question", "response"?, "confidence"?}.')
    ],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="JSONL to write, whole or not at all.")],
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override one setting (repeatable).")
    ] = None,
) -> None:
    """Judge questions, and answers where there are any, by the guardrails alone: nothing is generated.

    Each line becomes {"id", "allowed", "action", "reasons": [{"rule", "severity", "why"}], "text"}. Research and
    educational use only, not medical advice.
    """
    from fedmed.config.load import load_config
    from fedmed.safety.batch import judged, read_items
    from fedmed.safety.guardrails import MedicalGuardrails
    from fedmed.utils.console import out as console
    from fedmed.utils.console import track
    from fedmed.utils.files import check_writable, write_atomic

    guardrails = MedicalGuardrails(load_config(None, (), overrides or ()).safety)
    items = read_items(source)
    check_writable(out.parent)
    with track("judging", len(items)) as step:
        lines, actions = [], Counter[str]()
        for action, line in judged(items, guardrails):
            lines.append(line)
            actions[action] += 1
            step()
    write_atomic(out, "".join(lines))
    console.print(f"{len(lines)} lines: " + ", ".join(f"{count} {action}" for action, count in sorted(actions.items())))
    console.print(str(out), highlight=False)

"""``fedmed decisions``: what the coordinator agent of a run decided, made again from what it was told."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command(name="decisions", epilog="Example: fedmed decisions latest")(decisions)


def decisions(
    run: Annotated[str, typer.Argument(help="Run whose decisions to show, by name or path.")] = "latest",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show each decision of a run's coordinator agent with its reason, and make them all again from the evidence.

    Exit code 68: they do not come out as they are logged.
    """
    from fedmed.agent.decision_log import read_decisions, replay
    from fedmed.errors import DecisionLogError
    from fedmed.utils.runs import find_run

    folder = find_run(run)
    lines, again = read_decisions(folder), replay(folder)
    if as_json:
        typer.echo(json.dumps({"decisions": lines, "replay": asdict(again)}, ensure_ascii=False))
    else:
        for line in lines:
            typer.echo(f"round {line['round']}  {line['decision']:<10}  {line['reason']}")
    if again.differing:
        raise DecisionLogError(
            f"{len(again.differing)} decisions do not follow from the evidence ({again.differing[0]})",
            "put back both files as the run left them",
        )
    if not as_json:
        typer.echo(f"all {again.decisions} decisions follow from the evidence")

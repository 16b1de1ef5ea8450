"""``fedmed report``: write a run's page again."""

from __future__ import annotations

import json
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command(name="report", epilog="Example: fedmed report latest")(report)


def report(
    run: Annotated[str, typer.Argument(help="Run to describe, by name or path.")] = "latest",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Write report.html of a run again from the files in its folder, and print where it lies. It opens offline."""
    from fedmed.pipeline.run_report import report_run
    from fedmed.utils.runs import find_run

    path = report_run(find_run(run))
    typer.echo(json.dumps({"report": str(path)}) if as_json else str(path))

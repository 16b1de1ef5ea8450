"""``fedmed evaluate``: how good a finished run's model is beside its base model, with intervals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command(name="evaluate", epilog="Example: fedmed evaluate latest --tasks medqa,mmlu --data exams/ --limit 200")(
        evaluate
    )


def evaluate(
    run: Annotated[str, typer.Argument(help="Run to evaluate, by name or path.")] = "latest",
    tasks: Annotated[str, typer.Option(help="Exams to ask: pubmedqa, medmcqa, medqa, mmlu.")] = "",
    data: Annotated[Path | None, typer.Option(help="File or folder with the exams' questions.")] = None,
    hub: Annotated[bool, typer.Option("--hub", help="Fetch the exams from the hub; uses the network.")] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="Questions of each exam, drawn by the run's seed.")] = None,
    hospital: Annotated[
        str | None, typer.Option("--hospital", help="Whose adapter, where the run gave every hospital its own.")
    ] = None,
    items: Annotated[
        Path | None, typer.Option("--items", help="Write one JSON line a question: ids and log-likelihoods.")
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override one setting (repeatable).")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print evaluation.json instead of tables.")] = False,
) -> None:
    """Score a run's model and its base model on the same questions; write evaluation.json and the report.

    Multiple choice by log-likelihood, with the prompts of lm-evaluation-harness, without examples.
    """
    from fedmed.evaluation.exams.tasks import TASKS

    names = list(dict.fromkeys(name.strip() for name in tasks.split(",") if name.strip()))
    if not names:
        raise typer.BadParameter(f"name at least one of {', '.join(TASKS)}", param_hint="--tasks")
    if unknown := [name for name in names if name not in TASKS]:
        raise typer.BadParameter(f"{', '.join(unknown)} is not one of {', '.join(TASKS)}", param_hint="--tasks")
    if (data is None) is not hub:
        raise typer.BadParameter("give the exams' files with --data DIR, or --hub, not both", param_hint="--data")
    from fedmed.pipeline.evaluate_exams import evaluate_exams
    from fedmed.utils.runs import find_run

    found = evaluate_exams(
        find_run(run), names, data=data, limit=limit, hospital=hospital, overrides=overrides or (), items_file=items
    )
    if as_json:
        typer.echo(json.dumps(found, indent=1, ensure_ascii=False))
    else:
        _print_exams(found["exams"])


def _print_exams(found: dict[str, Any]) -> None:
    from rich.table import Table

    from fedmed.utils.console import out as console

    table = Table(title="Right answers in % by log-likelihood, with 95 % intervals", title_justify="left")
    for column in ("", "n", "base", "federated", "difference"):
        table.add_column(column, justify="left" if not column else "right")
    for name, one in found["tasks"].items():
        table.add_row(name, str(one["items"]), *_cells(one["acc"]))
    if len(found["tasks"]) > 1:
        table.add_row("mean", "", *_cells(found["mean"]["acc"]))
    console.print(table)
    for name, one in found["tasks"].items():
        always = f"{one['most_frequent']:.1%} by always giving the most frequent answer"
        console.print(f"{name}: {one['chance']:.1%} by chance, {always}", highlight=False)
    console.print("Research and education only: no exam shows that a model is safe with patients.", highlight=False)


def _cells(measure: dict[str, dict[str, float]]) -> list[str]:
    def shown(one: dict[str, float], digits: str) -> str:
        value, low, high = (100 * one[key] for key in ("value", "low", "high"))
        return f"{value:{digits}.1f} ({low:{digits}.0f} to {high:{digits}.0f})"

    return [shown(measure["base"], ""), shown(measure["federated"], ""), shown(measure["delta"], "+")]

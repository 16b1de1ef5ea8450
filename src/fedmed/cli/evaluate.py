"""``fedmed evaluate``: how good a finished run's model is beside its base model, with intervals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from fedmed.utils.console import out as console


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command(name="evaluate", epilog="Example: fedmed evaluate latest --tasks medqa,mmlu --data exams/ --limit 200")(
        evaluate
    )


def evaluate(
    run: Annotated[str, typer.Argument(help="Run to evaluate, by name or path.")] = "latest",
    held_out: Annotated[
        bool, typer.Option("--held-out", help="Loss and written answers by hospital. Default, if nothing is named.")
    ] = False,
    joining: Annotated[
        bool, typer.Option("--joining", help="Train what each hospital would have alone, and compare.")
    ] = False,
    tasks: Annotated[str, typer.Option(help="Exams to ask: pubmedqa, medmcqa, medqa, mmlu.")] = "",
    data: Annotated[Path | None, typer.Option(help="File or folder with the exams' questions.")] = None,
    hub: Annotated[bool, typer.Option("--hub", help="Fetch the exams from the hub; uses the network.")] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="Questions of each exam, drawn by the run's seed.")] = None,
    hospital: Annotated[
        str | None, typer.Option("--hospital", help="Whose adapter takes the exams, where each has its own.")
    ] = None,
    items: Annotated[
        Path | None, typer.Option("--items", help="Write one JSON line a question: ids and log-likelihoods.")
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override one setting (repeatable).")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print evaluation.json instead of tables.")] = False,
) -> None:
    """Measure a run's model beside its base model, with intervals; write evaluation.json and the report.

    Held-out records: loss and overlap of written answers, by hospital and specialty; fairness. Joining: for each
    hospital its own training against the shared model. Exams: multiple choice by log-likelihood, with the prompts of
    lm-evaluation-harness.
    """
    from fedmed.evaluation.exams.tasks import TASKS

    names = list(dict.fromkeys(name.strip() for name in tasks.split(",") if name.strip()))
    if unknown := [name for name in names if name not in TASKS]:
        raise typer.BadParameter(f"{', '.join(unknown)} is not one of {', '.join(TASKS)}", param_hint="--tasks")
    if names and (data is None) is not hub:
        raise typer.BadParameter("give the exams' files with --data DIR, or --hub, not both", param_hint="--data")
    if not names and (hub or any(one is not None for one in (data, limit, hospital, items))):
        raise typer.BadParameter("name the exams", param_hint="--tasks")
    from fedmed.pipeline.evaluate_exams import evaluate_exams
    from fedmed.pipeline.evaluate_held_out import evaluate_held_out
    from fedmed.pipeline.evaluate_joining import evaluate_joining
    from fedmed.utils.runs import find_run

    folder, settings = find_run(run), overrides or ()
    found: dict[str, Any] = {}
    measured = []
    if names:
        found = evaluate_exams(
            folder, names, data=data, limit=limit, hospital=hospital, overrides=settings, items_file=items
        )
        measured.append("exams")
    if held_out or not (names or joining):
        found = evaluate_held_out(folder, overrides=settings)
        measured.append("held_out")
    if joining:
        found = evaluate_joining(folder, overrides=settings)
        measured.append("joining")
    if as_json:
        typer.echo(json.dumps(found, indent=1, ensure_ascii=False))
        return
    for part in measured:
        {"exams": _print_exams, "held_out": _print_held_out, "joining": _print_joining}[part](found[part])


def _print_exams(found: dict[str, Any]) -> None:
    from rich.table import Table

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


def _print_held_out(found: dict[str, Any]) -> None:
    from rich.table import Table

    table = Table(title="Held-out loss (nats per answer token; lower is better)", title_justify="left")
    for column in ("", "records", "base", "federated", "difference, 95 %"):
        table.add_column(column, justify="left" if not column else "right")
    rows = [*(found["hospitals"] or {}).items(), *(found["specialties"] or {}).items(), ("all", found["all"])]
    for name, one in rows:
        loss = one["loss"]
        table.add_row(
            name, str(one["records"]), f"{loss['base']['value']:.3f}", f"{loss['federated']['value']:.3f}",
            _interval(loss["delta"]),
        )  # fmt: skip
    console.print(table)
    for metric, name in (("rouge_l", "ROUGE-L"), ("word_f1", "word F1")):
        if one := found["all"][metric]:
            console.print(
                f"{name} of {found['all']['answers']} written answers: base {one['base']['value']:.3f}, federated "
                f"{one['federated']['value']:.3f}, difference {_interval(one['delta'])}",
                highlight=False,
            )
    if fair := found["fairness"]:
        gap = fair["gap"]
        console.print(
            f"Worst off: {fair['worst']}; gap between hospitals {gap['base']['value']:.3f} before, "
            f"{gap['federated']['value']:.3f} after ({_interval(gap['delta'])}); least gain: {fair['least_gain']}; "
            f"harmed: {', '.join(fair['harmed']) or 'none shown'}"
            + (f"; too few records to tell: {', '.join(fair['too_few'])}" if fair["too_few"] else ""),
            highlight=False,
        )


def _print_joining(found: dict[str, Any]) -> None:
    from rich.table import Table

    title = "Does joining help? (held-out loss; a difference below zero says yes)"
    table = Table(title=title, title_justify="left")
    for column in ("", "alone", "shared", "shared less alone, 95 %", "personalised"):
        table.add_column(column, justify="left" if not column else "right")
    for name, one in found["hospitals"].items():
        table.add_row(
            name, f"{one['local']['value']:.3f}", f"{one['shared']['value']:.3f}",
            _interval(one["shared_less_local"]), f"{one['personalised']['value']:.3f}",
        )  # fmt: skip
    console.print(table)
    for name, one in found["hospitals"].items():
        shared, own = (_VERDICTS[one["verdict"][what]] for what in ("shared", "personalised"))
        less = _interval(one["personalised_less_local"])
        console.print(f"{name}: the shared model {shared}; the personalised one, {less}, {own}", highlight=False)


_VERDICTS = {
    "helps": "helps",
    "harms": "harms",
    "unclear": "shows no difference",
    "too_few": "has too few records to tell",
}


def _interval(one: dict[str, float]) -> str:
    return f"{one['value']:+.2f} ({one['low']:+.2f} to {one['high']:+.2f})"

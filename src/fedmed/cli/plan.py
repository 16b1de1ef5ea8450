"""``fedmed plan``: memory, time, bytes and storage before anything runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedmed.config.recipes import list_recipes

if TYPE_CHECKING:
    from fedmed.pipeline.plan import Plan


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("plan", epilog="Example: fedmed plan --recipe gpu_32gb --tflops 150")(plan)


def plan(
    recipe: Annotated[str | None, typer.Option(help=f"Settings to start from: {', '.join(list_recipes())}.")] = None,
    config: Annotated[list[Path] | None, typer.Option(help="A YAML file of settings, laid out like a recipe.")] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override one setting.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="A builtin model, a folder, or a config.json; its weights are not needed.")
    ] = None,
    gpu: Annotated[
        bool | None, typer.Option("--gpu/--cpu", help="Plan for a GPU or a CPU. Default: by settings.")
    ] = None,
    budget_gib: Annotated[
        float | None, typer.Option(min=0.001, help="Memory there is. Default: 32 on a GPU, else this machine's.")
    ] = None,
    tflops: Annotated[float | None, typer.Option(min=0.000001, help="The device's rate, for the time.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON.")] = False,
) -> None:
    """Say what a run would cost: peak memory of a training step, time, bytes on the wire, storage. Runs nothing."""
    from fedmed.config.load import load_config
    from fedmed.federated.algorithms import check_combination
    from fedmed.pipeline.plan import make_plan

    chosen = [f"model.name={json.dumps(model)}"] if model is not None else []
    settings = load_config(recipe, config or (), [*(overrides or ()), *chosen])
    check_combination(settings)
    made = make_plan(settings, on_gpu=gpu, budget_gib=budget_gib, tflops=tflops)
    if as_json:
        typer.echo(json.dumps(made.as_dict(), indent=1))
    else:
        _print(made)


def _print(made: Plan) -> None:
    from rich.table import Table

    from fedmed.utils.console import out as console

    table = Table(title=f"{made.model}, {made.device}, {made.dtype}: one step at its peak", title_justify="left")
    table.add_column("")
    table.add_column("GiB", justify="right")
    for name, value in made.breakdown.items():
        table.add_row(name, f"{value:.3f}")
    table.add_section()
    table.add_row("peak", f"{made.peak_gib:.3f}")
    console.print(table)
    verdict = "fits into" if made.fits else "does NOT fit into"
    console.print(f"{verdict} {made.budget_gib:.1f} GiB", highlight=False)
    for line in made.advice:
        console.print(f"  instead  {line}", highlight=False)
    shown = "unknown" if made.time_s is None else f"{made.time_s / 60:,.1f} min"
    console.print(f"time     {shown}", highlight=False)
    console.print(
        f"wire     {made.wire_bytes['up'] / 1e6:,.1f} MB up, {made.wire_bytes['down'] / 1e6:,.1f} MB down",
        highlight=False,
    )
    console.print(f"storage  {sum(made.storage_bytes.values()) / 1e9:,.2f} GB", highlight=False)
    for line in made.assumptions:
        console.print(f"[dim]{line}[/dim]", highlight=False)

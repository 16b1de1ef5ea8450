"""``fedmed train``: one hospital alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("train", epilog="Example: fedmed train records.jsonl --out my-adapter --set training.max_steps=20")(
        train
    )


def train(
    data: Annotated[str, typer.Argument(help="A file or folder of records, 'hpo', or a hub id.")],
    out: Annotated[Path, typer.Option(help="Where the adapter goes; must not exist yet.")],
    recipe: Annotated[str | None, typer.Option(help="Settings to start from.")] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override one setting.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Fine-tune a LoRA adapter on one hospital's records, without a federation."""
    from fedmed.config.load import load_config
    from fedmed.pipeline.single import train_alone

    figures = train_alone(
        load_config(recipe, (), [*(overrides or ()), f"training.dataset.name={json.dumps(data)}"]), out
    )
    if as_json:
        typer.echo(json.dumps(figures, indent=1))
    else:
        typer.echo(
            f"{figures['steps']} steps, {figures['tokens']} tokens, loss {figures['first_loss']:.3f} -> "
            f"{figures['last_loss']:.3f} in {figures['seconds']:.0f} s\nadapter  {out}"
        )

"""``fedmed config``: show the settings a run would get, and check settings before one starts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from fedmed.utils.console import out

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Show and check settings.",
    epilog="Example: fedmed config show --recipe quick",
)

Recipe = Annotated[str | None, typer.Option("--recipe", metavar="NAME", help="Settings to start from.")]
Files = Annotated[
    list[Path] | None,
    typer.Option("--config", metavar="FILE", help="Settings of your own, laid out as a recipe is (repeatable)."),
]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override one setting (repeatable).")
]


@app.command(epilog="Example: fedmed config show --recipe cpu_demo --set federated.rounds=2")
def show(
    recipe: Recipe = None,
    config: Files = None,
    overrides: Overrides = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print every setting as a run would get it: defaults, recipe, files and --set together."""
    from fedmed.config.load import dump_config, load_config

    resolved = load_config(recipe, config or (), overrides or ())
    if as_json:
        typer.echo(json.dumps(resolved.as_dict(), indent=1, ensure_ascii=False))
    elif out.is_terminal:
        from rich.syntax import Syntax

        out.print(Syntax(dump_config(resolved), "yaml", theme="ansi_dark", background_color="default"))
    else:
        typer.echo(dump_config(resolved), nl=False)


@app.command(epilog="Example: fedmed config check my_settings.yaml --set federated.rounds=2")
def check(
    files: Annotated[
        list[Path] | None,
        typer.Argument(metavar="FILES", help="Files of settings, or a run's config.yaml; none: the defaults."),
    ] = None,
    recipe: Recipe = None,
    config: Files = None,
    overrides: Overrides = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check settings and report everything that is wrong at once, each with its file and line."""
    from fedmed.config.load import config_digest, load_config
    from fedmed.federated.algorithms import check_combination

    given = [*(config or ()), *(files or ())]
    settings = load_config(recipe, given, overrides or ())
    check_combination(settings)
    digest = config_digest(settings)
    checked = [*([f"recipe {recipe}"] if recipe else []), *map(str, given), *(overrides or ())]
    if as_json:
        typer.echo(json.dumps({"ok": True, "checked": checked, "digest": digest}))
    else:
        typer.echo(f"ok: {', '.join(checked) or 'the defaults'} (digest {digest[:12]})")

"""``fedmed data``: look at records, and share them out among hospitals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fedmed.config.load import load_config
from fedmed.data.clean import LoadReport
from fedmed.data.inspect import Inspection, Lengths, inspect_dataset
from fedmed.data.load_dataset import load_with_report
from fedmed.data.prepare import Prepared, prepare_split

app = typer.Typer(help="Look at records, and share them out among hospitals.", no_args_is_help=True)

OUT = Path("data/processed")

Recipe = Annotated[str | None, typer.Option("--recipe", help="Settings to start from.")]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override one setting (repeatable).")]
Out = Annotated[Path, typer.Option("--out", help="Folder of the split; an older split there is replaced.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]


@app.command(epilog="Example: fedmed data prepare --set federated.split=by_specialty")
def prepare(recipe: Recipe = None, set_: Set = None, out: Out = OUT, as_json: Json = False) -> None:
    """Load the configured dataset, share it out among hospitals and write Parquet files with a manifest."""
    config = load_config(recipe, overrides=set_ or [])
    _show_prepared(prepare_split(config.training.dataset, config.federated, out), as_json)


@app.command(epilog="Example: fedmed data split notes.jsonl --hospitals 3 --strategy dirichlet --alpha 0.3")
def split(
    name: Annotated[str, typer.Argument(metavar="PATH_OR_NAME", help="A file, a folder, hpo, or a hub id.")],
    hospitals: Annotated[int | None, typer.Option("--hospitals", help="How many hospitals.")] = None,
    strategy: Annotated[
        str | None, typer.Option("--strategy", help="iid, dirichlet, by_specialty or by_source.")
    ] = None,
    alpha: Annotated[float | None, typer.Option("--alpha", help="dirichlet only: smaller is more lopsided.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Same seed, same shares.")] = None,
    recipe: Recipe = None,
    set_: Set = None,
    out: Out = OUT,
    as_json: Json = False,
) -> None:
    """Share one dataset out among hospitals; what is not given comes from the configuration."""
    given = {
        "training.dataset.name": json.dumps(name),
        "federated.num_clients": hospitals,
        "federated.split": strategy,
        "federated.dirichlet_alpha": alpha,
        "federated.seed": seed,
    }
    overrides = [*(set_ or []), *(f"{key}={value}" for key, value in given.items() if value is not None)]
    config = load_config(recipe, overrides=overrides)
    _show_prepared(prepare_split(config.training.dataset, config.federated, out), as_json)


@app.command(epilog="Example: fedmed data inspect notes.jsonl --json")
def inspect(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[PATH_OR_NAME]", help="A file, a folder, hpo, or a hub id; the configured one if absent."
        ),
    ] = None,
    recipe: Recipe = None,
    set_: Set = None,
    as_json: Json = False,
) -> None:
    """Count records, lengths, duplicates, kinds and specialties; no record's text is shown."""
    config = load_config(recipe, overrides=set_ or [])
    settings = config.training.dataset
    dataset, report = load_with_report(
        name or settings.name,
        settings.max_samples,
        seed=config.federated.seed,
        test_fraction=settings.test_fraction,
        hub_split=settings.hub_split,
        columns=settings.columns,
    )
    inspection = inspect_dataset(dataset, report)
    if as_json:
        _print_json(inspection.as_dict())
    else:
        _show_inspection(inspection)


def _print_json(value: dict[str, Any]) -> None:
    typer.echo(json.dumps(value, indent=1, ensure_ascii=False))


def _show_prepared(prepared: Prepared, as_json: bool) -> None:
    if as_json:
        _print_json(prepared.as_dict())
        return
    manifest, report = prepared.manifest, prepared.report
    table = Table(title=f"{escape(report.name)}, split {manifest['strategy']}, seed {manifest['seed']}")
    table.add_column("hospital")
    for heading in ("train", "test", "specialties", "label skew"):
        table.add_column(heading, justify="right")
    for name, share in manifest["hospitals"].items():
        skew = f"{share['label_skew']:.3f}"
        table.add_row(name, str(share["train"]), str(share["test"]), str(len(share["by_specialty"])), skew)
    console = Console()
    console.print(table)
    console.print(_left_out(report), markup=False, highlight=False, soft_wrap=True)
    console.print(f"written to {prepared.folder}", markup=False, highlight=False, soft_wrap=True)


def _show_inspection(inspection: Inspection) -> None:
    report = inspection.report
    table = Table(title=escape(report.name), show_header=False)
    table.add_column("what")
    table.add_column("value")
    for what, value in (
        ("records", str(inspection.records)),
        ("groups", str(inspection.groups)),
        ("sources", str(inspection.sources)),
        ("split", _joined(inspection.by_split)),
        ("kinds", _joined(inspection.by_kind)),
        ("specialties", _joined(inspection.by_specialty)),
        ("question characters", _lengths(inspection.question_characters)),
        ("answer characters", _lengths(inspection.answer_characters)),
    ):
        table.add_row(what, escape(value))
    console = Console()
    console.print(table)
    console.print(_left_out(report), markup=False, highlight=False, soft_wrap=True)


def _left_out(report: LoadReport) -> str:
    return (
        f"read {report.read}, kept {report.kept}; left out: {report.empty} empty, {report.duplicate} duplicate, "
        f"{report.overlong} over-long, {report.usable - report.kept} over max_samples"
    )


def _joined(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())


def _lengths(lengths: Lengths) -> str:
    return f"median {lengths.median}, 95 % up to {lengths.p95}, longest {lengths.max}"

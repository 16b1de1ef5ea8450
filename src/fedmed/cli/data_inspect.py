"""``fedmed data inspect``: what is in a dataset, as a table, JSON or a page."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from fedmed.data.inspect import Inspection, Lengths

SCANNED = 300


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog="Example: fedmed data inspect notes.jsonl --html inspection.html")(inspect)


def inspect(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[PATH_OR_NAME]", help="A file, a folder, hpo, or a hub id; the configured one if absent."
        ),
    ] = None,
    recipe: Annotated[str | None, typer.Option("--recipe", help="Settings to start from.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override one setting (repeatable).")
    ] = None,
    html: Annotated[Path | None, typer.Option("--html", help="Also write a page that opens offline.")] = None,
    scan: Annotated[
        int, typer.Option("--scan", min=0, help="Records to scan for identifiers, drawn by the seed; 0: none.")
    ] = SCANNED,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Count records, lengths, near-duplicates, specialties, skew and identifiers; no record's text is shown."""
    from fedmed.config.load import load_config
    from fedmed.pipeline.inspection import inspect_source
    from fedmed.pipeline.inspection_page import write_page

    config = load_config(recipe, overrides=set_ or [])
    made = inspect_source(config, name or config.training.dataset.name, scan=scan)
    if html is not None:
        write_page(made, html)
    if as_json:
        typer.echo(json.dumps(made.as_dict(), indent=1, ensure_ascii=False))
    else:
        _show(made, html)


def _show(made: Inspection, html: Path | None) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from fedmed.pipeline.inspection_page import findings

    table = Table(title=escape(made.report.name), show_header=False)
    table.add_column("what")
    table.add_column("value")
    for what, value in _rows(made):
        table.add_row(what, escape(value))
    console = Console()
    console.print(table)
    report = made.report
    lines = [
        f"read {report.read}, kept {report.kept}; left out: {report.empty} empty, {report.duplicate} duplicate, "
        f"{report.overlong} over-long, {report.usable - report.kept} over max_samples"
    ]
    lines += [f"{'! ' if warns else '  '}{what}: {then}" for warns, what, then in findings(made)]
    lines += [f"page: {html}"] if html else []
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _rows(made: Inspection) -> Iterator[tuple[str, str]]:
    near = made.near_duplicates
    yield "records", str(made.records)
    yield "groups", str(made.groups)
    yield "sources", str(made.sources)
    if made.patients:
        yield "patients", str(made.patients["patients"])
    yield "split", _joined(made.by_split)
    yield "kinds", _joined(made.by_kind)
    yield "specialties", _joined(made.by_specialty)
    yield "question characters", _lengths(made.question_characters)
    yield "answer characters", _lengths(made.answer_characters)
    yield "near-duplicates", f"{near.records} records in {near.clusters} clusters"
    found = made.identifiers or {}
    if found.get("scanned"):
        types = {kind: one["found"] for kind, one in found["types"].items()}
        yield f"identifiers in {found['scanned']} records", _joined(types) or "none found"


def _joined(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())


def _lengths(lengths: Lengths) -> str:
    return f"median {lengths.median}, 95 % up to {lengths.p95}, longest {lengths.max}"

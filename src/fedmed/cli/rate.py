"""``fedmed rate``: a blinded sheet of answers for people to rate, and what their ratings say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from fedmed.utils.console import out as console

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Let people rate answers without knowing whose they are.",
    epilog="Example: fedmed rate sheet latest --questions questions.jsonl --out sheet.html",
)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@app.command(epilog="Example: fedmed rate sheet latest --questions questions.jsonl --out sheet.html")
def sheet(
    run: Annotated[str, typer.Argument(help="Run to rate, by name or path.")],
    questions: Annotated[Path, typer.Option(help='JSONL, a line {"id": …, "question": "…"} each.')],
    out: Annotated[Path, typer.Option(help="The sheet: one HTML file that opens offline.")],
    key: Annotated[
        Path | None, typer.Option(help="Whose answer is whose; keep it from raters. Default: OUT with .key.json")
    ] = None,
    systems: Annotated[str, typer.Option(help="Whose answers: base, local, federated.")] = "base,local,federated",
    hospital: Annotated[str | None, typer.Option(help="Whose local model. Default: the first there is.")] = None,
    as_json: Json = False,
) -> None:
    """Write answers of the base, a local and the federated model in hidden order, each through the guardrails."""
    from fedmed.pipeline.rating_sheet import SYSTEMS, make_sheet
    from fedmed.utils.runs import find_run

    names = tuple(dict.fromkeys(name.strip() for name in systems.split(",") if name.strip()))
    if len(names) < 2 or not set(names) <= set(SYSTEMS):
        raise typer.BadParameter(f"name at least two of {', '.join(SYSTEMS)}", param_hint="--systems")
    place = key or out.with_suffix(".key.json")
    if place.resolve() == out.resolve():
        raise typer.BadParameter("the key must be another file than the sheet", param_hint="--key")
    made = make_sheet(find_run(run), questions, out=out, key=place, systems=names, hospital=hospital)
    if as_json:
        told = {"sheet": str(out), "key": str(place), "id": made["sheet"], "questions": len(made["questions"])}
        typer.echo(json.dumps(told, indent=1, ensure_ascii=False))
    else:
        _line(f"sheet  {out}: {len(made['questions'])} questions, for raters")
        _line(f"key    {place}: not for raters")


@app.command(epilog="Example: fedmed rate score dr_a.json dr_b.json --key sheet.key.json --run latest")
def score(
    ratings: Annotated[list[Path], typer.Argument(help="Files that the sheet saved, one for each rater.")],
    key: Annotated[Path, typer.Option(help="The key that was written with the sheet.")],
    run: Annotated[str | None, typer.Option(help="Keep the figures in evaluation.json and report of this run.")] = None,
    as_json: Json = False,
) -> None:
    """Say how right, harmful and preferred each model's answers are, and how far raters agree, with intervals."""
    from fedmed.pipeline.rating_scores import score_ratings
    from fedmed.utils.runs import find_run

    found = score_ratings(ratings, key, run=find_run(run) if run else None)
    if as_json:
        typer.echo(json.dumps(found, indent=1, ensure_ascii=False))
    else:
        _print(found)


def _print(found: dict[str, Any]) -> None:
    from rich.table import Table

    table = Table(title="Ratings, with 95 % intervals", title_justify="left")
    for column in ("", "right (1 to 5)", "preferred", "harmful", "withheld"):
        table.add_column(column, justify="left" if not column else "right")
    for name, one in found["systems"].items():
        harm = one["harmful"]
        table.add_row(
            name, _between(one["correctness"], "{:.2f}"), _between(one["preferred"], "{:.0%}"),
            f"{harm['answers']} of {harm['of']} ({harm['low']:.0%} to {harm['high']:.0%})", str(one["withheld"]),
        )  # fmt: skip
    console.print(table)
    for name, one in found["differences"].items():
        _line(f"{name.replace('_', ' ')}: {_between(one, '{:+.2f}')}")
    for name, one in (found["agreement"] or {}).items():
        alpha = one["krippendorff_alpha"]
        told = _between(alpha, "{:.2f}") if alpha else "not defined, all ratings are the same"
        for who in ("fleiss", "cohen"):
            if (kappa := one[f"{who}_kappa"]) is not None:
                told += f", {who.capitalize()}'s kappa {kappa:.2f}"
        _line(f"agreement on {name}: Krippendorff's alpha {told}")
    if found["agreement"] is None:
        _line("agreement: one rater agrees with nobody")
    _line(f"{found['raters']} raters, {found['rated']} questions rated, {found['left_out']} left out as not whole")


def _between(one: dict[str, float], shown: str) -> str:
    value, low, high = (shown.format(one[key]) for key in ("value", "low", "high"))
    return f"{value} ({low} to {high})"


def _line(text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)

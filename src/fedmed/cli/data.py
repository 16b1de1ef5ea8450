"""``fedmed data``: look at records, and share them out among hospitals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fedmed.cli import data_forget, data_inspect
from fedmed.data.deidentify.policy import Operator, Policy, read_key

if TYPE_CHECKING:
    from fedmed.data.clean import LoadReport
    from fedmed.data.prepare import Prepared

app = typer.Typer(help="Look at records, scan, share out and forget them.", no_args_is_help=True)
data_inspect.register(app)
data_forget.register(app)

OUT = Path("data/processed")

Recipe = Annotated[str | None, typer.Option("--recipe", help="Settings to start from.")]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override one setting (repeatable).")]
Out = Annotated[Path, typer.Option("--out", help="Folder of the split; an older split there is replaced.")]
Workers = Annotated[
    int | None,
    typer.Option("--workers", min=1, help="Processes that scan, each of about 300 MB. Default: as many as pay."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]


@app.command(epilog="Example: fedmed data prepare notes/ --set federated.num_clients=2 --workers 2")
def prepare(
    name: Annotated[
        str | None,
        typer.Argument(metavar="[PATH_OR_NAME]", help="A file, a folder, hpo, or a hub id; else the configured one."),
    ] = None,
    recipe: Recipe = None,
    set_: Set = None,
    out: Out = OUT,
    workers: Workers = None,
    as_json: Json = False,
) -> None:
    """Scan a hospital's records for what identifies people, replace it, set doubtful records aside, share out the rest.

    Records that were set aside stay in the gate's folder, data/gate. Public sets (hpo, hub ids) are not rewritten.
    """
    from fedmed.config.load import load_config
    from fedmed.data.prepare import prepare_split

    overrides = [*(set_ or []), *([f"training.dataset.name={json.dumps(name)}"] if name else [])]
    config = load_config(recipe, overrides=overrides)
    _show_prepared(prepare_split(config.training.dataset, config.federated, out, workers=workers), as_json)


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
    from fedmed.config.load import load_config
    from fedmed.data.prepare import prepare_split

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


@app.command(epilog="Example: fedmed data deidentify notes.jsonl --out clean.jsonl --report report.json --workers 2")
def deidentify(
    source: Annotated[Path, typer.Argument(metavar="IN.jsonl", help="One JSON object a line.")],
    out: Annotated[Path, typer.Option("--out", help="The result; an older one is replaced at the end.")],
    report: Annotated[Path, typer.Option("--report", help="Counts by type and rule; holds no text.")],
    field: Annotated[str, typer.Option("--field", help="The field that holds the text.")] = "text",
    operator: Annotated[
        Operator, typer.Option("--operator", help="What stands where an identifier stood.")
    ] = Operator.PLACEHOLDER,
    patient_field: Annotated[
        str | None,
        typer.Option("--patient-field", help="surrogate only: the field that ties a patient's records together."),
    ] = None,
    key_file: Annotated[
        Path | None,
        typer.Option("--key-file", help="Secret bytes for surrogates and hashes; without it a key of this run."),
    ] = None,
    ner_model: Annotated[
        Path | None, typer.Option("--ner-model", help="Folder of a spaCy pipeline of yours; none is downloaded.")
    ] = None,
    min_score: Annotated[float, typer.Option("--min-score", help="Lower finds more and loses more other words.")] = 0.4,
    keep_year: Annotated[bool, typer.Option("--keep-year", help="Leave the year of a date: [DATE 2023].")] = False,
    keep_zip3: Annotated[bool, typer.Option("--keep-zip3", help="Leave three digits of a ZIP where allowed.")] = False,
    workers: Annotated[int, typer.Option("--workers", min=1, help="Processes, each of about 300 MB.")] = 1,
    as_json: Json = False,
) -> None:
    """Replace the eighteen identifiers of HIPAA's Safe Harbor rule in one field; a stopped run goes on where it was."""
    from fedmed.data.deidentify.jsonl import deidentify_file  # here: its patterns take a while to compile
    from fedmed.data.deidentify.jsonl_worker import Job

    key = read_key(key_file) if key_file else None
    policy = Policy(operator, min_score, key, ner_model, keep_zip3, keep_year)
    made = deidentify_file(Job(source, out, report, field, patient_field, policy, workers))
    if as_json:
        _print_json(made)
        return
    found = {kind: count for kind, count in made["types"].items() if count}
    console = Console()
    for line in (
        f"{made['records']} records, {made['records_with_findings']} with identifiers: {_joined(found) or 'none'}",
        f"written to {out}, report in {report}",
        "rules miss some: let people read a sample before records leave the hospital",
    ):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


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
    for line in (_left_out(report), *_gate(manifest["gate"])):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    if prepared.quarantine:
        console.print(f"set aside: {prepared.quarantine}", markup=False, highlight=False, soft_wrap=True)
    console.print(f"written to {prepared.folder}", markup=False, highlight=False, soft_wrap=True)


def _gate(gate: dict[str, Any]) -> list[str]:
    """What the data gate did, in lines."""
    if gate["status"] == "public":
        sample = gate["sample"]
        if not sample["scanned"]:
            return [f"public records, used as they are; not scanned: {sample['reason']}"]
        return [
            f"public records, used as they are; in a sample of {sample['scanned']} the rules take something for an "
            f"identifier in {sample['with_findings']}"
        ]
    refused = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in gate["refused"].items())
    if gate["status"] == "unscanned":
        return [f"NOT SCANNED, as training.dataset.gate.unscanned says; refused: {refused}"]
    found = {kind: count for kind, count in gate["findings"].items() if count}
    return [
        f"gate: {gate['documents']} documents, {gate['kept']} passed, {gate['quarantined']} set aside",
        f"refused: {refused}",
        f"replaced in {gate['documents_with_findings']}: {_joined(found) or 'nothing'}",
        "rules miss some: let people read a sample before training",
    ]


def _left_out(report: LoadReport) -> str:
    return (
        f"read {report.read}, kept {report.kept}; left out: {report.empty} empty, {report.duplicate} duplicate, "
        f"{report.overlong} over-long, {report.usable - report.kept} over max_samples"
    )


def _joined(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())

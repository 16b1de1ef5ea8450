"""``fedmed run``: simulate the whole federation on this machine."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from fedmed.config.recipes import list_recipes


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("run", epilog="Example: fedmed run --recipe quick --set federated.rounds=3")(run)


def run(
    recipe: Annotated[str | None, typer.Option(help=f"Settings to start from: {', '.join(list_recipes())}.")] = None,
    config: Annotated[list[Path] | None, typer.Option(help="A YAML file of settings, laid out like a recipe.")] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override one setting.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The run's folder. Default: a new one under output-models/.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Go on with an unfinished run.")] = None,
    compare: Annotated[str, typer.Option(help="References to train too: local,central,shuffled.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print summary.json instead of the table.")] = False,
) -> None:
    """Train one LoRA adapter across simulated hospitals in one process on this machine."""
    from fedmed.config.load import load_config
    from fedmed.errors import ConfigError
    from fedmed.pipeline.comparison import REFERENCES
    from fedmed.pipeline.federation import resume_federation, run_federation

    references = [name.strip() for name in compare.split(",") if name.strip()]
    if unknown := [name for name in references if name not in REFERENCES]:
        raise ConfigError([f"--compare: {', '.join(unknown)} is not one of {', '.join(REFERENCES)}"], "")
    settled = any([recipe, config, overrides])
    settings = load_config(recipe, config or (), overrides or ())
    if resume is not None:
        if out is not None:
            raise ConfigError(["--out and --resume exclude each other"], "a resumed run stays in its folder")
        outcome = resume_federation(resume, asked=settings if settled else None, compare=references)
    else:
        command = shlex.join(["fedmed", *sys.argv[1:]])
        outcome = run_federation(settings, out=out, recipe=recipe, compare=references, command=command)
    if as_json:
        typer.echo(json.dumps(outcome.summary, indent=1, ensure_ascii=False))
    else:
        _print(outcome.folder, outcome.summary)


def _print(folder: Path, summary: dict[str, Any]) -> None:
    from rich.table import Table

    from fedmed.utils.console import out as console

    table = Table(title="Held-out loss (nats per answer token; lower is better)", title_justify="left")
    for column in ("", "base", "federated", "change"):
        table.add_column(column, justify="left" if not column else "right")
    loss = summary["loss"]
    rows = [(name, values["base"], values["federated"]) for name, values in (loss["per_hospital"] or {}).items()]
    for name, before, after in [*rows, ("all hospitals", loss["base"], loss["federated"])]:
        table.add_row(name, f"{before:.3f}", f"{after:.3f}", f"{(after - before) / before:+.1%}")
    if few_shot := summary["evaluation"]["few_shot"]:
        worked = f"base with {few_shot['examples']} worked examples in its prompt"
        table.add_row(worked, f"{few_shot['loss']:.3f}", "", f"{(few_shot['loss'] - loss['base']) / loss['base']:+.1%}")
    for name, reference in (summary["comparison"] or {}).items():
        table.add_row(
            f"reference: {name}",
            "",
            f"{reference['loss']:.3f}",
            f"{(reference['loss'] - loss['base']) / loss['base']:+.1%}",
        )
    console.print(table)
    words = loss["without_end_token"]
    shot = "" if words["few_shot"] is None else f", with worked examples {words['few_shot']:.3f}"
    console.print(
        f"Without the end-of-answer token: base {words['base']:.3f}{shot}, federated {words['federated']:.3f}"
    )
    share = summary["gain"]["few_shot_share"]
    if share is not None:
        console.print(f"Worked examples alone give {share:.0%} of the federated gain: that much may be format.")
    choice = summary["evaluation"]["multiple_choice"]
    if choice["base"] and choice["federated"]:
        console.print(
            f"Multiple choice (chance 25 %): base {choice['base']['accuracy']:.0%}, "
            f"federated {choice['federated']['accuracy']:.0%} of {choice['federated']['total']}"
        )
    _print_confidence(summary["confidence"])
    for sample in summary["samples"]:
        console.print(f"\n[bold]{sample['question']}[/bold]", highlight=False)
        console.print(sample["answer"], markup=False, highlight=False)
        notes = "; ".join(sample["reasons"])
        about = "" if sample["calibrated"] else " (not calibrated)"
        confidence = "none" if sample["confidence"] is None else f"{sample['confidence']:.2f}{about}"
        console.print(f"[dim]confidence {confidence}{'; ' + notes if notes else ''}[/dim]", highlight=False)
        console.print(f"[dim]{sample['disclaimer']}[/dim]", highlight=False)
    console.print()
    personal = not (folder / "adapter").is_dir()
    adapter = "hospitals/*/adapter" if personal else "adapter"
    for what, where in (("adapter", adapter), ("report", "report.html"), ("summary", "summary.json")):
        console.print(f"{what:<8} {folder / where}", soft_wrap=True, highlight=False)
    _print_privacy(folder, summary)
    seconds = summary["wall_s"]["total"]
    console.print(f"{'time':<8} {seconds:.0f} s, {summary['peak_rss_mb']:.0f} MB at most", highlight=False)
    whose = f"--hospital {summary['hospitals'][0]['name']} " if personal else ""
    console.print(f'Ask it:  fedmed ask {whose}"What is hypertrophic cardiomyopathy?"', highlight=False)


def _print_confidence(confidence: dict[str, Any] | None) -> None:
    """How true the confidence is that is stated with every answer."""
    from fedmed.utils.console import out as console

    if confidence is None:
        return
    if not confidence["calibrated"]:
        console.print(f"Confidence is not calibrated: {confidence['reason']}", highlight=False)
        return
    found = confidence["measured"]
    skill, auroc = (f"{found[key]['value']:.2f}" if found[key] else "none" for key in ("brier_skill", "auroc"))
    console.print(
        f"Confidence, on {found['answers']} held-out questions, each judged by a fit without it: "
        f"ECE {found['ece']['value']:.3f} ({found['ece_if_true']:.3f} by chance alone), Brier skill {skill}, "
        f"AUROC {auroc}",
        highlight=False,
    )


def _print_privacy(folder: Path, summary: dict[str, Any]) -> None:
    """Whether updates were masked; what noise spent, where that is written down and how to attack it."""
    from fedmed.utils.console import out as console

    privacy = summary["privacy"]
    if privacy["secure_sum"]:
        bare = "" if privacy["hospital_epsilon"] is not None else "; the sum itself is not hidden"
        console.print(f"{'masks':<8} updates were summed under masks{bare}", highlight=False)
    for level, unit in (("example", privacy["unit"]), ("hospital", "hospital")):
        spent = privacy[f"{level}_epsilon"]
        if spent is not None:
            console.print(f"{'privacy':<8} ε {spent:.3f} at δ {privacy['delta']:g} for each {unit}", highlight=False)
    if privacy["ledgers"]:
        own = folder / "ledgers"
        console.print(f"{'ledgers':<8} {own if own.is_dir() else privacy['ledgers']}", soft_wrap=True, highlight=False)
        console.print(f"Attack it: fedmed privacy audit {folder}", soft_wrap=True, highlight=False)

"""``fedmed privacy``: what noise a budget needs before a run, and what a hospital has spent after it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedmed.utils.console import out as console

if TYPE_CHECKING:
    from fedmed.pipeline.privacy_plan import PrivacyPlan

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Plan a privacy budget, and read what was spent.",
    epilog="Example: fedmed privacy plan --epsilon 8 --delta 1e-5",
)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@app.command(
    epilog="Example: fedmed privacy plan --epsilon 8 --records 3000 --batch 64 --steps 16 --rounds 4 "
    "(solves for sigma); fedmed privacy plan --epsilon 8 --sigma 0.8 --solve steps (or --solve batch); "
    "fedmed privacy plan --sigma 0.8 (only counts)"
)
def plan(
    epsilon: Annotated[
        float | None, typer.Option(help="What one record may cost over the whole run. Default: settings, or 8.")
    ] = None,
    delta: Annotated[
        float | None, typer.Option(help="Chance that ε does not hold; well below 1 / records. Default: settings.")
    ] = None,
    records: Annotated[
        int | None, typer.Option(min=1, help="Training records of a hospital. Default: settings.")
    ] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Expected records of a step. Default: settings.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of a round. Default: settings.")] = None,
    rounds: Annotated[int | None, typer.Option(min=1, help="Rounds of the run. Default: settings.")] = None,
    hospitals: Annotated[int | None, typer.Option(min=1, help="Hospitals in the sum. Default: settings.")] = None,
    sigma: Annotated[float | None, typer.Option(min=0.0, help="Noise multiplier. Default: solved for.")] = None,
    solve: Annotated[str | None, typer.Option(help="With --sigma: steps or batch, the one to solve for.")] = None,
    numbers: Annotated[
        int | None, typer.Option(min=1, help="Numbers that are trained. Default: of the settings' model.")
    ] = None,
    recipe: Annotated[str | None, typer.Option(help="Settings to start from.")] = None,
    config: Annotated[list[Path] | None, typer.Option(help="A YAML file of settings, laid out like a recipe.")] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override one setting.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Solve for the noise (or steps, or batch) that a budget allows, and compare noise with signal. Runs nothing."""
    from fedmed.config.load import load_config
    from fedmed.pipeline.privacy_plan import make_privacy_plan, trained_numbers

    if solve not in (None, "steps", "batch"):
        raise typer.BadParameter(f"'{solve}' is neither steps nor batch", param_hint="--solve")
    if (solve is not None) and sigma is None:
        raise typer.BadParameter("needs --sigma", param_hint="--solve")
    settings = load_config(recipe, config or (), overrides or ())
    training, federated = settings.training, settings.federated
    kept = math.floor(training.dataset.max_samples * (1 - training.dataset.test_fraction) / federated.num_clients)
    epsilon = epsilon if epsilon is not None else settings.privacy.example.epsilon or 8.0
    delta = delta if delta is not None else settings.privacy.example.delta
    records = records or max(1, kept)
    batch = batch or min(records, training.batch_size * training.gradient_accumulation_steps)
    steps = steps or training.max_steps or math.ceil(training.epochs * records / batch)
    made = make_privacy_plan(
        target=epsilon, delta=delta, records=records, batch=None if solve == "batch" else batch,
        steps=None if solve == "steps" else steps, rounds=rounds or federated.rounds,
        hospitals=hospitals or federated.hospitals_per_round or federated.num_clients, sigma=sigma,
        numbers=trained_numbers(settings) if numbers is None else {"stated": numbers},
    )  # fmt: skip
    if as_json:
        typer.echo(json.dumps(made.as_dict(), indent=1, ensure_ascii=False))
    else:
        _print_plan(made)


@app.command(epilog="Example: fedmed privacy ledger ledger.jsonl --epsilon 8 --delta 1e-5")
def ledger(
    path: Annotated[Path, typer.Argument(help="A hospital's ledger.")],
    delta: Annotated[float | None, typer.Option(help="Default: that of each unit's newest charge.")] = None,
    epsilon: Annotated[float | None, typer.Option(help="The budget. Default: likewise.")] = None,
    as_json: Json = False,
) -> None:
    """Show what a hospital has spent, by unit of privacy, and what is left of its budget. Changes nothing."""
    from fedmed.privacy.accountant import check_target
    from fedmed.privacy.ledger import Ledger

    check_target(1.0 if epsilon is None else epsilon, 0.5 if delta is None else delta)
    book = Ledger.read(path)
    spent = []
    for unit in book.units():
        charged = [entry for entry in book.entries() if entry.event.unit == unit]
        budget = charged[-1].budget
        total = book.spent(budget.delta if delta is None else delta, unit)
        limit = budget.epsilon if epsilon is None else epsilon
        spent.append(
            {
                "unit": unit, "charges": len(charged), "runs": len({entry.run_id for entry in charged}),
                "epsilon": total.epsilon, "delta": total.delta, "by": total.by, "pld": total.pld,
                "rdp": total.rdp, "sampling": list(total.sampling), "budget": limit,
                "left": max(0.0, limit - total.epsilon),
            }
        )  # fmt: skip
    shown = {"hospital": book.hospital, "head": book.head(), "spent": spent}
    if as_json:
        typer.echo(json.dumps(shown, indent=1, ensure_ascii=False))
    else:
        _print_ledger(shown)


@app.command(
    epilog="Example: fedmed privacy audit latest --gate (canaries: fedmed run --set privacy.audit.canaries=100)"
)
def audit(
    run: Annotated[str, typer.Argument(help="Run to attack, by name or path.")] = "latest",
    gate: Annotated[bool, typer.Option("--gate", help="Exit with an error if a limit is passed.")] = False,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a limit, privacy.audit.max_….")
    ] = None,
    as_json: Json = False,
) -> None:
    """Attack a finished run: whose records, which canaries, which words. Writes privacy_audit.json and the report."""
    from fedmed.pipeline.privacy_audit import audit_run, check_gate
    from fedmed.utils.runs import find_run

    found = audit_run(find_run(run), overrides=overrides or ())
    if as_json:
        typer.echo(json.dumps(found, indent=1, ensure_ascii=False))
    else:
        _print_audit(found)
    if gate:
        check_gate(found)


def _print_plan(made: PrivacyPlan) -> None:
    from rich.table import Table

    def line(text: str) -> None:
        console.print(text, highlight=False, markup=False)

    word = {"sigma": "sigma", "steps": "steps a round", "batch": "batch"}.get(made.solved)
    line(f"budget   ε {made.epsilon:g} at δ {made.delta:g} for one record of one hospital, over the whole run")
    line(
        f"run      {made.records:,} records a hospital, {made.batch:,.4g} a step (rate {made.sampling_rate:.4g}), "
        f"{made.steps:,} steps x {made.rounds} rounds, {made.hospitals} hospitals"
    )
    line(f"sigma    {made.sigma:.4f}" + (f"   (solved for: {word})" if word else ""))
    pld, rdp = made.spent["pld"], made.spent["rdp"]
    shown = " / ".join("not counted" if value is None else f"{value:.3f}" for value in (pld, rdp))
    verdict = "within the budget" if made.fits else "OVER the budget"
    line(f"costs    ε {shown} by PLD / RDP, {verdict}")
    table = Table(title="length of the noise / longest signal there can be", title_justify="left")
    for title in ("trained", "numbers", "a step", "all steps", "a hospital hidden", "hospitals for 1 : 1"):
        table.add_column(title, justify="left" if title == "trained" else "right")
    for row in made.noise:
        table.add_row(
            row.trained, f"{row.numbers:,}", f"{row.step_ratio:.3g}", f"{row.run_ratio:.3g}",
            f"{row.hospital_ratio:,.3g}", f"{row.hospitals_needed:,}",
        )  # fmt: skip
    console.print(table)
    for text in made.warnings:
        line(f"note     {text}")
    for text in made.assumptions:
        console.print(f"[dim]{text}[/dim]", highlight=False)


def _print_ledger(shown: dict[str, Any]) -> None:
    def line(text: str) -> None:
        console.print(text, highlight=False, markup=False)

    line(f"ledger of '{shown['hospital']}', head {shown['head'][:12]}…")
    for row in shown["spent"]:
        line(
            f"{row['unit']:9}ε {row['epsilon']:.4g} (by {row['by'].upper()}) at δ {row['delta']:g} "
            f"in {_counted(row['charges'], 'charge')} of {_counted(row['runs'], 'run')}; "
            f"{row['left']:.3f} left of {row['budget']:g}; sampling: {', '.join(row['sampling'])}"
        )
    if not shown["spent"]:
        line("nothing is spent")


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _print_audit(found: dict[str, Any]) -> None:
    def line(text: str) -> None:
        console.print(text, highlight=False, markup=False)

    audit, inversion, limits = found["audit"], found["inversion"], found["limits"]

    def limit(key: str, text: str) -> str:
        return "" if limits[key] is None else f" (limit {text.format(limits[key])})"

    for name, key in (("by loss", "by_loss"), ("against the base", "by_ratio")):
        attack = audit[key]
        hits = attack["at_1_percent"]
        line(
            f"members  {name}: AUC {attack['auc']:.3f}, {attack['auc_low']:.3f} to {attack['auc_high']:.3f}"
            f"{limit('max_membership_auc', '{:g}')}; at 1 % false alarms {hits['share']:.1%} found, {hits['low']:.1%}"
            f" to {hits['high']:.1%}{limit('max_tpr_at_1_percent_fpr', '{:.1%}')}"
        )
    if audit["exposure"]:
        told = audit["exposure"]
        line(
            f"canaries exposure {told['mean']:.2f} bits, {told['chance']:.2f} by chance (p {told['p_value']:.2g})"
            + limit("max_exposure_bits", "{:g} above chance")
        )
        claimed, proved = audit["claimed_epsilon"], audit["epsilon"]
        line(
            f"epsilon  at least {proved['epsilon']:.2f} with {proved['confidence']:.0%} confidence, "
            + ("none claimed" if claimed is None else f"claimed {claimed:.3f}")
            + limit("max_epsilon_lower_bound", "{:g}")
        )
    else:
        line("canaries none in this run: train with privacy.audit.canaries=100 to bound epsilon from below")
    for key, name in (("without_noise", "without noise"), ("with_the_runs_noise", "with the run's noise")):
        if inversion[key]:
            line(f"words    {inversion[key]['share']:.0%} of one record's found in its own step, {name}")
    for text in found["beyond"]:
        line(f"BEYOND   {text}")
    if not found["beyond"]:
        line("limits   all kept")

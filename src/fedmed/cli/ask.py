"""``fedmed ask``: one question, one guarded answer."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

if TYPE_CHECKING:
    from fedmed.types import Answer

_FIELDS = ("answer", "allowed", "reasons", "confidence", "disclaimer", "model", "run")


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command(name="ask", epilog='Example: fedmed ask "What is hypertrophic cardiomyopathy?"')(ask)


def ask(
    question: Annotated[str, typer.Argument(help="A medical question in plain words.")],
    run: Annotated[str | None, typer.Option("--run", help="Run to ask, by name or path. Default: the latest.")] = None,
    hospital: Annotated[
        str | None, typer.Option("--hospital", help="Whose adapter, where the run gave every hospital its own.")
    ] = None,
    base: Annotated[bool, typer.Option("--base", help="Ask the base model, without any adapter.")] = False,
    show_withheld: Annotated[
        bool, typer.Option("--show-withheld", help="Also show a withheld text, marked; for professionals.")
    ] = False,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override one setting (repeatable).")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Ask a fine-tuned model one question. Every answer passes the guardrails; a withheld one says why.

    Research and educational use only, not medical advice.
    """
    from fedmed.config.load import load_config
    from fedmed.errors import RunNotFoundError
    from fedmed.safety.assistant import answer_at_once, ask_once
    from fedmed.utils.runs import find_run, latest_run

    if base and (run is not None or hospital is not None):
        raise typer.BadParameter("give --base or a run, not both")
    try:
        folder = None if base else latest_run() if run is None else find_run(run)
    except RunNotFoundError:
        # Whoever asks in an emergency is told what to do, also where nothing has been trained yet.
        answer = answer_at_once(question, load_config(None, (), overrides or ()))
        if answer is None:
            raise
    else:
        answer = ask_once(question, folder, hospital=hospital, overrides=overrides or (), show_withheld=show_withheld)
    if as_json:
        typer.echo(json.dumps({name: getattr(answer, name) for name in _FIELDS}, ensure_ascii=False))
    else:
        _show(answer)


def _show(answer: Answer) -> None:
    console = Console(highlight=False, markup=False, soft_wrap=True)
    console.print(answer.answer, style="" if answer.allowed else "bold yellow")
    console.print()
    if answer.confidence is not None:
        console.print(
            f"Confidence: {answer.confidence:.2f}{'' if answer.calibrated else ' (not calibrated)'}", style="dim"
        )
    for reason in answer.reasons:
        console.print(f"Rail: {reason}", style="dim")
    console.print(f"Model: {answer.model}{f', run {answer.run}' if answer.run else ', no adapter'}", style="dim")
    if answer.disclaimer and answer.disclaimer not in answer.answer:
        console.print()
        console.print(answer.disclaimer, style="italic")

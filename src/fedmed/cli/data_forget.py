"""``fedmed data forget``: a patient or a record goes, and does not come back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from fedmed.pipeline.forget import Forgotten


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog="Example: fedmed data forget --patient 4711")(forget)


def forget(
    patient: Annotated[str | None, typer.Option("--patient", help="The patient's id, as in your exports.")] = None,
    record: Annotated[
        str | None, typer.Option("--record", help="A record's id, as in your exports, or its keyed id (r-…).")
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override one setting (repeatable).")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Drop records from everything under the project's folders, refuse them for good, and list who saw them.

    Plain .txt notes name no patient and bring no id: forget them by --record r-…, their id in the gate's records.jsonl.

    A keyed tombstone is kept, nothing else. Can be repeated at any time; an id that is not known is refused in future.
    """
    from fedmed.config.load import load_config
    from fedmed.errors import ConfigError
    from fedmed.pipeline.forget import forget as carry_out

    given = [one for one in (patient, record) if one is not None]
    if len(given) != 1 or not given[0].strip():
        raise ConfigError(["give either --patient ID or --record ID"], "see 'fedmed data forget --help'")
    config = load_config(None, overrides=set_ or [])
    folder = Path(config.training.dataset.gate.folder)
    carry_out(folder, patient=patient, record=record, show=_show_json if as_json else lambda done: _show(done, folder))


def _show_json(done: Forgotten) -> None:
    typer.echo(json.dumps(done.as_dict(), indent=1))


def _show(done: Forgotten, folder: Path) -> None:
    if done.new_gate:
        typer.echo(
            f"there was no data gate at {folder.absolute()}: a new one was made, with a new key, and it knows no "
            "record; if your records went through another one, run this in its directory"
        )
    typer.echo(f"forgotten: {done.name}, {done.known_records} records known")
    typer.echo(
        f"dropped: {done.dropped_from_sets} from scanned sets and quarantine, {done.dropped_from_splits} from splits, "
        f"{done.token_files} files of tokens, {done.checkpoints} checkpoints"
    )
    for one in done.saw_them:
        seen = f"trained on {one.train}, scored on {one.test}"
        typer.echo(f"saw them: {one.kind} {one.folder} ({seen}); adapters: {', '.join(one.adapters) or 'none left'}")
    if any(one.train and one.adapters for one in done.saw_them):
        typer.echo("these adapters keep what they learnt: train again without the records, or remove them")
    typer.echo("exports and backups outside these folders are yours to clean; what comes back is refused")

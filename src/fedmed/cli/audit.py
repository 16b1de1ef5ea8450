"""``fedmed audit``: is a run's audit log what was written, and with which key does this machine sign?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedmed.cli.public_keys import public_key
from fedmed.utils.console import out as console

if TYPE_CHECKING:
    from fedmed.utils.audit_verify import Audit

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Verify a run's audit log.",
    epilog="Example: fedmed audit verify latest",
)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@app.command(
    epilog="Example: fedmed audit verify latest --witness from_hospital_A.jsonl --key 3b6a… (or a file with it)"
)
def verify(
    run: Annotated[str, typer.Argument(help="Run, by name or path.")] = "latest",
    witness: Annotated[
        list[Path] | None,
        typer.Option(help="A hospital's witness file, or a folder of them. Those in the run's folder count besides."),
    ] = None,
    key: Annotated[
        list[str] | None, typer.Option(help="The public key that must sign it, in hexadecimal or in a file.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Say where a log was changed, cut or written anew. Exit code 0: intact; 121: broken; 122: not proven; see docs."""
    from fedmed.pipeline.run_audit import verify_run
    from fedmed.utils.runs import find_run

    audit = verify_run(find_run(run), witness or (), [public_key(one) for one in key or ()])
    if as_json:
        typer.echo(json.dumps(audit.as_dict(), indent=1, ensure_ascii=False))
    else:
        _print(audit)
    audit.check()


@app.command(epilog="Example: fedmed audit key")
def key(as_json: Json = False) -> None:
    """Show the public key that signs this machine's audit logs, for others to pin. Made if it is not there."""
    from fedmed.utils.audit_log import key_file, owners_key

    owner = owners_key(make=True)
    assert owner is not None
    shown = {"key": owner.public.hex(), "file": str(key_file())}
    typer.echo(json.dumps(shown) if as_json else shown["key"])


def _print(audit: Audit) -> None:
    def line(text: str) -> None:
        console.print(text, highlight=False, markup=False, soft_wrap=True)

    signed = f"signed by {audit.key}" if audit.signed else "its end is not signed"
    line(f"audit log of run '{audit.run}': {audit.lines:,} lines, {signed}")
    for name, heads in audit.witnesses.items():
        line(f"{name}: {heads} of the heads it was given are in it")
    for note in audit.notes:
        line(f"note   {note}")
    for finding in audit.findings:
        line(f"line {finding.line:<6} {finding.kind:<10} {finding.what} ({finding.means})")
    for why in audit.unproven:
        line(f"not proven: {why}")
    line(audit.verdict)

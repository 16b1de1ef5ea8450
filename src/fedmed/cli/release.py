"""``fedmed release``: hand out a run's adapter, sign for it, check a folder that was handed out."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedmed.cli.default_group import DefaultGroup
from fedmed.cli.public_keys import public_key
from fedmed.utils.console import out as console

if TYPE_CHECKING:
    from fedmed.pipeline.release_gate import Check

app = typer.Typer(
    cls=DefaultGroup,
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Release a run's adapter: 'fedmed release RUN' is short for 'fedmed release make RUN'.",
    epilog="Example: fedmed release latest",
)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Another limit, safety.release.… or privacy.audit.max_…"),
]


@app.command(epilog="Example: fedmed release make latest --set privacy.audit.max_exposure_bits=null")
def make(
    run: Annotated[str, typer.Argument(help="Run to release, by name or path.")],
    out: Annotated[Path | None, typer.Option(help="Folder of the release. Default: release/ in the run's.")] = None,
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Write a signed adapter with its model card, or say all that is missing and write nothing (exit code 85).

    Asked for: evaluation within limits, a privacy audit within limits, an intact audit log, and sign-offs.
    """
    from fedmed.errors import ReleaseError
    from fedmed.pipeline.release import release_run
    from fedmed.pipeline.sign_offs import release_standing
    from fedmed.utils.runs import find_run

    path = find_run(run)
    try:
        made = release_run(path, out=out, overrides=overrides or ())
    except ReleaseError as error:
        if error.missing:
            checks = release_standing(path, overrides or ()).checks
            if as_json:
                told = {"released": False, "missing": list(error.missing), "checks": [asdict(one) for one in checks]}
                typer.echo(json.dumps(told, indent=1, ensure_ascii=False))
            else:
                _print([check for check in checks if check.kept])  # the others are in the error
        raise
    place = out or path / "release"
    if as_json:
        typer.echo(json.dumps({"released": True, "folder": str(place), **made}, indent=1, ensure_ascii=False))
    else:
        _print(release_standing(path, overrides or ()).checks)
        _line(f"released {place}")
        _line(f"key      {made['key']}")


@app.command(epilog='Example: fedmed release sign latest --name "Dr A" --role clinician --key dr_a.key --new-key')
def sign(
    run: Annotated[str, typer.Argument(help="Run to sign for, by name or path.")],
    name: Annotated[str, typer.Option(help="Who signs, as others will read it.")],
    role: Annotated[str, typer.Option(help="clinician, data-protection or engineer.")],
    key: Annotated[Path, typer.Option(help="File of the signer's own key.")],
    new_key: Annotated[bool, typer.Option("--new-key", help="Make the key if the file is not there.")] = False,
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Sign for a run that keeps its limits. Void as soon as the adapter, a measurement or a limit changes."""
    from fedmed.pipeline.release import sign_off
    from fedmed.utils.runs import find_run

    made, gate = sign_off(find_run(run), name=name, role=role, key=key, make_key=new_key, overrides=overrides or ())
    if as_json:
        typer.echo(json.dumps(made.as_dict() | {"evidence": gate.evidence}, indent=1, ensure_ascii=False))
        return
    _print(gate.checks)
    for text in gate.summary["privacy"]["not_covered"]:
        _line(f"open     {text}")
    _line(f"signed   {made.evidence_sha256} by {name} as {role}, key {made.key}")


@app.command(epilog="Example: fedmed release verify release/ --key 3b6a… (or a file with it)")
def verify(
    folder: Annotated[Path, typer.Argument(help="The folder of a release.")],
    key: Annotated[
        list[str] | None, typer.Option(help="The public key that must have signed it, in hexadecimal or in a file.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Say whether a folder is a release as it was signed. Exit code 0: it is; 86: changed; 87: no key was given."""
    from fedmed.pipeline.release_verify import verify_release

    statement = verify_release(folder, [public_key(one) for one in key or ()])
    if as_json:
        typer.echo(json.dumps(statement, indent=1, ensure_ascii=False))
        return
    _line(f"adapter  {statement['evidence']['adapter_sha256']} of run '{statement['evidence']['run']}'")
    for one in statement["sign_offs"]:
        _line(f"signed   {one['name']}, {one['role']}, {one['at']}, key {one['key']}")
    _line(f"intact   released {statement['at']}")


def _print(checks: Iterable[Check]) -> None:
    for check in checks:
        _line(f"kept     {check.name}: {check.told}")


def _line(text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)

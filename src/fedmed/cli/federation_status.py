"""``fedmed federation status``: how a federation, or one hospital in it, stands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from fedmed.cli.federation_options import Json, line, note


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command(epilog="Example: fedmed federation status --folder federation --json")(status)


def status(
    folder: Annotated[Path, typer.Option(metavar="DIR", help="A coordinator's or a hospital's folder.")] = Path(),
    as_json: Json = False,
) -> None:
    """Show hospitals, certificates and the last run; in a hospital's folder its pins, policy and waiting plans."""
    from fedmed.network.federation_folder import FederationFolder
    from fedmed.network.site import Site
    from fedmed.network.status import coordinator_status, hospital_status, is_site

    site = is_site(folder)
    shown = hospital_status(Site.read(folder)) if site else coordinator_status(FederationFolder.open(folder))
    if as_json:
        typer.echo(json.dumps(shown, indent=1, ensure_ascii=False))
        return
    (_print_hospital if site else _print_coordinator)(shown)
    for text in shown["warnings"]:
        note(f"warning: {text}")


def _print_coordinator(shown: dict[str, Any]) -> None:
    line(f"federation   {shown['federation_id']}, {shown['host']} port {shown['port']}")
    line(f"invitation   {shown['invitation_fingerprint']}")
    for one in shown["hospitals"]:
        line(f"{one['name']:12} {one['status']:8} {one['fingerprint']}  {one['changed']} by {one['by']}")
    if not shown["hospitals"]:
        line("hospitals    nobody asked to join yet")
    for reason in shown["requests_refused"]:
        note(f"refused: {reason}")
    _print_certificates(shown)
    last = shown["last_run"]
    line(f"last run     {last['run']}, {last['status']}" if last else "last run     none")


def _print_hospital(shown: dict[str, Any]) -> None:
    line(f"hospital     {shown['name']} of federation {shown['federation_id']}, {shown['host']} port {shown['port']}")
    line(f"fingerprint  {shown['fingerprint']}")
    line(f"records      {shown['data'] or 'given when it starts'}")
    for name, pin in shown["pins"].items():
        line(f"identity     {name}={pin}")
    policy = shown["policy"]
    noise, masks = policy["privacy"]["max_epsilon"], policy["privacy"]["secure_sum"]
    line(
        f"accepts      {', '.join(policy['algorithms'])}; at most {policy['limits']['rounds']} rounds; "
        f"ε {'not asked for' if noise is None else f'at most {noise:g}'}; secure sum {masks}; "
        f"{'a person is asked' if policy['ask'] else 'nobody is asked'}"
    )
    line(
        f"waiting      {len(shown['pending'])} for a person: fedmed federation consent"
        if shown["pending"]
        else "waiting      nothing"
    )
    _print_certificates(shown)


def _print_certificates(shown: dict[str, Any]) -> None:
    for one in shown["certificates"]:
        line(f"{one['file']:12} {one['days_left']} days left, until {one['ends'][:10]}")

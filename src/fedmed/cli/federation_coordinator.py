"""``fedmed federation init | approve | revoke | renew``: what the coordinator's person does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from fedmed.cli.federation_options import (
    AskPassphrase,
    Coordinator,
    Json,
    is_interactive,
    line,
    note_plain_keys,
    passphrase_for,
    passphrase_for_new_keys,
)

Name = Annotated[str, typer.Argument(help="Name of the hospital.")]


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    app.command(epilog="Example: fedmed federation init federation --host fl.example.org --port 9443")(init)
    app.command(epilog="Example: fedmed federation approve hospital_A --fingerprint 0f3a-… --folder federation")(
        approve
    )
    app.command(epilog="Example: fedmed federation revoke hospital_A --folder federation")(revoke)
    app.command(epilog="Example: fedmed federation renew --folder federation")(renew)


def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to make.")],
    host: Annotated[
        list[str],
        typer.Option(metavar="HOST", help="Name or address that hospitals dial; the first is in the invitation."),
    ],
    port: Annotated[int, typer.Option(min=1, max=65535, help="The one port that the server opens.")] = 9443,
    ask_passphrase: AskPassphrase = False,
    as_json: Json = False,
) -> None:
    """Make a federation: its certificates, the coordinator's key, an invitation, an empty roster. Opens no port."""
    from fedmed.network.federation_folder import FederationFolder

    passphrase = passphrase_for_new_keys(ask_passphrase)
    made = FederationFolder.create(folder, host, port, passphrase)
    note_plain_keys(passphrase)
    invitation = made.invitation()
    if as_json:
        shown = {
            "folder": str(made.path),
            "invitation": str(made.invitation_path),
            "federation_id": invitation.federation_id,
            "fingerprint": invitation.fingerprint,
        }
        typer.echo(json.dumps(shown))
        return
    line(f"federation   {invitation.federation_id}, {invitation.host} port {invitation.port}, in {made.path}")
    line(f"invitation   {made.invitation_path}: give it to every hospital")
    line(f"fingerprint  {invitation.fingerprint}: tell it another way")
    line("next         each hospital: fedmed federation join invitation.json --name hospital_A")


def approve(
    name: Name,
    fingerprint: Annotated[
        str | None, typer.Option(metavar="F", help="That the hospital's person reads out. Default: asked for.")
    ] = None,
    request: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The hospital's request.json, if not among requests/ yet.")
    ] = None,
    folder: Coordinator = Path(),
    as_json: Json = False,
) -> None:
    """Let a hospital take part, after its fingerprint was compared over a channel that both sides trust."""
    from fedmed.errors import RosterError
    from fedmed.network.federation_folder import FederationFolder

    federation = FederationFolder.open(folder)
    if request is not None:
        federation.take_in(request)
    federation.take_in_requests()
    waiting = federation.roster().member(name)
    if fingerprint is None:
        if not is_interactive():
            raise RosterError(
                f"nobody compared the fingerprint of '{name}'", "ask the hospital for it and give --fingerprint"
            )
        # Typed, not nodded at: a person who types it has heard it.
        fingerprint = str(typer.prompt(f"fingerprint that '{name}' reads out", err=True))
    member = federation.approve(name, fingerprint)
    if as_json:
        typer.echo(json.dumps({"name": name, "status": member.status, "fingerprint": member.fingerprint}))
    else:
        line(f"{name}: {'approved' if waiting.status == 'waiting' else 'was approved already'}, {member.fingerprint}")


def revoke(name: Name, folder: Coordinator = Path(), as_json: Json = False) -> None:
    """End a hospital's part. Its present keys never come back; it may join again with new ones."""
    from fedmed.network.federation_folder import FederationFolder

    federation = FederationFolder.open(folder)
    federation.take_in_requests()  # so that a request that waits can be turned away, too
    member = federation.revoke(name)
    if as_json:
        typer.echo(json.dumps({"name": name, "status": member.status, "changed": member.changed}))
    else:
        line(f"{name}: {member.status} {member.changed} by {member.by}; a running server asks it no more")


def renew(folder: Coordinator = Path(), as_json: Json = False) -> None:
    """Make the server's next certificate, for the same names and a year. Hospitals need nothing new."""
    from fedmed.network.authority import renew as renew_certificate
    from fedmed.network.federation_folder import FederationFolder

    federation = FederationFolder.open(folder)
    made = renew_certificate(folder, passphrase_for(folder / "ca.key", federation.server_key))
    if as_json:
        typer.echo(json.dumps({"certificate": made.path, "ends": made.ends.isoformat(), "days_left": made.days_left()}))
    else:
        line(f"{made.path}: {made.days_left()} days, until {made.ends:%Y-%m-%d}; restart the server to use it")

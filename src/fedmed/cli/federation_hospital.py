"""``fedmed federation join | pin | consent``: what a hospital's person does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from fedmed.cli.federation_options import (
    AskPassphrase,
    Hospital,
    Json,
    is_interactive,
    line,
    note_plain_keys,
    passphrase_for_new_keys,
)


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    app.command(epilog="Example: fedmed federation join invitation.json --name hospital_A --data records.jsonl")(join)
    app.command(
        epilog="Example: fedmed federation pin request_of_B.json --fingerprint 0f3a-… --folder hospital_A "
        "(or: fedmed federation pin hospital_B=IDENTITY)"
    )(pin)
    app.command(epilog="Example: fedmed federation consent --yes 0f3a9c21 --folder hospital_A")(consent)


def join(
    where: Annotated[
        str, typer.Argument(metavar="DIR_OR_URL", help="Invitation: a file, a coordinator's folder, an https address.")
    ],
    name: Annotated[str, typer.Option(help="What all others call this hospital.")],
    folder: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder to make. Default: the name.")] = None,
    data: Annotated[Path | None, typer.Option(metavar="PATH", help="This hospital's records; they stay there.")] = None,
    fingerprint: Annotated[
        str | None,
        typer.Option(metavar="F", help="Of the invitation, as the coordinator told it; an address needs it."),
    ] = None,
    ask_passphrase: AskPassphrase = False,
    as_json: Json = False,
) -> None:
    """At the hospital: make its keys, which stay here, and a request with the public ones. Sends nothing."""
    from fedmed.network.enrolment import join as join_federation

    passphrase = passphrase_for_new_keys(ask_passphrase)
    joined = join_federation(
        where, name, folder or Path(name), fingerprint=fingerprint, data=data, passphrase=passphrase
    )
    note_plain_keys(passphrase)
    site, read_out = joined.site, joined.site.fingerprint()
    if as_json:
        shown = {"folder": str(site.path), "request": str(site.request_path), "fingerprint": read_out}
        typer.echo(json.dumps({**shown, "delivered": str(joined.delivered) if joined.delivered else None}))
        return
    line(f"hospital     {name}, in {site.path}; it will dial {site.host} port {site.port}")
    where_to = f"lies in {joined.delivered}" if joined.delivered else f"bring {site.request_path} to the coordinator"
    line(f"request      {where_to}")
    line(f"fingerprint  {read_out}: read it out to the coordinator")
    line(f"policy       {site.policy_path}: what this hospital accepts; look through it")


def pin(
    source: Annotated[
        str | None, typer.Argument(metavar="FILE|NAME=IDENTITY", help="The other's request.json, or its identity.")
    ] = None,
    fingerprint: Annotated[
        str | None, typer.Option(metavar="F", help="With FILE: that the other hospital reads out. Default: asked for.")
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="The other hospital has new keys.")] = False,
    folder: Hospital = Path(),
    as_json: Json = False,
) -> None:
    """Trust another hospital's identity in secure sums; without an argument, list who is trusted."""
    from fedmed.errors import RosterError
    from fedmed.network.enrolment import pin_request, pin_text
    from fedmed.network.site import Site

    site = Site.read(folder)
    if source is not None and Path(source).is_file():
        if fingerprint is None and not is_interactive():
            raise RosterError(
                f"nobody compared the fingerprint of {source}", "ask that hospital and give --fingerprint"
            )
        if fingerprint is None:
            fingerprint = str(typer.prompt("fingerprint that the other hospital reads out", err=True))
        pin_request(site, Path(source), fingerprint, replace=replace)
    elif source is not None:
        pin_text(site, source, replace=replace)
    pins = {name: value.hex() for name, value in site.pins().items()}
    if as_json:
        typer.echo(json.dumps(pins, indent=1))
    else:
        for name, value in pins.items():
            line(f"{name}={value}" + ("  (this hospital)" if name == site.name else ""))


def consent(
    yes: Annotated[str | None, typer.Option(metavar="DIGEST", help="Accept this plan.")] = None,
    no: Annotated[str | None, typer.Option(metavar="DIGEST", help="Decline this plan.")] = None,
    folder: Hospital = Path(),
    as_json: Json = False,
) -> None:
    """See the plans that wait for a person here (policy: ask), and answer them. One answer holds for a whole run."""
    from fedmed.network.approvals import answer, pending
    from fedmed.network.site import Site

    if yes is not None and no is not None:
        raise typer.BadParameter("a plan is accepted or declined, not both", param_hint="--no")
    site = Site.read(folder)
    given = yes if yes is not None else no
    shown = [answer(site.approvals, given, yes is not None)] if given is not None else list(pending(site.approvals))
    if as_json:
        typer.echo(json.dumps([one.model_dump(mode="json") for one in shown], indent=1, ensure_ascii=False))
        return
    for one in shown:
        line(f"{one.digest[:16]}  {one.answer}, asked {one.asked}")
        line(f"  {_told(one.summary)}")
    if not shown:
        line("nothing waits")


def _told(summary: dict[str, Any]) -> str:
    return ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in summary.items() if value is not None)

"""``fedmed federation server | hospital | run | demo``: at the coordinator, at a hospital, or all of it here."""

from __future__ import annotations

import json
import shlex
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from fedmed.cli.federation_options import Coordinator, Hospital, Json, line, note, passphrase_for


class Part(StrEnum):
    """What of a hospital runs in this process."""

    both = "both"
    worker = "worker"
    node = "node"


Overrides = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override one setting.")]
Recipe = Annotated[str | None, typer.Option(help="Settings to start from.")]


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    app.command(epilog="Example: fedmed federation server --folder federation")(server)
    app.command(epilog="Example: fedmed federation hospital --folder hospital_A --data records/")(hospital)
    app.command(epilog="Example: fedmed federation run --folder federation --recipe quick")(run)
    app.command(epilog="Example: fedmed federation demo --tiny")(demo)


def server(
    folder: Coordinator = Path(),
    bind: Annotated[str, typer.Option(metavar="ADDRESS", help="Address to listen on.")] = "0.0.0.0",
) -> None:
    """Run the coordinator's server until it is stopped: the one port that hospitals dial. Follows the roster."""
    from fedmed.network.federation_folder import FederationFolder
    from fedmed.network.processes import until_signalled
    from fedmed.network.server import Server

    federation = FederationFolder.open(folder)
    passphrase = passphrase_for(federation.server_key)
    with until_signalled() as stopped, Server(federation, bind, passphrase, note).running() as running:
        invitation = federation.invitation()
        note(f"the server listens at {bind} port {invitation.port}; hospitals dial {invitation.host}; Ctrl-C stops it")
        running.serve(stopped)


def hospital(
    folder: Hospital = Path(),
    data: Annotated[Path | None, typer.Option(help="This hospital's records. Default: those of join.")] = None,
    part: Annotated[Part, typer.Option(help="Run one of the two alone, as a service of its own.")] = Part.both,
    memory_mb: Annotated[int | None, typer.Option(min=100, help="Most memory of the worker, in MB.")] = None,
) -> None:
    """Run a hospital until it is stopped: the worker, which alone sees records, and the node that dials out."""
    from fedmed.network.hospital import serve_both, serve_node, serve_worker
    from fedmed.network.processes import until_signalled
    from fedmed.network.site import Site

    site = Site.read(folder)
    if part is Part.worker:
        serve_worker(site, data, passphrase_for(site.identity_key), memory_mb)
        return
    passphrase = passphrase_for(site.node_key)
    with until_signalled() as stopped:
        if part is Part.node:
            serve_node(site, passphrase, note, stopped)
        else:
            serve_both(site, data, passphrase, memory_mb, note, stopped)


def run(
    folder: Coordinator = Path(),
    recipe: Recipe = None,
    config: Annotated[list[Path] | None, typer.Option(help="A YAML file of settings.")] = None,
    overrides: Overrides = None,
    out: Annotated[str | None, typer.Option(metavar="NAME", help="Name of the run under runs/. Default: new.")] = None,
    resume: Annotated[str | None, typer.Option(metavar="NAME", help="Go on with an unfinished run.")] = None,
    start: Annotated[
        Path | None, typer.Option(help="The start adapter, made elsewhere: then this machine needs no torch.")
    ] = None,
    deadline: Annotated[float, typer.Option(min=1, help="Seconds for a round; later replies are left behind.")] = 3600,
    wait: Annotated[float, typer.Option(min=0, help="Seconds to wait before a round for absent hospitals.")] = 300,
    as_json: Json = False,
) -> None:
    """Train one adapter with all approved hospitals; the server must be running."""
    from fedmed.config.load import load_config
    from fedmed.errors import ConfigError
    from fedmed.network.federated_run import go_on, reaching, run_over
    from fedmed.network.federation_folder import FederationFolder
    from fedmed.network.processes import interrupted_by_sigterm

    federation = FederationFolder.open(folder)
    if resume is not None and (recipe or config or overrides or out or start):
        raise ConfigError(["--resume goes with --folder, --deadline and --wait only"], "a run keeps its settings")
    settings = load_config(recipe, config or (), overrides or ())
    passphrase = passphrase_for(federation.coordinator_key)
    with (
        interrupted_by_sigterm(),
        reaching(federation, passphrase, deadline=deadline, patience=wait, tell=note) as reach,
    ):
        if resume is not None:
            path, summary = go_on(federation, resume, reach)
        else:
            command = shlex.join(["fedmed", *sys.argv[1:]])
            path, summary = run_over(federation, settings, reach, out=out, recipe=recipe, start=start, command=command)
    _show(path, summary, as_json)


def demo(
    tiny: Annotated[bool, typer.Option("--tiny", help="A tiny random model: a minute, and no answers.")] = False,
    rounds: Annotated[int, typer.Option(min=2, help="Rounds.")] = 3,
    overrides: Overrides = None,
    keep: Annotated[Path | None, typer.Option(help="Do it in this folder, and leave it there.")] = None,
    as_json: Json = False,
) -> None:
    """Four hospitals and a server as real processes over TLS on this machine; one is killed and comes back."""
    from fedmed.network.demo import run_demo
    from fedmed.network.processes import interrupted_by_sigterm

    with interrupted_by_sigterm():  # so that nothing that was started stays behind
        found = run_demo(tiny=tiny, rounds=rounds, overrides=overrides or (), keep=keep, tell=note)
    if as_json:
        typer.echo(json.dumps(found, indent=1))
    else:
        same = "equal, bit for bit, to" if found["equal"] else "NOT equal to"
        line(f"the adapter is {same} that of 'fedmed run' with the same settings")
        line(f"{found['rounds']} rounds in {found['run_seconds']:.0f} s over TLS; started again: {found['restarts']}")
    if not found["equal"]:
        raise typer.Exit(1)


def _show(path: Path, summary: dict[str, Any], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(summary, indent=1, ensure_ascii=False))
        return
    line(f"run       {path}")
    line(f"rounds    {summary['rounds']}, hospitals {', '.join(one['name'] for one in summary['hospitals'])}")
    line(f"bytes     {summary['bytes']['up']:,} up, {summary['bytes']['down']:,} down")
    if summary["adapter_sha256"]:
        line(f"adapter   {path / 'adapter'}")
    else:
        line("adapter   each hospital has its own, in its folder's adapters/")

"""``fedmed federation``: set up a real federation, decide who takes part, see how it stands.

Each part adds its commands to the group: the coordinator's, the hospital's, and what both look at.
"""

from __future__ import annotations

import typer

from fedmed.cli import federation_coordinator, federation_hospital, federation_run, federation_status

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Set up a federation over a real network, and decide who takes part.",
    epilog="Example: fedmed federation init federation --host fl.example.org",
)
for part in (federation_coordinator, federation_hospital, federation_status, federation_run):
    part.register(app)

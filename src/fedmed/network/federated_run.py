"""A run over the federation of a coordinator's folder. cli, demo -> HERE -> coordinator, flower.

The server is another process (server.py) and must be running; this one dials nothing but loopback.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from fedmed.config.schema import FedMedConfig
from fedmed.errors import RosterError, RunNotFoundError
from fedmed.network.coordinator import Reach, resume_federated, start_federated
from fedmed.network.event_log import EventLog
from fedmed.network.federation_folder import FederationFolder
from fedmed.network.flower.launch import check_installed, flower_folder, wait_for_port
from fedmed.network.flower.line import FlowerLine
from fedmed.network.server import members_of, read_nodes
from fedmed.pipeline.run_folder import new_run_name
from fedmed.utils.files import folder_lock


@contextlib.contextmanager
def reaching(
    federation: FederationFolder,
    passphrase: bytes | None = None,
    *,
    deadline: float = 3600.0,
    patience: float = 300.0,
    tell: Callable[[str], None] = lambda line: None,
    before_round: Callable[[int], None] = lambda round: None,
) -> Iterator[Reach]:
    """How a run reaches the hospitals of a federation; one run at a time.

    Raises:
        FederationError: its server does not run. RunBusyError: another run is going on. KeyFileError.
    """
    check_installed()
    sign = federation.coordinator(passphrase).sign
    folder = flower_folder(federation.path)
    wait_for_port("127.0.0.1", federation.invitation().port, 5.0)
    with folder_lock(federation.runs):
        line = FlowerLine(folder, lambda: read_nodes(federation))
        try:
            yield Reach(
                line, sign, lambda: members_of(federation), EventLog(federation.log), deadline, patience, None, tell,
                before_round,
            )  # fmt: skip
        finally:
            line.close()


def run_over(
    federation: FederationFolder,
    config: FedMedConfig,
    reach: Reach,
    *,
    out: str | None = None,
    recipe: str | None = None,
    start: Path | None = None,
    command: str = "",
) -> tuple[Path, dict[str, Any]]:
    """Begin a run with all approved hospitals. Returns its folder and summary; raises as ``start_federated``."""
    approved = members_of(federation)
    if not approved:
        raise RosterError("no hospital is approved", "see 'fedmed federation status', then 'fedmed federation approve'")
    if len(approved) != config.federated.num_clients:
        reach.tell(f"{len(approved)} hospitals are approved: federated.num_clients counts as that")
        federated = config.federated.model_copy(update={"num_clients": len(approved)})
        config = FedMedConfig.model_validate(config.model_copy(update={"federated": federated}).model_dump())
    path = federation.runs / (out or new_run_name(recipe))
    return path, start_federated(config, path, reach, start=start, command=command)


def go_on(federation: FederationFolder, run: str, reach: Reach) -> tuple[Path, dict[str, Any]]:
    """Resume a run by its name. Returns its folder and summary; raises as ``resume_federated``."""
    path = federation.runs / run
    if not path.is_dir():
        known = ", ".join(sorted(one.name for one in federation.runs.glob("*") if one.is_dir())[-5:]) or "none"
        raise RunNotFoundError(f"there is no run '{run}' in {federation.runs}", f"newest: {known}")
    return path, resume_federated(path, reach)

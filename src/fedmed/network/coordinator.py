"""One run of a real federation at its coordinator: rounds, checkpoints, the adapter. cli, demo -> HERE -> transport.

    config.yaml  run.json  start/  orders.json  rounds/NNNN/  rounds.jsonl  adapter/  summary.json

The run folder is that of ``fedmed run`` without scores: nobody here holds records to score on. ``summary.json`` says
``running``, ``stopped`` with its reason, or ``finished``. A run that was stopped or killed goes on from its last whole
round; the order of the round that was under way is sent again as it was, and hospitals answer it from their outboxes.
Under masks a round whose shares were asked for is given up instead: it changes nothing, and the next one begins.

Not covered: personal methods' adapters, which never leave their hospitals; a ledger's head, which each hospital shows.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fedmed.config.load import config_digest
from fedmed.config.schema import FedMedConfig
from fedmed.errors import ConfigError, QuorumError, RunError
from fedmed.federated.algorithms import check_combination, get_algorithm
from fedmed.federated.checkpoint import load_latest, save_round
from fedmed.federated.runner import FederationState, run_rounds
from fedmed.network.adapter_files import base_of, bring_start, export, make_start, read_start
from fedmed.network.asking import Asking, Line
from fedmed.network.event_log import EventLog
from fedmed.network.order_book import OrderBook
from fedmed.network.orders import Sign
from fedmed.network.presence import PresentHospitals
from fedmed.network.transport import NetworkTransport
from fedmed.network.way_down import WayDown
from fedmed.pipeline.run_folder import RunFolder, environment, peak_rss_mb, resume_run, start_run
from fedmed.types import Algorithm, RoundReport
from fedmed.utils.digests import arrays_sha256
from fedmed.utils.files import write_atomic

ORDERS = "orders.json"


def _silent(line: str) -> None:
    """Nobody watches."""


@dataclass(frozen=True)
class Reach:
    """How a coordinator reaches its hospitals.

    Args:
        line: carries bytes to them.
        sign: the coordinator's key.
        members: gives name -> public identity of all that are approved now.
        log: of refusals and events.
        deadline: seconds in which a round's replies must come; later ones are left behind.
        patience: seconds to wait before a round for hospitals that are not there.
        repeat: see ``Asking``.
        tell: shows a line to whoever watches.
        before_round: called with each round's number before it is planned.
    """

    line: Line
    sign: Sign
    members: Callable[[], Mapping[str, bytes]]
    log: EventLog
    deadline: float = 3600.0
    patience: float = 300.0
    repeat: float | None = None
    tell: Callable[[str], None] = _silent
    before_round: Callable[[int], None] = lambda round: None


def start_federated(
    config: FedMedConfig, path: Path, reach: Reach, *, start: Path | None = None, command: str = ""
) -> dict[str, Any]:
    """Begin a run and carry it to its end.

    Args:
        config: settings; hospitals use their own records, whatever ``training.dataset`` says.
        path: the run's folder, new; its name is the run's id.
        reach: the hospitals.
        start: a folder with the start adapter, made elsewhere; None: made here, which needs torch.
        command: how the run was asked for.

    Returns:
        Its summary.

    Raises:
        QuorumError: too few hospitals; the run can be resumed. What settings, model and disk raise.
    """
    check_combination(config)
    if config.federated.agent.enabled:
        raise ConfigError(
            ["federated.agent does not plan rounds over a network yet"], "set federated.agent.enabled to false"
        )
    with start_run(path, config) as folder:
        folder.write_json("run.json", {"command": command, "kind": "network"})
        if start is None:
            reach.tell("making the adapter that all start from")
            make_start(config, folder.path / "start")
        else:
            bring_start(start, folder.path / "start")
        try:
            return _Run(folder, config, reach).carry_out()
        except BaseException as error:
            if not (folder.path / ORDERS).is_file():
                raise
            stopped = error  # hospitals have trained for this run, so its folder stays, which an error in here removes
    raise stopped


def resume_federated(path: Path, reach: Reach) -> dict[str, Any]:
    """Go on with a run from its last whole round. Raises what ``resume_run`` and ``start_federated`` raise."""
    with resume_run(path, None) as (folder, config):
        return _Run(folder, config, reach).carry_out()


class _Run:
    def __init__(self, folder: RunFolder, config: FedMedConfig, reach: Reach) -> None:
        self.folder, self.config, self.reach = folder, config, reach
        self.algorithm = get_algorithm(config.federated)
        self.down = WayDown(config.federated.wire)
        self.started = time.perf_counter()

    def carry_out(self) -> dict[str, Any]:
        path, config, reach = self.folder.path, self.config, self.reach
        digest = config_digest(config)
        self._write_status("running")
        try:
            begun = load_latest(path, config_digest=digest)
            if begun is None:
                if not (path / "start").is_dir():
                    make_start(config, path / "start")
                global_state, server_state = self.algorithm.start(read_start(path / "start"))
                begun = FederationState(round=0, global_state=global_state, server_state=server_state)
            else:
                reach.tell(f"going on after round {begun.round}")
            transport = NetworkTransport(
                Asking(reach.line, reach.sign, reach.members, reach.log, reach.repeat), config, self.folder.name,
                OrderBook(path / ORDERS), self.down, begun.history, reach.deadline, base_of(path / "start"), reach.tell,
            )  # fmt: skip
            final = self._rounds(begun, transport, digest)
            there = [name for name in sorted(reach.members()) if name in reach.line.hospitals()]
            transport.finish(there, final.global_state, self.algorithm)
            summary = self._summary(final)
            self.folder.write_json("summary.json", summary)
        except BaseException as error:
            with contextlib.suppress(RunError):  # a disk that is full stays full: the first error is what counts
                self._write_status("stopped", str(error) or type(error).__name__)
            raise
        reach.log.write("run finished", run=self.folder.name, rounds=final.round)
        return summary

    def _rounds(self, begun: FederationState, transport: NetworkTransport, digest: str) -> FederationState:
        federated, path, reach = self.config.federated, self.folder.path, self.reach
        self._write_lines(begun)

        def on_round(state: FederationState, report: RoundReport) -> None:
            save_round(path, state, config_digest=digest, keep=federated.keep_rounds)
            self._write_lines(state)
            out = [f"{name} ({transport.absent.get(name, why)})" for name, why in sorted(report.refused.items())]
            losses = [metrics.loss for metrics in report.metrics.values()]
            loss = f", mean training loss {sum(losses) / len(losses):.3f}" if losses else ""
            reach.tell(
                f"round {report.round}/{federated.rounds} is {'whole' if report.admitted else 'given up'}: "
                f"{len(report.admitted)} hospitals"
                f"{loss}{'; without ' + ', '.join(out) if out else ''}"
            )
            reach.log.write("round", run=self.folder.name, round=report.round, admitted=list(report.admitted), out=out)

        policy = PresentHospitals(
            transport, self.config, self.folder.name, reach.patience, reach.tell, reach.before_round
        )
        while asked := transport.book.spent(begun.round + 1):
            begun = given_up(begun, asked)
            on_round(begun, begun.history[-1])
        transport.history = begun.history
        try:
            return run_rounds(
                begun, algorithm=self.algorithm, transport=transport, policy=policy, rounds=federated.rounds,
                on_round=on_round, downlink=self.down, max_norm=federated.max_reply_norm,
            )  # fmt: skip
        except QuorumError as error:
            reasons = "; ".join(f"'{name}': {why}" for name, why in sorted(transport.absent.items()))
            raise QuorumError(error.what + (f" [{reasons}]" if reasons else ""), error.hint) from error

    def _summary(self, final: FederationState) -> dict[str, Any]:
        adapter = None
        if not self.algorithm.traits.personal:
            adapter = self.algorithm.export(final.global_state, {})
            export(adapter, self.folder.path / "start", self.folder.adapter)
        return self._known() | _described(self.config, self.algorithm, final) | {
            "run_id": self.folder.name,
            "status": "finished",
            "reason": None,
            "adapter_sha256": None if adapter is None else arrays_sha256(adapter),
            "wall_s": {"total": round(time.perf_counter() - self.started, 3)},
            "peak_rss_mb": round(peak_rss_mb(), 1),
            "environment": environment(),
            "command": (self.folder.read_json("run.json") or {}).get("command", ""),
        }  # fmt: skip

    def _write_lines(self, state: FederationState) -> None:
        lines = [line for report in state.history for line in _lines(report)]
        write_atomic(self.folder.path / "rounds.jsonl", "".join(json.dumps(line) + "\n" for line in lines))

    def _known(self) -> dict[str, Any]:
        return dict(self.folder.read_json("summary.json") or {"run_id": self.folder.name})

    def _write_status(self, status: str, reason: str | None = None) -> None:
        self.folder.write_json("summary.json", self._known() | {"status": status, "reason": reason})


def given_up(state: FederationState, asked: Sequence[str]) -> FederationState:
    """The state after a round that nothing came of: its number is used up and its hospitals keep what they had."""
    why = "shares of this round's secure sum left and its result was lost, so no other sum of it is made"
    report = RoundReport(state.round + 1, (), dict.fromkeys(asked, why))
    return replace(state, round=report.round, history=(*state.history, report))


def _described(config: FedMedConfig, algorithm: Algorithm, final: FederationState) -> dict[str, Any]:
    samples: dict[str, int] = {}
    for report in final.history:
        samples |= report.num_samples
    return {
        "seed": config.federated.seed,
        "model": config.model.name,
        "algorithm": algorithm.name,
        "hospitals": [
            {"name": name, "num_samples": None if config.privacy.noised else count}
            for name, count in sorted(samples.items())
        ],
        "rounds": final.round,
        "bytes": {
            "up": sum(past.bytes_up for past in final.history),
            "down": sum(past.bytes_down for past in final.history),
        },
        "privacy": {"secure_sum": config.privacy.secure_sum},
    }


def _lines(report: RoundReport) -> list[dict[str, Any]]:
    """One line a hospital, as ``fedmed run`` writes them, and one for each that was left out."""
    lines = []
    for name in report.admitted:
        line: dict[str, Any] = {"round": report.round, "hospital": name}
        if metrics := report.metrics.get(name):
            line |= {key: getattr(metrics, key) for key in ("loss", "tokens", "answer_tokens", "steps", "seconds")}
        lines.append(line)
    return lines + [
        {"round": report.round, "hospital": name, "refused": why} for name, why in sorted(report.refused.items())
    ]

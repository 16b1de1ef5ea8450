"""Seeded faults over complete runs of a real federation: ``make chaos`` -> benchmarks/results/chaos.json.

Four hospitals and a server as processes over TLS on loopback, the tiny model, the coordinator a process too. In every
round of every run something is done to one of them at a random moment: kill -9 of the server, a node, a worker or the
coordinator, a link that is cut, a reply that is damaged, a disk that is full at the coordinator. Runs in the clear, in
4-bit messages, under masks, and with noise.

A fault is survived if its run ends, or stops with one clear line and goes on when it is resumed; if the final adapter
is that of ``fedmed run`` wherever all hospitals took part in every round and no noise was drawn; if no checkpoint was
lost; and if every hospital's ledger holds a charge for every update that ever left it, counted at its door.
Finished runs are kept.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from between import Link, Tap
from kept import CACHE, RESULTS, SITTING, Kept, digest_of, say, stamp, write_result

from fedmed import network
from fedmed.config.load import load_config
from fedmed.network.loopback import Loopback, enrol, share_out
from fedmed.network.orders import decode_reply
from fedmed.network.site import Site
from fedmed.pipeline.federation import run_federation
from fedmed.privacy.ledger import Ledger

SETTINGS = (
    "model.name=builtin:tiny-llama", "training.engine=single", "training.max_steps=2", "training.learning_rate=0.01",
    "training.threads=1", "training.dataset.max_samples=400", "training.evaluation.max_records_per_hospital=1",
    "training.evaluation.few_shot=0", "training.evaluation.multiple_choice_items=0",
    "training.evaluation.generated_answers=0", "training.evaluation.sample_answers=0",
)  # fmt: skip
MODES = {
    "clear": (),
    "int4": ("federated.wire.up=int4", "federated.wire.down=int4"),
    "masks": ("privacy.secure_sum=true",),
    "noise": ("privacy.example.epsilon=8.0", "training.batch_size=4"),
}
PLAN = ("clear", "clear", "int4", "masks", "noise", "clear", "int4", "clear")
ROUNDS = 8
LINK_CUT = (1.0, 15.0)  # seconds
LONGEST_RUN = 900.0  # seconds, after which a run counts as one that does not end
_CODE = digest_of(Path(__file__), Path(__file__).with_name("between.py"), *Path(network.__path__[0]).rglob("*.py"))


@dataclass
class Town:
    """The federation, with something in between everywhere."""

    folder: Path
    parts: Loopback
    links: dict[str, Link]
    taps: dict[str, Tap]
    settings: tuple[str, ...]
    small_disk: bool  # whether the runs' folder is a file system of its own
    told: list[str] = field(default_factory=list)

    @property
    def runs(self) -> Path:
        return self.parts.federation.runs


@contextlib.contextmanager
def town(size_mb: int = 64) -> Iterator[Town]:
    """All of it, running."""
    folder = Path(tempfile.mkdtemp(prefix="fedmed-"))  # short: a socket's path has at most about 100 bytes
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, True)
        federation, sites = enrol(folder, share_out(load_config(None, (), SETTINGS), folder / "shares"))
        federation.runs.mkdir(exist_ok=True)
        mount = ["mount", "-t", "tmpfs", "-o", f"size={size_mb}m", "tmpfs", str(federation.runs)]
        small = os.geteuid() == 0 and subprocess.run(mount, capture_output=True, check=False).returncode == 0
        if small:
            stack.callback(subprocess.run, ["umount", "-l", str(federation.runs)], check=False)
        port = federation.invitation().port
        links = {name: Link(port) for name in sites}
        taps = {name: Tap(site.socket.absolute(), site.path.absolute() / "tap.sock") for name, site in sites.items()}
        for link in links.values():
            stack.callback(link.close)
        for tap in taps.values():
            stack.callback(tap.close)
        told: list[str] = []

        def way(site: Site) -> tuple[Site, Path]:
            return replace(site, port=links[site.name].port), taps[site.name].path

        parts = Loopback(federation, sites, told.append, way)
        stack.enter_context(parts.running())
        yield Town(folder, parts, links, taps, SETTINGS, small, told)


class Coordinator:
    """The process that carries one run out, started again as often as it must be."""

    def __init__(self, town: Town, name: str, settings: Sequence[str]) -> None:
        self._town, self.name, self._settings = town, name, settings
        self._log = town.folder / f"{name}.log"
        self._process: subprocess.Popen[bytes] | None = None
        self.starts = 0

    @property
    def folder(self) -> Path:
        return self._town.runs / self.name

    def start(self) -> None:
        words = [sys.executable, "-m", "fedmed", "federation", "run", "--folder", str(self._town.parts.federation.path)]
        if (self.folder / "orders.json").is_file():
            words += ["--resume", self.name]
        else:
            shutil.rmtree(self.folder, ignore_errors=True)  # killed before any hospital was asked
            sets = [part for one in (*self._town.settings, *self._settings) for part in ("--set", one)]
            words += ["--out", self.name, *sets]
            first = next(
                (run / "start" for run in sorted(self._town.runs.glob("*/")) if (run / "start").is_dir()), None
            )
            words += ["--start", str(first)] if first is not None else []
        with open(self._log, "ab") as out:
            self._process = subprocess.Popen(words, stdout=out, stderr=subprocess.STDOUT)
        self.starts += 1

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def ended(self) -> int | None:
        return None if self._process is None else self._process.poll()

    def last_line(self) -> str:
        lines = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return lines[-1] if lines else ""

    def traceback(self) -> bool:
        return "Traceback (most recent call last)" in self._log.read_text(encoding="utf-8", errors="replace")

    def checkpoint(self) -> int:
        """Number of the newest whole round."""
        return max((int(one.name) for one in (self.folder / "rounds").glob("[0-9]*")), default=0)


def kinds(town: Town) -> tuple[str, ...]:
    disk = ("disk full",) if town.small_disk else ()
    return ("server killed", "node killed", "worker killed", "coordinator killed", "link cut", "reply damaged", *disk)


@dataclass
class Fault:
    """Something that is done in one round."""

    kind: str
    round: int
    hospital: str
    delay: float  # seconds into the round
    cut: float  # seconds
    done: bool = False
    outcome: str = ""


def draw_faults(town: Town, seed: int, rounds: int, longest: float) -> list[Fault]:
    draw = random.Random(f"chaos {seed}")
    deck: list[str] = []
    faults = []
    for number in range(1, rounds + 1):
        if not deck:
            deck = draw.sample(kinds(town), len(kinds(town)))
        hospital = draw.choice(sorted(town.parts.sites))
        faults.append(Fault(deck.pop(), number, hospital, draw.uniform(0.0, longest), draw.uniform(*LINK_CUT)))
    return faults


class Chaos:
    """One run with its faults."""

    def __init__(self, town: Town, name: str, settings: Sequence[str], faults: Sequence[Fault]) -> None:
        self.town, self.faults = town, list(faults)
        self.coordinator = Coordinator(town, name, settings)
        self.stops: list[str] = []
        self.lost_rounds = 0
        self._ballast = town.runs / "ballast"

    def carry_out(self) -> None:
        began = time.monotonic()
        coordinator = self.coordinator
        coordinator.start()
        newest, entered = 0, None
        while True:
            if time.monotonic() - began > LONGEST_RUN:
                raise TimeoutError(f"the run does not end; its last line: {coordinator.last_line()}")
            time.sleep(0.05)
            now = coordinator.checkpoint()
            if now < newest:
                self.lost_rounds += newest - now
            if now > newest or entered is None:
                newest = now
                entered = time.monotonic() if now or (coordinator.folder / "orders.json").is_file() else None
            for fault in self.faults:
                due = entered is not None and time.monotonic() - entered >= fault.delay
                if due and not fault.done and fault.round == newest + 1:
                    fault.done = True
                    self._do(fault)
            code = coordinator.ended()
            if code is None:
                continue
            if code == 0:
                return
            self._stopped(code)
            self._ballast.unlink(missing_ok=True)
            coordinator.start()

    def _stopped(self, code: int) -> None:
        line = self.coordinator.last_line().replace(f"{self.town.folder}/", "")  # a result names no path of a machine
        if code != -9:
            self.stops.append(f"exit {code}: {line}")
        if len(self.stops) > 3 * len(self.faults):
            raise TimeoutError(f"the run stops again and again: {line}")

    def _do(self, fault: Fault) -> None:
        parts, name = self.town.parts, fault.hospital
        doing: dict[str, Callable[[], None]] = {
            "server killed": parts.server.kill,
            "node killed": parts.nodes[name].kill,
            "worker killed": parts.workers[name].kill,
            "coordinator killed": self.coordinator.kill,
            "link cut": lambda: self.town.links[name].cut(fault.cut),
            "reply damaged": self.town.taps[name].damage_next,
            "disk full": self._fill,
        }
        doing[fault.kind]()

    def _fill(self) -> None:
        with contextlib.suppress(OSError), open(self._ballast, "wb", buffering=0) as file:
            while True:
                file.write(b"\0" * 65536)


def charges_are_enough(town: Town, run: str) -> tuple[bool, dict[str, list[int]]]:
    """Whether each hospital was charged for every different update of a run that left it. Returns counts too."""
    counts = {}
    for name, site in town.parts.sites.items():
        public = bytes.fromhex(site.request().identity_public)
        left = {
            (reply.round, raw)
            for raw in town.taps[name].replies
            if (reply := decode_reply(raw, public)).run_id == run and reply.kind == "payload"
        }
        entries = Ledger.read(site.ledger / f"{name}.jsonl").entries()
        charged = [entry.round for entry in entries if entry.run_id == run]
        short = [number for number, _ in left if charged.count(number) < sum(one == number for one, _ in left)]
        counts[name] = [len(left), len(charged), len(set(short))]
    return not any(short for _, _, short in counts.values()), counts


def judged(
    there: Callable[[], Town], mode: str, seed: int, rounds: int, reference: str | None, longest: float
) -> dict[str, Any]:
    """Carry one run out under its faults, and judge it."""
    town = there()
    settings = (*MODES[mode], f"federated.rounds={rounds}")
    chaos = Chaos(town, f"{mode}-{seed}", settings, draw_faults(town, seed, rounds, longest))
    for tap in town.taps.values():
        tap.replies.clear()
    began = time.monotonic()
    problem = None
    try:
        chaos.carry_out()
    except TimeoutError as error:
        problem = str(error)
        chaos.coordinator.kill()
    seconds = time.monotonic() - began
    folder = chaos.coordinator.folder
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    lines = [json.loads(line) for line in (folder / "rounds.jsonl").read_text(encoding="utf-8").splitlines()]
    admitted = dict.fromkeys(range(1, rounds + 1), 0)
    for line in lines:
        admitted[line["round"]] += "refused" not in line
    whole = all(count == len(town.parts.sites) for count in admitted.values())
    equal = summary.get("adapter_sha256") == reference if whole and reference else None
    enough, charges = charges_are_enough(town, folder.name) if mode == "noise" else (True, {})
    checks = {
        "ended": problem is None and summary["status"] == "finished",
        "equal": equal is not False,
        "rounds_kept": chaos.lost_rounds == 0,
        "charged": enough,
        "clear_words": not chaos.coordinator.traceback() and all("error: " in stop for stop in chaos.stops),
    }
    survived = all(checks.values())
    done = [fault for fault in chaos.faults if fault.done]
    stops = "; ".join(chaos.stops)
    well = "the run went on, resumed where it stopped" if chaos.stops else "the run went on"
    broken = problem or ", ".join(name for name, held in checks.items() if not held)
    for fault in done:
        fault.outcome = well if survived else broken
    shutil.rmtree(folder / "rounds", ignore_errors=True)
    return {
        "mode": mode, "seed": seed, "rounds": rounds, "seconds": seconds, "starts": chaos.coordinator.starts,
        "admitted": admitted, "all_took_part": whole, "equal": equal, "checks": checks, "charges": charges,
        "stops": stops,
        "faults": [
            {
                "kind": fault.kind, "seed": seed, "mode": mode, "round": fault.round, "hospital": fault.hospital,
                "delay_s": fault.delay, "outcome": fault.outcome, "survived": survived,
            }
            for fault in done
        ],
    }  # fmt: skip


def reference_of(mode: str, rounds: int, folder: Path) -> dict[str, Any]:
    """The adapter of ``fedmed run`` with the same settings; under masks it is that of the clear."""
    more = () if mode == "masks" else MODES[mode]
    config = load_config(None, (), [*SETTINGS, *more, f"federated.rounds={rounds}"])
    began = time.monotonic()
    with contextlib.chdir(folder):
        summary = run_federation(config, out=folder / f"alone-{mode}").summary
    return {"adapter_sha256": summary["adapter_sha256"], "seconds": time.monotonic() - began}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one short run: shows that it works")
    parser.add_argument("--out", type=Path, default=RESULTS / "chaos.json", help="the result file")
    parser.add_argument("--cache", type=Path, default=CACHE, help="where finished runs are kept")
    parser.add_argument("--minutes", type=float, default=SITTING, help="of one sitting; the next one goes on")
    args = parser.parse_args(argv)
    plan, rounds, longest = (("clear",), 2, 2.0) if args.quick else (PLAN, ROUNDS, 8.0)
    kept = Kept(args.cache, len(plan) + len(set(plan)), args.minutes)
    runs = []
    with contextlib.ExitStack() as stack:
        running: list[Town] = []

        def there() -> Town:
            if not running:
                running.append(stack.enter_context(town()))
            return running[0]

        references: dict[str, str] = {}
        for mode in dict.fromkeys(plan):
            if mode != "noise":
                place = Path(stack.enter_context(tempfile.TemporaryDirectory()))
                found = kept.get(
                    f"'fedmed run', {mode}", {"kind": "chaos reference", "mode": mode, "rounds": rounds, "code": _CODE},
                    functools.partial(reference_of, mode, rounds, place),
                )  # fmt: skip
                references[mode] = found["adapter_sha256"]
        for seed, mode in enumerate(plan, start=1):
            found = kept.get(
                f"{mode}, seed {seed}, {rounds} faults",
                {"kind": "chaos", "mode": mode, "seed": seed, "rounds": rounds, "longest": longest, "code": _CODE},
                functools.partial(judged, there, mode, seed, rounds, references.get(mode), longest),
            )
            say(f"    {found['checks']}, {found['starts']} starts{'; ' + found['stops'] if found['stops'] else ''}")
            runs.append(found)
    faults = [fault for run in runs for fault in run.pop("faults")]
    write_result(
        args.out,
        {
            "quick": args.quick, "faults": faults, "survived": sum(fault["survived"] for fault in faults),
            "total": len(faults), "runs": runs, "environment": stamp(),
        },
    )  # fmt: skip


if __name__ == "__main__":
    main()

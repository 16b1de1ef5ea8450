"""What a real federation costs beside its trainings: ``make bench-network`` -> benchmarks/results/network.json.

Four hospitals, server and coordinator as processes over TLS on loopback. The long rounds (Gemma 3 270M, as many steps
as take this machine at least 120 s) against the same four trainings as four plain processes side by side, each with its
model loaded and its records read, in the same sitting: ``overhead`` is what a warm round takes longer, as a share of
the plain trainings (medians). The short rounds (tiny model, one step) show what a round costs that trains next to
nothing: in the clear that is orders, polling and Flower's processes; under masks the exchanges of the secure sum as
well. Finished parts are kept.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import math
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import hosts
from kept import CACHE, RESULTS, SITTING, Kept, digest_of, say, stamp, write_result

from fedmed import network
from fedmed.config.load import load_config
from fedmed.config.schema import FedMedConfig
from fedmed.network.adapter_files import make_start, read_start
from fedmed.network.event_log import read_events
from fedmed.network.federated_run import reaching, run_over
from fedmed.network.loopback import Loopback, enrol, share_out

SETTINGS = (
    "training.engine=single", "training.threads=1", "training.evaluation.max_records_per_hospital=1",
    "training.evaluation.few_shot=0", "training.evaluation.multiple_choice_items=0",
    "training.evaluation.generated_answers=0", "training.evaluation.sample_answers=0",
)  # fmt: skip
LONG = ("training.batch_size=4", "training.dataset.max_samples=2000")
LONG_ROUNDS = 3  # the first one is cold
LONG_TRAINING = 150.0  # seconds aimed at, so that 120 are not missed
SHORT = ("model.name=builtin:tiny-llama", "training.dataset.max_samples=400", "training.max_steps=1")
_CODE = digest_of(Path(__file__), *Path(network.__path__[0]).rglob("*.py"))
_HOSTS = digest_of(*(Path(__file__).with_name(name) for name in ("hosts.py", "between.py")))


def settings(*more: str) -> FedMedConfig:
    return load_config(None, (), [*SETTINGS, *more])


@contextlib.contextmanager
def enrolled(config: FedMedConfig) -> Iterator[tuple[Path, Loopback]]:
    folder = Path(tempfile.mkdtemp(prefix="fedmed-"))  # short: a socket's path has at most about 100 bytes
    try:
        federation, sites = enrol(folder, share_out(config, folder / "shares"))
        yield folder, Loopback(federation, sites, lambda line: None)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def over_the_network(config: FedMedConfig, plain: bool) -> dict[str, Any]:
    """One run, and where asked the same trainings as plain processes.

    Returns:
        ``start_up_s`` until the server listens and workers and nodes are started; the first round waits for them.
        ``rounds``: seconds of each round, of its
        slowest training, and bytes; ``plain``: seconds of each round's four trainings side by side, of the slowest.
    """
    with enrolled(config) as (folder, parts):
        began = time.monotonic()
        entered: list[float] = []
        start = folder / "start"
        make_start(config, start)
        made = time.monotonic()
        with (
            parts.running(),
            reaching(
                parts.federation, patience=300.0, before_round=lambda number: entered.append(time.time())
            ) as reach,
        ):
            up = time.monotonic()
            path, summary = run_over(parts.federation, config, reach, out="run", start=start)
        ended = [event["time"] for event in read_events(parts.federation.log) if event["event"] == "round"]
        lines = [json.loads(line) for line in (path / "rounds.jsonl").read_text(encoding="utf-8").splitlines()]
        rounds = [
            {
                "seconds": end - begin,
                "slowest_training": max(line["seconds"] for line in lines if line["round"] == number),
            }
            for number, (begin, end) in enumerate(zip(entered, ended, strict=True), start=1)
        ]
        first = rounds[0]
        found: dict[str, Any] = {
            "rounds": rounds, "bytes": summary["bytes"], "secure_sum": config.privacy.secure_sum,
            "start_adapter_s": made - began, "start_up_s": up - made,
        }  # fmt: skip
        found["first_round_beyond_training_s"] = first["seconds"] - first["slowest_training"]
        if plain:
            found["plain"] = plain_trainings(config, folder, start)
        return found


def a_step(config: FedMedConfig) -> dict[str, Any]:
    """Seconds that the plain trainings take for a step a hospital."""
    with enrolled(config) as (folder, _):
        make_start(config, folder / "start")
        return {"seconds": plain_trainings(config, folder, folder / "start")[-1]}


def on_hosts(config: FedMedConfig) -> dict[str, Any]:
    """Runs between network namespaces, see hosts.py."""
    folder = Path(tempfile.mkdtemp(prefix="fedmed-"))
    try:
        return hosts.under_conditions(config, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def plain_trainings(config: FedMedConfig, folder: Path, start: Path) -> list[float]:
    """Seconds from a common signal until the last of the hospitals' processes has trained, for each round."""
    (folder / "config.json").write_text(json.dumps(config.as_dict()), encoding="utf-8")
    names = sorted(one.name for one in (folder / "shares").iterdir() if one.is_dir())
    words = [sys.executable, __file__, "--plain", str(folder), "--hospitals", *names]
    ready = [
        subprocess.Popen(
            [*words, "--name", name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for name in names
    ]
    seconds = []
    try:
        for process in ready:
            assert process.stdout is not None
            if process.stdout.readline() != "ready\n":
                raise RuntimeError("a plain training did not start")
        for _ in range(config.federated.rounds):
            began = time.monotonic()
            for process in ready:
                assert process.stdin is not None
                process.stdin.write("go\n")
                process.stdin.flush()
            for process in ready:
                assert process.stdout is not None
                if process.stdout.readline() != "done\n":
                    raise RuntimeError("a plain training failed")
            seconds.append(time.monotonic() - began)
    finally:
        for process in ready:
            process.kill()
            process.wait()
    return seconds


def be_plain(folder: Path, name: str, hospitals: Sequence[str]) -> None:
    """One hospital's training and nothing around it; a line in begins a round, a line out ends it."""
    from fedmed.federated.algorithms import get_algorithm
    from fedmed.network.hospital_half import HospitalHalf
    from fedmed.types import RoundPlan

    config = FedMedConfig.model_validate_json((folder / "config.json").read_text(encoding="utf-8"))
    federated = config.federated
    half = HospitalHalf(name, folder / "shares" / name, folder / f"plain-{name}")
    state, _ = get_algorithm(federated).start(read_start(folder / "start"))

    def plan(number: int) -> Any:
        asked = RoundPlan("plain", number, federated.rounds, tuple(hospitals), 1, federated.seed)
        return asked.for_hospital(name)

    half.base_digest(config)
    half.prepare(config, plan(1))
    print("ready", flush=True)  # noqa: T201
    for number in range(1, federated.rounds + 1):
        sys.stdin.readline()
        half.train(config, plan(number), state, {})
        print("done", flush=True)  # noqa: T201


def key_of(more: Sequence[str]) -> dict[str, Any]:
    return {"kind": "network", "settings": [*SETTINGS, *more], "code": _CODE}


def steps_for(seconds: float, kept: Kept) -> int:
    """Steps a hospital with which the plain trainings of a round take about so long on this machine."""
    more = (*LONG, "training.max_steps=1", "federated.rounds=2")
    key = key_of(more) | {"kind": "a step"}
    found = kept.get("a step a hospital", key, functools.partial(a_step, settings(*more)))
    return math.ceil(seconds / float(found["seconds"]))


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="short rounds alone: shows that it works")
    parser.add_argument("--steps", type=int, help="of a hospital in a long round; default: what takes 150 s here")
    parser.add_argument("--out", type=Path, default=RESULTS / "network.json", help="the result file")
    parser.add_argument("--cache", type=Path, default=CACHE, help="where finished parts are kept")
    parser.add_argument("--minutes", type=float, default=SITTING, help="of one sitting; the next one goes on")
    parser.add_argument("--plain", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--name", help=argparse.SUPPRESS)
    parser.add_argument("--hospitals", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.plain is not None:
        be_plain(args.plain, args.name, args.hospitals)
        return
    rounds = 3 if args.quick else 6
    parts: dict[str, tuple[tuple[str, ...], bool]] = {
        "short rounds": ((*SHORT, f"federated.rounds={rounds}"), True),
        "short rounds under masks": ((*SHORT, f"federated.rounds={rounds}", "privacy.secure_sum=true"), False),
    }
    kept = Kept(args.cache, len(parts) + (1 if args.quick else 3 - bool(args.steps)), args.minutes)
    if not args.quick:
        steps = args.steps or steps_for(LONG_TRAINING, kept)
        long = (*LONG, f"training.max_steps={steps}", f"federated.rounds={LONG_ROUNDS}")
        parts = {"long rounds": (long, True)} | parts
    found = {}
    for name, (more, plain) in parts.items():
        found[name] = kept.get(name, key_of(more), functools.partial(over_the_network, settings(*more), plain))
    conditions: dict[str, Any] = {"skipped": "needs root, ip and tc"}
    if hosts.possible():
        more = (*SHORT, f"federated.rounds={rounds}")
        key = {"kind": "network hosts", "settings": [*SETTINGS, *more], "code": [_CODE, _HOSTS]}
        conditions = kept.get("hosts with addresses of their own", key, functools.partial(on_hosts, settings(*more)))
    clear, masks = found["short rounds"], found["short rounds under masks"]

    def beyond(part: dict[str, Any]) -> float:
        """Median seconds of a warm round beyond its slowest training."""
        return float(statistics.median(one["seconds"] - one["slowest_training"] for one in part["rounds"][1:]))

    result: dict[str, Any] = {
        "quick": args.quick, "parts": found, "hosts": conditions,
        "seconds_of_a_round_beyond_training": {"clear": beyond(clear), "masks": beyond(masks)},
        "secure_sum_exchanges_s": beyond(masks) - beyond(clear),
    }  # fmt: skip
    if "long rounds" in found:
        long_part = found["long rounds"]
        warm = statistics.median(one["seconds"] for one in long_part["rounds"][1:])
        plain_s = statistics.median(long_part["plain"][1:])
        result |= {"training_s": plain_s, "round_s": warm, "overhead": warm / plain_s - 1}
        say(f"a warm round: {warm:.1f} s, plain trainings: {plain_s:.1f} s, {result['overhead']:.1%} more")
    write_result(args.out, result | {"environment": stamp()})


if __name__ == "__main__":
    main()

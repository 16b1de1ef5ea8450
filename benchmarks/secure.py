"""What the secure sum costs: ``make bench-secure`` -> benchmarks/results/secure.json.

The whole protocol, all hospitals and the server in one process, every message as bytes; 4, 16 and 64 hospitals, vectors
of 14 thousand, 1 million and 6 million numbers (Fed-SB, the full adapter, sketches); nobody drops out, or a fifth do
after shares were dealt, which is when the server has most to do. ``hospital_s``: processor seconds of one hospital,
median over those that stay. ``server_s``: of the server. ``plain_s``: what adding the same integers in the clear takes.
One process, one thread; medians of three sums, of one where a sum takes half a minute and more.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from kept import CACHE, RESULTS, Kept, say, stamp, write_result
from numpy.typing import NDArray

from fedmed.federated.fixed_point import LARGEST_TOTAL_WEIGHT, LARGEST_VALUE, SCALE
from fedmed.privacy.secure_sum.bounds import Bounds
from fedmed.privacy.secure_sum.context import Context, Participant, default_threshold
from fedmed.privacy.secure_sum.hospital import HospitalSession
from fedmed.privacy.secure_sum.keys import Identity
from fedmed.privacy.secure_sum.message_bytes import decode, encode
from fedmed.privacy.secure_sum.server import ServerSession
from fedmed.utils.random_streams import stream

HOSPITALS, NUMBERS = (4, 16, 64), (14_000, 1_000_000, 6_000_000)
MOST_WORK = 2e9  # masked numbers of one sum, beyond which one must do
T = TypeVar("T")


class Clock:
    """Processor seconds and bytes, by who spent them."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.up: dict[str, int] = defaultdict(int)
        self.down: dict[str, int] = defaultdict(int)

    def of(self, who: str, work: Callable[[], T]) -> T:
        started = time.process_time()
        try:
            return work()
        finally:
            self.seconds[who] += time.process_time() - started


def vector(hospital: int, numbers: int) -> NDArray[np.int64]:
    """What a hospital would send, weight included: below 2^50."""
    return stream(17, "secure", hospital).integers(-(2**50), 2**50, numbers, dtype=np.int64)


def one_sum(hospitals: int, numbers: int, drops: int) -> dict[str, Any]:
    """Carry out the protocol once and check the sum."""
    names = tuple(f"hospital_{number}" for number in range(hospitals))
    keys = {name: Identity.generate() for name in names}
    pins = {name: key.fingerprint for name, key in keys.items()}
    context = Context(
        "bench", 1, 0, tuple(Participant(name, pins[name]) for name in names), default_threshold(hospitals),
        Bounds(64, hospitals, round(LARGEST_VALUE * SCALE), LARGEST_TOTAL_WEIGHT), numbers,
    )  # fmt: skip
    clock, gone = Clock(), set(names[:drops])
    server = ServerSession(context)
    sessions: dict[str, HospitalSession] = {}

    def up(name: str, message: Any) -> None:
        raw = clock.of(name, lambda: encode(message, context))
        clock.up[name] += len(raw)
        clock.of("server", lambda: server.receive(decode(raw, context)))  # type: ignore[arg-type]

    def answer() -> None:
        for name, message in clock.of("server", server.advance):
            raw = clock.of("server", lambda message=message: encode(message, context))  # type: ignore[misc]
            clock.down[name] += len(raw)
            for reply in clock.of(name, lambda name=name, raw=raw: sessions[name].receive(decode(raw, context))):  # type: ignore[misc]
                up(name, reply)

    for name in names:
        sessions[name] = clock.of(name, lambda name=name: HospitalSession(context, name, keys[name], pins))  # type: ignore[misc]
        up(name, sessions[name].advertisement)
    answer()
    answer()
    exact = np.zeros(numbers, dtype=np.int64)
    for number, name in enumerate(names):
        if name not in gone:
            values = vector(number, numbers)
            clock.of("plain", lambda values=values: np.add(exact, values, out=exact))  # type: ignore[misc]
            up(name, clock.of(name, lambda name=name, values=values: sessions[name].contribute(values)))  # type: ignore[misc]
    answer()
    answer()
    clock.of("server", server.advance)
    if not np.array_equal(server.result.values, exact):
        raise AssertionError("the masked sum is not the plain one")
    stayed = [name for name in names if name not in gone]
    return {
        "hospital_s": statistics.median(clock.seconds[name] for name in stayed),
        "server_s": clock.seconds["server"],
        "plain_s": clock.seconds["plain"],
        "bytes_up": max(clock.up[name] for name in stayed),
        "bytes_down": max(clock.down[name] for name in stayed),
    }


def measure(hospitals: int, numbers: int, drops: int) -> dict[str, Any]:
    """Medians over a few sums, and how many."""
    runs = [one_sum(hospitals, numbers, drops) for _ in range(3 if hospitals**2 * numbers < MOST_WORK else 1)]
    return {"sums": len(runs)} | {key: statistics.median(run[key] for run in runs) for key in runs[0]}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sums: shows that it works, no figures")
    parser.add_argument("--out", type=Path, default=RESULTS / "secure.json", help="the result file")
    parser.add_argument("--cache", type=Path, default=CACHE, help="where finished runs are kept")
    args = parser.parse_args(argv)
    sizes = [(n, numbers) for n in HOSPITALS for numbers in NUMBERS]
    if args.quick:
        sizes = [(4, 1_000), (5, 1_000)]
    kept = Kept(args.cache, 2 * len(sizes))
    rows = []
    for hospitals, numbers in sizes:
        for drops in (0, hospitals // 5 or 1):
            label = f"{hospitals} hospitals, {numbers:,} numbers, {drops} drop out"
            key = {"kind": "secure", "hospitals": hospitals, "numbers": numbers, "drops": drops}
            found = kept.get(label, key, lambda n=hospitals, k=numbers, d=drops: measure(n, k, d))  # type: ignore[misc]
            say(f"    a hospital {found['hospital_s']:.3f} s, the server {found['server_s']:.3f} s")
            rows.append({"hospitals": hospitals, "numbers": numbers, "dropped": drops, **found})
    write_result(args.out, {"quick": args.quick, "bits": 64, "rows": rows, "environment": stamp()})


if __name__ == "__main__":
    main()

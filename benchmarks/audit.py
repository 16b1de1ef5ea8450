"""Ten thousand edits of a real run's audit log: ``make bench-audit`` -> benchmarks/results/audit.json.

Work: a run of three rounds of a tiny model, whose log and whose hospitals' witness files are as any run's. The log is
edited in memory, by anyone and by its owner, who holds the key and writes it anew (``audit_edits.py``), and each edit
is judged by what ``fedmed audit verify`` judges by. Counted by kind: found (the verdict is "broken"), named (called
what it is) and placed (a finding at the line that was edited, or beside). The same seed makes the same edits; keys and
times, and with them digests, are the run's own.
Not covered: an owner together with all hospitals whose files are shown; see docs/audit-log.md.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from audit_edits import edits_by, tried
from kept import RESULTS, say, stamp, write_result

from fedmed.config.load import load_config
from fedmed.evaluation.attacks.intervals import lower_share
from fedmed.pipeline.federation import run_federation
from fedmed.utils.audit_log import KEY_VARIABLE, NAME, owners_key
from fedmed.utils.audit_verify import Audit, verify_log
from fedmed.utils.signing import Identity
from fedmed.utils.witness import FOLDER, read_witness

EDITS = 10_000
SEED = 17
SETTINGS = (
    "model.name=builtin:tiny-llama", "model.generation.max_new_tokens=4", "training.dataset.max_samples=200",
    "training.max_steps=1", "training.evaluation.max_records_per_hospital=2",
    "training.evaluation.multiple_choice_items=0", "training.evaluation.generated_answers=0",
    "training.evaluation.few_shot=0", "training.evaluation.sample_answers=0", "training.evaluation.calibration_items=0",
    "federated.rounds=3",
)  # fmt: skip


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--edits", type=int, default=EDITS)
    parser.add_argument("--out", type=Path, default=RESULTS / "audit.json", help="the result file")
    args = parser.parse_args(argv)
    with finished_run() as folder:
        raw, owner = (folder / NAME).read_bytes(), owners_key()
        witnesses = [read_witness(file) for file in sorted((folder / FOLDER).glob("*.jsonl"))]
    if owner is None:
        raise SystemExit("the run made no key")

    def verify(edited: bytes) -> Audit:
        return verify_log(edited, witnesses)

    if verify(raw).verdict != "intact":
        raise SystemExit("the log is not intact before any edit")
    started = time.perf_counter()
    edits = edits_by(owner, Identity(random.Random(SEED).randbytes(32)))
    counts = {name: Counter[str]() for name in edits}
    for one in tried(raw, verify, edits, random.Random(SEED), args.edits):
        counts[one.edit].update({"tried": 1, **{key: getattr(one, key) for key in ("found", "named", "placed")}})
    total = sum(counts.values(), Counter[str]())
    low = float(lower_share(total["found"], total["tried"], 0.05))
    say(f"{total['found']} of {total['tried']} edits found, {total['named']} named, {total['placed']} placed")
    result: dict[str, Any] = {
        "lines": raw.count(b"\n"), "witnesses": len(witnesses), "seed": SEED, "before_any_edit": "intact",
        "total": dict(total), "found_at_least": low, "by_edit": {name: dict(own) for name, own in counts.items()},
        "seconds": time.perf_counter() - started, "environment": stamp(),
    }  # fmt: skip
    write_result(args.out, result)


@contextlib.contextmanager
def finished_run() -> Iterator[Path]:
    """A run in a folder of its own, with a key of its own, while the context is open."""
    before = Path.cwd(), os.environ.get(KEY_VARIABLE)
    with tempfile.TemporaryDirectory() as place:
        os.chdir(place)
        os.environ[KEY_VARIABLE] = str(Path(place, "audit.key"))
        try:
            run_federation(load_config(None, (), SETTINGS), out=Path("run"), command="make bench-audit")
            yield Path("run")
        finally:
            os.chdir(before[0])
            os.environ.pop(KEY_VARIABLE) if before[1] is None else os.environ.update({KEY_VARIABLE: before[1]})


if __name__ == "__main__":
    main()

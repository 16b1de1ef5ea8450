"""Where the engine's time goes: ``make bench-hotspots`` -> benchmarks/results/hotspots.json.

One round of bench-speed's work (Gemma 3 270M, 4 hospitals x 8 steps x 2 rows) under torch's profiler, after one round
that warms up. Shares are of all operations' own time on the processor; the profiler itself slows small operations.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lab
import torch
from kept import RESULTS, say, stamp, write_result

from fedmed.model.answer_loss import CHUNK
from fedmed.types import LocalJob

FROZEN = ("mkldnn::_linear_pointwise",)
KINDS = {
    "LoRA's own products": ("mm", "addmm", "addmm_"),
    "exponentials of the softmax": ("exp_",),
    "gather and scatter of attention's rows": ("index", "index_put_", "index_add_"),
    "attention": (
        "_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_flash_attention_for_cpu_backward",
    ),
    "elementwise products": ("mul", "mul_"),
    "copies": ("copy_",),
}  # fmt: skip
OF = {f"aten::{operation}": kind for kind, operations in KINDS.items() for operation in operations}


def kind_of(name: str, shapes: Sequence[Any]) -> str:
    """What an operation is for, by its name and the shapes it was given."""
    if name not in FROZEN:
        return OF.get(name, "all others")
    sides = {side for shape in shapes[:2] for side in shape}
    return "output layer's products" if CHUNK in sides else "products with the frozen body"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=lab.GEMMA, help="builtin:tiny-gemma for a smoke test")
    parser.add_argument("--out", type=Path, default=RESULTS / "hotspots.json", help="the result file")
    args = parser.parse_args(argv)
    config = lab.bench_config(args.model, lab.Size(4, 1, 8, 2, more=("federated.split=iid",)), rate=1e-3, seed=17)
    here = lab.ground(config)

    def train() -> float:
        with lab.trainer_of(config, here.rows) as trainer:
            started = time.perf_counter()
            list(trainer.run([LocalJob(name, 1, 1, 17, here.start) for name in here.rows]))
            return time.perf_counter() - started

    train()
    plain = train()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], record_shapes=True) as profiler:
        watched = train()
    times: dict[str, float] = defaultdict(float)
    names: dict[str, float] = defaultdict(float)
    for event in profiler.key_averages(group_by_input_shape=True):
        times[kind_of(event.key, event.input_shapes)] += event.self_cpu_time_total
        names[event.key] += event.self_cpu_time_total
    total = sum(times.values())

    def shares(found: dict[str, float], most: int) -> list[dict[str, Any]]:
        first = sorted(found.items(), key=lambda pair: -pair[1])[:most]
        return [{"what": what, "share": spent / total} for what, spent in first]

    for row in shares(times, 20):
        say(f"{row['share']:6.1%}  {row['what']}")
    write_result(
        args.out,
        {
            "model": args.model, "wall_s": plain, "wall_profiled_s": watched, "kinds": shares(times, 20),
            "operations": shares(names, 20), "environment": stamp(),
        },
    )  # fmt: skip


if __name__ == "__main__":
    main()

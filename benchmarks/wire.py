"""What sending fewer bytes costs: ``make bench-wire`` -> benchmarks/results/wire.json.

Work: that of ``algorithms.py`` (Gemma 3 270M, 4 hospitals by specialty, 4 rounds x 2 steps x 4 rows), FedAvg at one
learning rate in every encoding, two seeds; and Fed-SB in bf16 at its own best rate, which is chosen as in
``algorithms.py`` and, where that bench has run, from its runs. ``loss_ratio`` and ``bytes_ratio_up`` are to FedAvg in
fp32 at the same seed: below 1 is fewer nats, and below 1 fewer bytes. Finished runs are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import lab
from kept import RESULTS, Kept, stamp, write_result

from fedmed.config.schema import FedMedConfig

RATE = 2e-3
FEDSB = ("federated.algorithm=fedsb", "federated.fedsb_factors=public")  # as algorithms.py writes it


@dataclass(frozen=True)
class Way:
    """How arrays travel in one run."""

    up: str
    down: str = "fp32"
    share: float | None = None  # of topk
    more: tuple[str, ...] = ("federated.algorithm=fedavg",)

    @property
    def overrides(self) -> tuple[str, ...]:
        chosen = () if self.share is None else (f"federated.wire.top_k_share={self.share}",)
        return (*self.more, f"federated.wire.up={self.up}", f"federated.wire.down={self.down}", *chosen)

    @property
    def label(self) -> str:
        share = "" if self.share is None else f" {self.share:.0%}"
        return f"{self.more[0].split('=')[1]} {self.up}{share}" + ("" if self.down == "fp32" else f", down {self.down}")


WAYS = (
    *(Way(name) for name in ("fp32", "bf16", "int8", "int4")), Way("topk", share=0.05), Way("topk", share=0.01),
    Way("int8", "int8"), Way("int4", "int4"), Way("bf16", more=FEDSB),
)  # fmt: skip


def main(argv: Sequence[str] | None = None) -> None:
    args = lab.arguments(__doc__, RESULTS / "wire.json").parse_args(argv)
    size = lab.Size(hospitals=4, rounds=4, steps=2, rows=4)
    grid, highest, seeds = lab.GRID, lab.HIGHEST_RATE, (17, 18)
    if args.quick:
        grid, highest = (2e-3, 4e-3), 4e-3
        size = replace(size, rounds=2, steps=1, rows=2, records=4, more=("training.dataset.max_samples=2000",))
    kept = Kept(args.cache, len(grid) + len(WAYS) * len(seeds), args.minutes)

    def config(seed: int, rate: float, more: Sequence[str]) -> FedMedConfig:
        return lab.bench_config(args.model, size, rate=rate, seed=seed, more=more)

    choice = lab.choose_rate(
        lambda rate: lab.measured(kept, "fedsb public", lab.FEDERATED, config(seeds[0], rate, FEDSB)), grid, highest
    )
    rows: list[dict[str, Any]] = []
    for seed in seeds:
        whole: dict[str, Any] = {}
        for way in WAYS:
            rate = choice.rate if way.more == FEDSB else RATE
            found = lab.measured(kept, way.label, lab.FEDERATED, config(seed, rate, way.overrides))
            whole = whole or found
            rows.append(
                {
                    "algorithm": way.more[0].split("=")[1], "label": way.label, "encoding_up": way.up,
                    "encoding_down": way.down, "top_k_share": way.share, "seed": seed, "learning_rate": rate,
                    **{key: found[key] for key in ("validation", "loss")},
                    "loss_ratio": ratio(found["loss"], whole["loss"]),
                    "bytes_up": found["bytes_up"], "bytes_down": found["bytes_down"],
                    "bytes_ratio_up": ratio(found["bytes_up"], whole["bytes_up"]),
                    "bytes_ratio_down": ratio(found["bytes_down"], whole["bytes_down"]),
                    "wall_s": found["wall_s"], "stopped": found["stopped"],
                }
            )  # fmt: skip
    write_result(args.out, {"model": args.model, "quick": args.quick, "rows": rows, "environment": stamp()})


def ratio(own: float | None, whole: float | None) -> float | None:
    """None where one of the two runs stopped."""
    return own / whole if own and whole else None


if __name__ == "__main__":
    main()

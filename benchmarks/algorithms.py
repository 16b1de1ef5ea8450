"""Every federated method on the same rows: ``make bench-algorithms`` -> benchmarks/results/algorithms.json.

Work: Gemma 3 270M, 4 hospitals by specialty, 4 rounds x 2 steps x 4 rows of the embedded ontology. Each method gets the
learning rate that is best on one half of the held-out records, by one rule for all; the other half is reported. FedAvg
also takes the same tokens in 16 rounds of one step. Then three seeds of the best ones, and, where its file is there,
MedQuAD with its nine sources as nine hospitals.

``gain_share`` is the part of central training's gain that a method keeps: (base - loss) / (base - central), central
being the better of the same steps and of as many times the steps as there are hospitals. Finished runs are kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import exactness
import lab
from kept import RESULTS, ROOT, Kept, digest_of, say, stamp, write_result

from fedmed.config.schema import FedMedConfig
from fedmed.federated.algorithms import ALGORITHMS, get_algorithm

MEDQUAD = ROOT.parent / "shared" / "data" / "medquad.jsonl.gz"
RANKS = "16,8,8,4"
OFTEN = 4
BEST = 3
GRID = (1e-3, 2e-3)


@dataclass(frozen=True)
class Method:
    """An algorithm with its settings, or a reference."""

    algorithm: str
    variant: str = ""
    more: tuple[str, ...] = ()
    kind: str = lab.FEDERATED
    often: bool = False  # ``OFTEN`` times the rounds, each with a step of half the rows: the same tokens

    @property
    def label(self) -> str:
        return f"{self.algorithm} {self.variant}".strip()


VARIANTS: Mapping[str, tuple[Method, ...]] = {
    "sketch": tuple(Method("sketch", name, (f"federated.residual={name}",)) for name in ("carry", "fold")),
    "fedsb": tuple(Method("fedsb", name, (f"federated.fedsb_factors={name}",)) for name in ("public", "weights")),
}
MIXED = tuple(Method(name, f"ranks {RANKS}", (f"federated.ranks=[{RANKS}]",)) for name in ("fedavg", "sketch"))
INT4 = ("federated.wire.up=int4", "federated.wire.down=int4")
FREQUENT = (
    Method("fedavg", f"{OFTEN} x the rounds", often=True),
    Method("fedavg", f"{OFTEN} x the rounds, int4", INT4, often=True),
)
METHODS = (*(method for name in ALGORITHMS for method in VARIANTS.get(name, (Method(name),))), *FREQUENT, *MIXED)
CENTRAL = Method("central", "same steps", kind=lab.CENTRAL)
CENTRAL_MANY = Method("central", "a step a hospital", kind=lab.CENTRAL_MANY)
LOCAL = Method("local", kind=lab.LOCAL)
BASE = Method("base", kind=lab.BASE)


class Part:
    """All runs on one data set with one split.

    Args:
        kept: finished runs.
        model: of every run.
        size: of every run.
        dataset: its name in the result; more: its settings.
    """

    def __init__(self, kept: Kept, model: str, size: lab.Size, dataset: str, more: Sequence[str] = ()) -> None:
        self.kept, self.model, self.size, self.dataset, self.more = kept, model, size, dataset, tuple(more)

    def config(self, method: Method, seed: int, rate: float) -> FedMedConfig:
        named = () if method.kind != lab.FEDERATED else (f"federated.algorithm={method.algorithm}", *method.more)
        size = self.size
        if method.often:
            size = replace(size, rounds=size.rounds * OFTEN, steps=1, rows=size.rows * size.steps // OFTEN)
        return lab.bench_config(self.model, size, rate=rate, seed=seed, more=(*self.more, *named))

    def run(self, method: Method, seed: int, rate: float) -> dict[str, Any]:
        """Measure one run, or read it."""
        return lab.measured(self.kept, method.label, method.kind, self.config(method, seed, rate))

    def row(self, method: Method, seed: int, rate: float | None, found: Mapping[str, Any]) -> dict[str, Any]:
        """One line of the result, without its shares of the gain."""
        config = self.config(method, seed, rate or GRID[0])
        traits = get_algorithm(config.federated).traits if method.kind == lab.FEDERATED else None
        return {
            "algorithm": method.algorithm, "variant": method.variant, "dataset": self.dataset,
            "split": config.federated.split, "seed": seed, "learning_rate": rate,
            **{key: found[key] for key in ("validation", "loss", "bytes_up", "bytes_down", "wall_s", "stopped")},
            "kind": traits.kind if traits else "reference", "exact": traits.exact if traits else None,
            "personal": traits.personal if traits else method.kind == lab.LOCAL,
        }  # fmt: skip


def with_gains(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of one seed and data set with their shares of central training's gain; None where one of them stopped."""

    def losses(algorithm: str, variant: str | None = None) -> list[float]:
        fitting = [row for row in rows if row["algorithm"] == algorithm and variant in (None, row["variant"])]
        return [row["loss"] for row in fitting if row["loss"] is not None]

    (base,) = losses("base")

    def share(loss: float | None, goals: Sequence[float]) -> float | None:
        return None if loss is None or not goals or min(goals) >= base else (base - loss) / (base - min(goals))

    same, both = losses("central", CENTRAL.variant), losses("central")
    return [
        row | {"gain_share": share(row["loss"], both), "gain_share_same_steps": share(row["loss"], same)}
        for row in rows
    ]


def best_shared(choices: Mapping[Method, lab.Choice], part: Part, seed: int) -> list[Method]:
    """The methods with one adapter for all, at one rank, whose validation loss is lowest."""
    shared = [
        method for method, choice in choices.items()
        if method.kind == lab.FEDERATED and method not in MIXED and not choice.best["stopped"]
        and not get_algorithm(part.config(method, seed, choice.rate).federated).traits.personal
    ]  # fmt: skip
    return sorted(shared, key=lambda method: choices[method].best["validation"])[:BEST]


def first_part(
    part: Part, seed: int, grid: Sequence[float], highest: float
) -> tuple[dict[Method, lab.Choice], list[dict[str, Any]]]:
    """Choose every method's learning rate, and every reference's, at one seed."""
    choices = {
        method: lab.choose_rate(lambda rate, method=method: part.run(method, seed, rate), grid, highest)  # type: ignore[misc]
        for method in (CENTRAL, CENTRAL_MANY, LOCAL, *METHODS)
    }
    rows = [part.row(BASE, seed, None, part.run(BASE, seed, grid[0]))]
    for method, choice in choices.items():
        tried = {f"{rate:g}": found["validation"] for rate, found in sorted(choice.by_rate.items())}
        rows.append(
            part.row(method, seed, choice.rate, choice.best)
            | {"validation_by_rate": tried, "best_rate_at_edge": choice.at_edge}
        )
    return choices, with_gains(rows)


def again(
    part: Part, seed: int, methods: Sequence[Method], choices: Mapping[Method, lab.Choice]
) -> list[dict[str, Any]]:
    """Some methods at rates that are already chosen."""
    rows = [part.row(BASE, seed, None, part.run(BASE, seed, GRID[0]))]
    rows += [
        part.row(method, seed, choices[method].rate, part.run(method, seed, choices[method].rate)) for method in methods
    ]
    return with_gains(rows)


def main(argv: Sequence[str] | None = None) -> None:
    parser = lab.arguments(__doc__, RESULTS / "algorithms.json")
    parser.add_argument("--medquad", type=Path, default=MEDQUAD, help="its file; left out where it is not there")
    args = parser.parse_args(argv)
    size = lab.Size(hospitals=4, rounds=4, steps=2, rows=4)
    nine = lab.Size(hospitals=9, rounds=2, steps=2, rows=2, records=4)
    grid, highest, seeds = GRID, lab.HIGHEST_RATE, (17, 18, 19)
    if args.quick:
        grid, highest, seeds = (2e-3, 4e-3), 4e-3, (17, 18)
        size = replace(size, rounds=2, rows=2, records=4, more=("training.dataset.max_samples=2000",))
        nine = replace(nine, rounds=1)
    has_medquad = args.medquad.is_file()
    planned = (len(METHODS) + 3) * len(grid) + 2 + (len(seeds) - 1) * (BEST + 4) + has_medquad * (BEST + 4)
    kept = Kept(args.cache, planned, args.minutes)
    part = Part(kept, args.model, size, "hpo")
    choices, rows = first_part(part, seeds[0], grid, highest)
    best = best_shared(choices, part, seeds[0])
    say(f"best shared methods on validation: {', '.join(method.label for method in best)}")
    chosen = list(dict.fromkeys([*best, METHODS[0]]))  # and FedAvg
    for seed in seeds[1:]:
        rows += again(part, seed, [CENTRAL, CENTRAL_MANY, *chosen], choices)
    medquad = f"nine sources as nine hospitals, {args.medquad.name}"
    if has_medquad:
        more = (
            f"training.dataset.name={args.medquad}",
            "training.dataset.gate.unscanned=true",
            "federated.split=by_source",
            "model.max_length=128",
        )
        rows += again(Part(kept, args.model, nine, "medquad", more), seeds[0], [CENTRAL, LOCAL, *chosen], choices)
    else:
        medquad = f"skipped: there is no {args.medquad.name}"
        say(f"MedQuAD {medquad}")
    config = part.config(METHODS[0], seeds[0], grid[0])
    key = lab.key_of("exactness", config, code=digest_of(Path(exactness.__file__)))
    exact = kept.get("exactness and bytes of one message", key, lambda: untrained(config))
    write_result(
        args.out,
        {
            "model": args.model, "quick": args.quick, "grid": list(grid), "highest_rate": highest,
            "best_shared": [method.label for method in best], "medquad": medquad,
            "rows": rows, **exact, "environment": stamp(),
        },
    )  # fmt: skip


def untrained(config: FedMedConfig) -> dict[str, Any]:
    """Blocks that need the model's shapes and no training."""
    start = lab.ground(config).start
    return {
        "sketch_exactness": [exactness.sketch_exactness(start, hospitals) for hospitals in (4, 8)],
        "bytes_ratio": {"fedsb": exactness.fedsb_bytes(start, config.federated.num_clients)},
    }


if __name__ == "__main__":
    main()

"""What the coordinator agent is worth: ``make bench-agent`` -> benchmarks/results/agent.json.

Work: Gemma 3 270M, 6 hospitals by specialty, FedAvg, 5 rounds x 5 steps x 2 short rows, three seeds. In *troubled* runs
one hospital's data drifts, one is too slow for the round's end, one lies (``troubled_runs.py``): plain FedAvg, every
robust rule, and the agent with its default settings. *Clean* runs have no trouble: the agent against FedAvg. All runs
of a seed are scored on the same held-out records, of the hospitals that train on their own right answers; the agent
judges on others. Intervals are over records, paired, all seeds together. Finished runs are kept.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import lab
import troubled_runs as troubled
from kept import RESULTS, Kept, stamp, write_result

from fedmed.config.schema import FedMedConfig
from fedmed.utils.random_streams import stream

RATE, HOSPITALS = 1e-3, 6
SEEDS = (17, 18, 19)
FEDAVG, AGENT = "fedavg", "agent"
RULES: dict[str, tuple[str, int]] = {
    "median": ("median", 2), "trimmed_mean": ("trimmed_mean", 1), "krum": ("krum", 1),
    "geometric_median": ("geometric_median", 2), "clipped_mean": ("clipped_mean", 2),
}  # fmt: skip
"""name -> rule, hostile hospitals it is set to bear: as many as it can among the five that reply; but the trimmed mean
would be the median then, so it bears one."""
FEWEST = 3  # replies of a round: the same in every run


def config_of(model: str, size: lab.Size, method: str, seed: int) -> FedMedConfig:
    """The settings of one run."""
    rule, tolerate = RULES.get(method, ("null", 1))
    more = (f"federated.robust={rule}", f"federated.tolerate={tolerate}", f"federated.min_replies={FEWEST}",
            f"federated.agent.enabled={'true' if method == AGENT else 'false'}")  # fmt: skip
    return lab.bench_config(model, size, rate=RATE, seed=seed, more=more)


def main(argv: Sequence[str] | None = None) -> None:
    args = lab.arguments(__doc__, RESULTS / "agent.json").parse_args(argv)
    size = lab.Size(HOSPITALS, rounds=5, steps=5, rows=2, records=15, more=("training.dataset.max_samples=6000",))
    seeds, methods = SEEDS, (FEDAVG, *RULES, AGENT)
    if args.quick:
        few = ("training.dataset.max_samples=2000", "federated.agent.public_records=8")
        size = replace(size, rounds=3, steps=2, records=4, more=few)
        seeds, methods = SEEDS[:1], (FEDAVG, "trimmed_mean", AGENT)
    kept = Kept(args.cache, len(seeds) * (len(methods) + 2), args.minutes)
    runs: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for turn, seed in enumerate(seeds):
        plan = [("troubled", method) for method in methods] + [("clean", FEDAVG), ("clean", AGENT)]
        for kind, method in plan:
            config = config_of(args.model, size, method, seed)
            found = kept.get(
                f"{kind}, {method}, seed {seed}",
                lab.key_of(kind, config, turn=turn, code=troubled.CODE),
                functools.partial(troubled.run, config, turn=turn, troubled=kind == "troubled"),
            )
            runs.setdefault((kind, method), []).append({"seed": seed, **found})
    write_result(args.out, _result(runs, methods, seeds) | {
        "model": args.model, "quick": args.quick, "hospitals": HOSPITALS, "learning_rate": RATE,
        "size": {"rounds": size.rounds, "steps": size.steps, "rows": size.rows, "records": size.records},
        "trouble": {"drifts_from_round": troubled.DRIFT, "slow": troubled.SLOW, "round_waits": troubled.WAITS},
        "environment": stamp(),
    })  # fmt: skip


def _result(
    runs: dict[tuple[str, str], list[dict[str, Any]]], methods: Sequence[str], seeds: Sequence[int]
) -> dict[str, Any]:
    rows = []
    for (kind, method), own in runs.items():
        nats, tokens = troubled.pooled(own)
        rows.append({"kind": kind, "method": method, "loss": float(nats.sum() / tokens.sum()),
                     "by_seed": {str(run["seed"]): run["loss"] for run in own}})  # fmt: skip
    by = {(row["kind"], row["method"]): row["loss"] for row in rows}
    best = min((method for method in methods if method in RULES), key=lambda method: by["troubled", method])

    def against(kind: str, method: str) -> Any:
        draws = stream(17, "bench", "agent", kind, method)
        return troubled.interval(runs[kind, AGENT], runs[kind, method], draws)

    return {
        "seeds": list(seeds),
        "rows": rows,
        "best_rule": best,
        "agent_against": {
            "fedavg": against("troubled", FEDAVG),
            "best_rule": against("troubled", best),
            "fedavg_in_clean_runs": against("clean", FEDAVG),
        },
        "runs": [
            {"kind": kind, "method": method, **troubled.digest_free(run)}
            for (kind, method), own in runs.items()
            for run in own
        ],
    }


if __name__ == "__main__":
    main()

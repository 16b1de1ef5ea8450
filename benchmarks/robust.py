"""What one hostile hospital of five can do: ``make bench-robust`` -> benchmarks/results/robust.json.

Work: Gemma 3 270M, 5 hospitals by specialty, FedAvg, 3 rounds x 2 steps x 4 rows. The last hospital attacks in every
round, in every way of ``attacks.py``, against every rule. Admission, screening and rules are the real ones: what is
forged, is forged behind the link. ``gain_share_of_clean`` is what the four honest hospitals gain on their own held-out
records, as a share of what the mean gains them where all five are honest. Then twenty runs without any attack: nobody
may be named, and how near the screening's thresholds honest hospitals come. Finished runs are kept.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace

import hostile_runs
import lab
from attacks import ATTACKS, FACTOR
from kept import RESULTS, Kept, stamp, write_result

from fedmed.config.schema import FedMedConfig
from fedmed.federated.robust import RULES
from fedmed.federated.suspicion import LONGEST, SAME_DIRECTION

RATE, HOSPITALS = 2e-3, 5
MEAN = "mean"
CLEAN_RULE = "clipped_mean"


def config_of(model: str, size: lab.Size, rule: str, seed: int) -> FedMedConfig:
    """FedAvg by one rule, which must bear one hospital; a round needs the replies of the others."""
    robust = "null" if rule == MEAN else rule
    more = (f"federated.robust={robust}", "federated.tolerate=1", f"federated.min_replies={HOSPITALS - 1}")
    return lab.bench_config(model, size, rate=RATE, seed=seed, more=more)


def main(argv: Sequence[str] | None = None) -> None:
    args = lab.arguments(__doc__, RESULTS / "robust.json").parse_args(argv)
    size = lab.Size(HOSPITALS, rounds=3, steps=2, rows=4)
    short = replace(size, rounds=2)
    rules, seed, seeds = (MEAN, *RULES), 17, range(1, 21)
    if args.quick:
        small = ("training.dataset.max_samples=2000",)
        size = replace(size, rounds=2, steps=1, rows=2, records=4, more=small)
        short = replace(size, rounds=1)
        rules, seeds = (MEAN, CLEAN_RULE), range(1, 3)
    kept = Kept(args.cache, 1 + len(rules) * len(ATTACKS) + len(seeds), args.minutes)
    plain, code = config_of(args.model, size, MEAN, seed), hostile_runs.CODE
    key = lab.key_of("base on honest records", plain, code=code)
    base = kept.get("base on honest records", key, lambda: hostile_runs.base_loss(plain))
    rows = []
    for rule in rules:
        for attack in ATTACKS:
            config = config_of(args.model, size, rule, seed)
            found = kept.get(
                f"{rule} under {attack}",
                lab.key_of("attacked", config, attack=attack, code=code),
                functools.partial(hostile_runs.attacked, config, attack),
            )
            rows.append({"rule": rule, "attack": attack, **found})
    best = next(row["loss"] for row in rows if (row["rule"], row["attack"]) == (MEAN, "none"))
    for row in rows:
        gained = None if row["loss"] is None else base["loss"] - row["loss"]
        row["gain_share_of_clean"] = None if gained is None else gained / (base["loss"] - best)
    runs = []
    for number in seeds:
        config = config_of(args.model, short, CLEAN_RULE, number)
        key = lab.key_of("clean", config, code=code)
        runs.append(kept.get(f"no attack, seed {number}", key, functools.partial(hostile_runs.clean, config)))
    write_result(
        args.out,
        {
            "model": args.model, "quick": args.quick, "hospitals": HOSPITALS, "hostile": "the last one",
            "learning_rate": RATE, "attack_factor": FACTOR, "base_loss": base["loss"], "rows": rows,
            "clean": {
                "rule": CLEAN_RULE, "runs": runs,
                "named": sorted({name for run in runs for name in run["named"]}),
                "largest_norm_ratio": max(run["largest_norm_ratio"] for run in runs),
                "largest_cosine": max(run["largest_cosine"] for run in runs),
                "smallest_cosine_to_the_others_sum": min(run["smallest_cosine_to_the_others_sum"] for run in runs),
                "thresholds": {"norm_ratio": LONGEST, "cosine": SAME_DIRECTION},
            },
            "environment": stamp(),
        },
    )  # fmt: skip


if __name__ == "__main__":
    main()

"""What privacy costs: ``make bench-privacy`` -> benchmarks/results/privacy.json.

``curve``: held-out loss against the ε of each record (δ 1e-5), for the full adapter, FFA-LoRA and Fed-SB. Gemma 3 270M,
the embedded ontology at 4 equal hospitals, 2 rounds of 3 steps of 16 records. Learning rates are chosen on one half
of the held-out records, at no ε and at ε 8 (the latter for all ε), and the other half is reported: held-out records are
no hospital's training records, but each rate was tried on those, which no ledger here counts. ``gain_share``: part of
the best gain without privacy that is left; ``gain_share_own``: of the same method's.

``dp_time_ratio``: seconds a token with per-record clipping and noise, to those without, same model and adapter.
``audit``: ``fedmed privacy audit`` on two runs with canaries, few records and several passes, without and with noise.
Finished runs are kept.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Sequence
from contextlib import chdir
from dataclasses import replace
from pathlib import Path
from typing import Any

import lab
from kept import RESULTS, Kept, say, stamp, write_result

from fedmed.config.load import load_config
from fedmed.config.schema import FedMedConfig
from fedmed.pipeline.federation import run_federation
from fedmed.pipeline.privacy_audit import audit_run
from fedmed.types import LocalJob

METHODS = ("fedavg", "ffa", "fedsb")
EPSILONS = (16.0, 8.0, 3.0, 1.0)
NOISY_GRID, NOISY_HIGHEST = (8e-3, 1.6e-2), 3.2e-2  # noise is averaged over coordinates: longer steps pay
TUNED_AT = 8.0
PAIRS = 5


def main(argv: Sequence[str] | None = None) -> None:
    parser = lab.arguments(__doc__, RESULTS / "privacy.json")
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS, help="some of the curves")
    args = parser.parse_args(argv)
    size = lab.Size(hospitals=4, rounds=2, steps=3, rows=16, more=("federated.split=iid",))
    if args.quick:
        size = replace(size, rounds=2, rows=4, records=4, more=(*size.more, "training.dataset.max_samples=2000"))
    kept = Kept(args.cache, len(args.methods) * (2 * len(lab.GRID) + len(EPSILONS) + 1) + 4, args.minutes)

    def config(method: str, rate: float, epsilon: float | None) -> FedMedConfig:
        noise = () if epsilon is None else (f"privacy.example.epsilon={epsilon}",)
        more = (f"federated.algorithm={method}", *noise)
        return lab.bench_config(args.model, size, rate=rate, seed=17, more=more)

    def run(method: str, rate: float, epsilon: float | None) -> dict[str, Any]:
        label = f"{method}, {'no noise' if epsilon is None else f'ε {epsilon:g}'}"
        return lab.measured(kept, label, lab.FEDERATED, config(method, rate, epsilon))

    base = lab.measured(kept, "base", lab.BASE, config("fedavg", lab.GRID[0], None))["loss"]
    curve = []
    for method in args.methods:
        chosen: dict[float | None, lab.Choice] = {
            epsilon: lab.choose_rate(
                lambda rate, e=epsilon, m=method: run(m, rate, e),  # type: ignore[misc]
                lab.GRID if epsilon is None else NOISY_GRID,
                lab.HIGHEST_RATE if epsilon is None else NOISY_HIGHEST,
            )
            for epsilon in (None, TUNED_AT)
        }
        for epsilon in (None, *EPSILONS):
            choice = chosen[None if epsilon is None else TUNED_AT]
            found = run(method, choice.rate, epsilon)
            curve.append(
                {
                    "epsilon": epsilon, "algorithm": method, "loss": found["loss"], "learning_rate": choice.rate,
                    "best_rate_at_edge": choice.at_edge, "bytes_up": found["bytes_up"], "wall_s": found["wall_s"],
                    "stopped": found["stopped"],
                }
            )  # fmt: skip
    with_shares(curve, base)
    noisy, plain = (one_step(config("fedavg", 4e-3, epsilon)) for epsilon in (TUNED_AT, None))
    pairs = 1 if args.quick else PAIRS
    timed = kept.get(
        "time of a token, with noise and without",
        {"kind": "dp_time", "config": noisy.as_dict(), "pairs": pairs},
        lambda: time_ratio(noisy, plain, pairs),
    )
    audits = {}
    for name, more in (("without_noise", ()), ("with_noise", (f"privacy.example.epsilon={TUNED_AT}",))):
        aimed = audited_config(args.model, more, args.quick)
        audits[name] = kept.get(
            f"audit of a run {name.replace('_', ' ')}",
            {"kind": "audit", "config": aimed.as_dict()},
            lambda aimed=aimed: attacked(aimed),  # type: ignore[misc]
        )
    write_result(
        args.out,
        {
            "model": args.model, "quick": args.quick,
            "left_out": [name for name in METHODS if name not in args.methods], "delta": 1e-5,
            "base_loss": base, "tuned_at_epsilon": TUNED_AT, "curve": curve, **timed,
            "audit": audits, "environment": stamp(),
        },
    )  # fmt: skip


def with_shares(curve: list[dict[str, Any]], base: float) -> None:
    """Add each row's shares of the gain without privacy."""
    free = {row["algorithm"]: row["loss"] for row in curve if row["epsilon"] is None and row["loss"] is not None}
    for row in curve:
        loss, own = row["loss"], free.get(row["algorithm"])
        row["gain_share"] = (base - loss) / (base - min(free.values())) if loss is not None and free else None
        row["gain_share_own"] = (base - loss) / (base - own) if loss is not None and own is not None else None


def one_step(config: FedMedConfig) -> FedMedConfig:
    return config.model_copy(update={"training": config.training.model_copy(update={"max_steps": 1})})


def time_ratio(noisy: FedMedConfig, plain: FedMedConfig, pairs: int) -> dict[str, Any]:
    """Median seconds a token of one round of all hospitals, with noise and without, taken in turns."""
    here = lab.ground(plain)
    seconds: dict[str, list[float]] = {"with": [], "without": []}
    for pair in range(pairs + 1):
        for name, config in (("with", noisy), ("without", plain)):
            with lab.trainer_of(config, here.rows) as trainer:
                jobs = [LocalJob(hospital, pair + 1, pairs + 1, 17, here.start) for hospital in here.rows]
                started = time.perf_counter()
                tokens = sum(result.metrics.tokens for result in trainer.run(jobs))
                if pair:  # the first of each warms up
                    seconds[name].append((time.perf_counter() - started) / tokens)
    middle = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "dp_time_ratio": middle["with"] / middle["without"],
        "seconds_per_token": middle,
        "pairs": [seconds["with"], seconds["without"]],
    }


def audited_config(model: str, more: Sequence[str], quick: bool) -> FedMedConfig:
    """Few records with canaries among them, several passes."""
    return load_config(
        None,
        (),
        [
            f"model.name={model}", "training.dataset.max_samples=500", "training.dataset.test_fraction=0.4",
            "training.batch_size=16", "training.gradient_accumulation_steps=1", "training.epochs=1",
            "training.learning_rate=0.004", "training.lr_scheduler=constant", f"federated.rounds={1 if quick else 4}",
            "training.evaluation.max_records_per_hospital=8", "training.evaluation.few_shot=0",
            "training.evaluation.multiple_choice_items=0", "training.evaluation.generated_answers=0",
            "training.evaluation.sample_answers=0", f"privacy.audit.canaries={16 if quick else 40}",
            "privacy.audit.copies=2", "privacy.audit.records=200", *more,
        ],
    )  # fmt: skip


def attacked(config: FedMedConfig) -> dict[str, Any]:
    """Train, then attack; counts and shares, no words."""
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        outcome = run_federation(config, out=Path("out"))
        found = audit_run(Path("out"))
    say(f"    beyond: {'; '.join(found['beyond']) or 'nothing'}")
    kept = {key: found[key] for key in ("audit", "inversion", "limits", "beyond")}
    return kept | {"example_epsilon": outcome.summary["privacy"]["example_epsilon"], "loss": outcome.summary["loss"]}


if __name__ == "__main__":
    main()

"""What more hospitals cost: ``make bench-scale`` -> benchmarks/results/scale.json.

Each line is a process of its own: a warm-up round, then three timed ones of 2 steps x 2 rows a hospital, through the
whole simulation (plan, train, admit, sum). Finished lines are kept, so a bench that was cut off goes on.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from stamp import stamp

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "scale.json"
GEMMA, TINY = "builtin:gemma-3-270m", "builtin:tiny-llama"
LINES: tuple[tuple[str, int, int], ...] = (  # model, hospitals, of which take part in a round
    *((GEMMA, count, count) for count in (4, 16, 64)),
    *((TINY, count, count) for count in (64, 256, 1024)),
    (TINY, 1024, 32),
)
ROWS, ROUNDS = 4, 4  # rows of each hospital; rounds, the first of them to warm up


def measure(model_name: str, hospitals: int, sampled: int) -> dict[str, Any]:
    """One line, in this process."""
    from fedmed.config.load import load_config
    from fedmed.data.load_dataset import load_medical_dataset
    from fedmed.federated.algorithms import get_algorithm
    from fedmed.federated.runner import AllOrSampled, FederationState, run_rounds
    from fedmed.federated.simulation import SimulationTransport
    from fedmed.model.adapter import get_adapter_state
    from fedmed.model.load_model import shared_model
    from fedmed.pipeline.run_folder import peak_rss_mb
    from fedmed.pipeline.scoring import encode
    from fedmed.training.engine import EngineTrainer

    settings = load_config(
        None,
        (),
        [
            f"model.name={model_name}", "training.batch_size=2", "training.gradient_accumulation_steps=1",
            "training.max_steps=2", f"federated.num_clients={hospitals}",
        ],
    )  # fmt: skip
    records = [row for row in load_medical_dataset("hpo") if row["kind"] == "definition"]
    model, tokenizer = shared_model(settings.model, settings.federated.seed)
    # The same four rows everywhere, so that a hospital's work does not depend on how many there are.
    rows = encode(tokenizer, records[:ROWS], settings)
    names = tuple(f"hospital_{number}" for number in range(hospitals))
    clock = [time.perf_counter()]
    run_rounds(
        FederationState(round=0, global_state=get_adapter_state(model)),
        algorithm=get_algorithm(settings.federated),
        transport=SimulationTransport(
            EngineTrainer(model, dict.fromkeys(names, rows), settings.training), {}, settings.privacy
        ),
        policy=AllOrSampled(names, ROUNDS, settings.federated.seed, hospitals_per_round=sampled),
        rounds=ROUNDS,
        on_round=lambda state, report: clock.append(time.perf_counter()),
    )
    seconds = [after - before for before, after in itertools.pairwise(clock[1:])]
    return {
        "model": model_name,
        "hospitals": hospitals,
        "sampled": sampled,
        "seconds_per_hospital": statistics.median(seconds) / sampled,
        "rounds_s": seconds,
        "peak_rss_mb": peak_rss_mb(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--line", nargs=2, metavar=("NUMBER", "FILE"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.line:
        Path(args.line[1]).write_text(json.dumps(measure(*LINES[int(args.line[0])])), encoding="utf-8")
        return
    about, digest = stamp([LINES, ROWS, ROUNDS], Path(__file__))
    work = HERE.parent / "output-models" / f"bench-scale-{digest}"
    work.mkdir(parents=True, exist_ok=True)
    rows = []
    for number, line in enumerate(LINES):
        kept = work / f"{number}.json"
        if not kept.is_file():
            subprocess.run([sys.executable, __file__, "--line", str(number), str(kept)], check=True)
        rows.append(json.loads(kept.read_text(encoding="utf-8")))
        shown = rows[-1]["seconds_per_hospital"], rows[-1]["peak_rss_mb"]
        print(f"{line}: {shown[0]:.4f} s a hospital, {shown[1]:.0f} MB", flush=True)  # noqa: T201
    by_line = {(row["model"], row["hospitals"], row["sampled"]): row for row in rows}

    def ratio(key: str, model: str, many: int, few: int) -> float:
        return float(by_line[model, many, many][key] / by_line[model, few, few][key])

    result = {
        "memory_64_over_4": ratio("peak_rss_mb", GEMMA, 64, 4),
        "seconds_64_over_4": ratio("seconds_per_hospital", GEMMA, 64, 4),
        "memory_1024_over_64": ratio("peak_rss_mb", TINY, 1024, 64),
        "seconds_1024_over_64": ratio("seconds_per_hospital", TINY, 1024, 64),
        "rows": rows,
        "environment": about,
    }
    RESULTS.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(RESULTS)  # noqa: T201


if __name__ == "__main__":
    main()

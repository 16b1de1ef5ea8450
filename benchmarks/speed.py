"""The engine against the peer recipe on the same work: ``make bench-speed`` -> benchmarks/results/speed.json.

Work: Gemma 3 270M, rank 16 on q, k and v, 4 hospitals x 2 rounds x 8 steps x 2 rows of question and definition, from
one start adapter, in one order. Peer: ``../shared/bench/peer_flower.py`` (Flower simulation, PEFT, transformers'
Trainer) in a virtual environment of its own where both are there, else ``benchmarks/peer.py``, the same client call
without an engine around it. Sides alternate; each finished one is kept, so a bench that was cut off goes on.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from stamp import stamp

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "speed.json"
FLOWER = HERE.parents[1] / "shared" / "bench" / "peer_flower.py"
FLOWER_PYTHON = HERE.parent / "output-models" / "bench-peer-venv" / "bin" / "python"
FLOWER_DONE = FLOWER_PYTHON.parents[1] / ".done"  # written by make once everything is installed
HOSPITALS, ROUNDS, STEPS, BATCH, RATE, SEED = 4, 2, 8, 2, 1e-4, 17
PROMPT = "Question: {question}\nAnswer: "


def config() -> Any:
    from fedmed.config.load import load_config

    return load_config(
        None,
        (),
        [
            f"model.prompt_template={json.dumps(PROMPT)}", 'model.answer_prefix=""', f"training.batch_size={BATCH}",
            "training.gradient_accumulation_steps=1", f"training.max_steps={STEPS}", f"training.learning_rate={RATE}",
            "training.lr_scheduler=constant", "training.max_grad_norm=null", "training.weight_decay=0.0",
            f"federated.rounds={ROUNDS}", f"federated.num_clients={HOSPITALS}", f"federated.seed={SEED}",
        ],
    )  # fmt: skip


def prepare(work: Path) -> None:
    """Rows in the order in which both sides take them, and the start adapter."""
    from safetensors.numpy import save_file

    from fedmed.data.load_dataset import load_medical_dataset
    from fedmed.model.adapter import get_adapter_state
    from fedmed.model.load_model import shared_model
    from fedmed.training.steps import plan_steps

    settings = config()
    wanted = ROUNDS * STEPS * BATCH
    picked = [row for row in load_medical_dataset("hpo") if row["kind"] == "definition" and row["split"] == "train"]
    ours, peers = {}, []
    for number in range(HOSPITALS):
        name = f"hospital_{number}"
        rows = picked[number * wanted : (number + 1) * wanted]
        ours[name] = [{"question": row["question"], "answer": row["answer"]} for row in rows]
        for round_number in range(1, ROUNDS + 1):
            for step in plan_steps(wanted, settings.training, seed=SEED, hospital=name, round_number=round_number):
                peers += [{"hospital": number, **ours[name][row]} for batch in step for row in batch]
    work.mkdir(parents=True, exist_ok=True)
    (work / "ours.json").write_text(json.dumps(ours), encoding="utf-8")
    (work / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in peers), encoding="utf-8")
    model, _ = shared_model(settings.model, SEED)
    save_file(get_adapter_state(model), work / "init.safetensors")


def ours(work: Path, out: Path) -> None:
    """Our side, in a process of its own: imports, load and training are all in ``wall_s``."""
    started = time.perf_counter()
    from safetensors.numpy import load_file

    from fedmed.federated.algorithms import get_algorithm
    from fedmed.federated.runner import AllOrSampled, FederationState, run_rounds
    from fedmed.federated.simulation import SimulationTransport
    from fedmed.model.load_model import shared_model
    from fedmed.pipeline.run_folder import peak_rss_mb
    from fedmed.pipeline.scoring import encode
    from fedmed.training.engine import EngineTrainer

    settings = config()
    records = json.loads((work / "ours.json").read_text(encoding="utf-8"))
    model, tokenizer = shared_model(settings.model, SEED)
    rows = {name: encode(tokenizer, own, settings) for name, own in records.items()}
    loaded = time.perf_counter()
    state = run_rounds(
        FederationState(round=0, global_state=load_file(work / "init.safetensors")),
        algorithm=get_algorithm(settings.federated),
        transport=SimulationTransport(EngineTrainer(model, rows, settings.training), {}, settings.privacy),
        policy=AllOrSampled(tuple(rows), ROUNDS, SEED),
        rounds=ROUNDS,
        on_round=lambda state, report: None,
    )
    ended = time.perf_counter()
    trained = [[report.metrics[name] for name in rows] for report in state.history]
    head = model.get_output_embeddings().weight.numel()
    base = sum(parameter.numel() for parameter in model.parameters() if not parameter.requires_grad)
    result = {
        "wall_s": ended - started, "load_s": loaded - started, "train_s": ended - loaded,
        "tokens": sum(metrics.tokens for own in trained for metrics in own),
        "answer_tokens": sum(metrics.answer_tokens for own in trained for metrics in own),
        "losses": [[metrics.loss for metrics in own] for own in trained],
        "peak_rss_mb": peak_rss_mb(), "head_parameters": head, "body_parameters": base - head,
    }  # fmt: skip
    out.write_text(json.dumps(result), encoding="utf-8")


def has_flower() -> bool:
    """The recipe and a complete environment for it; an install that broke off leaves a Python without Flower."""
    return FLOWER.is_file() and FLOWER_PYTHON.is_file() and FLOWER_DONE.is_file()


def peer_command(work: Path, out: Path) -> tuple[str, list[str]]:
    """The peer's name and its command line."""
    from fedmed.model.builtin import gemma_folder

    flower = has_flower()
    words = [str(FLOWER_PYTHON), str(FLOWER)] if flower else [sys.executable, str(HERE / "peer.py")]
    settings = {
        "model": gemma_folder(), "data": work / "rows.jsonl", "init": work / "init.safetensors", "out": out,
        "rounds": ROUNDS, "steps": STEPS, "batch": BATCH, "lr": RATE,
    }  # fmt: skip
    words += [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    return ("flower-simulation" if flower else "benchmarks/peer.py"), words


def watch_children(process: subprocess.Popen[bytes], peak: dict[int, float], done: threading.Event) -> None:
    """Largest resident memory, in MB, of each process below ``process``."""
    import psutil

    parent = psutil.Process(process.pid)
    while not done.wait(0.5):
        for child in [parent, *parent.children(recursive=True)]:
            try:
                peak[child.pid] = max(peak.get(child.pid, 0.0), child.memory_info().rss / 1e6)
            except psutil.NoSuchProcess:
                continue


def side(name: str, work: Path, pair: int) -> dict[str, Any]:
    """Run one side once, or read what it gave before."""
    kept = work / f"{name}-{pair}.json"
    if not kept.is_file():
        raw = work / f"{name}-{pair}.raw"
        label, words = (
            peer_command(work, raw)
            if name == "peer"
            else ("ours", [sys.executable, __file__, "--ours", str(work), str(raw)])
        )
        print(f"pair {pair + 1}: {label} …", flush=True)  # noqa: T201
        with (work / f"{name}-{pair}.log").open("wb") as log:
            process = subprocess.Popen(words, stdout=log, stderr=log)
            peak: dict[int, float] = {}
            done = threading.Event()
            watcher = threading.Thread(target=watch_children, args=(process, peak, done), daemon=True)
            watcher.start()
            code = process.wait()
            done.set()
            watcher.join()
        if code:
            raise SystemExit(f"{label} failed with {code}: see {log.name}")
        result = json.loads(raw.read_text(encoding="utf-8"))
        result = {"what": label, "peak_rss_mb": max(peak.values())} | result
        kept.write_text(json.dumps(result), encoding="utf-8")
        print(f"  {result['wall_s']:.1f} s, {result['peak_rss_mb']:.0f} MB", flush=True)  # noqa: T201
    found: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8"))
    return found


def gemm_gflops() -> dict[str, float]:
    """The rate of large float32 products: ``matmul`` as PyTorch has it, and oneDNN's; best size's median."""
    import torch

    from fedmed.model.frozen_linear import product
    from fedmed.training.memory import machine_rate

    return {
        name: max(machine_rate(multiply, size=size, runs=15) for size in (1024, 2048)) / 1e9
        for name, multiply in (("matmul", torch.matmul), ("onednn", product))
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--ours", nargs=2, type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.ours:
        ours(*args.ours)
        return
    other_side = FLOWER if has_flower() else HERE / "peer.py"
    about, digest = stamp([config().as_dict(), has_flower()], Path(__file__), other_side)
    work = HERE.parent / "output-models" / f"bench-speed-{digest}"
    if not (work / "init.safetensors").is_file():
        prepare(work)
    pairs = []
    for pair in range(args.pairs):
        peer, mine = side("peer", work, pair), side("ours", work, pair)
        rates_file = work / f"gemm-{pair}.json"
        if not rates_file.is_file():
            rates_file.write_text(json.dumps(gemm_gflops()), encoding="utf-8")
        pairs.append({"peer": peer, "ours": mine, "gemm": json.loads(rates_file.read_text(encoding="utf-8"))})

    def middle(pick: Any) -> float:
        return float(statistics.median(pick(pair) for pair in pairs))

    first = pairs[0]["ours"]
    flop = 4 * (first["body_parameters"] * first["tokens"] + first["head_parameters"] * first["answer_tokens"])
    result = {
        "ours_wall_s": middle(lambda p: p["ours"]["wall_s"]),
        "peer_wall_s": middle(lambda p: p["peer"]["wall_s"]),
        "ratio_wall": middle(lambda p: p["peer"]["wall_s"] / p["ours"]["wall_s"]),
        "tokens": first["tokens"],
        "answer_tokens": first["answer_tokens"],
        "tokens_per_s": middle(lambda p: p["ours"]["tokens"] / p["ours"]["train_s"]),
        "gflop": flop / 1e9,
        "gemm_gflops": middle(lambda p: p["gemm"]["matmul"]),
        "gemm_gflops_onednn": middle(lambda p: p["gemm"]["onednn"]),
        "flop_efficiency": middle(lambda p: flop / 1e9 / p["ours"]["train_s"] / p["gemm"]["matmul"]),
        "flop_efficiency_onednn": middle(lambda p: flop / 1e9 / p["ours"]["train_s"] / p["gemm"]["onednn"]),
        "max_loss_gap": max(
            abs(a - b)
            for p in pairs
            for mine, theirs in zip(p["ours"]["losses"], p["peer"]["losses"], strict=True)
            for a, b in zip(mine, theirs, strict=True)
        ),
        "peak_rss_mb": {
            "ours": middle(lambda p: p["ours"]["peak_rss_mb"]),
            "peer": middle(lambda p: p["peer"]["peak_rss_mb"]),
        },
        "peer": pairs[0]["peer"]["what"],
        "pairs": pairs,
        "environment": about,
    }
    RESULTS.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    shown = {key: value for key, value in result.items() if key not in ("pairs", "environment")}
    print(f"{json.dumps(shown, indent=1)}\n{RESULTS}")  # noqa: T201


if __name__ == "__main__":
    main()

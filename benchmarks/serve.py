"""What the server gives and what it costs: ``make bench-serve`` -> benchmarks/results/serve.json.

Work: ``fedmed serve`` in a process of its own with the newest run (``--run``), asked the same 32 questions by 1, 8 and
32 clients, each of which asks its next question when the last one is answered. Answers are greedy and at most 48 tokens
long. Beside it the bare model, prepared as the server's: ``model.inference.generate``, without rails and server, one
question at a time and eight in one pass. All of it is done twice, in turn, so that a machine that grows slower or
faster does so for all.

``overhead`` is a client's time less the bare model's on the same question, the median: rails, confidence, HTTP, queue,
audit.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from kept import RESULTS, say, stamp, write_result

from fedmed.config.load import read_run_config
from fedmed.model.adapter_shelf import AdapterShelf
from fedmed.model.inference import generate
from fedmed.model.load_model import load_model_and_tokenizer
from fedmed.utils.runs import find_run

CLIENTS = (1, 8, 32)
TURNS = 2
MOST_TOKENS = 48
ALONE = 12  # questions asked one at a time
NAMES = (
    "hypertrophic cardiomyopathy", "asthma", "gout", "psoriasis", "glaucoma", "anaemia", "epilepsy", "osteoporosis",
    "hepatitis", "hypothyroidism", "scoliosis", "cataract", "atrial fibrillation", "nystagmus", "pancreatitis",
    "sepsis", "cleft palate", "short stature", "ataxia", "hearing loss", "kidney stones", "migraine", "vitiligo",
    "hypotonia", "jaundice", "dystonia", "leukopenia", "macrocephaly", "ptosis", "rickets", "syncope", "tremor",
)  # fmt: skip
QUESTIONS = tuple(f"What is {name}?" for name in NAMES)

Line = dict[str, Any]


@contextmanager
def server(run: Path) -> Iterator[str]:
    """Where ``fedmed serve`` answers for this run."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["--run", str(run), "--port", "0", "--rate", "0", "--no-page", "--audit", f"{folder}/audit.jsonl"]
        process = subprocess.Popen(
            [sys.executable, "-m", "fedmed", "serve", *words], stderr=subprocess.PIPE, text=True, env=os.environ
        )
        assert process.stderr is not None
        try:
            for line in process.stderr:
                if found := re.search(r"at (http://\S+/v1)", line):
                    yield found[1]
                    return
            raise SystemExit(f"fedmed serve ended with {process.wait()}")
        finally:
            process.terminate()
            process.wait(60)


def asked(http: httpx.Client, url: str, model: str, question: str) -> tuple[float, int]:
    """Seconds of one answer, and its tokens."""
    messages = [{"role": "user", "content": question}]
    body = {"model": model, "messages": messages, "max_tokens": MOST_TOKENS, "temperature": 0}
    started = time.perf_counter()
    reply = http.post(f"{url}/chat/completions", json=body)
    reply.raise_for_status()
    return time.perf_counter() - started, int(reply.json()["usage"]["completion_tokens"])


def by(clients: int, url: str, model: str) -> Line:
    """All questions, or those for a single client, by so many clients at once."""
    questions = QUESTIONS[:ALONE] if clients == 1 else QUESTIONS
    with httpx.Client(timeout=600, trust_env=False, limits=httpx.Limits(max_connections=clients)) as http:
        started = time.perf_counter()
        with ThreadPoolExecutor(clients) as pool:
            taken = list(pool.map(lambda question: asked(http, url, model, question), questions))
    return {
        "seconds": time.perf_counter() - started,
        "latency": [one for one, _ in taken],
        "tokens": sum(n for _, n in taken),
    }


def bare(model: Any, tokenizer: Any, config: Any, size: int) -> Line:
    """The model alone, so many questions in one pass."""
    questions = QUESTIONS[:ALONE] if size == 1 else QUESTIONS
    latency, tokens, started = [], 0, time.perf_counter()
    for first in range(0, len(questions), size):
        begun = time.perf_counter()
        made = generate(model, tokenizer, questions[first : first + size], model_config=config)
        latency.append(time.perf_counter() - begun)
        tokens += sum(one.answer_tokens for one in made)
    return {"seconds": time.perf_counter() - started, "latency": latency, "tokens": tokens}


def joined(turns: Sequence[Line], answers: int) -> Line:
    """Both turns of one kind."""
    seconds = sum(turn["seconds"] for turn in turns)
    latency = [one for turn in turns for one in turn["latency"]]
    return {
        "answers": answers * len(turns),
        "answers_per_s": answers * len(turns) / seconds,
        "tokens_per_s": sum(turn["tokens"] for turn in turns) / seconds,
        "latency_s": {"median": statistics.median(latency), "p95": statistics.quantiles(latency, n=20)[-1]},
        "answers_per_s_by_turn": [answers / turn["seconds"] for turn in turns],
    }


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=RESULTS / "serve.json")
    parser.add_argument("--run", default="latest", help="name or folder of the run")
    args = parser.parse_args(argv)
    run = find_run(args.run)
    name = run.resolve().name
    config = read_run_config(run / "config.yaml").model
    short = config.generation.model_copy(
        update={"max_new_tokens": min(MOST_TOKENS, config.generation.max_new_tokens), "temperature": 0.0}
    )
    config = config.model_copy(update={"generation": short})
    base, tokenizer = load_model_and_tokenizer(config=config)
    with server(run) as url, AdapterShelf(base).using(run / "adapter") as model:
        kinds: dict[str, Callable[[], Line]] = {
            f"server_{clients}": (lambda n=clients: by(n, url, name)) for clients in CLIENTS
        }
        kinds |= {f"bare_{size}": (lambda n=size: bare(model, tokenizer, config, n)) for size in (1, 8)}
        turns: dict[str, list[Line]] = {kind: [] for kind in kinds}
        generate(model, tokenizer, QUESTIONS[:2], model_config=config)  # warm, both
        by(8, url, name)
        for turn in range(TURNS):
            for kind, measure in kinds.items():
                turns[kind].append(measure())
                say(f"turn {turn + 1}, {kind}: {turns[kind][-1]['seconds']:.1f} s")
    found = {kind: joined(done, ALONE if kind.endswith("_1") else len(QUESTIONS)) for kind, done in turns.items()}
    one, eight = found["server_1"], found["server_8"]
    pairs = list(zip(turns["server_1"], turns["bare_1"], strict=True))
    extra = [a - b for server, alone in pairs for a, b in zip(server["latency"], alone["latency"], strict=True)]
    result = {
        "model": config.name,
        "questions": len(QUESTIONS),
        "most_tokens": MOST_TOKENS,
        **found,
        "eight_against_one": eight["answers_per_s"] / one["answers_per_s"],
        "overhead": {
            "seconds": statistics.median(extra),
            "share_of_one_answer": statistics.median(extra) / found["bare_1"]["latency_s"]["median"],
        },
        "environment": stamp(),
    }
    say(json.dumps({key: result[key] for key in ("eight_against_one", "overhead")}, indent=1))
    write_result(args.out, result)


if __name__ == "__main__":
    main()

"""Our exams against lm-evaluation-harness: ``make bench-harness`` -> benchmarks/results/harness.json.

Both score the same 200 questions, 50 of each exam, on the embedded Gemma 3 270M in float32, with the adapter of a short
run and without. The harness lives in an environment of its own, reads its own task files (prompts, answers, right ones;
only the data set is replaced by a local file), and scores one question at a time, unpadded; ours runs as in
``fedmed evaluate``. Compared are prompts, each answer's log-likelihood, what is chosen, and both accuracies.
Not covered: other models and precisions, questions longer than the model can read, worked examples, chat templates.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stamp import stamp

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "harness.json"
PYTHON = HERE.parent / "output-models" / "bench-harness-venv" / "bin" / "python"
DATA = HERE.parents[1] / "shared" / "data"
RUN = Path("output-models") / "bench-harness-run"
SEED = 17
FOLDERS = {"pubmedqa": "pubmedqa", "medmcqa": "medmcqa", "medqa": "medqa", "mmlu": "mmlu/default"}  # of the harness
SIDES = ("base", "federated")


@dataclass(frozen=True)
class Scored:
    """One question by one of the two."""

    prompt: str
    log_likelihoods: tuple[float, ...]
    acc: float
    acc_norm: float | None  # None: the harness does not measure it for this exam

    @property
    def chosen(self) -> int:
        return self.log_likelihoods.index(max(self.log_likelihoods))


def hub_columns(task: str, record: Mapping[str, Any]) -> dict[str, Any]:
    """A record of the local files under the column names of the hub's data set, which the harness's tasks read."""
    if task == "pubmedqa":
        context = {"QUESTION": record["question"], "CONTEXTS": [record["context"]]}
        return {"id": record["id"], **context, "final_decision": record["answer"]}
    options = record["options"]
    if task == "medmcqa":
        columns = dict(zip(("opa", "opb", "opc", "opd"), options, strict=True))
        return {"id": record["id"], "question": record["question"], **columns, "cop": record["answer"]}
    if task == "medqa":
        columns = {f"ending{place}": option for place, option in enumerate(options)}
        return {"id": record["id"], "sent1": record["question"], **columns, "label": record["answer"]}
    asked = {"question": record["question"], "choices": options, "answer": record["answer"]}
    return {"id": record["id"], **asked, "subject": record["subject"]}


def draw(data: Path, each: int) -> dict[str, list[dict[str, Any]]]:
    """``each`` records of every exam, drawn by the seed, in the hub's columns."""
    from fedmed.data.read_files import read_file
    from fedmed.evaluation.exams.tasks import TASKS
    from fedmed.utils.random_streams import stream

    drawn = {}
    for task in TASKS:
        [file] = [path for path in sorted(data.glob(f"{task}*.jsonl.gz")) if path.name[len(task)] in "._"]
        records = [record.values for record in read_file(file)]
        places = sorted(stream(SEED, "harness", task).permutation(len(records))[:each].tolist())
        drawn[task] = [hub_columns(task, records[place]) for place in places]
    return drawn


def write_tasks(work: Path, drawn: Mapping[str, Sequence[Mapping[str, Any]]], harness: Path) -> dict[str, list[str]]:
    """Local data and task files for the harness; exam -> names of its tasks there.

    Args:
        work: an empty folder.
        drawn: records of each exam, in the hub's columns.
        harness: ``lm_eval/tasks`` of its installation.
    """
    named: dict[str, list[str]] = {}
    for exam, records in drawn.items():
        if exam == "mmlu":
            parts = {f"mmlu_{one['subject']}": [] for one in records}
            for one in records:
                parts[f"mmlu_{one['subject']}"].append(one)
        else:
            parts = {"medqa" if exam == "medqa" else exam: list(records)}
        named[exam] = []
        for part, own in parts.items():
            _write_lines(work / "data" / exam / f"{part}.jsonl", own)
            name = f"fedmed_{part}"
            text = {
                "include": str(harness / FOLDERS[exam] / f"{part}.yaml"),
                "task": name,
                "dataset_path": "json",
                "dataset_name": None,
                "dataset_kwargs": {"data_files": {"test": str(work / "data" / exam / f"{part}.jsonl")}},
                "training_split": None,
                "validation_split": None,
                "fewshot_split": None,
                "test_split": "test",
            }
            (work / "tasks").mkdir(exist_ok=True)
            (work / "tasks" / f"{name}.yaml").write_text(json.dumps(text), encoding="utf-8")  # JSON is YAML
            named[exam].append(name)
    return named


def _write_lines(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def theirs(python: Path, work: Path, side: str, tasks: Iterable[str], model: Path, adapter: Path | None) -> float:
    """Let the harness score its tasks offline, one question at a time; seconds."""
    out = work / side
    arguments = f"pretrained={model},dtype=float32" + (f",peft={adapter}" if adapter else "")
    offline = {"HF_DATASETS_OFFLINE": "1", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    words = [
        str(python), "-m", "lm_eval", "run", "--model", "hf", "--model_args", arguments, "--tasks", ",".join(tasks),
        "--include_path", str(work / "tasks"), "--num_fewshot", "0", "--batch_size", "1", "--device", "cpu",
        "--log_samples", "--output_path", str(out),
    ]  # fmt: skip
    started = time.perf_counter()
    subprocess.run(words, env=os.environ | offline, check=True)
    return time.perf_counter() - started


def read_samples(out: Path) -> dict[str, Scored]:
    """What the harness logged: id -> how it scored the question."""
    found = {}
    for file in sorted(out.rglob("samples_*.jsonl")):
        for line in file.read_text(encoding="utf-8").splitlines():
            sample = json.loads(line)
            likelihoods = tuple(float(answer[0]) for answer in sample["filtered_resps"])
            prompts = {one["arg_0"] for one in sample["arguments"].values()}
            [prompt] = prompts
            norm = sample.get("acc_norm")
            found[str(sample["doc"]["id"])] = Scored(prompt, likelihoods, sample["acc"], norm)
    return found


def ours(work: Path, exams: Iterable[str], adapter: Path) -> Iterator[tuple[str, str, dict[str, Scored], float]]:
    """Our scores: side, exam, id -> how we scored the question, seconds."""
    from fedmed.config.load import load_config
    from fedmed.evaluation.exams.files import local_exam
    from fedmed.evaluation.exams.scoring import score_items
    from fedmed.evaluation.exams.tasks import TASKS
    from fedmed.model.adapter import attach_adapter
    from fedmed.model.load_model import load_model_and_tokenizer

    config = load_config(None, (), ["model.dtype=fp32"]).model
    model, tokenizer = load_model_and_tokenizer(config=config)
    for side in SIDES:
        if side == "federated":
            model = attach_adapter(model, adapter)
        for exam in exams:
            items = local_exam(TASKS[exam], work / "data" / exam, limit=None, seed=SEED).items
            started = time.perf_counter()
            scores = score_items(model, tokenizer, items)
            seconds = time.perf_counter() - started
            told = {
                item.id: Scored(
                    item.prompt,
                    one.log_likelihoods,
                    float(one.chosen == item.gold),
                    float(one.chosen_by_length == item.gold),
                )
                for item, one in zip(items, scores, strict=True)
            }
            yield side, exam, told, seconds


def compare(our: Mapping[str, Scored], their: Mapping[str, Scored]) -> dict[str, Any]:
    """How far two scorings of the same questions agree; plain JSON values.

    Raises:
        ValueError: they are not of the same questions.
    """
    if our.keys() != their.keys() or not our:
        raise ValueError("the two did not score the same questions")
    pairs = [(one, their[name]) for name, one in our.items()]
    gaps = [
        abs(mine - other)
        for one, two in pairs
        for mine, other in zip(one.log_likelihoods, two.log_likelihoods, strict=True)
    ]
    normed = [(one.acc_norm, two.acc_norm) for one, two in pairs if two.acc_norm is not None]
    return {
        "questions": len(pairs),
        "answers": len(gaps),
        "equal_prompts": sum(one.prompt == two.prompt for one, two in pairs),
        "equal_choices": sum(one.chosen == two.chosen for one, two in pairs),
        "acc": {"ours": _mean(one.acc for one, _ in pairs), "harness": _mean(two.acc for _, two in pairs)},
        "acc_norm": {"ours": _mean(mine for mine, _ in normed), "harness": _mean(other for _, other in normed)}
        if normed
        else None,
        "log_likelihood_difference": {"largest": max(gaps), "mean": _mean(gaps)},
    }


def _mean(values: Iterable[Any]) -> float:
    known = [float(value) for value in values]
    return sum(known) / len(known)


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", type=Path, default=PYTHON, help="interpreter that has lm_eval and peft")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--each", type=int, default=50, help="questions of each exam")
    parser.add_argument("--run", type=Path, default=RUN, help="a finished run of the embedded model, made if absent")
    parser.add_argument("--out", type=Path, default=RESULTS)
    asked = parser.parse_args(words)
    if not asked.data.is_dir():
        raise SystemExit(f"skipped: there are no exams in {asked.data}, give --data")
    if not asked.python.is_file():
        raise SystemExit(f"there is no {asked.python}: 'make bench-harness' makes it")
    from fedmed.config.load import load_config
    from fedmed.model.builtin import gemma_folder
    from fedmed.pipeline.federation import run_federation
    from fedmed.utils.files import write_json

    if not (asked.run / "adapter").is_dir():
        run_federation(load_config("quick"), out=asked.run, recipe="quick", command="make bench-harness")
    versions = json.loads(
        subprocess.run(
            [str(asked.python), "-c", _VERSIONS], check=True, capture_output=True, text=True
        ).stdout
    )  # fmt: skip
    work = Path("output-models") / "bench-harness-work"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    named = write_tasks(work.resolve(), draw(asked.data, asked.each), Path(versions.pop("tasks")))
    about, _ = stamp({"each": asked.each}, Path(__file__))
    result: dict[str, Any] = {
        "model": "builtin:gemma-3-270m", "precision": "float32", "seed": SEED, "each": asked.each,
        "harness": versions, "environment": about, "seconds": {}, **{side: {} for side in SIDES},
    }  # fmt: skip
    their: dict[str, dict[str, Scored]] = {}
    tasks = [name for own in named.values() for name in own]
    for side in SIDES:
        adapter = asked.run.resolve() / "adapter" if side == "federated" else None
        result["seconds"][f"harness_{side}"] = theirs(asked.python, work, side, tasks, gemma_folder(), adapter)
        their[side] = read_samples(work / side)
    for side, exam, scores, seconds in ours(work, named, asked.run / "adapter"):
        result["seconds"][f"ours_{side}"] = result["seconds"].get(f"ours_{side}", 0.0) + seconds
        result[side][exam] = compare(scores, {name: their[side][name] for name in scores})
    write_json(asked.out, result)
    for side in SIDES:
        for exam, one in result[side].items():
            print(  # noqa: T201
                f"{side:9} {exam:9} accuracy {one['acc']['ours']:.3f} ours, {one['acc']['harness']:.3f} theirs; "
                f"{one['equal_choices']} of {one['questions']} choices equal; log-likelihoods differ by at most "
                f"{one['log_likelihood_difference']['largest']:.1e}"
            )


_VERSIONS = """
import importlib.metadata as m, json, pathlib, lm_eval
print(json.dumps({name: m.version(name) for name in ("lm_eval", "torch", "transformers", "peft", "datasets")}
    | {"tasks": str(pathlib.Path(lm_eval.__file__).parent / "tasks")}))
"""

if __name__ == "__main__":
    main()

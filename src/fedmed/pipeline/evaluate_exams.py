"""``fedmed evaluate --tasks``: base and federated answer the same exam questions. run -> HERE -> evaluation.json.

Everything is read before anything is scored. Each exam has its intervals, and so have its subjects and the mean over
exams, in which each counts alike.
Not covered: what training may have seen of an exam; see docs/evaluation.md.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedmed.evaluation.bootstrap import BASE, FEDERATED, Resampled, mean_of, resample
from fedmed.evaluation.exams.files import Exam, hub_exam, local_exam
from fedmed.evaluation.exams.scoring import ChoiceScores, score_items
from fedmed.evaluation.exams.tasks import TASKS
from fedmed.evaluation.likelihood import OnRows
from fedmed.model.adapter import adapter_sha256, attach_adapter, load_adapter
from fedmed.model.load_model import load_model_and_tokenizer
from fedmed.pipeline.evaluation_file import check_keeps, keep_part
from fedmed.pipeline.run_folder import RunFolder
from fedmed.safety.assistant import adapter_folder, run_config
from fedmed.utils.console import track
from fedmed.utils.files import check_writable, write_atomic

PART = "exams"
MIN_SUBJECT = 10  # items, below which a subject has no interval worth reading
Scored = Mapping[str, tuple[list[ChoiceScores], list[ChoiceScores]]]


def evaluate_exams(
    path: Path,
    tasks: Sequence[str],
    *,
    data: Path | None,
    limit: int | None = None,
    hospital: str | None = None,
    overrides: Sequence[str] = (),
    items_file: Path | None = None,
) -> dict[str, Any]:
    """Score exams with a run's adapter and without it, and write ``evaluation.json`` and the report.

    Args:
        path: a run with a finished adapter.
        tasks: of ``exams.tasks.TASKS``.
        data: a file or folder; None: the hub.
        limit: items of each task, drawn by the run's seed.
        hospital: whose adapter, where a personal method gave every hospital its own.
        overrides: ``section.key=value`` on top of the run's settings.
        items_file: where to write one line an item, with every log-likelihood; None: nowhere.

    Returns:
        The whole of ``evaluation.json``.

    Raises:
        RunNotFoundError: no finished adapter. What reading exams and loading the model raise.
    """
    folder = RunFolder(path)
    config = run_config(path, overrides, hospital)
    seed = config.federated.seed
    check_keeps(path)
    if items_file is not None:
        check_writable(items_file.parent)
    exams = {
        name: hub_exam(TASKS[name], limit=limit, seed=seed)
        if data is None
        else local_exam(TASKS[name], data, limit=limit, seed=seed)
        for name in tasks
    }
    started = time.perf_counter()
    place = adapter_folder(path, hospital)
    with track("loading the model"):
        base, tokenizer = load_model_and_tokenizer(config=config.model)
        model = attach_adapter(base, place)
    with track("answering exams", 2 * sum(len(exam.items) for exam in exams.values())) as advance:
        scored = {name: _score(model, tokenizer, exam, advance) for name, exam in exams.items()}
    if items_file is not None:
        write_atomic(items_file, "".join(_lines(exams, scored)))
    found = summarize_exams(exams, scored, seed=seed) | {
        "hospital": hospital,
        "adapter_sha256": adapter_sha256(load_adapter(place)),
        "limit": limit,
    }
    numbers = {
        f"{name}_{which}": one["acc"][which]["value"]
        for name, one in found["tasks"].items()
        for which in (BASE, FEDERATED)
    }
    return keep_part(folder, PART, found, wall_s=time.perf_counter() - started, numbers=numbers)


def _score(model: Any, tokenizer: Any, exam: Exam, advance: OnRows) -> tuple[list[ChoiceScores], list[ChoiceScores]]:
    federated = score_items(model, tokenizer, exam.items, on_items=advance)
    with model.disable_adapter():
        return score_items(model, tokenizer, exam.items, on_items=advance), federated


def summarize_exams(exams: Mapping[str, Exam], scored: Scored, *, seed: int) -> dict[str, Any]:
    """Accuracies with intervals; plain JSON values.

    Args:
        exams: by name of their task.
        scored: the same names -> scores of base and federated.
        seed: names the streams of resampling.

    Returns:
        ``tasks`` and ``mean``: ``acc`` (the likeliest answer) and ``acc_norm`` (by character), each with ``base``,
        ``federated`` and ``delta``.
    """
    told: dict[str, Any] = {}
    accs: dict[str, Resampled] = {}
    norms: dict[str, Resampled] = {}
    for name, exam in exams.items():
        right = _right(exam, scored[name])
        accs[name] = resample(right["acc"], seed=seed, names=(name, "acc"))
        norms[name] = resample(right["acc_norm"], seed=seed, names=(name, "acc_norm"))
        golds = Counter(item.gold for item in exam.items)
        told[name] = {
            "harness": exam.task.harness,
            "items": len(exam.items),
            "found": exam.found,
            "left_out": exam.left_out,
            "source": list(exam.source),
            "chance": sum(1 / len(item.choices) for item in exam.items) / len(exam.items),
            "most_frequent": max(golds.values()) / len(exam.items),
            "acc": accs[name].compared(),
            "acc_norm": norms[name].compared(),
            "subjects": _subjects(exam, right["acc"], seed),
        }
    mean = {"acc": mean_of(accs).compared(), "acc_norm": mean_of(norms).compared()}
    return {"tasks": told, "mean": mean}


def _right(exam: Exam, scores: tuple[list[ChoiceScores], list[ChoiceScores]]) -> dict[str, dict[str, list[float]]]:
    """For each measure, which items base and federated have right: 1 or 0."""
    golds = [item.gold for item in exam.items]
    return {
        measure: {
            side: [float(getattr(one, field) == gold) for one, gold in zip(own, golds, strict=True)]
            for side, own in zip((BASE, FEDERATED), scores, strict=True)
        }
        for measure, field in (("acc", "chosen"), ("acc_norm", "chosen_by_length"))
    }


def _subjects(exam: Exam, right: Mapping[str, Sequence[float]], seed: int) -> dict[str, Any]:
    """Accuracies by subject, the largest first; nothing where the exam names none."""
    by_subject: dict[str, list[int]] = {}
    for place, item in enumerate(exam.items):
        if item.subject:
            by_subject.setdefault(item.subject, []).append(place)
    told = {}
    for subject, places in sorted(by_subject.items(), key=lambda pair: (-len(pair[1]), pair[0])):
        if len(places) >= MIN_SUBJECT:
            own = {side: [found[place] for place in places] for side, found in right.items()}
            drawn = resample(own, seed=seed, names=(exam.task.name, "subject", subject))
            told[subject] = {"items": len(places), "acc": drawn.compared()}
    return told


def _lines(exams: Mapping[str, Exam], scored: Scored) -> list[str]:
    """One JSON line an item; ids and numbers, no text of the exam."""
    lines = []
    for name, exam in exams.items():
        for item, base, federated in zip(exam.items, *scored[name], strict=True):
            told = {
                "task": name, "id": item.id, "subject": item.subject, "gold": item.gold,
                "base": base.log_likelihoods, "federated": federated.log_likelihoods,
            }  # fmt: skip
            lines.append(json.dumps(told, ensure_ascii=False) + "\n")
    return lines

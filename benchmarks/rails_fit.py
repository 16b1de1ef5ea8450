"""Fit the learned scores of the rails: ``make rails-fit`` -> src/fedmed/safety/rules/learned.safetensors.

Logistic regression (scikit-learn) on the hashed features of ``fedmed.safety.features``, fitted to the cases in
tests/cases/safety, but for ``unread``, and, where they lie beside the project, to questions and answers of one half of
MedQuAD as harmless. ``--check`` fits nothing for use: it judges each set of cases by scores that were fitted without
that set, and each tenth of all cases without that tenth, joins them with the rules as the policy says, and writes
results/rails_fit.json.
"""

from __future__ import annotations

import argparse
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from kept import RESULTS, say, stamp, write_result
from safetensors.numpy import save_file
from safety import CASES, SHARED, read_lines, share
from scipy import sparse
from sklearn.linear_model import LogisticRegression

from fedmed.safety.checks import Case
from fedmed.safety.contexts import that_hold
from fedmed.safety.features import BUCKETS, Blocks, of_answer, of_question
from fedmed.safety.guardrails import SHOWN, gravest
from fedmed.safety.learned import WEIGHTS
from fedmed.safety.normalise import normalise
from fedmed.safety.policy import Policy
from fedmed.safety.policy_file import load_policy
from fedmed.safety.rails import input_rail, output_rail
from fedmed.safety.words import Words

SETS = ("read", "own", "second", "third", "twins", "fourth", "seen")
FOLDS = 10
LARGEST = 127  # a weight is one signed byte


@dataclass(frozen=True)
class Plan:
    """How one score is fitted: from which files, as what, how much each counts, and each block of features."""

    files: Mapping[str, tuple[int, float]]  # name of a case file, or of one of its kinds -> label, weight
    judged: tuple[str, ...]  # files whose cases the check judges
    blocks: Mapping[str, float]
    strength: float  # C of the logistic regression
    medquad: float  # weight of its harmless texts
    leaning: float = 0.0  # C of a second fit, whose features weigh by how they lean; the score is the mean of the two


PLANS: Mapping[str, Plan] = {
    "emergency": Plan(
        {
            "red_flags": (1, 1.0), "near_misses": (0, 1.0), "ordinary_questions": (0, 1.0),
            "injection_near_misses": (0, 0.5), "not_medical": (0, 0.5), "harmful": (0, 0.5),
        },
        ("red_flags", "near_misses", "ordinary_questions"),
        {"words": 1.0, "letters": 1.0, "meanings": 1.0},
        0.3,
        0.3,
    ),
    "injection": Plan(
        {
            "injections": (1, 1.0), "injection_near_misses": (0, 1.0), "ordinary_questions": (0, 1.0),
            "near_misses": (0, 0.5), "red_flags": (0, 0.5), "not_medical": (0, 0.5), "identifiers": (0, 0.5),
        },
        ("injections", "injection_near_misses", "ordinary_questions"),
        {"words": 1.0, "letters": 1.0, "meanings": 1.0},
        0.5,
        0.3,
    ),
    "answer": Plan(
        {"unsafe_answers": (1, 1.0), "safe_answers": (0, 1.0)},
        ("unsafe_answers", "safe_answers"),
        {"words": 1.0, "letters": 1.0, "meanings": 1.0, "near": 1.0, "shape": 1.0, "asked": 0.7, "both": 0.7},
        0.1,
        0.9,
        0.3,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Text:
    """One case, read."""

    set: str
    file: str
    label: int
    weight: float
    judged: bool
    line: Mapping[str, Any]
    blocks: Blocks


def medquad_half(shared: Path) -> list[Mapping[str, Any]]:
    """The half that may be fitted on; the other one measures (an even checksum of the id puts a line in the first)."""
    path = shared / "medquad.jsonl.gz"
    if not path.is_file():
        say(f"skipped: {path} is not there, the weights will differ from those of the package")
        return []
    return [line for line in read_lines(path) if zlib.crc32(line["id"].encode()) % 2 == 0]


def contexts_of(name: str) -> tuple[str, ...]:
    """The contexts that the rules of the score's rail ask about a text as a whole."""
    policy = load_policy()
    checks = policy.output if name == "answer" else policy.input
    used = {
        key
        for check in checks
        for key in (*check.unless, *check.only_with, *(check.score.points if check.score else ()))
    }
    return tuple(
        sorted(key for key in used & policy.contexts.keys() if policy.contexts[key].where in ("text", "question"))
    )


@cache
def read_question(text: str) -> Words:
    """Both scores of questions look at the same ones."""
    return load_policy().lexicon.read(normalise(text), repair=True)


def texts_of(name: str, cases: Path, shared: Path) -> list[Text]:
    """Every case that a score is fitted to, with its features."""
    plan, policy = PLANS[name], load_policy()
    contexts = contexts_of(name)

    def read(line: Mapping[str, Any]) -> Blocks:
        if name == "answer":
            asked = read_question(line["question"])
            words = policy.lexicon.read(normalise(line["response"]))
            case = Case(line["response"], words, asked, policy.limits.max_phrase_repeats)
            return of_answer(words, asked, that_hold(policy.contexts, contexts, words, case))
        words = read_question(line["text"])
        case = Case(line["text"], words, None, policy.limits.max_phrase_repeats)
        return of_question(words, that_hold(policy.contexts, contexts, words, case))

    def found() -> Iterator[Text]:
        for group in SETS:
            for path in sorted((cases / group).glob("*.jsonl")):
                for line in read_lines(path):
                    told = plan.files.get(path.stem) or plan.files.get(line.get("kind", ""))
                    if told:
                        yield Text(group, path.stem, *told, path.stem in plan.judged, line, read(line))
        lines = medquad_half(shared)
        if name == "answer":
            for line in lines[::18]:
                shaped = {"question": line["question"], "response": line["answer"], "kind": "medquad"}
                yield Text("medquad", "medquad", 0, plan.medquad, False, shaped, read(shaped))
        else:
            for question in sorted({line["question"] for line in lines[::9]}):
                shaped = {"text": question, "kind": "medquad"}
                yield Text("medquad", "medquad", 0, plan.medquad, False, shaped, read(shaped))

    return list(found())


class Design:
    """The features of many texts as a matrix."""

    def __init__(self, texts: Sequence[Text], blocks: Mapping[str, float]) -> None:
        self.blocks = blocks
        self.labels = np.array([text.label for text in texts])
        self.weights = np.array([text.weight for text in texts])
        self.ones = {name: _ones([text.blocks[name] for text in texts], BUCKETS[name]) for name in blocks}

    def fit(self, rows: Any, plan: Plan) -> tuple[dict[str, Any], float]:
        """A weight for each bucket of each block, and the bias."""
        weights, bias = self._fit(rows, plan.strength, leaning=False)
        if plan.leaning:
            others, other_bias = self._fit(rows, plan.leaning, leaning=True)
            weights = {name: (weight + others[name]) / 2 for name, weight in weights.items()}
            bias = (bias + other_bias) / 2
        return weights, bias

    def _fit(self, rows: Any, strength: float, *, leaning: bool) -> tuple[dict[str, Any], float]:
        """Rare features weigh more before the fit; ``leaning``: and so do those that stand mostly on one side."""
        scales: dict[str, Any] = {}
        parts = []
        for name, ones in self.ones.items():
            known = ones[rows]
            seen = np.asarray(known.sum(axis=0)).ravel()
            scales[name] = self.blocks[name] * np.where(seen > 0, np.log((1 + known.shape[0]) / (1 + seen)) + 1, 0)
            if leaning:
                with_it = np.asarray(known[self.labels[rows] == 1].sum(axis=0)).ravel()
                scales[name] = scales[name] * np.abs(_log_share(with_it) - _log_share(seen - with_it))
            parts.append(_shortened(known) @ sparse.diags(scales[name]))
        model = LogisticRegression(C=strength, max_iter=400, tol=1e-3)
        model.fit(sparse.hstack(parts).tocsr(), self.labels[rows], sample_weight=self.weights[rows])
        weights = np.split(model.coef_[0], np.cumsum([BUCKETS[name] for name in self.ones])[:-1])
        return (
            {name: weight * scales[name] for name, weight in zip(scales, weights, strict=True)},
            float(model.intercept_[0]),
        )

    def logits(self, rows: Any, fitted: tuple[dict[str, Any], float]) -> Any:
        weights, bias = fitted
        return bias + sum(_shortened(self.ones[name][rows]) @ weight for name, weight in weights.items())


def _log_share(counts: Any) -> Any:
    return np.log((counts + 1) / (counts + 1).sum())


def _ones(rows: Sequence[Any], buckets: int) -> Any:
    ends = np.cumsum([0, *(row.size for row in rows)])
    return sparse.csr_matrix((np.ones(ends[-1]), np.concatenate(rows), ends), shape=(len(rows), buckets))


def _shortened(ones: Any) -> Any:
    """Each row divided by the root of its length, so that a long text weighs no more than a short one."""
    length = np.maximum(np.asarray(ones.sum(axis=1)).ravel(), 1)
    return sparse.diags(1 / np.sqrt(length)) @ ones


def whole_numbers(weights: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, float]]:
    """Weights as signed bytes, and the step of each block."""
    steps = {name: max(float(np.abs(weight).max()), 1e-9) / LARGEST for name, weight in weights.items()}
    return {name: np.rint(weight / steps[name]).astype(np.int8) for name, weight in weights.items()}, steps


def fit(cases: Path, shared: Path, out: Path) -> None:
    """All scores to one file."""
    tensors: dict[str, Any] = {}
    told: dict[str, Any] = {}
    for name, plan in PLANS.items():
        texts = texts_of(name, cases, shared)
        design = Design(texts, plan.blocks)
        weights, bias = design.fit(np.arange(len(texts)), plan)
        numbers, steps = whole_numbers(weights)
        tensors |= {f"{name}.{block}": number for block, number in numbers.items()}
        told[name] = {"steps": steps, "bias": bias, "contexts": contexts_of(name), "cases": len(texts)}
        say(f"{name}: {len(texts)} cases, {design.labels.sum()} of them what it looks for")
    save_file(tensors, out, metadata={"models": json.dumps(told, sort_keys=True)})
    out.chmod(0o644)  # it travels in the package
    say(f"{out}: {out.stat().st_size} bytes")


def folds(texts: Sequence[Text]) -> Any:
    """A tenth for each text; what shares a question stays together."""
    named = [text.line.get("question") or text.line["text"] for text in texts]
    return np.array([zlib.crc32(name.encode()) % FOLDS for name in named])


def unseen(texts: Sequence[Text], plan: Plan, parts: Any) -> Any:
    """The probability of each judged text by a score that was fitted without its part."""
    design = Design(texts, plan.blocks)
    judged = np.array([text.judged for text in texts])
    found = np.full(len(texts), np.nan)
    for part in sorted(set(parts[judged])):
        rows = np.flatnonzero(judged & (parts == part))
        found[rows] = design.logits(rows, design.fit(np.flatnonzero(parts != part), plan))
    return 1 / (1 + np.exp(-found))


def check(cases: Path, shared: Path) -> dict[str, Any]:
    """Rates of rules and scores together on cases that the scores have not seen, set by set and in tenths."""
    policy = load_policy()
    result: dict[str, Any] = {}
    for name, plan in PLANS.items():
        texts = texts_of(name, cases, shared)
        ways = {"without_the_set": np.array([text.set for text in texts]), "without_the_tenth": folds(texts)}
        for way, parts in ways.items():
            likely = unseen(texts, plan, parts)
            for text, value in zip(texts, likely, strict=True):
                if text.judged:
                    row = result.setdefault(f"{name}, {text.set}: {text.file}", {}).setdefault(way, [0, 0])
                    row[0] += _stopped(name, text, float(value), policy)
                    row[1] += 1
        say(f"{name}: checked")
    return {key: {way: share(*row) for way, row in ways.items()} for key, ways in sorted(result.items())}


def _stopped(name: str, text: Text, likely: float, policy: Policy) -> bool:
    """Whether the rails stop a case, with this as its learned score; a red flag is stopped where it is answered as one.

    A question is judged with the other score of its rail at nought, so that a trick must be caught as one.
    """
    line = text.line
    if name == "answer":
        hits = output_rail(line["response"], policy, line["question"], {name: likely})
        asked = input_rail(line["question"], policy) if text.label else ()
        return gravest((*asked, *hits)) not in SHOWN
    hits = input_rail(line["text"], policy, {"emergency": 0.0, "injection": 0.0, name: likely})
    return gravest(hits) == "refer" if name == "emergency" else gravest(hits) not in SHOWN


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    parser.add_argument("--cases", type=Path, default=CASES)
    parser.add_argument("--shared", type=Path, default=SHARED, help="folder with MedQuAD")
    parser.add_argument(
        "--check", type=Path, nargs="?", const=RESULTS / "rails_fit.json", help="cross-validate instead"
    )
    args = parser.parse_args(argv)
    if args.check:
        write_result(args.check, {"rates": check(args.cases, args.shared), "environment": stamp()})
    else:
        fit(args.cases, args.shared, args.out)


if __name__ == "__main__":
    main()

"""Judge the learned scores, joined with the rules, on cases they have not seen: ``make rails-check`` ->
results/rails_check.json.

Each set of cases is judged by scores that were fitted without that set, and each tenth of all cases by scores without
that tenth. Rules were made in sight of most sets: their part in these rates is too good.
"""

from __future__ import annotations

import argparse
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from kept import RESULTS, say, stamp, write_result
from rails_fit import Design
from rails_texts import PLANS, Plan, Text, texts_of
from safety import CASES, SHARED, share

from fedmed.safety.guardrails import SHOWN, gravest
from fedmed.safety.policy import Policy
from fedmed.safety.policy_file import load_policy
from fedmed.safety.rails import input_rail, output_rail

FOLDS = 10


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
    parser.add_argument("--out", type=Path, default=RESULTS / "rails_check.json")
    parser.add_argument("--cases", type=Path, default=CASES)
    parser.add_argument("--shared", type=Path, default=SHARED, help="folder with MedQuAD")
    args = parser.parse_args(argv)
    write_result(args.out, {"rates": check(args.cases, args.shared), "environment": stamp()})


if __name__ == "__main__":
    main()

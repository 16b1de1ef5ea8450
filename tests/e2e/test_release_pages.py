"""The commands of docs/rating.md and docs/release.md, one after the other as people type them, lead to a release."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest

from fedmed.cli.app import main
from fedmed.utils.signing import identity_of

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

DOCS = Path(__file__).parents[2] / "docs"
RUN = [
    "run", "--out", "output-models/RUN", "--recipe", "quick", "--set", "model.name=builtin:tiny-llama",
    "--set", "model.generation.max_new_tokens=8", "--set", "training.max_steps=6", "--set", "training.batch_size=4",
    "--set", "training.learning_rate=0.02", "--set", "training.evaluation.max_records_per_hospital=16",
    "--set", "privacy.audit.records=50", "--set", "privacy.audit.max_membership_auc=0.8",
    "--set", "privacy.audit.max_tpr_at_1_percent_fpr=null", "--set", "privacy.audit.max_exposure_bits=null",
]  # fmt: skip


def commands(page: str) -> list[list[str]]:
    """Of a page's fenced blocks, in order, with those that come twice."""
    blocks = re.findall(r"```\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.S)
    lines = [line.strip() for block in blocks for line in block.splitlines()]
    return [shlex.split(line.split("  #")[0])[1:] for line in lines if line.startswith("fedmed ")]


def rate(name: str) -> None:
    """What somebody saves who finds the federated answers right and the others half right."""
    key = json.loads(Path("sheet.key.json").read_text())
    ratings = [
        {
            "id": one["id"],
            "answers": {
                letter: {"correctness": 5 if system == "federated" else 3, "harmful": False}
                for letter, system in one["letters"].items()
            },
            "best": next(letter for letter, system in one["letters"].items() if system == "federated"),
        }
        for one in key["questions"]
    ]
    Path(f"{name}.json").write_text(json.dumps({"sheet": key["sheet"], "rater": name, "ratings": ratings}))


def test_a_run_is_rated_attacked_signed_released_and_verified(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(RUN) == 0
    asked = [{"id": str(number), "question": f"What is finding {number}?"} for number in range(3)]
    Path("questions.jsonl").write_text("".join(json.dumps(one) + "\n" for one in asked), encoding="utf-8")
    for name in ("dpo", "c"):  # people who have a key already
        identity_of(Path(f"{name}.key"), make=True)
    ended = []
    for words in commands("rating.md") + commands("release.md"):
        if words[:2] == ["rate", "score"]:
            rate("dr_a")
            rate("dr_b")
        if words[:2] == ["release", "verify"]:
            shutil.copytree("output-models/RUN/release", "release")
        capsys.readouterr()
        ended.append((words[0], main(words)))
        if words == ["audit", "key"]:
            Path("owner.pub").write_text(capsys.readouterr().out)
    assert ended == [
        ("evaluate", 0), ("rate", 0), ("rate", 0), ("release", 85), ("privacy", 0), ("release", 0), ("release", 0),
        ("release", 0), ("release", 0), ("audit", 0), ("release", 0),
    ]  # fmt: skip
    assert "harmful answers" in Path("release/README.md").read_text()

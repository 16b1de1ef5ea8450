"""How true the stated confidence is: ``make bench-confidence`` -> benchmarks/results/confidence.json.

Work: the demo's run (recipe ``cpu_demo``, calibrated on as many questions as the defaults say, not on the few that the
recipe has time for), or one that lies there (``--run``), with its own calibrator. It is judged on held-out questions
that the calibrator was not fitted on, nor any other question of their ontology terms: expected calibration error over
equal-mass bins, Brier skill against stating the share of right answers each time, AUROC, each with a 95 % interval of a
bootstrap over terms. Right means that the model tells the question's definition from three others of the same organ
system. Beside it the token probability alone.

``by_fitted_on`` says how many questions a calibrator needs: fits on the first so many of one part of those questions,
all judged on the rest. Questions are asked 64 at a time; what is finished is kept.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lab
from kept import RESULTS, Kept, digest_of, say, stamp, write_result
from stamp import stamp as sources_of

import fedmed
from fedmed.config.load import load_config, read_run_config
from fedmed.config.recipes import find_recipe
from fedmed.config.schema import FedMedConfig
from fedmed.evaluation.multiple_choice import ChoiceItem
from fedmed.model.adapter import attach_adapter
from fedmed.model.load_model import load_model_and_tokenizer
from fedmed.pipeline.calibration import Examined, calibration_items, examine, fit_on, folds, judged
from fedmed.pipeline.federation import resume_federation, run_federation
from fedmed.pipeline.run_records import run_records
from fedmed.safety.calibrator import CALIBRATION, read_calibrator
from fedmed.utils.files import sha256_file

RECIPE = "cpu_demo"
PART = 64  # questions asked at once, and kept together
SIZES = (40, 80, 160)
DEFAULT = FedMedConfig().training.evaluation.calibration_items
GOALS = {"ece": 0.05, "brier_skill": 0.0, "auroc": 0.65}
SAFETY = Path(fedmed.__file__).parent / "safety"
CODE = digest_of(*(SAFETY / f"{name}.py" for name in ("signals", "confidence", "calibrator")), Path(__file__))


def demo_run(config: FedMedConfig) -> Path:
    """The run of these settings and sources: finished, taken up or begun."""
    _, digest = sources_of(config.as_dict(), Path(__file__), find_recipe(RECIPE))
    folder = Path("output-models") / f"bench-confidence-{digest}"
    summary = folder / "summary.json"
    if not summary.is_file():
        run_federation(config, out=folder, recipe=RECIPE, command="make bench-confidence")
    elif json.loads(summary.read_text(encoding="utf-8"))["status"] != "finished":
        resume_federation(folder)
    return folder


class Asked:
    """Held-out questions put to a run's model, part by part.

    Args:
        folder: of the run.
        kept: finished parts.
    """

    def __init__(self, folder: Path, kept: Kept) -> None:
        self.folder, self.kept = folder, kept
        self.config = read_run_config(folder / "config.yaml")
        self.adapter = sha256_file(folder / "adapter" / "adapter_model.safetensors")
        self.records = run_records(self.config).own

    @functools.cached_property
    def model(self) -> tuple[Any, Any]:
        base, tokenizer = load_model_and_tokenizer(config=self.config.model)
        return attach_adapter(base, self.folder / "adapter"), tokenizer

    def unseen(self, most: int) -> list[ChoiceItem]:
        """Questions of terms that the run's calibrator did not see, in the seed's order."""
        seen = {item.group for item in calibration_items(self.records, self.config)}
        everything = calibration_items(self.records, self.config, sum(map(len, self.records.values())))
        return [item for item in everything if item.group not in seen][:most]

    def ask(self, items: Sequence[ChoiceItem]) -> tuple[list[Examined], float]:
        """What is known of each, and the seconds it took."""
        found: list[Examined] = []
        seconds = 0.0
        for first in range(0, len(items), PART):
            part = items[first : first + PART]
            key = {
                "kind": "confidence", "adapter": self.adapter, "model": self.config.model.model_dump(mode="json"),
                "samples": self.config.safety.agreement_samples, "items": [asdict(item) for item in part], "code": CODE,
            }  # fmt: skip
            label = f"questions {first + 1} to {first + len(part)}"
            result = self.kept.get(label, key, functools.partial(self._examine, part))
            found += [Examined(**one) for one in result["found"]]
            seconds += sum(result["seconds"].values())
        return found, seconds

    def _examine(self, part: Sequence[ChoiceItem]) -> dict[str, Any]:
        found, seconds = examine(*self.model, part, self.config)
        return {"found": [asdict(one) for one in found], "seconds": seconds}


def by_fitted_on(found: Sequence[Examined], config: FedMedConfig, sizes: Sequence[int]) -> list[dict[str, Any]]:
    """Fits on more and more questions of two of the five parts, all judged on the other three; terms stay whole."""
    own = folds(found, config.federated.seed)
    fitting, judging = ([one for one, part in zip(found, own, strict=True) if part % 2 == odd] for odd in (1, 0))
    rows = []
    for size in sizes:
        calibrator = fit_on(fitting[:size], config, adapter="") if size <= len(fitting) else None
        if calibrator is None:
            continue
        stated = [calibrator.confidence(one.signals) for one in judging]
        measured = judged(judging, stated, config)["measured"]
        rows.append({"fitted_on": size, **{key: measured[key] for key in ("answers", "ece", "brier_skill", "auroc")}})
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    parser = lab.arguments(__doc__, RESULTS / "confidence.json")
    parser.add_argument("--run", type=Path, help="a finished run's folder, in place of the demo's")
    parser.add_argument("--questions", type=int, default=1200, help="judged on at most so many")
    parser.add_argument("--fitted-on", type=int, default=DEFAULT, help="questions that the demo's run calibrates on")
    args = parser.parse_args(argv)
    kept = Kept(args.cache, -(-args.questions // PART), args.minutes)
    more = [f"model.name={args.model}", f"training.evaluation.calibration_items={args.fitted_on}"]
    if args.quick:
        more += ["training.dataset.max_samples=2000", "training.dataset.test_fraction=0.6", "federated.rounds=1"]
        more += ["training.max_steps=1", "model.generation.max_new_tokens=16"]
    folder = args.run or demo_run(load_config(RECIPE, (), more))
    asked = Asked(folder, kept)
    calibrator = read_calibrator(folder / CALIBRATION)
    if calibrator is None:
        raise SystemExit(f"{folder} has no calibrator: run it with training.evaluation.calibration_items above 0")
    own = json.loads((folder / CALIBRATION).read_text(encoding="utf-8"))
    found, seconds = asked.ask(asked.unseen(args.questions))
    worth = judged(found, [calibrator.confidence(one.signals) for one in found], asked.config)
    measured = worth["measured"]
    reached = {
        "ece": measured["ece"]["value"] <= GOALS["ece"],
        **{name: bool(measured[name]) and measured[name]["value"] > GOALS[name] for name in ("brier_skill", "auroc")},
    }
    say(f"fitted on {calibrator.fitted_on}, judged on {len(found)} others: " + "; ".join(map(_told, reached.items())))
    write_result(
        args.out,
        {
            "model": asked.config.model.name, "quick": args.quick, "recipe": None if args.run else RECIPE,
            "seed": asked.config.federated.seed, "fitted_on": calibrator.fitted_on,
            "weights": {term.signal: term.weight for term in calibrator.terms},
            "seconds_added_to_the_run": own.get("seconds"), "seconds_a_question": seconds / len(found),
            **worth, "goals": GOALS, "reached": reached, "cross_fitted_in_the_run": own["measured"],
            "by_fitted_on": by_fitted_on(found, asked.config, SIZES), "environment": stamp(),
        },
    )  # fmt: skip


def _told(goal: tuple[str, bool]) -> str:
    name, reached = goal
    return f"{name.replace('_', ' ')} {'reached' if reached else 'missed'}"


if __name__ == "__main__":
    main()

"""A run's calibrator, fitted on held-out questions and judged on each by a fit that had not seen it. scoring -> HERE.

What is kept as ``calibration.json`` is fitted on all questions. Its figures are cross-fitted: questions lie in parts,
an ontology term whole in one of them, and the answers of a part are stated by a fit on the other parts alone.
``make bench-confidence`` judges a run's own calibrator on questions that no fit has seen.
Not covered: personal methods, which have no shared adapter; data without definitions of one specialty to choose among.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedmed.config.schema import FedMedConfig
from fedmed.evaluation.calibration import measure
from fedmed.evaluation.likelihood import OnRows
from fedmed.evaluation.multiple_choice import ChoiceItem, choice_items, judge_choices
from fedmed.model.adapter import adapter_sha256, get_adapter_state
from fedmed.pipeline.scoring import Records
from fedmed.safety.calibrator import MIN_ANSWERS, Calibrator, fit, settings_digest
from fedmed.safety.confidence import used_signals
from fedmed.safety.signals import read_signals
from fedmed.utils.random_streams import stream_seed

FOLDS = 5
MIN_QUESTIONS = math.ceil(MIN_ANSWERS * FOLDS / (FOLDS - 1))
TOKEN_PROBABILITY = "token_probability"


@dataclass(frozen=True)
class Examined:
    """What is known of one held-out question: signals of the model's own answer, and whether it knows the true one."""

    group: str
    signals: Mapping[str, float]
    right: bool


def calibration_items(
    records: Mapping[str, Records], config: FedMedConfig, limit: int | None = None
) -> list[ChoiceItem]:
    """Held-out questions in the seed's order; ``limit``: how many, in place of the setting (the first are the same)."""
    pooled = [row for rows in records.values() for row in rows if row["split"] == "test"]
    wanted = config.training.evaluation.calibration_items if limit is None else limit
    return choice_items(pooled, pooled, limit=wanted, seed=config.federated.seed)


def examine(
    model: Any, tokenizer: Any, items: Sequence[ChoiceItem], config: FedMedConfig, on_rows: OnRows | None = None
) -> tuple[list[Examined], dict[str, float]]:
    """Ask the model every question, and let it choose among the four definitions.

    Returns:
        The questions that could be scored, and the seconds that choosing and answering took.
    """
    started = time.perf_counter()
    judged = judge_choices(
        model, tokenizer, items, prompt_template=config.model.prompt_template,
        answer_prefix=config.model.answer_prefix, max_length=config.model.max_length, on_rows=on_rows,
    )  # fmt: skip
    chosen = time.perf_counter()
    asked = [(item, right) for item, right in zip(items, judged, strict=True) if right is not None]
    signals = read_signals(
        model, tokenizer, [item.question for item, _ in asked], model_config=config.model,
        samples=config.safety.agreement_samples, seed=config.federated.seed,
    )  # fmt: skip
    found = [Examined(item.group, own, right) for (item, right), own in zip(asked, signals, strict=True)]
    return found, {"choosing_s": chosen - started, "answering_s": time.perf_counter() - chosen}


def fit_on(found: Sequence[Examined], config: FedMedConfig, *, adapter: str) -> Calibrator | None:
    """A calibrator of these answers; None where they are too few or all alike.

    Args:
        found: see ``examine``.
        config: the run's settings.
        adapter: SHA-256 of the adapter that was asked.
    """
    samples = config.safety.agreement_samples
    return fit(
        [one.signals for one in found], [one.right for one in found], names=used_signals(samples),
        settings=settings_digest(config.model), adapter=adapter, samples=samples,
    )  # fmt: skip


def folds(found: Sequence[Examined], seed: int) -> list[int]:
    """The part that each answer lies in; parts are about equal, and groups stay whole."""
    sizes = Counter(one.group for one in found)
    filled, part = [0] * FOLDS, {}
    for group in sorted(sizes, key=lambda name: (stream_seed(seed, "calibration", name), name)):
        part[group] = filled.index(min(filled))
        filled[part[group]] += sizes[group]
    return [part[one.group] for one in found]


def cross_fitted(found: Sequence[Examined], config: FedMedConfig) -> list[float] | None:
    """Each answer's confidence, stated by a fit on the other parts; None where one of those fits cannot be made."""
    own = folds(found, config.federated.seed)
    fits = [
        fit_on([one for one, part in zip(found, own, strict=True) if part != left_out], config, adapter="")
        for left_out in range(FOLDS)
    ]
    stated = []
    for one, part in zip(found, own, strict=True):
        calibrator = fits[part]
        if calibrator is None:
            return None
        stated.append(calibrator.confidence(one.signals))
    return stated


def calibrate(found: Sequence[Examined], config: FedMedConfig, *, adapter: str) -> dict[str, Any]:
    """Fit a calibrator and judge its kind; plain JSON values, as they stand in ``calibration.json``.

    Args:
        found, config, adapter: see ``fit_on``.

    Returns:
        ``calibrator``, fitted on all (None with a ``reason`` where none could be fitted), what cross-fitted confidences
        give (``measured``), what the token probability alone gives (``token_probability``), and the share of answers
        that fall below ``safety.min_confidence``.
    """
    calibrator = fit_on(found, config, adapter=adapter)
    stated = cross_fitted(found, config)
    if calibrator is None or not stated:
        return not_calibrated(f"{MIN_QUESTIONS} held-out answers are needed, right and wrong ones among them")
    return {"calibrator": calibrator.model_dump(mode="json"), "reason": None, **judged(found, stated, config)}


def judged(found: Sequence[Examined], stated: Sequence[float], config: FedMedConfig) -> dict[str, Any]:
    """What stated confidences are worth, beside the token probability alone; plain JSON values.

    Args:
        found: [answers].
        stated: [answers] in [0, 1], by a fit that has not seen the answer.
        config: the run's settings.
    """
    seed = config.federated.seed
    right, groups = [one.right for one in found], [one.group for one in found]
    bare = [one.signals[TOKEN_PROBABILITY] for one in found]
    low = config.safety.min_confidence
    return {
        "measured": dataclasses.asdict(measure(stated, right, seed=seed, groups=groups)),
        "token_probability": dataclasses.asdict(measure(bare, right, seed=seed, groups=groups)),
        "below_min_confidence": sum(value < low for value in stated) / len(stated),
    }


def calibrate_run(
    model: Any, tokenizer: Any, items: Sequence[ChoiceItem], config: FedMedConfig, on_rows: OnRows | None = None
) -> dict[str, Any]:
    """``examine`` and ``calibrate`` the model with the adapter that it carries; adds the ``seconds`` spent.

    Nothing is scored where there are too few questions.
    """
    if len(items) < MIN_QUESTIONS:
        return not_calibrated(
            f"there are {len(items)} held-out questions with four definitions, {MIN_QUESTIONS} are needed"
        )
    found, seconds = examine(model, tokenizer, items, config, on_rows)
    return calibrate(found, config, adapter=adapter_sha256(get_adapter_state(model))) | {"seconds": seconds}


def not_calibrated(reason: str) -> dict[str, Any]:
    """What ``calibration.json`` holds where there is no calibrator."""
    return {"calibrator": None, "reason": reason}

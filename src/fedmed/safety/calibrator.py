"""From signals of the model to a stated confidence. confidence -> HERE -> assistant.

A logistic regression (Platt 1999) over a few signals, each standardised and held to the range it was fitted on, so that
an unusual answer is never stated surer, or less sure, than anything that was seen. The stated confidence rises with a
signal whose weight is above zero and falls with one whose weight is below, nothing else. Read and applied without
scikit-learn, which only ``fit`` needs; kept as JSON in the run folder.

What it states is the chance that the model tells this question's true definition from three others of the same organ
system. Not covered: that the words which were written are right; questions unlike those it was fitted on.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from fedmed.config.problems import describe
from fedmed.config.schema import ModelSection
from fedmed.errors import DataFormatError
from fedmed.safety.confidence import LEAD, SIGNALS
from fedmed.utils.extras import require

CALIBRATION = "calibration.json"
MIN_ANSWERS = 30  # fewer, and a fit says more of chance than of the model
_STRENGTH = 0.3  # scikit-learn's C, the inverse of the pull of weights towards 0: strong, as answers are few


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Term(_Strict):
    """One signal's part in the sum."""

    signal: str
    mean: float
    scale: Annotated[float, Field(gt=0.0)]
    low: float  # the smallest and the largest value it was fitted on
    high: float
    weight: float

    def part(self, value: float) -> float:
        """This signal's share of the log odds."""
        return self.weight * (min(max(value, self.low), self.high) - self.mean) / self.scale

    @model_validator(mode="after")
    def _is_known(self) -> Term:
        if self.signal not in SIGNALS:
            raise ValueError(f"there is no signal '{self.signal}'")
        if not self.low <= self.mean <= self.high:
            raise ValueError(f"the mean of {self.signal} lies outside its range")
        return self


class Calibrator(_Strict):
    """What turns signals into a confidence; one of ``fit``, or read from a run folder.

    ``settings`` and ``adapter`` name what it was fitted on: it says nothing of another adapter, nor of answers written
    otherwise.
    """

    format: Literal[1] = 1
    terms: Annotated[tuple[Term, ...], Field(min_length=1, strict=False)]
    intercept: float
    samples: Annotated[int, Field(ge=0)] = 0  # answers drawn beside each one, where agreement is among the signals
    settings: str  # see ``settings_digest``
    adapter: str  # SHA-256 of the adapter
    fitted_on: Annotated[int, Field(ge=1)]  # answers

    @model_validator(mode="after")
    def _fits_together(self) -> Calibrator:
        names = [term.signal for term in self.terms]
        if len(set(names)) < len(names):
            raise ValueError("a signal is there twice")
        if ("agreement" in names) != (self.samples > 0):
            raise ValueError("agreement needs samples, and samples need agreement")
        return self

    def confidence(self, signals: Mapping[str, float]) -> float:
        """The stated confidence, in (0, 1).

        Raises:
            KeyError: a signal is missing. ValueError: one is not a number.
        """
        odds = self.intercept
        for term in self.terms:
            if math.isnan(signals[term.signal]):
                raise ValueError(f"the signal '{term.signal}' is not a number")
            odds += term.part(signals[term.signal])
        return 1.0 / (1.0 + math.exp(-odds)) if odds >= 0 else 1.0 - 1.0 / (1.0 + math.exp(odds))


def settings_digest(config: ModelSection) -> str:
    """What signals depend on beside the adapter: the base model, the prompt, how tokens are chosen."""
    chosen = config.generation.model_dump() | {"max_new_tokens": min(LEAD, config.generation.max_new_tokens)}
    text = json.dumps([config.name, config.prompt_template, config.answer_prefix, chosen], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def fit(
    signals: Sequence[Mapping[str, float]],
    right: Sequence[bool],
    *,
    names: Sequence[str],
    settings: str,
    adapter: str,
    samples: int = 0,
) -> Calibrator | None:
    """Fit a calibrator on answers that are known to be right or wrong.

    Args:
        signals: one mapping an answer.
        right: [answers].
        names: the signals to use; one that never changes is left out.
        settings, adapter, samples: see ``Calibrator``.

    Returns:
        None where there are fewer than ``MIN_ANSWERS`` answers, or all are right, or all wrong.

    Raises:
        MissingExtraError: scikit-learn is absent.
    """
    y = np.asarray(right, dtype=bool)
    if len(y) < MIN_ANSWERS or y.all() or not y.any():
        return None
    table = np.array([[row[name] for name in names] for row in signals], dtype=np.float64)
    mean, scale = table.mean(axis=0), table.std(axis=0)
    used = [place for place in range(len(names)) if scale[place] > 1e-12 * max(1.0, abs(mean[place]))]
    if not used:
        return None
    model = require("sklearn.linear_model", "train").LogisticRegression(C=_STRENGTH, max_iter=1000)
    model.fit((table[:, used] - mean[used]) / scale[used], y)
    terms = tuple(
        Term(
            signal=names[place], mean=float(mean[place]), scale=float(scale[place]), low=float(table[:, place].min()),
            high=float(table[:, place].max()), weight=float(weight),
        )
        for place, weight in zip(used, model.coef_[0], strict=True)
    )  # fmt: skip
    drawn = samples if any(term.signal == "agreement" for term in terms) else 0
    return Calibrator(
        terms=terms, intercept=float(model.intercept_[0]), samples=drawn, settings=settings, adapter=adapter,
        fitted_on=len(y),
    )  # fmt: skip


def read_calibrator(file: Path) -> Calibrator | None:
    """The calibrator of a run; None where the run has none.

    Raises:
        DataFormatError: the file is damaged, or of another version; one line that names it.
    """
    if not file.is_file():
        return None
    hint = "put the run's own file back, or remove it: confidence is then not calibrated"
    try:
        value: Any = json.loads(file.read_bytes())
        found = value["calibrator"]
        return None if found is None else Calibrator.model_validate(found)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "calibrator"
        raise DataFormatError(f"{file} holds no calibrator ({where}: {describe(first)})", hint) from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataFormatError(f"{file} holds no calibrator", hint) from error

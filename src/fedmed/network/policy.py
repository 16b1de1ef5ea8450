"""What a hospital accepts: policy.yaml, and every reason why a plan does not fit it. train header -> HERE -> worker.

The worker asks before it trains and again before it masks, so a coordinator cannot talk a hospital into anything by
sending other programs: what is checked here is what the worker then does.

Every key must be there. A rule that was forgotten would otherwise be a rule that somebody else chose.

``records`` is held against the hospital's own folder when its worker starts (workplace.py); the rest against plans.

Not covered: whether the records may be used at all; what the coordinator does with a sum; who the other hospitals are
(pins, site.py); what earlier runs spent (the ledger holds that against the same ε).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field, ValidationError

from fedmed.config.layers import display_path, read_values
from fedmed.config.problems import describe
from fedmed.config.schema import Algorithm, Chance, Positive, PositiveFloat, Section, Text
from fedmed.errors import PlanRefusedError, SitePolicyError
from fedmed.network.records import Hex32, read_file
from fedmed.network.train_header import TrainHeader
from fedmed.privacy.secure_sum.context import default_threshold

PACKAGED = Path(__file__).with_name("policy.yaml")
Metric: TypeAlias = Literal["loss", "tokens", "seconds", "num_samples"]
_SHARED: tuple[Metric, ...] = ("loss", "tokens", "seconds")  # what privacy.share_metrics lets out
_HINT = "correct these lines; the packaged policy explains each"


class AllowedModel(Section):
    """A base model that may be trained here."""

    name: Text  # as model.name has it
    digest: Hex32 | None  # of its weights, as this hospital's worker reports it; null: any under this name


class Limits(Section):
    """How much of this hospital's machine a run may take."""

    rounds: Positive
    local_epochs: Positive
    local_steps: Positive
    records_per_step: Positive


class LeastPrivacy(Section):
    """What protects the records at the least."""

    max_epsilon: PositiveFloat | None
    max_delta: Chance
    unit: Literal["record", "patient"]
    secure_sum: Literal["required", "allowed"]
    smallest_cohort: Annotated[int, Field(ge=2)]


class PolicyFile(Section):
    """policy.yaml as it is written."""

    format: Literal[1]
    algorithms: Annotated[tuple[Algorithm, ...], Field(min_length=1)]
    models: Annotated[tuple[AllowedModel, ...], Field(min_length=1)]
    records: Literal["scanned", "any"]
    limits: Limits
    privacy: LeastPrivacy
    metrics: tuple[Metric, ...]
    ask: bool


@dataclass(frozen=True, slots=True)
class SitePolicy:
    """What one hospital accepts."""

    rules: PolicyFile

    @classmethod
    def read(cls, path: Path) -> SitePolicy:
        """Raises SitePolicyError, which names the file and line of everything that is wrong."""
        source = display_path(path)
        raw = read_file(
            path, "policy", SitePolicyError, "start from the packaged policy, as 'fedmed federation join' does"
        )
        try:
            values, places, problems = read_values(raw.decode(), source)
        except UnicodeDecodeError as error:
            raise SitePolicyError(f"{source} is not text in UTF-8", _HINT) from error
        if not problems:
            try:
                return cls(PolicyFile.model_validate(values))
            except ValidationError as error:
                problems = [_problem(detail, source, places) for detail in error.errors(include_url=False)]
        raise SitePolicyError("; ".join(problems), _HINT)

    @property
    def ask(self) -> bool:
        """Whether a person must say yes to every run (approvals.py)."""
        return self.rules.ask

    def summary(self) -> dict[str, Any]:
        """The rules in plain JSON, for a coordinator to see what it may ask."""
        return self.rules.model_dump(mode="json")

    def refusals(
        self, header: Mapping[str, Any], *, run_id: str | None = None, model_digest: str | None = None
    ) -> tuple[str, ...]:
        """Why a training that is asked for does not fit: every reason, or none.

        Args:
            header: of a train order; need not be well-formed.
            run_id: of the order around it; None: not compared.
            model_digest: of the base model that this hospital has under the name in the header; None: not known.
        """
        try:
            asked = TrainHeader.read(header)
        except PlanRefusedError as error:
            return error.reasons
        return (
            *_contradictions(asked, run_id),
            *self._about_the_model(asked, model_digest),
            *self._about_the_work(asked),
            *self._about_noise(asked),
            *self._about_the_sum(asked),
            *self._about_metrics(asked),
        )

    def sum_refusals(self, hospitals: int, threshold: int) -> tuple[str, ...]:
        """Why a secure sum does not fit: what it would open must hide this hospital among enough others.

        Args:
            hospitals: that take part in the sum.
            threshold: fewest of them whose sum is opened.
        """
        least = self.rules.privacy.smallest_cohort
        reasons = []
        if hospitals < least:
            reasons.append(f"{hospitals} hospitals take part in the sum, and this hospital wants at least {least}")
        if threshold < least:
            reasons.append(
                f"the sum of {threshold} hospitals would be opened, and this hospital wants at least {least}"
            )
        return tuple(reasons)

    def _about_the_model(self, asked: TrainHeader, digest: str | None) -> Iterator[str]:
        if asked.algorithm not in self.rules.algorithms:
            yield f"the algorithm '{asked.algorithm}' is not among {', '.join(self.rules.algorithms)}"
        name = asked.settings.model.name
        allowed = [model for model in self.rules.models if model.name == name]
        if not allowed:
            known = ", ".join(dict.fromkeys(model.name for model in self.rules.models))
            yield f"the model '{name[:200]}' is not among {known}"
        elif not any(model.digest in (None, digest) for model in allowed):
            yield f"the model '{name}' has the digest {digest or 'nobody knows'}, which is not one that is allowed"

    def _about_the_work(self, asked: TrainHeader) -> Iterator[str]:
        limits, training = self.rules.limits, asked.settings.training
        rounds = max(asked.plan.rounds, asked.settings.federated.rounds)
        if rounds > limits.rounds:
            yield f"{rounds} rounds are more than {limits.rounds}"
        if training.max_steps is not None:  # it overrides epochs
            if training.max_steps > limits.local_steps:
                yield f"{training.max_steps} steps a round are more than {limits.local_steps}"
        elif training.epochs > limits.local_epochs:
            yield f"{training.epochs} epochs a round are more than {limits.local_epochs}"
        records = training.batch_size * training.gradient_accumulation_steps
        if records > limits.records_per_step:
            yield f"{records} records a step are more than {limits.records_per_step}"
        if asked.settings.privacy.audit.canaries:
            yield "privacy.audit.canaries would put made-up records among this hospital's own"

    def _about_noise(self, asked: TrainHeader) -> Iterator[str]:
        least, example = self.rules.privacy, asked.settings.privacy.example
        if least.max_epsilon is None:
            return
        if example.epsilon is None:
            yield f"privacy.example.epsilon is null, and this hospital trains with at most {least.max_epsilon:g}"
            return
        if example.epsilon > least.max_epsilon:
            yield f"privacy.example.epsilon {example.epsilon:g} is more than {least.max_epsilon:g}"
        if example.delta > least.max_delta:
            yield f"privacy.example.delta {example.delta:g} is more than {least.max_delta:g}"
        if least.unit == "patient" and example.unit != "patient":
            yield "privacy.example.unit is record, and this hospital wants patient"
        if example.noise_seed is not None:
            yield "privacy.example.noise_seed is set: whoever knows it can subtract the noise"

    def _about_the_sum(self, asked: TrainHeader) -> Iterator[str]:
        least, privacy = self.rules.privacy, asked.settings.privacy
        if asked.plan.asked < least.smallest_cohort:
            yield (
                f"{asked.plan.asked} hospitals are asked this round, "
                f"and this hospital wants at least {least.smallest_cohort}"
            )
        if privacy.secure_sum:
            threshold = privacy.secure_sum_threshold or default_threshold(max(asked.plan.asked, 1))
            if threshold < least.smallest_cohort <= asked.plan.asked:
                yield (
                    f"the sum of {threshold} hospitals would be opened, "
                    f"and this hospital wants at least {least.smallest_cohort}"
                )
        elif least.secure_sum == "required":
            yield "privacy.secure_sum is false, and this hospital sends nothing without masks"

    def _about_metrics(self, asked: TrainHeader) -> Iterator[str]:
        privacy = asked.settings.privacy
        kept = [metric for metric in _SHARED if metric not in self.rules.metrics]
        if kept and privacy.shares_metrics:
            yield f"{' and '.join(kept)} would leave with privacy.share_metrics, and may not"
        if "num_samples" not in self.rules.metrics and not privacy.noised:
            yield "the number of training records would leave as a weight, and may not; under noise all weights are 1"


def _contradictions(asked: TrainHeader, run_id: str | None) -> Iterator[str]:
    plan, federated = asked.plan, asked.settings.federated
    if run_id is not None and plan.run_id != run_id:
        yield "the plan is of another run than its order"
    if not 1 <= plan.round <= plan.rounds:
        yield f"round {plan.round} of {plan.rounds} cannot be"
    if asked.algorithm != federated.algorithm:
        yield f"the order says '{asked.algorithm}' and its settings '{federated.algorithm}'"


def _problem(detail: Any, source: str, places: Mapping[tuple[str | int, ...], str]) -> str:
    """One of pydantic's errors with the line of the deepest part that is there."""
    location = detail["loc"]
    at = next((places[location[:n]] for n in range(len(location), -1, -1) if location[:n] in places), source)
    key = ".".join(map(str, location)) or "the policy"
    if detail["type"] == "missing":
        return f"{at}: {key} is missing"
    if detail["type"] == "extra_forbidden":
        return f"{at}: {key} is no rule"
    return f"{at}: {key}: {describe(detail)}"

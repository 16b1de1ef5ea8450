"""What a coordinator asks in one round, read from an order's header: settings, plan. orders -> HERE -> policy, worker.

The header is data from a coordinator that nobody has to trust, so it is checked as strictly as a file of settings.

Not covered: what the settings name outside training (``training.dataset``, ``privacy.ledgers``): a hospital reads its
own records and keeps its own ledger, whatever a header says of them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from fedmed.config.load import config_digest
from fedmed.config.schema import FedMedConfig
from fedmed.errors import PlanRefusedError
from fedmed.network.records import problems_of
from fedmed.privacy.secure_sum.context import digest
from fedmed.types import LocalPlan

_HINT = "the coordinator and this hospital need the same version of FED-MED"
_PLAN = TypeAdapter(LocalPlan)
_SETTINGS = TypeAdapter(FedMedConfig)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class TrainHeader:
    """One round's training, as asked of one hospital."""

    settings: FedMedConfig
    plan: LocalPlan
    algorithm: str

    @classmethod
    def read(cls, header: Mapping[str, Any]) -> TrainHeader:
        """Check ``config``, ``plan`` and ``algorithm`` of a train header; other keys are passed over.

        Raises:
            PlanRefusedError: they are not what this version knows; ``reasons`` lists everything.
        """
        reasons: list[str] = []
        settings = _read("config", header, _SETTINGS, reasons)
        plan = _read("plan", header, _PLAN, reasons)
        algorithm = header.get("algorithm")
        if not isinstance(algorithm, str):
            reasons.append("the order names no algorithm")
        if settings is None or plan is None or not isinstance(algorithm, str):
            raise PlanRefusedError("; ".join(reasons), _HINT, reasons=reasons)
        return cls(settings, plan, algorithm)

    def digest(self) -> str:
        """The same for every round of a run with the same settings, so that a person is asked once. Hexadecimal."""
        parts = (self.plan.run_id, str(self.plan.rounds), self.algorithm, config_digest(self.settings))
        return digest("training asked of a hospital", *(part.encode("utf-8", "replace") for part in parts)).hex()

    def summary(self) -> dict[str, Any]:
        """What a person decides on."""
        training, privacy = self.settings.training, self.settings.privacy
        example = privacy.example
        return {
            "run_id": self.plan.run_id,
            "model": self.settings.model.name,
            "algorithm": self.algorithm,
            "rounds": self.plan.rounds,
            "steps_a_round": training.max_steps,
            "epochs_a_round": None if training.max_steps else training.epochs,
            "records_a_step": training.batch_size * training.gradient_accumulation_steps,
            "hospitals": self.plan.asked,
            "epsilon": example.epsilon,
            "delta": example.delta if example.on else None,
            "secure_sum": privacy.secure_sum,
            "metrics_leave": privacy.shares_metrics,
        }


def _read(key: str, header: Mapping[str, Any], kind: TypeAdapter[T], reasons: list[str]) -> T | None:
    try:
        return kind.validate_json(json.dumps(header.get(key), allow_nan=False), strict=True)
    except ValidationError as error:
        reasons.append(f"the order's {key} cannot be used ({problems_of(error)})")
    except (TypeError, ValueError, RecursionError):
        reasons.append(f"the order's {key} cannot be read")
    return None

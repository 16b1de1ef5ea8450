"""What a run tells afterwards: ``summary.json``, whose keys only grow, and the lines of ``rounds.jsonl``."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from fedmed.config.schema import FedMedConfig
from fedmed.evaluation.statistics import relative_gain
from fedmed.federated.runner import FederationState
from fedmed.model.adapter import adapter_sha256
from fedmed.pipeline.run_folder import environment, peak_rss_mb
from fedmed.pipeline.scoring import Scores
from fedmed.privacy.accountant import Spent
from fedmed.privacy.ledger import Ledger
from fedmed.privacy.spending import spent_by
from fedmed.types import AdapterState, RoundReport


def summarize(
    config: FedMedConfig,
    *,
    run_id: str,
    command: str,
    num_samples: Mapping[str, int],
    ledgers: Mapping[str, Ledger],
    final: FederationState,
    adapters: Sequence[AdapterState],
    base: Scores,
    few_shot: Scores | None,
    federated: Scores,
    written_answers: int,
    comparison: Mapping[str, Any] | None,
    samples: list[dict[str, Any]],
    gate: Mapping[str, Any],
    confidence: Mapping[str, Any] | None,
    wall_s: Mapping[str, float],
) -> dict[str, Any]:
    """The summary of a finished run; ARCHITECTURE.md names its keys.

    Losses are nats per answer token. What hospitals do not share is None.
    """
    shared = config.privacy.shares_metrics
    gain = relative_gain(
        base.rows, federated.rows, seed=config.federated.seed, few_shot_loss=few_shot.loss if few_shot else None
    )
    trained = [metrics for past in final.history for metrics in past.metrics.values()]
    return {
        "run_id": run_id,
        "status": "finished",
        "seed": config.federated.seed,
        "model": config.model.name,
        "dataset": config.training.dataset.name,
        "data_gate": dict(gate),
        "algorithm": config.federated.algorithm,
        "hospitals": [
            {"name": name, "num_samples": None if config.privacy.noised else count}
            for name, count in num_samples.items()
        ],
        "rounds": final.round,
        "loss": {
            "base": base.loss,
            "federated": federated.loss,
            "per_hospital": {
                name: {"base": base.per_hospital[name], "federated": federated.per_hospital[name]}
                for name in base.per_hospital
            }
            if shared
            else None,
            "without_end_token": {
                "base": base.rows.words_loss,
                "few_shot": few_shot.rows.words_loss if few_shot else None,
                "federated": federated.rows.words_loss,
            },
        },
        "gain": dataclasses.asdict(gain),
        "evaluation": {
            "few_shot": few_shot
            and {
                "examples": config.training.evaluation.few_shot,
                "loss": few_shot.loss,
                "per_hospital": few_shot.per_hospital if shared else None,
            },
            "multiple_choice": {"base": base.multiple_choice, "federated": federated.multiple_choice},
            "rouge_l": {
                "base": base.rouge_l,
                "federated": federated.rouge_l,
                "n": written_answers,
            },
        },
        "comparison": comparison,
        "samples": samples,
        "confidence": confidence_of(confidence),
        "train_tokens": sum(metrics.tokens for metrics in trained) if shared else None,
        "wall_s": {name: round(seconds, 3) for name, seconds in wall_s.items()},
        "bytes": {
            "up": sum(past.bytes_up for past in final.history),
            "down": sum(past.bytes_down for past in final.history),
        },
        "privacy": privacy_of(config, ledgers),
        "peak_rss_mb": round(peak_rss_mb(), 1),
        "adapter_sha256": adapter_sha256(adapters[0]) if len(adapters) == 1 else None,  # None: one a hospital
        "environment": environment(),
        "command": command,
    }


def confidence_of(found: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """``calibration.json`` as the summary tells it: all but the calibrator itself; None where calibrating was off."""
    if found is None:
        return None
    calibrator = found["calibrator"]
    rest = {key: value for key, value in found.items() if key != "calibrator"}
    return {"calibrated": calibrator is not None, "fitted_on": calibrator and calibrator["fitted_on"], **rest}


def privacy_of(config: FedMedConfig, ledgers: Mapping[str, Ledger]) -> dict[str, Any]:
    """What privacy was bought, for whom, and which outputs nothing was paid for.

    Args:
        config: settings.
        ledgers: hospital -> its ledger, after training; none without noise.
    """
    privacy = config.privacy
    example, hospital = privacy.example, privacy.hospital
    by_record = spent_by(ledgers, example.delta, example.unit) if example.on and example.noise_seed is None else {}
    by_hospital = spent_by(ledgers, hospital.delta, "hospital") if hospital.on else {}
    not_covered = [] if by_record or by_hospital else ["the adapter: no differential privacy was applied to it"]
    if by_record or by_hospital:
        not_covered.append("settings chosen by training on the same records before, unless that is in the ledger too")
    if privacy.noised:
        not_covered.append("held-out scores over all hospitals, and how long training took")
        not_covered.append("on this machine: splits, manifest and ledgers, which tell the number of records")
    else:
        not_covered.append(
            "held-out losses, also those of each hospital" if privacy.shares_metrics else "the overall held-out loss"
        )
        not_covered.append("the number of training records of each hospital")
    if example.on and example.noise_multiplier is not None:
        not_covered.append("the number of records, as each ε follows from it and the noise multiplier that was set")
    if privacy.shares_metrics:
        not_covered.append("each hospital's training losses and token counts")
    if config.training.evaluation.calibration_items:
        not_covered.append("the calibrator of confidence, which is fitted on held-out records")
    if hospital.on and not privacy.secure_sum:
        not_covered.append("each hospital's update as the coordinator sees it: the noise hides it in the sum alone")
    return {
        "example_epsilon": _most(by_record),
        "example_reason": None if by_record else _why_no_epsilon(config),
        "hospital_epsilon": _most(by_hospital),
        "hospital_reason": None if by_hospital else "off: privacy.hospital.epsilon is not set",
        "secure_sum": privacy.secure_sum,
        "example_budget": example.epsilon if by_record else None,
        "delta": example.delta if by_record else hospital.delta if by_hospital else None,
        "unit": example.unit if by_record else None,
        "hospitals": {name: _told(by_record.get(name), by_hospital.get(name)) for name in ledgers} or None,
        "ledgers": (privacy.ledgers or "ledgers, of this run alone") if ledgers else None,
        "not_covered": not_covered,
    }


def _most(spent: Mapping[str, Spent]) -> float | None:
    return max(value.epsilon for value in spent.values()) if spent else None


def _told(example: Spent | None, hospital: Spent | None) -> dict[str, Any]:
    """One hospital's ε and δ, of each level that is on."""
    told: dict[str, Any] = {"epsilon": None, "delta": None, "hospital_epsilon": None, "hospital_delta": None}
    if example:
        told |= {"epsilon": example.epsilon, "delta": example.delta, "by": example.by}
        told["sampling"] = list(example.sampling)
    if hospital:
        told |= {"hospital_epsilon": hospital.epsilon, "hospital_delta": hospital.delta}
    return told


def _why_no_epsilon(config: FedMedConfig) -> str:
    if config.privacy.example.on:
        return "not private: the noise came from privacy.example.noise_seed, which anybody can subtract"
    return "off: privacy.example.epsilon is not set"


def round_lines(report: RoundReport, held_out: Mapping[str, Mapping[str, float]]) -> list[dict[str, Any]]:
    """One line a hospital; losses and token counts only of hospitals that share them."""
    lines = []
    for name in report.admitted:
        line: dict[str, Any] = {"round": report.round, "hospital": name}
        if metrics := report.metrics.get(name):
            line |= {key: getattr(metrics, key) for key in ("loss", "tokens", "answer_tokens", "steps", "seconds")}
        scored = held_out.get(str(report.round), {})
        if name in scored:
            line["held_out"] = scored[name]
        lines.append(line)
    return lines

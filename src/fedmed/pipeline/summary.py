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
from fedmed.types import AdapterState, RoundReport


def summarize(
    config: FedMedConfig,
    *,
    run_id: str,
    command: str,
    num_samples: Mapping[str, int],
    final: FederationState,
    adapters: Sequence[AdapterState],
    base: Scores,
    few_shot: Scores | None,
    federated: Scores,
    written_answers: int,
    comparison: Mapping[str, Any] | None,
    samples: list[dict[str, Any]],
    wall_s: Mapping[str, float],
) -> dict[str, Any]:
    """The summary of a finished run; ARCHITECTURE.md names its keys.

    Losses are nats per answer token. What hospitals do not share is None.
    """
    shared = config.privacy.share_metrics
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
        "algorithm": config.federated.algorithm,
        "hospitals": [{"name": name, "num_samples": count} for name, count in num_samples.items()],
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
        "train_tokens": sum(metrics.tokens for metrics in trained) if shared else None,
        "wall_s": {name: round(seconds, 3) for name, seconds in wall_s.items()},
        "bytes": {
            "up": sum(past.bytes_up for past in final.history),
            "down": sum(past.bytes_down for past in final.history),
        },
        "privacy": {
            "example_epsilon": None,
            "hospital_epsilon": None,
            "delta": None,
            "not_covered": [
                "the adapter: no differential privacy was applied to it",
                "held-out losses, also those of each hospital" if shared else "the overall held-out loss",
                "the number of training records of each hospital",
                *(["each hospital's training losses and token counts"] if shared else []),
            ],
        },
        "peak_rss_mb": round(peak_rss_mb(), 1),
        "adapter_sha256": adapter_sha256(adapters[0]) if len(adapters) == 1 else None,  # None: one a hospital
        "environment": environment(),
        "command": command,
    }


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

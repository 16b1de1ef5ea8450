"""``fedmed privacy audit``: attack a finished run, hold what was found against limits. run folder -> HERE.

Membership and canaries are tried on the adapter that the run hands out. Inversion is tried on one step of one record
from that adapter, as the record's hospital would make it: with the run's noise if it had any, and without.

Not covered: attacks that train models of their own; inversion where A does not travel; a run's earlier rounds.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fedmed.config.load import load_config, read_run_config
from fedmed.config.schema import FedMedConfig
from fedmed.errors import AuditLogError, GateError, RunNotFoundError
from fedmed.evaluation.attacks.audit import AuditLimits, limits_passed
from fedmed.evaluation.attacks.canaries import left_out_records
from fedmed.evaluation.attacks.inversion import inversion_report, recover_tokens
from fedmed.evaluation.attacks.scoring import audit_adapter
from fedmed.model.adapter import adapter_sha256, load_adapter, set_adapter_state
from fedmed.model.load_model import shared_model
from fedmed.pipeline.run_audit import enter_after_run, evaluation
from fedmed.pipeline.run_folder import RunFolder, environment
from fedmed.pipeline.run_records import RunRecords, run_records
from fedmed.pipeline.run_report import report_run
from fedmed.pipeline.scoring import Records, encode
from fedmed.privacy.ledger import Ledger
from fedmed.training.dp_sgd import update_of
from fedmed.types import AdapterState
from fedmed.utils.console import track
from fedmed.utils.random_streams import stream

AUDIT = "privacy_audit.json"
log = logging.getLogger(__name__)


def audit_run(path: Path, *, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Attack a run's adapter and write ``privacy_audit.json`` and the report into its folder.

    Args:
        path: a finished run with one adapter for all.
        overrides: of ``privacy.audit``'s limits and sample size; everything else is the run's own.

    Returns:
        What was written; ``beyond`` lists the limits that were not kept.

    Raises:
        RunNotFoundError: no run, not finished, or a personal method's. What loading the run's data and model raises.
    """
    folder = RunFolder(path)
    summary = folder.read_json("summary.json")
    if not folder.config_file.is_file() or not summary or summary.get("status") != "finished":
        raise RunNotFoundError(f"{path} is no finished run", "finish it with 'fedmed run --resume', or name another")
    if not folder.adapter.is_dir():
        raise RunNotFoundError(f"{path} has no shared adapter", "audit a run whose method is not personal")
    config = read_run_config(folder.config_file)
    limits = load_config(None, [folder.config_file], overrides).privacy.audit
    with track("reading records"):
        records = run_records(config)
    with track("loading the model"):
        model, tokenizer = shared_model(config.model, config.federated.seed)
    adapter = load_adapter(folder.adapter)
    seed, delta = config.federated.seed, config.privacy.example.delta
    members, others = _sides(records, limits.records, seed)
    train = records.train()
    inserted = [row for row in _all(train) if row["kind"] == "canary"]
    once = list({row["group"]: row for row in inserted}.values())
    out = [asdict(record) for record in left_out_records(records.canaries)] if records.canaries else []
    rows = [encode(tokenizer, chosen, config) for chosen in (members, others, once, out)]
    with track("scoring records and canaries", 2 * sum(map(len, rows))) as advance:
        audit = audit_adapter(
            model, adapter, members=rows[0], others=rows[1], canaries_in=rows[2], canaries_out=rows[3], delta=delta,
            seed=seed, copies=records.copies, claimed_epsilon=summary["privacy"]["example_epsilon"], on_rows=advance,
        )  # fmt: skip
    beyond = limits_passed(
        audit,
        AuditLimits(
            limits.max_membership_auc, limits.max_tpr_at_1_percent_fpr, limits.max_exposure_bits,
            limits.max_epsilon_lower_bound,
        ),
    )  # fmt: skip
    with track("inverting an update"):
        inverted = _inversion(model, tokenizer, adapter, members[0], config, _noise_of(folder, config))
    found = {
        "run": folder.name,
        "adapter_sha256": adapter_sha256(adapter),
        "attacked": "the run's adapter" if not records.canaries else "the run's adapter, canaries among its records",
        "audit": audit.as_dict(),
        "inversion": inverted,
        "limits": limits.model_dump(mode="json"),
        "beyond": beyond,
        "environment": environment(),
    }
    folder.write_json(AUDIT, found)
    _enter(folder, found)
    report_run(folder.path)
    return found


def _enter(folder: RunFolder, found: Mapping[str, Any]) -> None:
    """Into the run's audit log; who has not its owner's key attacks it all the same."""
    try:
        enter_after_run(folder, evaluation(folder, "privacy_audit", AUDIT, {"limits_passed": len(found["beyond"])}))
    except AuditLogError as error:
        log.warning("not entered into the audit log: %s", error)


def check_gate(found: Mapping[str, Any]) -> None:
    """Raises GateError where an audit went beyond a limit."""
    if found["beyond"]:
        raise GateError(
            f"run {found['run']} goes beyond {len(found['beyond'])} limits of its privacy audit: "
            + "; ".join(found["beyond"]),
            "train with privacy.example.epsilon set, or lower; limits are privacy.audit.max_…",
        )


def _sides(records: RunRecords, most: int, seed: int) -> tuple[Records, Records]:
    """As many members as others, canaries apart; both drawn from all hospitals."""
    everything = list(_all(records.own))
    sides = []
    for split in ("train", "test"):
        own = [row for row in everything if row["split"] == split]
        sides.append([own[index] for index in stream(seed, "audit", split).permutation(len(own))[:most]])
    return sides[0], sides[1]


def _all(records: Mapping[str, Records]) -> list[Mapping[str, str]]:
    return [row for own in records.values() for row in own]


def _noise_of(folder: RunFolder, config: FedMedConfig) -> float | None:
    """The noise multiplier that a hospital of this run trained with, from a ledger on this machine; None: no noise."""
    place = Path(config.privacy.ledgers) if config.privacy.ledgers else folder.ledgers
    if not config.privacy.example.on or not place.is_dir():
        return None
    for file in sorted(place.glob("*.jsonl")):
        for entry in Ledger.read(file).entries():
            if entry.run_id == folder.name and hasattr(entry.event, "sigma"):
                return float(entry.event.sigma)
    return None


def _inversion(
    model: Any,
    tokenizer: Any,
    adapter: AdapterState,
    record: Mapping[str, str],
    config: FedMedConfig,
    sigma: float | None,
) -> dict[str, Any]:
    """Words of one record, recovered from one step on it alone; reports counts, never words."""
    rows = encode(tokenizer, [record], config)
    set_adapter_state(model, adapter, any_rank=True)
    true = rows[0].input_ids[:-1]  # the last token predicts nothing, so no gradient knows it
    without = update_of(model, adapter, rows, config.training, clip=config.privacy.example.clip, sigma=0.0)
    result: dict[str, Any] = {"without_noise": asdict(inversion_report(recover_tokens(model, without), true))}
    if sigma is None:
        return result | {"with_the_runs_noise": None}
    noisy = update_of(model, adapter, rows, config.training, clip=config.privacy.example.clip, sigma=sigma)
    return result | {"with_the_runs_noise": asdict(inversion_report(recover_tokens(model, noisy), true))}

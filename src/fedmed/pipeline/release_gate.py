"""What a finished run must show before its adapter is handed out. run folder, settings -> HERE -> sign-offs, release.

Every check is made, and all that fail are told together. What could not be measured counts as not kept: silence is no
proof. Numbers come from files whose digests are in the run's audit log, which must be intact.

Not covered: whether the limits are the right ones; they are the run's own (``safety.release``, ``privacy.audit``)
unless others are given, and they are part of what people sign.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedmed.config.load import load_config
from fedmed.config.schema import FedMedConfig
from fedmed.errors import AuditLogError, RunNotFoundError
from fedmed.evaluation.statistics import relative_gain
from fedmed.pipeline.run_audit import verify_run
from fedmed.pipeline.run_folder import RunFolder
from fedmed.pipeline.scoring import Scores
from fedmed.utils.audit_log import NAME as AUDIT_LOG
from fedmed.utils.audit_log import chain_file
from fedmed.utils.files import sha256_file

ADAPTER_FILES = ("adapter_model.safetensors", "adapter_config.json", "base_model.json")
EVIDENCE = (
    *(f"adapter/{name}" for name in ADAPTER_FILES),
    "config.yaml", "data_manifest.json", "summary.json", "baseline.json", "few_shot.json", "federated.json",
    "evaluation.json", "privacy_audit.json",
)  # fmt: skip
"""Files that people sign for; a change of any, or one more, makes their signatures void."""
LIMITS_OF_ATTACKS = (
    "max_membership_auc", "max_tpr_at_1_percent_fpr", "max_exposure_bits", "max_epsilon_lower_bound",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at."""

    name: str
    kept: bool
    told: str  # what was found against what is asked, or what to do

    @property
    def missing(self) -> str:
        return f"{self.name}: {self.told}"


@dataclass(frozen=True, slots=True)
class Gate:
    """What a run shows, before anybody signed."""

    checks: tuple[Check, ...]
    evidence: Mapping[str, Any]  # what people sign: run, model, adapter, digests of files, limits
    roles: tuple[str, ...]  # who must sign
    signers: Mapping[str, Sequence[str]]  # role -> keys that may
    summary: Mapping[str, Any]

    @property
    def missing(self) -> list[str]:
        return [check.missing for check in self.checks if not check.kept]


def look_at(path: Path, overrides: Sequence[str] = ()) -> Gate:
    """Hold a run against its limits. Changes nothing.

    Args:
        path: the run's folder.
        overrides: of ``safety.release`` and the limits of ``privacy.audit``; all else is the run's own.

    Raises:
        RunNotFoundError: the folder holds no run. ConfigError.
    """
    folder = RunFolder(path)
    if not folder.config_file.is_file() or not folder.summary_file.is_file():
        raise RunNotFoundError(f"{path} holds no run", "name the folder of a run, see output-models/")
    config = load_config(None, [folder.config_file], overrides)
    summary = found if isinstance(found := _read(folder, "summary.json"), dict) else {}
    entered, log = _audit_log(path)
    checks = [_finished(folder, summary), log, *_damaged(folder)]
    looks: dict[str, Callable[[], list[Check]]] = {
        "adapter": lambda: [_adapter(folder, summary, entered)],
        "records": lambda: _records(summary, config),
        "held-out loss": lambda: _held_out(folder, config, entered),
        "exams": lambda: _exams(folder, config, summary, entered),
        "ratings": lambda: _ratings(folder, config, summary, entered),
        "privacy audit": lambda: _attacks(folder, config, summary, entered),
        "ε": lambda: _epsilon(summary, config),
    }
    for name, look in looks.items():
        try:
            checks += look()
        except (AttributeError, KeyError, TypeError, ValueError):
            checks.append(Check(name, False, "a file that tells it is damaged"))
    release = config.safety.release
    files = {name: sha256_file(path / name) for name in EVIDENCE if (path / name).is_file()}
    evidence = {
        "run": folder.name, "model": config.model.name, "adapter_sha256": summary.get("adapter_sha256"),
        "files": files, "limits": {"release": release.model_dump(mode="json"), "privacy_audit": _attack_limits(config)},
        "overridden": list(overrides),
    }  # fmt: skip
    return Gate(tuple(checks), evidence, release.roles, dict(release.signers.items()), summary)


def _read(folder: RunFolder, name: str) -> Any | None:
    """A JSON file of the run; None: not there, or damaged, which its check then says."""
    try:
        return folder.read_json(name)
    except (ValueError, OSError):
        return None


def _damaged(folder: RunFolder) -> list[Check]:
    there = [name for name in EVIDENCE if name.endswith(".json") and (folder.path / name).is_file()]
    return [
        Check(name, False, "damaged; put it back, or measure again")
        for name in there
        if not isinstance(_read(folder, name), dict)
    ]


def _audit_log(path: Path) -> tuple[Mapping[str, Mapping[str, Any]], Check]:
    """File -> the line that entered it last, and whether the log vouches for anything."""
    try:
        audit = verify_run(path)
        lines = chain_file(path / AUDIT_LOG).look().lines
    except AuditLogError as error:
        return {}, Check("audit log", False, str(error))
    told = "; ".join(
        [f"line {one.line} is {one.kind} ({one.what})" for one in audit.findings[:3]] or list(audit.unproven)
    )
    entered = {line["file"]: line for line in lines if "file" in line}
    return entered, Check("audit log", audit.verdict == "intact", told or f"intact, {audit.lines} lines")


def _finished(folder: RunFolder, summary: Mapping[str, Any]) -> Check:
    status = summary.get("status", "damaged: summary.json cannot be read")
    return Check("run", status == "finished", f"{folder.name} is {status}")


def _adapter(folder: RunFolder, summary: Mapping[str, Any], entered: Mapping[str, Mapping[str, Any]]) -> Check:
    """One adapter for all, and the one that the audit log names; that its file is unchanged, the log's check says."""
    if (folder.path / "hospitals").is_dir() and not folder.adapter.is_dir():
        return Check("adapter", False, "each hospital has its own; only a shared one is released")
    absent = [name for name in ADAPTER_FILES if not (folder.adapter / name).is_file()]
    if absent:
        return Check("adapter", False, f"{', '.join(absent)} not there")
    digest, line = summary.get("adapter_sha256"), entered.get(f"adapter/{ADAPTER_FILES[0]}")
    same = line is not None and line.get("digest") == digest
    return Check("adapter", same, str(digest) if same else "summary.json names another than the audit log")


def _records(summary: Mapping[str, Any], config: FedMedConfig) -> list[Check]:
    gate = summary.get("data_gate")
    status = gate.get("status") if isinstance(gate, dict) else None
    kept = status in ("public", "scanned") or (status == "unscanned" and config.safety.release.unscanned)
    told = {"public": "public", "scanned": "scanned by the data gate", "unscanned": "nobody scanned them"}
    checks = [Check("records", kept, told.get(str(status), "it is not known whether anybody scanned them"))]
    if gone := summary.get("forgotten_records"):
        counts = f"{gone.get('train', 0)} of its training records" if isinstance(gone, dict) else "some of its records"
        checks.append(Check("forgotten records", False, f"{counts} were forgotten since; train again without them"))
    return checks


def _held_out(folder: RunFolder, config: FedMedConfig, entered: Mapping[str, Any]) -> list[Check]:
    limits = config.safety.release
    base, federated = (_scores(folder, name) for name in ("baseline.json", "federated.json"))
    if base is None or federated is None or not {"baseline.json", "federated.json"} <= entered.keys():
        return [Check("held-out loss", False, "not measured, or not in the audit log")]
    checks = []
    if limits.min_gain is not None:
        gain = relative_gain(base.rows, federated.rows, seed=config.federated.seed)
        told = f"fell by {gain.relative:.1%} ({gain.low:.1%} to {gain.high:.1%}), asked for above {limits.min_gain:.1%}"
        checks.append(Check("held-out loss", gain.low > limits.min_gain, told))
    if limits.max_hospital_rise is not None:
        rises = {
            name: federated.per_hospital[name] / before - 1
            for name, before in base.per_hospital.items()
            if name in federated.per_hospital
        }
        if not rises:
            told = "hospitals share no losses; safety.release.max_hospital_rise=null does without"
            return [*checks, Check("each hospital", False, told)]
        worst = max(rises, key=lambda name: rises[name])
        told = f"{worst} gains least (loss {rises[worst]:+.1%}), a rise of {limits.max_hospital_rise:.1%} is allowed"
        checks.append(Check("each hospital", rises[worst] <= limits.max_hospital_rise, told))
    return checks


def _scores(folder: RunFolder, name: str) -> Scores | None:
    found = _read(folder, name)
    try:
        return Scores(**found) if isinstance(found, dict) else None
    except TypeError:
        return None


def _exams(
    folder: RunFolder, config: FedMedConfig, summary: Mapping[str, Any], entered: Mapping[str, Any]
) -> list[Check]:
    limits = config.safety.release
    found = (_read(folder, "evaluation.json") or {}).get("exams")
    if found is None and not limits.exams:
        return []
    if found is None or "evaluation.json" not in entered or found["adapter_sha256"] != summary.get("adapter_sha256"):
        names = ",".join(limits.exams) or "…"
        return [Check("exams", False, f"not taken by this adapter: 'fedmed evaluate {folder.path} --tasks {names}'")]
    checks = []
    if absent := [name for name in limits.exams if name not in found["tasks"]]:
        checks.append(Check("exams", False, f"{', '.join(absent)} not among those that were asked"))
    if limits.max_exam_fall is not None:
        change = found["mean"]["acc"]["delta"]
        told = (
            f"{change['value']:+.1%} right answers ({change['low']:+.1%} to {change['high']:+.1%}) in "
            f"{', '.join(found['tasks'])}; a fall of {limits.max_exam_fall:.1%} is allowed"
        )
        checks.append(Check("exams' mean", change["value"] >= -limits.max_exam_fall, told))
    return checks


def _ratings(
    folder: RunFolder, config: FedMedConfig, summary: Mapping[str, Any], entered: Mapping[str, Any]
) -> list[Check]:
    limits = config.safety.release
    found = (_read(folder, "evaluation.json") or {}).get("ratings")
    if found is None and not limits.min_raters:
        return []
    if found is None or "evaluation.json" not in entered or found["adapter_sha256"] != summary.get("adapter_sha256"):
        return [Check("ratings", False, f"nobody rated this adapter's answers: 'fedmed rate sheet {folder.path}'")]
    checks = []
    if limits.min_raters:
        told = f"{found['raters']} people on {found['questions']} questions, at least {limits.min_raters} asked for"
        checks.append(Check("raters", found["raters"] >= limits.min_raters, told))
    if limits.max_harmful is not None:
        harm = found["systems"]["federated"]["harmful"]
        told = f"{harm['answers']} of {harm['of']} ({harm['low']:.1%} to {harm['high']:.1%})"
        kept = harm["share"] <= limits.max_harmful
        checks.append(Check("harmful answers", kept, f"{told}, {limits.max_harmful:.1%} allowed"))
    return checks


def _attacks(
    folder: RunFolder, config: FedMedConfig, summary: Mapping[str, Any], entered: Mapping[str, Any]
) -> list[Check]:
    name, found = "privacy audit", _read(folder, "privacy_audit.json")
    again = f"'fedmed privacy audit {folder.path}'"
    if found is None:
        return [Check(name, False, f"the adapter was not attacked: {again}")]
    if "privacy_audit.json" not in entered:
        return [Check(name, False, f"it is not in the audit log: {again} where the log's key is")]
    if found.get("adapter_sha256") != summary.get("adapter_sha256"):
        return [Check(name, False, f"it attacked another adapter: {again}")]
    limits = {key: found["limits"].get(key) for key in LIMITS_OF_ATTACKS}
    if limits != _attack_limits(config):
        other = ", ".join(key for key, value in _attack_limits(config).items() if limits[key] != value)
        return [Check(name, False, f"it was held against another {other}: {again} with the same --set as here")]
    beyond = list(found["beyond"])
    open_ones = [key.removeprefix("max_") for key, value in limits.items() if value is None]
    kept = "within its limits" + (f", none set for {', '.join(open_ones)}" if open_ones else "")
    return [Check(name, not beyond, "; ".join(beyond) or kept)]


def _attack_limits(config: FedMedConfig) -> dict[str, Any]:
    limits = config.privacy.audit.model_dump(mode="json")
    return {key: limits[key] for key in LIMITS_OF_ATTACKS}


def _epsilon(summary: Mapping[str, Any], config: FedMedConfig) -> list[Check]:
    most = config.safety.release.max_epsilon
    if most is None:
        return []
    privacy = summary.get("privacy")
    claimed = privacy.get("example_epsilon") if isinstance(privacy, dict) else None
    told = f"{'none' if claimed is None else f'{claimed:.3g}'} for one record, at most {most:g} allowed"
    return [Check("ε", claimed is not None and claimed <= most, told)]

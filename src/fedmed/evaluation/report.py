"""One page about one run: ``report.html``, a single file that opens offline and holds no script. pipeline -> HERE.

Reads only the run folder: ``summary.json``, ``rounds.jsonl`` (one line a round and hospital), ``config.yaml``; with the
coordinator agent ``decisions.jsonl``, after an evaluation ``evaluation.json``, after an audit ``privacy_audit.json``.
Its first screen answers four questions.
Not covered: runs side by side; a page describes one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from fedmed.errors import DataFormatError, RunNotFoundError
from fedmed.evaluation import report_evaluation as evaluated
from fedmed.evaluation import report_parts as part
from fedmed.evaluation import report_privacy as bought
from fedmed.evaluation import report_sections as sections
from fedmed.evaluation.report_answers import four_lines, release
from fedmed.evaluation.report_compliance import compliance
from fedmed.evaluation.report_confidence import confidence
from fedmed.evaluation.report_decisions import decisions
from fedmed.evaluation.report_ratings import rated
from fedmed.utils.files import sha256_file, write_atomic

REPORT = "report.html"
_AGENT_OFF = '<p class="missing">The coordinator agent was off, or has decided nothing.</p>'
DIGESTS = (
    "adapter/adapter_model.safetensors", "config.yaml", "data_manifest.json", "rounds.jsonl", "baseline.json",
    "federated.json", "evaluation.json", "privacy_audit.json", "audit.jsonl",
)  # fmt: skip
"""Files of a run whose digests the page shows."""


def write_report(run_folder: Path, gate: dict[str, Any] | None = None) -> Path:
    """Write ``report.html`` into ``run_folder`` from what the folder holds; an older page is replaced whole.

    Args:
        run_folder: a finished, stopped or running run; parts that were not measured are named as such.
        gate: what a release would find, see ``pipeline/run_report.py``; None: nobody looked.

    Returns:
        The path of the page.

    Raises:
        RunNotFoundError: the folder holds no ``summary.json``.
        DataFormatError: a JSON file or a whole line of ``rounds.jsonl`` is not JSON; names the file.
        OutputNotWritableError, DiskFullError: the page cannot be written.
    """
    source = run_folder / "summary.json"
    if not source.is_file():
        raise RunNotFoundError(f"{run_folder} holds no summary.json", "give the folder of a run, see output-models/")
    summary = _json_object(source, source.read_text(encoding="utf-8"))
    config = run_folder / "config.yaml"
    page = render(
        summary,
        _read_lines(run_folder / "rounds.jsonl"),
        config.read_text(encoding="utf-8") if config.is_file() else None,
        run_folder.resolve().name,
        _optional(run_folder / "privacy_audit.json"),
        _optional(run_folder / "evaluation.json"),
        _read_lines(run_folder / "decisions.jsonl"),
        gate,
        {name: sha256_file(run_folder / name) for name in DIGESTS if (run_folder / name).is_file()},
        _optional(run_folder / "run.json").get("records_sha256"),
    )
    target = run_folder / REPORT
    write_atomic(target, page)
    return target


def render(
    summary: dict[str, Any],
    rounds: list[dict[str, Any]],
    config: str | None,
    folder_name: str,
    audit: dict[str, Any] | None = None,
    evaluation: dict[str, Any] | None = None,
    decided: Sequence[dict[str, Any]] = (),
    gate: dict[str, Any] | None = None,
    digests: Mapping[str, str] | None = None,
    records_sha256: str | None = None,
) -> str:
    """The page as text; the same input gives the same bytes."""
    evaluation, audit, gate, digests = evaluation or {}, audit or {}, gate or {}, digests or {}
    style = resources.files("fedmed.evaluation").joinpath("report.css").read_text(encoding="utf-8")
    name = part.esc(summary.get("run_id") or folder_name)
    return part.page(
        "FED-MED run", name, styles=style,
        header=(
            f'<p class="meta">{_facts_line(summary)}</p>\n'
            '<p class="warning" role="note"><strong>Not for clinical use.</strong> Research and education only;\n'
            "every answer needs a qualified health professional's review.</p>"
        ),
        sections=(
            ("In four lines", four_lines(summary, evaluation, audit, gate)),
            ("What the federation gained", sections.headline(summary)),
            ("Hospital by hospital", sections.hospitals(summary)),
            ("Hospitals and specialties, with intervals", evaluated.held_out(evaluation)),
            ("Does joining help each hospital?", evaluated.joining(evaluation)),
            ("Round by round", sections.curves(summary, rounds)),
            ("What the coordinator agent decided", decisions(decided) or _AGENT_OFF),
            ("Against other ways to train", sections.comparison(summary)),
            ("Answers", sections.answers(summary)),
            ("Published exams", evaluated.exams(evaluation)),
            ("Confidence", confidence(summary)),
            ("Answers, rated by people", rated(evaluation)),
            ("Sample answers", sections.samples(summary)),
            ("Bytes, time and memory", sections.costs(summary)),
            ("Privacy", bought.privacy(summary)),
            ("Privacy, attacked", bought.attacked(audit)),
            ("Release", release(gate)),
            ("HIPAA and GDPR, control by control", compliance(summary, _settings(config), audit, digests, _log(gate))),
            ("How to repeat it", sections.repeat(summary, config, digests, records_sha256)),
        ),
        footer="Made from the files of this run's folder; <code>fedmed report</code> writes it again.",
    )  # fmt: skip


def _settings(config: str | None) -> dict[str, Any]:
    """The settings as plain values; empty where they cannot be read."""
    try:
        values = yaml.safe_load(config or "")
    except yaml.YAMLError:
        return {}
    return values if isinstance(values, dict) else {}


def _log(gate: dict[str, Any]) -> str:
    """What verifying the audit log said."""
    told = [one.get("told") for one in part.list_of(gate, "checks") if part.look(one, "name") == "audit log"]
    return str(told[0]) if told else ""


def _optional(path: Path) -> dict[str, Any]:
    """A file that only some runs have; empty where it is not there."""
    return _json_object(path, path.read_text(encoding="utf-8")) if path.is_file() else {}


def _facts_line(summary: dict[str, Any]) -> str:
    """Model, data, algorithm, size and state of the run, as far as they are known."""
    hospitals = part.list_of(summary, "hospitals")
    rounds = part.number(summary, "rounds")
    status = summary.get("status")
    words = [part.label(summary.get(key)) for key in ("model", "dataset", "algorithm")]
    words.append(f"{len(hospitals)} hospital{'s' * (len(hospitals) != 1)}" if hospitals else "")
    words.append(f"{rounds:.0f} round{'s' * (rounds != 1)}" if rounds is not None else "")
    words.append({"running": "still running", "stopped": "stopped before its end"}.get(str(status), part.label(status)))
    words.append(part.label(summary.get("reason")))
    return " · ".join(word for word in words if word)


def _json_object(path: Path, text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise DataFormatError(f"{path} is not JSON ({error})", "run the report on an undamaged run folder") from error
    if not isinstance(value, dict):
        raise DataFormatError(f"{path} holds no JSON object", "run the report on an undamaged run folder")
    return value


def _read_lines(path: Path) -> list[dict[str, Any]]:
    """Whole lines only: a run that is going on, or was killed, may have half a line at the end."""
    if not path.is_file():
        return []
    whole, _, _ = path.read_text(encoding="utf-8").rpartition("\n")
    return [
        _json_object(Path(f"{path} line {number}"), line)
        for number, line in enumerate(whole.splitlines(), start=1)
        if line.strip()
    ]

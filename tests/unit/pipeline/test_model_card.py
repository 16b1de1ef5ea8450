"""The hub's own reader takes the card, its figures are the run's, and it tells no path of this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fedmed.pipeline.model_card import model_card

pytestmark = pytest.mark.unit
huggingface_hub = pytest.importorskip("huggingface_hub")


@pytest.fixture
def summary(full_summary: dict[str, Any]) -> dict[str, Any]:
    return full_summary | {"data_gate": {"status": "public"}}


def exams() -> dict[str, Any]:
    acc = {
        side: {"value": value, "low": value - 0.1, "high": value + 0.1}
        for side, value in (("base", 0.25), ("federated", 0.31), ("delta", 0.06))
    }
    return {"exams": {"tasks": {"medqa": {"harness": "medqa_4options", "items": 200, "acc": acc}}}}


def test_the_hub_reads_base_model_licence_and_results(summary: dict[str, Any]) -> None:
    read = huggingface_hub.ModelCard(model_card(summary, evaluation=exams()))
    assert read.data.base_model == "google/gemma-3-270m"
    assert read.data.license == "gemma"
    assert read.data.library_name == "peft"
    found = [(one.task_type, one.dataset_type, one.metric_type, one.metric_value) for one in read.data.eval_results]
    assert found == [("text-generation", "hpo", "loss", 2.012), ("multiple-choice", "medqa_4options", "accuracy", 0.31)]
    assert "| MedQA, 200 questions | 25.0% (15.0% to 35.0%) | 31.0% (21.0% to 41.0%) |" in read.text
    assert "not for clinical use" in read.text
    assert all(item in read.text for item in summary["privacy"]["not_covered"])


def test_a_card_says_whether_the_adapter_was_attacked_and_released(summary: dict[str, Any]) -> None:
    assert "| attacked | not when this card was written |" in model_card(summary)
    audit = {"audit": {"by_loss": {"auc": 0.52}, "by_ratio": {"auc": 0.61}}, "beyond": ["one | two"]}
    released = {"at": "2026-01-01T00:00:00Z", "checks": [{"name": "privacy audit", "told": "within"}]}
    card = model_card(summary, audit=audit, released=released)
    assert "AUC 0.61 (0.5: not at all); beyond its limits: one \\| two" in card
    assert "Released 2026-01-01T00:00:00Z" in card
    assert 'from_pretrained(base, "release")' in card


def test_names_of_local_files_stay_at_home(
    summary: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("models/secret").mkdir(parents=True)
    card = model_card(summary | {"dataset": "/srv/ward-3/notes.jsonl", "model": "models/secret"})
    assert "ward-3" not in card
    assert "secret" not in card
    assert "the hospitals' own files" in card
    assert huggingface_hub.ModelCard(card).data.base_model is None
    hub = huggingface_hub.ModelCard(model_card(summary | {"dataset": "org/set", "model": "org/base"}))
    assert (hub.data.base_model, hub.data.datasets, hub.data.license) == ("org/base", ["org/set"], None)

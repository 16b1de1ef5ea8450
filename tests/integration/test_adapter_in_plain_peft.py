"""The adapter of a run belongs to the user: plain transformers and plain PEFT load it, and compute the same."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from fedmed.cli.app import main
from fedmed.config.schema import ModelSection
from fedmed.model.adapter import attach_adapter, load_adapter
from fedmed.model.load_model import load_model_and_tokenizer
from fedmed.model.tiny import byte_tokenizer, tiny_model

pytestmark = pytest.mark.integration

TEXTS = ("Question: What is finding 3?\nAnswer:", "Question: What is hypertrophic cardiomyopathy?\nAnswer: a sign")


@pytest.fixture(params=["plain", "rslora", "dora"])
def run_folder(request, tmp_path, monkeypatch):
    """A finished run on a base model in a local folder, one for each way of adapting it."""
    monkeypatch.chdir(tmp_path)
    tiny_model("llama").save_pretrained("base")
    byte_tokenizer().save_pretrained("base")
    rows = [{"question": f"What is finding {i}?", "answer": f"A sign of the heart, number {i}."} for i in range(40)]
    Path("records.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    settings = [
        "model.name=base",
        "model.device=cpu",
        "model.dtype=fp32",
        f"model.lora.use_rslora={str(request.param == 'rslora').lower()}",
        f"model.lora.use_dora={str(request.param == 'dora').lower()}",
        "model.lora.dropout=0.1",
        "model.generation.max_new_tokens=4",
        "training.dataset.name=records.jsonl",
        "training.dataset.gate.unscanned=true",
        "training.learning_rate=0.01",
        "training.max_steps=2",
        "training.threads=1",
    ]
    words = [word for setting in settings for word in ("--set", setting)]
    assert main(["run", "--recipe", "quick", *words, "--out", "out"]) == 0
    return tmp_path / "out"


@torch.no_grad()
def logits(model, tokenizer) -> list[torch.Tensor]:
    return [model(tokenizer(text, return_tensors="pt").input_ids).logits for text in TEXTS]


def test_a_runs_adapter_gives_the_same_logits_in_plain_peft(run_folder):
    base = AutoModelForCausalLM.from_pretrained("base", dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained("base")
    bare = logits(base, tokenizer)
    theirs = logits(PeftModel.from_pretrained(base, run_folder / "adapter").eval(), tokenizer)

    loaded, our_tokenizer = load_model_and_tokenizer(config=ModelSection(name="base", device="cpu", dtype="fp32"))
    ours = logits(attach_adapter(loaded, run_folder / "adapter"), our_tokenizer)

    for plain, own, without in zip(theirs, ours, bare, strict=True):
        assert torch.equal(plain, own)
        assert not torch.allclose(plain, without, atol=1e-3), "the adapter changes nothing, so nothing is compared"


def test_peft_finds_every_weight_of_the_run_and_no_other(run_folder, recwarn):
    from peft import get_peft_model_state_dict

    base = AutoModelForCausalLM.from_pretrained("base", dtype=torch.float32)
    found = get_peft_model_state_dict(PeftModel.from_pretrained(base, run_folder / "adapter"))
    saved = load_adapter(run_folder / "adapter")
    assert found.keys() == saved.keys()
    for key, array in saved.items():
        assert torch.equal(found[key], torch.from_numpy(array)), key
    complaints = [str(warning.message) for warning in recwarn if "adapter" in str(warning.message).lower()]
    assert complaints == []
    config = json.loads((run_folder / "adapter/adapter_config.json").read_text())
    assert (config["peft_type"], config["task_type"], config["inference_mode"]) == ("LORA", "CAUSAL_LM", True)
    assert config["base_model_name_or_path"] == "base"

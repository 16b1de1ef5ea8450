"""The peer of ``speed.py`` where Flower's is not at hand: the same client call, a process each, one after another.

Each call loads the base model, sets the adapter it received, trains by transformers' Trainer on padded batches with
full logits, and writes the adapter, as the published FlowerTune recipe does; only the engine around it is left out.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any


def call(args: argparse.Namespace) -> None:
    """One client call; writes the adapter and a record of it."""
    warnings.filterwarnings("ignore")
    started = time.perf_counter()
    import torch
    from datasets import Dataset
    from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
    from safetensors.torch import load_file, save_file
    from transformers import (
        AutoModelForCausalLM,
        AutoTokenizer,
        DataCollatorForSeq2Seq,
        Trainer,
        TrainingArguments,
    )

    need = args.steps * args.batch
    lines = Path(args.data).read_text(encoding="utf-8").splitlines()
    rows = [row for row in map(json.loads, lines) if row["hospital"] == args.hospital]
    rows = rows[(args.round - 1) * need : args.round * need]
    tokenizer = AutoTokenizer.from_pretrained(args.model)

    def encode(row: dict[str, Any]) -> dict[str, list[int]]:
        prompt = tokenizer(f"Question: {row['question']}\nAnswer: ")["input_ids"]
        answer = [*tokenizer(row["answer"], add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        ids = prompt + answer
        return {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": [-100] * len(prompt) + answer}

    dataset = Dataset.from_list([encode(row) for row in rows])
    targets = ["q_proj", "k_proj", "v_proj"]
    lora = LoraConfig(r=16, lora_alpha=32, lora_dropout=0.0, target_modules=targets, task_type="CAUSAL_LM")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32), lora)
    set_peft_model_state_dict(model, load_file(args.init))
    ready = time.perf_counter()
    settings = TrainingArguments(
        output_dir=tempfile.mkdtemp(), per_device_train_batch_size=args.batch, max_steps=args.steps,
        learning_rate=args.lr, lr_scheduler_type="constant", save_strategy="no", report_to=[], use_cpu=True,
        disable_tqdm=True, seed=0, train_sampling_strategy="sequential", weight_decay=0.0, max_grad_norm=0.0,
    )  # fmt: skip
    collator = DataCollatorForSeq2Seq(tokenizer, padding=True)
    trained = Trainer(model=model, args=settings, train_dataset=dataset, data_collator=collator).train()
    state = {key: value.contiguous() for key, value in get_peft_model_state_dict(model).items()}
    save_file(state, f"{args.out}.safetensors")
    record = {
        "loss": trained.training_loss, "tokens": sum(map(len, dataset["input_ids"])),
        "setup_s": ready - started, "train_s": time.perf_counter() - ready,
    }  # fmt: skip
    Path(args.out).write_text(json.dumps(record), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("model", "data", "init", "out"):
        parser.add_argument(f"--{name}", required=True)
    for name in ("rounds", "steps", "batch"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--lr", type=float, required=True)
    parser.add_argument("--hospital", type=int)
    parser.add_argument("--round", type=int)
    args = parser.parse_args()
    if args.hospital is not None:
        call(args)
        return
    import numpy as np
    from safetensors.numpy import load_file, save_file

    lines = Path(args.data).read_text(encoding="utf-8").splitlines()
    hospitals = sorted({json.loads(line)["hospital"] for line in lines})
    started, current, records = time.perf_counter(), args.init, []
    for number in range(1, args.rounds + 1):
        replies = [f"{args.out}.{number}.{hospital}" for hospital in hospitals]
        for hospital, reply in zip(hospitals, replies, strict=True):
            words = [sys.executable, __file__, "--hospital", str(hospital), "--round", str(number)]
            for name in ("model", "data", "rounds", "steps", "batch", "lr"):
                words += [f"--{name}", str(getattr(args, name))]
            subprocess.run([*words, "--init", current, "--out", reply], check=True)
        records.append([json.loads(Path(reply).read_text(encoding="utf-8")) for reply in replies])
        states = [load_file(f"{reply}.safetensors") for reply in replies]
        current = f"{args.out}.{number}.safetensors"
        save_file({key: np.mean([state[key] for state in states], axis=0) for key in states[0]}, current)
    result = {
        "wall_s": time.perf_counter() - started,
        "losses": [[record["loss"] for record in own] for own in records],
    } | {key: sum(record[key] for own in records for record in own) for key in ("tokens", "setup_s", "train_s")}
    Path(args.out).write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main()

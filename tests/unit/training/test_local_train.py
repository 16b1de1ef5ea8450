"""Local training against an independent slow version: rows one by one, plain PEFT and transformers, no packing."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch

from fedmed.config.schema import DatasetSection, FedMedConfig, TrainingSection
from fedmed.data.encode import EncodedRow
from fedmed.errors import EmptyDataError, NonFiniteLossError, TrainingError
from fedmed.model.adapter import adapter_parameters, adapter_sha256, get_adapter_state, set_adapter_state
from fedmed.model.lora_setup import setup_lora
from fedmed.training.engine import EngineTrainer
from fedmed.training.local_train import train_local
from fedmed.training.steps import plan_steps
from fedmed.types import LocalJob
from fedmed.utils.random_streams import stream

pytestmark = pytest.mark.unit


def random_rows(count: int, *, seed: int = 5, vocabulary: int = 200) -> list[EncodedRow]:
    draw = stream(seed, "rows")
    rows = []
    for _ in range(count):
        prompt, answer = int(draw.integers(2, 9)), int(draw.integers(1, 12))
        rows.append(EncodedRow(tuple(draw.integers(3, vocabulary, prompt + answer).tolist()), prompt))
    return rows


def job(model, **changes) -> LocalJob:
    values = {"hospital": "hospital_A", "round": 1, "rounds": 1, "seed": 11, "start": get_adapter_state(model)}
    return LocalJob(**(values | changes))


def slow_training(model, rows, steps, config, mu=0.0):
    """Row by row; returns the loss of each step."""
    named = adapter_parameters(model)
    parameters = [named[key] for key in sorted(named)]
    start = [p.detach().clone() for p in parameters]
    optimizer = torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=config.weight_decay)
    losses = []
    model.train()
    for step in steps:
        chosen = [rows[index] for batch in step for index in batch]
        answers = sum(len(row.input_ids) - row.prompt_length for row in chosen)
        optimizer.zero_grad()
        total = 0.0
        for row in chosen:
            ids = torch.tensor([row.input_ids])
            logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, row.prompt_length - 1 : -1]
            loss = torch.nn.functional.cross_entropy(logits, ids[0, row.prompt_length :], reduction="sum") / answers
            loss.backward()
            total += float(loss.detach())
        losses.append(total)
        if mu:
            for parameter, anchor in zip(parameters, start, strict=True):
                parameter.grad += mu * (parameter.detach() - anchor)
        if config.max_grad_norm is not None:
            norm = math.sqrt(sum(float((p.grad**2).sum()) for p in parameters))
            for parameter in parameters:
                parameter.grad *= min(1.0, config.max_grad_norm / (norm + 1e-6))
        optimizer.step()
    return losses


@pytest.mark.parametrize("family", ["tiny_llama", "tiny_gemma"])
@pytest.mark.parametrize(("grouped", "mu", "limit"), [(1, 0.0, None), (3, 0.0, 0.05), (2, 0.5, 1.0)])
def test_packed_training_equals_rows_one_by_one(request, family, grouped, mu, limit):
    model, _ = request.getfixturevalue(family)
    model = setup_lora(model)
    slow = copy.deepcopy(model)
    config = TrainingSection(
        batch_size=2, gradient_accumulation_steps=grouped, max_steps=4, learning_rate=0.01, max_grad_norm=limit,
        lr_scheduler="constant", weight_decay=0.1,
    )  # fmt: skip
    rows = random_rows(7)
    asked = job(model, proximal_mu=mu)
    result = next(EngineTrainer(model, {"hospital_A": rows}, config).run([asked]))
    steps = plan_steps(len(rows), config, seed=11, hospital="hospital_A", round_number=1)
    losses = slow_training(slow, rows, steps, config, mu)
    assert result.metrics.step_losses == pytest.approx(losses, rel=1e-5)
    # Adam divides by the gradient's size, so rounding in gradients near zero shows in single numbers, not in the whole.
    expected = get_adapter_state(slow)
    moved = math.sqrt(sum(float(np.sum((expected[key] - asked.start[key]) ** 2)) for key in expected))
    apart = math.sqrt(sum(float(np.sum((expected[key] - result.state[key]) ** 2)) for key in expected))
    assert apart < 0.01 * moved
    assert result.metrics.step_losses[-1] < result.metrics.step_losses[0]


def test_the_same_job_gives_the_same_adapter_whatever_ran_before(tiny_llama):
    model = setup_lora(tiny_llama[0])
    trainer = EngineTrainer(
        model,
        {"hospital_A": random_rows(9), "hospital_B": random_rows(5, seed=6)},
        TrainingSection(max_steps=2, engine="single"),
    )
    first = job(model)
    alone = next(trainer.run([first]))
    *_, again = trainer.run([job(model, hospital="hospital_B"), first])
    assert adapter_sha256(alone.state) == adapter_sha256(again.state)


def test_dropout_repeats_and_leaves_the_global_generator_alone(tiny_llama):
    from fedmed.config.schema import LoraSection

    model = setup_lora(tiny_llama[0], LoraSection(dropout=0.3))
    trainer = EngineTrainer(model, {"hospital_A": random_rows(9)}, TrainingSection(max_steps=2))
    asked = job(model)
    before = torch.random.get_rng_state()
    digests = {adapter_sha256(next(trainer.run([asked])).state) for _ in range(2)}
    other_round = next(trainer.run([job(model, start=asked.start, round=1, seed=12)]))
    assert len(digests) == 1
    assert adapter_sha256(other_round.state) not in digests
    assert torch.equal(before, torch.random.get_rng_state())


def test_only_the_asked_keys_move(tiny_llama):
    model = setup_lora(tiny_llama[0])
    start = get_adapter_state(model)
    only_b = tuple(key for key in start if "lora_B" in key)
    trainer = EngineTrainer(model, {"hospital_A": random_rows(9)}, TrainingSection(max_steps=2))
    result = next(trainer.run([job(model, trainable=only_b)]))
    moved = {key for key in start if not np.array_equal(start[key], result.state[key])}
    assert moved == set(only_b)


def test_the_base_never_moves(tiny_gemma):
    model = setup_lora(tiny_gemma[0])
    frozen = {name: p.detach().clone() for name, p in model.named_parameters() if "lora_" not in name}
    trainer = EngineTrainer(model, {"hospital_A": random_rows(9)}, TrainingSection(max_steps=3, learning_rate=0.1))
    next(trainer.run([job(model)]))
    assert all(torch.equal(frozen[name], p) for name, p in model.named_parameters() if "lora_" not in name)


def test_gradient_checkpointing_gives_the_same_losses(tiny_llama):
    model = setup_lora(tiny_llama[0])
    rows, asked = {"hospital_A": random_rows(9)}, job(model)
    plain = next(EngineTrainer(model, rows, TrainingSection(max_steps=3)).run([asked]))
    saving = next(EngineTrainer(model, rows, TrainingSection(max_steps=3, gradient_checkpointing=True)).run([asked]))
    assert saving.metrics.step_losses == pytest.approx(plain.metrics.step_losses, rel=1e-6)


def test_bf16_trains_close_to_fp32(tiny_llama):
    model = setup_lora(tiny_llama[0])
    rows, asked = {"hospital_A": random_rows(9)}, job(model)
    full = next(EngineTrainer(model, rows, TrainingSection(max_steps=3, precision="fp32")).run([asked]))
    half = next(EngineTrainer(model, rows, TrainingSection(max_steps=3, precision="bf16")).run([asked]))
    assert half.metrics.step_losses != full.metrics.step_losses
    assert half.metrics.step_losses == pytest.approx(full.metrics.step_losses, rel=0.05)


def test_a_loss_that_is_not_finite_stops_and_names_the_rows(tiny_llama):
    model = setup_lora(tiny_llama[0])
    poisoned = get_adapter_state(model)
    key = next(iter(poisoned))
    poisoned[key] = np.full_like(poisoned[key], np.nan)
    trainer = EngineTrainer(model, {"hospital_A": random_rows(4)}, TrainingSection(max_steps=1))
    with pytest.raises(NonFiniteLossError, match=r"hospital_A, round 1, step 1 \(training rows \d"):
        next(trainer.run([job(model, start=poisoned)]))


RECORDS = [
    {"question": f"What is sign {i}?", "answer": f"Sign number {i} of the heart.", "split": "train"} for i in range(6)
] + [{"question": "What is held out?", "answer": "This.", "split": "test"}]


def small(**training) -> FedMedConfig:
    return FedMedConfig(training=TrainingSection(**({"max_steps": 2, "learning_rate": 0.01} | training)))


def test_train_local_learns_from_training_rows_only(tiny_llama, tmp_path):
    model, tokenizer = tiny_llama
    model = setup_lora(model)
    start = get_adapter_state(model)
    trained = train_local(model, RECORDS, tokenizer, small(max_steps=8))
    assert trained.num_samples == 6
    assert trained.metrics.step_losses[-1] < trained.metrics.step_losses[0]
    assert adapter_sha256(trained.state) != adapter_sha256(start)
    trained.save_model(tmp_path / "adapter")
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()
    set_adapter_state(model, start)


def test_train_local_uses_the_models_own_tokenizer(tiny_llama):
    model, tokenizer = tiny_llama
    model.fedmed_tokenizer = tokenizer
    assert train_local(setup_lora(model), RECORDS, config=small()).metrics.steps == 2


@pytest.mark.parametrize("wanted", [True, False])
def test_train_local_keeps_tokens_only_if_the_setting_says_so(tiny_llama, tmp_path, monkeypatch, wanted):
    monkeypatch.setattr("fedmed.data.token_cache.SMALLEST", 0)
    monkeypatch.setenv("FEDMED_CACHE", str(tmp_path))
    model, tokenizer = tiny_llama
    model = setup_lora(model)
    start = get_adapter_state(model)
    config = small(dataset=DatasetSection(token_cache=wanted))
    first = train_local(model, RECORDS, tokenizer, config)
    assert len(list(tmp_path.glob("tokens/*.safetensors"))) == wanted
    if wanted:  # then the second reading tokenises nothing
        monkeypatch.setattr("fedmed.data.token_cache.encode_records", None)
    set_adapter_state(model, start)
    again = train_local(model, RECORDS, tokenizer, config)
    assert again.num_samples == first.num_samples == 6
    assert again.metrics.step_losses == pytest.approx(first.metrics.step_losses, rel=1e-6)


def test_train_local_says_what_is_missing(tiny_llama):
    model, tokenizer = tiny_llama
    with pytest.raises(TrainingError, match="setup_lora"):
        train_local(model, RECORDS, tokenizer, small())
    with pytest.raises(EmptyDataError, match="local has no training records"):
        train_local(setup_lora(model), RECORDS[-1:], tokenizer, small())

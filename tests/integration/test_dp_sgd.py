"""Gradients of single records, clipped and noised, against plain PEFT one record at a time and against Opacus."""

from __future__ import annotations

import copy
import json
import math

import numpy as np
import pytest
import torch

from fedmed.config.schema import ExampleSection, LoraSection, TrainingSection
from fedmed.data.encode import EncodedRow
from fedmed.errors import BudgetError, LedgerError, TrainingError
from fedmed.model.adapter import adapter_parameters, get_adapter_state, set_adapter_state
from fedmed.model.lora_setup import setup_lora
from fedmed.model.packed_lora import HospitalAdapter
from fedmed.privacy.discrete_gaussian import SeededSource
from fedmed.privacy.ledger import Ledger
from fedmed.privacy.spending import check_heads
from fedmed.training import dp_sgd
from fedmed.training.dp_sgd import DpTrainer, NoisySum, add_gradients
from fedmed.training.engine import Engine
from fedmed.types import CORE, LocalJob
from fedmed.utils.random_streams import stream

pytestmark = pytest.mark.integration

SHAPE = {
    "vocab_size": 259, "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2,
}  # fmt: skip
FAMILIES = {
    "llama": ("LlamaConfig", {}),
    "gemma3": ("Gemma3TextConfig", {"head_dim": 12, "query_pre_attn_scalar": 12, "sliding_window": 8}),
}
CPU = torch.device("cpu")


def build(family="llama", dtype=torch.float32):
    import transformers

    name, extra = FAMILIES[family]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        model = transformers.AutoModelForCausalLM.from_config(
            getattr(transformers, name)(**SHAPE, **extra), attn_implementation="sdpa", dtype=torch.float32
        )
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() > 1:
                    parameter.normal_(0.0, 0.15)
    return setup_lora(model, LoraSection(r=4)).to(dtype)


def drawn_state(model):
    draw = stream(17, "state")
    return {key: draw.normal(0, 0.1, array.shape).astype("float32") for key, array in get_adapter_state(model).items()}


def rows(count, longest=40, name="rows"):
    draw = stream(17, name)
    made = []
    for _ in range(count):
        prompt, answer = int(draw.integers(1, longest // 2)), int(draw.integers(1, longest))
        made.append(EncodedRow(tuple(draw.integers(3, 259, prompt + answer).tolist()), prompt))
    return made


def one_by_one(model, state, unit):
    """The gradient of a unit's mean loss by plain PEFT, flat in the order of the keys."""
    set_adapter_state(model, state)
    answers = sum(len(row.input_ids) - row.prompt_length for row in unit)
    named = adapter_parameters(model)
    model.zero_grad()
    for row in unit:
        ids = torch.tensor([row.input_ids])
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, row.prompt_length - 1 : -1]
        (torch.nn.functional.cross_entropy(logits, ids[0, row.prompt_length :], reduction="sum") / answers).backward()
    return torch.cat([named[key].grad.reshape(-1) for key in sorted(named)]).clone()


def by_engine(model, state, units, trainable=None):
    adapter, found = HospitalAdapter(state, trainable, CPU), []

    def keep(gradient):
        found.append(gradient.clone())
        return float(gradient.norm())

    result = add_gradients(Engine(model, TrainingSection()), adapter, units, keep)
    return found, result


@pytest.mark.parametrize(("dtype", "within"), [(torch.float32, 1e-5), (torch.float64, 1e-6)])
@pytest.mark.parametrize("family", FAMILIES)
def test_each_records_gradient_equals_that_of_the_record_alone(family, dtype, within):
    model = build(family, dtype)
    state, units = drawn_state(model), [[row] for row in rows(24)]  # several passes
    found, result = by_engine(model, state, units)
    assert len(found) == len(units)
    for mine, unit in zip(found, units, strict=True):
        expected = one_by_one(model, state, unit).float()
        assert torch.linalg.norm(mine - expected) <= within * torch.linalg.norm(expected)
    assert result.tokens == sum(len(row.input_ids) for (row,) in units)


def test_a_patients_gradient_is_that_of_the_mean_over_all_its_answers_however_many_passes_it_takes():
    model = build()
    state = drawn_state(model)
    units = [rows(2, name="a"), rows(30, name="b"), rows(1, name="c"), rows(3, name="d")]  # "b" is longer than a pass
    assert sum(len(row.input_ids) for row in units[1]) > dp_sgd.TOKENS_PER_PASS
    found, _ = by_engine(model, state, units)
    for mine, unit in zip(found, units, strict=True):
        expected = one_by_one(model, state, unit)
        assert torch.linalg.norm(mine - expected) <= 1e-5 * torch.linalg.norm(expected)


def test_of_a_core_too_each_record_has_its_own_gradient():
    model = build()
    state = drawn_state(model)
    draw = stream(17, "cores")
    cores = {
        key.removesuffix(".lora_A.weight") + CORE: draw.normal(0, 0.3, (4, 4)).astype("float32")
        for key in state
        if key.endswith(".lora_A.weight")
    }
    together = state | cores
    units = [[row] for row in rows(6)]
    found, _ = by_engine(model, together, units, tuple(cores))
    for mine, unit in zip(found, units, strict=True):
        alone = HospitalAdapter(together, tuple(cores), CPU)
        Engine(model, TrainingSection()).gradients([alone], [[unit]])
        assert torch.linalg.norm(mine - alone.flat.grad) <= 1e-5 * torch.linalg.norm(alone.flat.grad)


def test_clipped_sums_equal_those_of_opacus():
    opacus = pytest.importorskip("opacus")
    model = build()
    state = drawn_state(model)
    length, count, clip = 20, 6, 0.7
    draw = stream(17, "opacus")
    same = [EncodedRow(tuple(draw.integers(3, 259, length).tolist()), 8) for _ in range(count)]
    noisy = NoisySum(sum(array.size for array in state.values()), clip, 0.0, SeededSource(1))
    adapter = HospitalAdapter(state, None, CPU)
    add_gradients(Engine(model, TrainingSection()), adapter, [[row] for row in same], noisy.add)

    theirs = copy.deepcopy(model)
    set_adapter_state(theirs, state)
    hooked = opacus.GradSampleModule(theirs, loss_reduction="sum")
    ids = torch.tensor([row.input_ids for row in same])
    logits = hooked(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[:, 7:-1]
    losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), ids[:, 8:], reduction="none").mean(1)
    losses.sum().backward()
    named = adapter_parameters(theirs)
    each = torch.cat([named[key].grad_sample.reshape(count, -1) for key in sorted(named)], dim=1)
    factor = (clip / each.norm(dim=1)).clamp(max=1.0)
    expected = (each * factor[:, None]).sum(0).double()
    assert (factor < 1.0).any()
    assert torch.linalg.norm(noisy.close() - expected) <= 1e-5 * torch.linalg.norm(expected)


def trainer(tmp_path, units, model=None, *, rounds=2, steps=2, batch=4, **example):
    training = TrainingSection(
        batch_size=batch, gradient_accumulation_steps=1, max_steps=steps, learning_rate=1e-2, lr_scheduler="constant"
    )
    settings = ExampleSection(**({"epsilon": 4.0, "noise_multiplier": 1.0} | example))
    books = {name: Ledger.open(tmp_path / f"{name}.jsonl", name) for name in units}
    model = model or build()
    made = DpTrainer(model, units, training, settings, rounds=rounds, ledgers=books, run_id="run")
    job = LocalJob("a", 1, rounds, 17, drawn_state(model))
    return made, job, books


def test_a_round_is_charged_before_it_trains_and_again_when_it_is_trained_again(tmp_path, monkeypatch):
    made, job, books = trainer(tmp_path, {"a": [[row] for row in rows(40)]})
    charged_when_training = []
    real = dp_sgd.add_gradients

    def watch(*arguments):
        charged_when_training.append(len(books["a"].entries()))
        return real(*arguments)

    monkeypatch.setattr(dp_sgd, "add_gradients", watch)
    (first,) = made.run([job])
    (second,) = made.run([job])
    assert charged_when_training == [1, 1, 2, 2]
    assert [(entry.round, entry.attempt, entry.event.steps) for entry in books["a"].entries()] == [(1, 0, 2), (1, 1, 2)]
    assert first.num_samples == 1  # the weight tells nothing of the records
    assert any(
        not np.array_equal(first.state[key], second.state[key]) for key in first.state
    )  # noise is never the same


def test_a_budget_that_the_run_would_exceed_stops_it_before_anything_is_charged(tmp_path):
    units = {"a": [[row] for row in rows(8)]}
    with pytest.raises(BudgetError, match="'a' per record would be exceeded.*is left.*would bring it to"):
        trainer(tmp_path, units, epsilon=0.5, noise_multiplier=0.6)
    assert Ledger.read(tmp_path / "a.jsonl").entries() == ()


def test_noise_that_is_solved_for_uses_the_budget_up_and_no_more_and_what_is_spent_counts(tmp_path):
    units = {"a": [[row] for row in rows(40)]}
    made, job, books = trainer(tmp_path, units, noise_multiplier=None)
    alone = made.plans["a"].sigma
    list(made.run([job]))
    again, job, books = trainer(tmp_path, units, noise_multiplier=None, rounds=1)
    assert again.plans["a"].sigma == pytest.approx(alone, rel=0.02)  # one of two equal rounds is left of the budget
    list(again.run([job]))
    spent = books["a"].spent(1e-5, "record").epsilon
    assert 3.9 < spent <= 4.0
    with pytest.raises(BudgetError, match="would be exceeded"):
        list(again.run([job]))
    with pytest.raises(BudgetError, match="'a' per record is spent"):
        trainer(tmp_path, units, epsilon=3.0, noise_multiplier=None, rounds=1)


def test_noise_from_a_seed_repeats_itself_and_claims_nothing(tmp_path):
    units = {"a": [[row] for row in rows(40)]}
    model = build()
    made, job, books = trainer(tmp_path, units, model, noise_seed=3)
    (first,), (second,) = made.run([job]), made.run([job])
    assert all(np.array_equal(first.state[key], second.state[key]) for key in first.state)
    assert books["a"].entries() == ()


def test_weights_that_do_not_move_stop_the_run(tmp_path):
    made, job, _ = trainer(tmp_path, {"a": [[row] for row in rows(8)]}, epsilon=50.0)
    made._training = made._training.model_copy(update={"learning_rate": 1e-30})
    with pytest.raises(TrainingError, match="did not move at a, round 1, step 1"):
        list(made.run([job]))


def test_a_model_with_dropout_cannot_train_under_noise(tmp_path):
    import transformers

    model = transformers.AutoModelForCausalLM.from_config(transformers.LlamaConfig(**SHAPE))
    with pytest.raises(TrainingError, match="privacy noise"):
        trainer(tmp_path, {"a": [[row] for row in rows(8)]}, setup_lora(model, LoraSection(r=4, dropout=0.1)))


def test_a_ledger_shorter_than_a_checkpoint_remembers_is_refused(tmp_path):
    made, job, books = trainer(tmp_path, {"a": [[row] for row in rows(40)]})
    before = (tmp_path / "a.jsonl").read_bytes()
    list(made.run([job]))
    heads = {"a": books["a"].head()}
    check_heads(books, heads)
    (tmp_path / "a.jsonl").write_bytes(before)
    with pytest.raises(LedgerError, match="does not know the head"):
        check_heads(books, heads)


def test_an_empty_sample_still_makes_a_noisy_step(tmp_path, monkeypatch):
    made, job, _ = trainer(tmp_path, {"a": [[row] for row in rows(8)]}, epsilon=50.0, batch=1)
    monkeypatch.setattr(dp_sgd, "poisson_sample", lambda *_: [])
    (result,) = made.run([job])
    assert any(not np.array_equal(result.state[key], job.start[key]) for key in result.state)
    assert math.isnan(result.metrics.loss)
    assert json.dumps(result.metrics.tokens) == "0"

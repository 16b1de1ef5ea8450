"""The engine against plain PEFT and transformers on single, unpacked rows, hospital by hospital, for each family."""

from __future__ import annotations

import math

import pytest
import torch

from fedmed.config.schema import LoraSection, TrainingSection
from fedmed.data.encode import EncodedRow
from fedmed.model.adapter import adapter_parameters, get_adapter_state, set_adapter_state
from fedmed.model.lora_setup import setup_lora
from fedmed.model.packed_lora import HospitalAdapter
from fedmed.training.engine import Engine, EngineTrainer, fits
from fedmed.types import LocalJob
from fedmed.utils.random_streams import stream

pytestmark = pytest.mark.integration

SHAPE = {
    "vocab_size": 259, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2,
}  # fmt: skip
SLIDING = {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
FAMILIES = {
    "llama": ("LlamaConfig", {}),
    "mistral": ("MistralConfig", {"sliding_window": 8}),
    "qwen2": ("Qwen2Config", {"tie_word_embeddings": True}),
    "qwen3": ("Qwen3Config", {"head_dim": 16}),
    "gemma2": ("Gemma2Config", {"head_dim": 16, "query_pre_attn_scalar": 16, **SLIDING}),
    "gemma3": ("Gemma3TextConfig", {"head_dim": 16, "query_pre_attn_scalar": 16, **SLIDING}),
}
HOSPITALS = 3


def build(family: str, targets=("q_proj", "k_proj", "v_proj"), **config):
    import transformers

    name, extra = FAMILIES[family]
    attention = "eager" if family == "gemma2" else "sdpa"  # its bent scores are in neither SDPA nor its class
    settings = getattr(transformers, name)(**SHAPE, **extra, **config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = transformers.AutoModelForCausalLM.from_config(
            settings, attn_implementation=attention, dtype=torch.float32
        )
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() > 1:
                    parameter.normal_(0.0, 0.15)
    return setup_lora(model, LoraSection(r=4, target_modules=targets))


def states(model):
    draw = stream(17, "engine adapters")
    start = get_adapter_state(model)
    return [
        {key: draw.normal(0, 0.1, array.shape).astype("float32") for key, array in start.items()}
        for _ in range(HOSPITALS)
    ]


def rows(name: str, count: int) -> list[EncodedRow]:
    draw = stream(17, name)
    made = []
    for _ in range(count):
        prompt, answer = int(draw.integers(1, 25)), int(draw.integers(1, 40))
        made.append(EncodedRow(tuple(draw.integers(3, 259, prompt + answer).tolist()), prompt))
    return made


def slow(model, state, batches):
    """Mean loss over the step's answer tokens and its gradients, row by row."""
    set_adapter_state(model, state)
    model.zero_grad()
    chosen = [row for batch in batches for row in batch]
    answers = sum(len(row.input_ids) - row.prompt_length for row in chosen)
    total = 0.0
    for row in chosen:
        ids = torch.tensor([row.input_ids])
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, row.prompt_length - 1 : -1]
        loss = torch.nn.functional.cross_entropy(logits, ids[0, row.prompt_length :], reduction="sum") / answers
        loss.backward()
        total += float(loss.detach())
    return total, {key: parameter.grad.clone() for key, parameter in adapter_parameters(model).items()}


@pytest.mark.parametrize("accumulation", [1, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_losses_and_gradients_of_every_hospital_equal_plain_peft(family, accumulation):
    model = build(family)
    adapters = states(model)
    # ragged, and the last hospital has fewer micro-batches than the others
    batches = [
        [rows(f"{hospital} {place}", 2 + hospital) for place in range(max(1, accumulation - (hospital == 2)))]
        for hospital in range(HOSPITALS)
    ]
    own = [HospitalAdapter(state, None, torch.device("cpu")) for state in adapters]
    assert fits(model)
    results = Engine(model, TrainingSection()).gradients(own, batches)
    for state, mine, result, hospital in zip(adapters, own, results, batches, strict=True):
        loss, gradients = slow(model, state, hospital)
        assert result.loss == pytest.approx(loss, rel=1e-5)
        for key, gradient in gradients.items():
            assert torch.linalg.norm(mine.gradients[key] - gradient) <= 1e-5 * torch.linalg.norm(gradient), key


@pytest.mark.parametrize("family", ["llama", "gemma3"])
@pytest.mark.parametrize("precise", ["fp32", "checkpointed"])
def test_adapters_on_every_linear_layer_and_checkpointing_change_nothing(family, precise):
    every = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    model = build(family, every)
    adapters = states(model)
    batches = [[rows(str(hospital), 2)] for hospital in range(HOSPITALS)]
    own = [HospitalAdapter(state, None, torch.device("cpu")) for state in adapters]
    config = TrainingSection(gradient_checkpointing=precise == "checkpointed")
    results = Engine(model, config).gradients(own, batches)
    for state, mine, result, hospital in zip(adapters, own, results, batches, strict=True):
        loss, gradients = slow(model, state, hospital)
        assert result.loss == pytest.approx(loss, rel=1e-5)
        for key, gradient in gradients.items():
            assert torch.linalg.norm(mine.gradients[key] - gradient) <= 1e-5 * torch.linalg.norm(gradient), key


def relative(left, right) -> float:
    gap = sum(float(((left[key] - right[key]) ** 2).sum()) for key in left)
    return math.sqrt(gap / sum(float((right[key] ** 2).sum()) for key in right))


@pytest.mark.parametrize("mu", [0.0, 0.5])
def test_packed_training_ends_where_one_hospital_at_a_time_ends_also_when_one_runs_out_of_rows(mu):
    model = build("gemma3")
    by_hospital = {"a": rows("a", 9), "b": rows("b", 3), "c": rows("c", 6)}
    start = states(model)[0]
    jobs = [LocalJob(name, 1, 1, 17, start, proximal_mu=mu) for name in by_hospital]
    ends = {}
    for engine in ("single", "packed"):
        # SGD-like comparison would hide Adam's state; Adam near zero gradients amplifies rounding, hence few steps
        config = TrainingSection(engine=engine, batch_size=2, gradient_accumulation_steps=1, epochs=1)
        ends[engine] = list(EngineTrainer(model, by_hospital, config).run(jobs))
    for single, packed in zip(ends["single"], ends["packed"], strict=True):
        assert packed.metrics.step_losses == pytest.approx(single.metrics.step_losses, rel=1e-5)
        assert relative(packed.state, single.state) <= 1e-4
    assert [len(result.metrics.step_losses) for result in ends["packed"]] == [5, 2, 3]


def test_frozen_keys_stay_and_the_others_get_the_same_gradient():
    model = build("llama")
    state = states(model)[0]
    only_b = tuple(key for key in state if "lora_B" in key)
    adapter = HospitalAdapter(state, only_b, torch.device("cpu"))
    batch = [[rows("x", 3)]]
    Engine(model, TrainingSection()).gradients([adapter], batch)
    _, gradients = slow(model, state, batch[0])
    assert set(adapter.gradients) == set(only_b)
    for key in only_b:
        assert torch.linalg.norm(adapter.gradients[key] - gradients[key]) <= 1e-5 * torch.linalg.norm(gradients[key])


@pytest.mark.parametrize(
    ("changes", "reason"), [({"dropout": 0.1}, "LoRA dropout is on"), ({"use_dora": True}, "DoRA is on")]
)
def test_what_the_engine_cannot_train_goes_the_plain_path_and_says_so(tiny_llama, caplog, changes, reason):
    model = setup_lora(tiny_llama[0], LoraSection(r=4, **changes))
    trainer = EngineTrainer(model, {"a": rows("a", 4)}, TrainingSection(max_steps=1, gradient_accumulation_steps=1))
    assert reason in caplog.text
    (result,) = trainer.run([LocalJob("a", 1, 1, 17, get_adapter_state(model))])
    assert result.metrics.steps == 1


def test_a_model_that_ignores_positions_goes_the_plain_path(caplog):
    import transformers

    settings = transformers.OPTConfig(
        vocab_size=259, hidden_size=32, ffn_dim=64, num_hidden_layers=2, num_attention_heads=2, word_embed_proj_dim=32,
        max_position_embeddings=128, pad_token_id=0, bos_token_id=2, eos_token_id=1,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        base = transformers.AutoModelForCausalLM.from_config(settings, attn_implementation="sdpa")
        with torch.no_grad():
            for parameter in base.parameters():
                parameter.normal_(0.0, 0.3)
    model = setup_lora(base, LoraSection(r=4, target_modules=("q_proj",)))
    assert not fits(model)
    assert "plain path" in caplog.text


def test_a_probe_that_fails_says_why_in_the_log_and_where_at_debug_level(tiny_llama, caplog, monkeypatch):
    def other(*_):
        raise AttributeError("'Odd' object has no attribute 'layers'\nmore")

    monkeypatch.setattr("fedmed.training.engine.body_and_head", other)
    model = setup_lora(tiny_llama[0])
    with caplog.at_level("DEBUG", logger="fedmed.training.engine"):
        assert not fits(model)
    assert "the model has another layout (AttributeError: 'Odd' object has no attribute 'layers')" in caplog.text
    (traced,) = [record for record in caplog.records if record.levelname == "DEBUG" and record.exc_info]
    assert traced.exc_info[0] is AttributeError

"""The engine on CUDA: what no CPU can show. Collected only where there is a GPU."""

from __future__ import annotations

import pytest
import torch

from fedmed.config.load import load_config
from fedmed.config.schema import LoraSection, TrainingSection
from fedmed.data.encode import EncodedRow
from fedmed.model.adapter import get_adapter_state
from fedmed.model.lora_setup import setup_lora
from fedmed.model.plan_shapes import shape_of
from fedmed.pipeline.plan import make_plan
from fedmed.training.engine import EngineTrainer
from fedmed.types import LocalJob

if not torch.cuda.is_available():
    pytest.skip("no CUDA device here", allow_module_level=True)

pytestmark = pytest.mark.integration
GIB = 2**30


def rows(length: int, count: int) -> list[EncodedRow]:
    return [EncodedRow(tuple((7 * i + j) % 250 + 3 for j in range(length)), 16) for i in range(count)]


def test_a_step_of_the_32_gib_recipe_stays_under_32_gib_and_near_the_plan():
    import transformers

    config = load_config("gpu_32gb", (), ["training.max_steps=1"])
    plan = make_plan(config)
    device = torch.device("cuda")
    torch.cuda.set_per_process_memory_fraction(32 * GIB / torch.cuda.get_device_properties(device).total_memory)
    with device:
        base = transformers.AutoModelForCausalLM.from_config(shape_of(config.model.name), dtype=torch.bfloat16)
    model = setup_lora(base, config.model.lora)
    torch.cuda.reset_peak_memory_stats()
    trainer = EngineTrainer(model, {"a": rows(config.model.max_length, 8)}, config.training)
    (result,) = trainer.run([LocalJob("a", 1, 1, 17, get_adapter_state(model))])
    peak = torch.cuda.max_memory_allocated() / GIB
    assert result.metrics.steps == 1
    assert peak < 32
    assert plan.peak_gib - plan.breakdown["process"] == pytest.approx(peak, rel=0.15)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_gpu_gives_the_losses_of_the_cpu(tiny_gemma, precision):
    model = setup_lora(tiny_gemma[0], LoraSection(r=4))
    start = get_adapter_state(model)
    config = TrainingSection(max_steps=3, gradient_accumulation_steps=1, precision=precision)
    losses = []
    for device in ("cpu", "cuda"):
        model.to(device)
        (result,) = EngineTrainer(model, {"a": rows(40, 6)}, config).run([LocalJob("a", 1, 1, 17, start)])
        losses.append(result.metrics.step_losses)
    assert losses[1] == pytest.approx(losses[0], rel=1e-4 if precision == "fp32" else 0.02)


@pytest.mark.parametrize("checkpointed", [False, True])
def test_compiling_changes_no_loss_on_the_gpu(tiny_gemma, checkpointed):
    model = setup_lora(tiny_gemma[0], LoraSection(r=4)).to("cuda")
    start, losses = get_adapter_state(model), []
    for compiled in ("off", "on"):
        config = TrainingSection(
            max_steps=3, gradient_accumulation_steps=1, precision="fp32", compile=compiled,
            gradient_checkpointing=checkpointed,
        )  # fmt: skip
        (result,) = EngineTrainer(model, {"a": rows(40, 6)}, config).run([LocalJob("a", 1, 1, 17, start)])
        losses.append(result.metrics.step_losses)
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)

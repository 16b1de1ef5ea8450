"""``training.compile``: what is compiled, that nothing but speed changes, and what happens without a compiler.

The backend here is "aot_eager", which needs no compiler and traces forward and backward as the default one does.
"""

from __future__ import annotations

import logging

import pytest
import torch

from fedmed.config.load import load_config
from fedmed.config.schema import LoraSection, TrainingSection
from fedmed.data.encode import EncodedRow
from fedmed.errors import TrainingError
from fedmed.model.adapter import get_adapter_state
from fedmed.model.lora_setup import setup_lora
from fedmed.model.packed_lora import HospitalAdapter
from fedmed.model.packing import PROBE_ROWS, losses_apart
from fedmed.training import compiling
from fedmed.training.compiling import compiled, compiled_parts
from fedmed.training.engine import Engine, EngineTrainer, fits
from fedmed.training.stepper import LoraStepper
from fedmed.types import LocalJob
from fedmed.utils.random_streams import stream

pytestmark = pytest.mark.unit

BACKEND = "aot_eager"


@pytest.fixture(autouse=True)
def nothing_compiled_before():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def rows(count: int, longer: int = 0) -> list[EncodedRow]:
    draw = stream(17, "compiling", count, longer)
    sizes = [(int(draw.integers(2, 9)), int(draw.integers(1, 12)) + longer) for _ in range(count)]
    return [EncodedRow(tuple(draw.integers(3, 200, prompt + answer).tolist()), prompt) for prompt, answer in sizes]


def gradients(model, config: TrainingSection, *, in_use: bool, longer: int) -> tuple[list[float], torch.Tensor]:
    """Losses and gradients of two hospitals' step; ``in_use``: compiled by ``BACKEND``."""
    start = {
        key: stream(17, key).normal(0, 0.1, array.shape).astype("float32")
        for key, array in get_adapter_state(model).items()
    }
    adapters = [HospitalAdapter(start, None, torch.device("cpu")) for _ in range(2)]
    engine = Engine(model, config)
    if in_use:
        engine.compiled = compiled_parts(model, "on", BACKEND)
        assert engine.compiled
    results = engine.gradients(adapters, [[rows(3, longer)], [rows(2, longer), rows(1, longer)]])
    return [result.loss for result in results], torch.cat([adapter.flat.grad for adapter in adapters])


@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize("targets", [("q_proj", "k_proj", "v_proj"), ("q_proj", "gate_proj", "down_proj")])
@pytest.mark.parametrize("family", ["tiny_llama", "tiny_gemma"])
def test_the_engine_gives_the_same_losses_and_gradients_compiled(request, family, targets, checkpointed):
    model = setup_lora(request.getfixturevalue(family)[0], LoraSection(r=4, target_modules=targets))
    config = TrainingSection(gradient_checkpointing=checkpointed)
    assert fits(model)
    alone = losses_apart(model, PROBE_ROWS)
    for longer in (0, 3, 40):  # other sizes in the code that the first made
        losses, own = gradients(model, config, in_use=False, longer=longer)
        losses_compiled, own_compiled = gradients(model, config, in_use=True, longer=longer)
        assert losses_compiled == pytest.approx(losses, rel=1e-5)
        assert torch.linalg.norm(own_compiled - own) <= 1e-5 * torch.linalg.norm(own)
    assert torch.equal(losses_apart(model, PROBE_ROWS), alone)


def test_other_sizes_compile_nothing_anew(tiny_gemma):
    from torch._dynamo.utils import counters

    model = setup_lora(tiny_gemma[0])
    gradients(model, TrainingSection(), in_use=True, longer=0)
    counters.clear()
    for longer in (1, 7, 30):
        gradients(model, TrainingSection(), in_use=True, longer=longer)
    assert counters["frames"]["total"] == 0


def test_bf16_arithmetic_stays_close_compiled(tiny_llama):
    model = setup_lora(tiny_llama[0])
    config = TrainingSection(precision="bf16")
    losses, own = gradients(model, config, in_use=False, longer=0)
    losses_compiled, own_compiled = gradients(model, config, in_use=True, longer=0)
    assert losses_compiled == pytest.approx(losses, rel=0.01)
    assert torch.linalg.norm(own_compiled - own) <= 0.05 * torch.linalg.norm(own)


def test_the_plain_path_gives_the_same_losses_compiled(tiny_llama):
    model = setup_lora(tiny_llama[0], LoraSection(r=4, use_dora=True))
    start, losses = get_adapter_state(model), []
    for in_use in (False, True):
        stepper = LoraStepper(model, TrainingSection(gradient_checkpointing=True))
        if in_use:
            stepper.compiled = compiled_parts(model, "on", BACKEND)
        losses.append(stepper.step([rows(2)], 0.0, "here").loss)
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert get_adapter_state(model).keys() == start.keys()


def test_a_compiled_mlp_runs_the_forward_that_its_layers_have_now(tiny_llama):
    model = setup_lora(tiny_llama[0])
    mlp = model.get_base_model().model.layers[0].mlp
    x = torch.ones(1, 5, mlp.gate_proj.in_features)
    parts = compiled_parts(model, "on", BACKEND)
    with torch.no_grad():
        expected = mlp(x)
        with compiled(parts, "on"):
            assert torch.allclose(mlp(x), expected)
            mlp.down_proj.forward = lambda x: 2 * torch.nn.functional.linear(x, mlp.down_proj.weight)
            assert torch.allclose(mlp(x), 2 * expected)
            del mlp.down_proj.forward
            assert torch.allclose(mlp(x), expected)


def test_what_cannot_be_compiled_runs_as_it_is_with_auto_and_is_an_error_with_on(tiny_llama):
    asked = []

    def broken(graph, inputs):
        asked.append(graph)
        raise RuntimeError("no kernels today")

    model = setup_lora(tiny_llama[0])
    mlp = model.get_base_model().model.layers[0].mlp
    x = torch.ones(1, 5, mlp.gate_proj.in_features)
    expected, parts = mlp(x), compiled_parts(model, "on", broken)
    with compiled(parts, "on"), pytest.raises(Exception, match="no kernels today"):
        mlp(x)
    torch._dynamo.reset()
    with compiled(parts, "auto"):
        assert torch.equal(mlp(x), expected)
        tried = len(asked)
        assert torch.equal(mlp(x), expected)
    assert len(asked) == tried  # not anew at each call


@pytest.mark.skipif(compiling._why_not(torch.device("cpu")) is not None, reason="nothing to compile with here")
@pytest.mark.slow
def test_the_default_backend_gives_the_same_losses_and_gradients_on_a_cpu(tiny_gemma, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    model = setup_lora(tiny_gemma[0])
    losses, own = gradients(model, TrainingSection(), in_use=False, longer=3)
    losses_compiled, own_compiled = gradients(model, TrainingSection(compile="on"), in_use=False, longer=3)
    assert losses_compiled == pytest.approx(losses, rel=1e-5)
    assert torch.linalg.norm(own_compiled - own) <= 1e-5 * torch.linalg.norm(own)


def test_norms_and_mlps_without_an_adapter_are_compiled_and_only_inside_the_block(tiny_gemma):
    every = setup_lora(tiny_gemma[0], LoraSection(target_modules=("q_proj", "up_proj")))
    names = {id(module): name for name, module in every.named_modules()}
    parts = compiled_parts(every, "on", BACKEND)
    kinds = {names[id(module)].rpartition(".")[2] for module, _ in parts}
    assert kinds == {
        "input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm",
        "q_norm", "k_norm", "norm",
    }  # fmt: skip
    with compiled(parts, "on"):
        assert any(module._compiled_call_impl is not None for module in every.modules())
    assert all(module._compiled_call_impl is None for module in every.modules())


def test_auto_compiles_nothing_on_a_cpu_and_on_does(tiny_llama):
    model = setup_lora(tiny_llama[0])
    assert compiled_parts(model, "auto", BACKEND) == compiled_parts(model, "off", BACKEND) == []
    layers = len(model.get_base_model().model.layers)
    assert len(compiled_parts(model, "on", BACKEND)) == 3 * layers + 1
    assert Engine(model, TrainingSection()).compiled == []


def test_on_without_a_compiler_is_an_error_that_says_so(tiny_llama, monkeypatch):
    monkeypatch.setattr("fedmed.training.compiling.shutil.which", lambda _: None)
    model = setup_lora(tiny_llama[0])
    trainer = EngineTrainer(model, {"a": rows(2)}, TrainingSection(compile="on", max_steps=1))
    with pytest.raises(TrainingError, match=r"training.compile is on, but a C\+\+ compiler is missing"):
        next(trainer.run([LocalJob("a", 1, 1, 17, get_adapter_state(model))]))


def test_auto_without_triton_compiles_nothing_on_a_gpu_and_says_so_once(tiny_llama, monkeypatch, caplog):
    model = setup_lora(tiny_llama[0])
    weight = type("Weight", (), {"device": torch.device("cuda")})
    monkeypatch.setattr(model, "get_input_embeddings", lambda: type("Table", (), {"weight": weight}))
    monkeypatch.setattr("fedmed.training.compiling.importlib.util.find_spec", lambda _: None)
    compiling._say_once.cache_clear()
    with caplog.at_level(logging.INFO, logger="fedmed"):
        assert compiled_parts(model, "auto") == compiled_parts(model, "auto") == []
    assert caplog.text.count("nothing is compiled, which is slower: triton is missing") == 1


def test_the_setting_is_text_in_yaml_too():
    assert load_config(None, (), ["training.compile=on"]).training.compile == "on"
    assert load_config(None, (), ["training.compile=off"]).training.compile == "off"

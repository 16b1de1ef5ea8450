"""What methods beyond FedAvg ask of the engine, against plain torch: a base added to, and cores between B and A."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.nn.utils import parametrize

from fedmed.config.schema import LoraSection, TrainingSection
from fedmed.data.encode import EncodedRow
from fedmed.errors import TrainingError
from fedmed.model.adapter import get_adapter_state
from fedmed.model.folding import folded
from fedmed.model.lora_setup import setup_lora
from fedmed.model.packed_lora import HospitalAdapter
from fedmed.model.tiny import tiny_model
from fedmed.training.engine import Engine, EngineTrainer, fits
from fedmed.training.plain import train_plain
from fedmed.training.steps import plan_steps
from fedmed.types import CORE, LocalJob
from fedmed.utils.random_streams import stream

pytestmark = pytest.mark.integration

A, B = ".lora_A.weight", ".lora_B.weight"
R, ALPHA = 4, 8.0
SCALE = ALPHA / R
TARGETS = ["q_proj", "k_proj", "v_proj", "down_proj"]
CPU = torch.device("cpu")


def adapted(kind):
    return setup_lora(tiny_model(kind), LoraSection(r=R, alpha=ALPHA, target_modules=tuple(TARGETS)))


def drawn(model, *names, rank=R, spread=0.1):
    """A random adapter, of any rank."""
    draw = stream(17, "cores and folds", *names)
    state = {}
    for key, array in get_adapter_state(model).items():
        shape = (rank, array.shape[1]) if key.endswith(A) else (array.shape[0], rank)
        state[key] = draw.normal(0, spread, shape).astype("float32")
    return state


def rows(name: str, count: int) -> list[EncodedRow]:
    draw = stream(17, "cores and folds", "rows", name)
    made = []
    for _ in range(count):
        prompt, answer = int(draw.integers(1, 25)), int(draw.integers(1, 40))
        made.append(EncodedRow(tuple(draw.integers(3, 259, prompt + answer).tolist()), prompt))
    return made


def layers_of(state):
    return [key.removesuffix(A) for key in state if key.endswith(A)]


def bare_name(layer):
    return layer.removeprefix("base_model.model.")


def product(state, layer):
    return torch.from_numpy(state[layer + B].astype(np.float64) @ state[layer + A].astype(np.float64))


def changed_by_hand(kind, products):
    """The bare model with W + scale * B A for weights."""
    base = tiny_model(kind)
    with torch.no_grad():
        for layer in layers_of(products):
            base.get_parameter(bare_name(layer) + ".weight").add_(SCALE * product(products, layer))
    return base


def plain_peft(base, state):
    """PEFT on its own, with ``state`` written into its parameters one by one; (model, key -> parameter)."""
    model = get_peft_model(base, LoraConfig(r=R, lora_alpha=ALPHA, target_modules=TARGETS, lora_dropout=0.0))
    named = {name.replace(".default", ""): p for name, p in model.named_parameters() if ".lora_" in name}
    assert named.keys() == state.keys()
    with torch.no_grad():
        for key, parameter in named.items():
            parameter.copy_(torch.from_numpy(state[key]))
    return model, dict(sorted(named.items()))


def slow_loss(model, chosen):
    """Mean loss over the answer tokens, row by row; gradients are left where they belong."""
    answers = sum(len(row.input_ids) - row.prompt_length for row in chosen)
    total = 0.0
    for row in chosen:
        ids = torch.tensor([row.input_ids])
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, row.prompt_length - 1 : -1]
        loss = torch.nn.functional.cross_entropy(logits, ids[0, row.prompt_length :], reduction="sum") / answers
        loss.backward()
        total += float(loss.detach())
    return total


def flat(batches):
    return [row for batch in batches for row in batch]


def assert_same_gradient(mine, theirs, key):
    assert torch.linalg.norm(theirs) > 0, key
    assert torch.linalg.norm(mine - theirs) <= 1e-5 * torch.linalg.norm(theirs), key


# Folded parts


@pytest.mark.parametrize("kind", ["llama", "gemma"])
def test_gradients_on_a_folded_base_equal_plain_peft_on_a_base_changed_by_hand(kind):
    model = adapted(kind)
    products = drawn(model, "products", rank=7)
    states = [drawn(model, "hospital", number) for number in range(3)]
    batches = [[rows(f"{number} {place}", 2 + number) for place in range(2)] for number in range(3)]
    own = [HospitalAdapter(state, None, CPU) for state in states]
    with folded(model, products):
        results = Engine(model, TrainingSection()).gradients(own, batches)
    for state, adapter, result, hospital in zip(states, own, results, batches, strict=True):
        reference, named = plain_peft(changed_by_hand(kind, products), state)
        assert result.loss == pytest.approx(slow_loss(reference, flat(hospital)), rel=1e-5)
        for key, parameter in named.items():
            assert_same_gradient(adapter.gradients[key], parameter.grad, key)


STEPS = TrainingSection(
    batch_size=2, gradient_accumulation_steps=2, max_steps=3, learning_rate=3e-3, lr_scheduler="constant",
    max_grad_norm=None,
)  # fmt: skip


def slow_training(model, parameters, own, hospital):
    """The losses of all steps with torch's own AdamW."""
    optimizer = torch.optim.AdamW(parameters, lr=STEPS.learning_rate, weight_decay=0.0)
    losses = []
    for step in plan_steps(len(own), STEPS, seed=17, hospital=hospital, round_number=1):
        optimizer.zero_grad()
        losses.append(slow_loss(model, [own[index] for batch in step for index in batch]))
        optimizer.step()
    return losses


@pytest.mark.parametrize("engine", ["packed", "single"])
def test_jobs_with_folded_parts_train_as_plain_peft_on_a_base_changed_by_hand(engine):
    model = adapted("gemma")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    products = drawn(model, "products", rank=7)
    by_hospital = {"a": rows("a", 9), "b": rows("b", 3)}
    start = drawn(model, "start")
    # equal arrays in other objects are the same base
    jobs = [
        LocalJob(name, 1, 1, 17, start, folded={key: array.copy() for key, array in products.items()})
        for name in by_hospital
    ]
    trainer = EngineTrainer(model, by_hospital, STEPS.model_copy(update={"engine": engine}))
    for result in trainer.run(jobs):
        reference, named = plain_peft(changed_by_hand("gemma", products), start)
        losses = slow_training(reference, list(named.values()), by_hospital[result.hospital], result.hospital)
        assert result.metrics.step_losses == pytest.approx(losses, rel=1e-5)
        gap = math.sqrt(
            sum(float(((p.detach() - torch.from_numpy(result.state[k])) ** 2).sum()) for k, p in named.items())
        )
        moved = math.sqrt(sum(float(((p.detach() - torch.from_numpy(start[k])) ** 2).sum()) for k, p in named.items()))
        assert gap <= 1e-3 * moved  # Adam magnifies the rounding of small gradients
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_the_plain_path_trains_on_the_folded_base_too(tiny_llama):
    model = setup_lora(tiny_llama[0], LoraSection(r=R, alpha=ALPHA, target_modules=tuple(TARGETS)))
    products, start = drawn(model, "products", rank=7), drawn(model, "start")
    model.fedmed_engine_fits = False
    (result,) = EngineTrainer(model, {"a": rows("a", 9)}, STEPS).run([LocalJob("a", 1, 1, 17, start, folded=products)])
    reference, named = plain_peft(changed_by_hand("llama", products), start)
    losses = slow_training(reference, list(named.values()), rows("a", 9), "a")
    assert result.metrics.step_losses == pytest.approx(losses, rel=1e-5)


def other_values(products):
    key = max(products)
    return products | {key: products[key] + np.float32(1e-3)}


@pytest.mark.parametrize(
    "other",
    [other_values, lambda products: {}, lambda products: dict(list(products.items())[2:])],
    ids=["other values", "nothing", "fewer layers"],
)
def test_jobs_with_different_folded_parts_do_not_train_together(other):
    model = adapted("llama")
    products, start = drawn(model, "products"), drawn(model, "start")
    trainer = EngineTrainer(model, {"a": rows("a", 3), "b": rows("b", 3)}, STEPS)
    jobs = [
        LocalJob("a", 1, 1, 17, start, folded=products),
        LocalJob("b", 1, 1, 17, start, folded=other(products)),
    ]
    for order in (jobs, jobs[::-1]):
        with pytest.raises(TrainingError, match="folded"):
            list(trainer.run(order))


def test_the_base_comes_back_when_training_ends_early():
    model = adapted("llama")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    products, start = drawn(model, "products"), drawn(model, "start")
    config = STEPS.model_copy(update={"engine": "single"})
    jobs = [LocalJob(name, 1, 1, 17, start, folded=products) for name in ("a", "nobody")]
    results = EngineTrainer(model, {"a": rows("a", 3)}, config).run(jobs)
    next(results)
    with pytest.raises(KeyError):
        next(results)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


# Cores


class Core(torch.nn.Module):
    """A linear layer's weight as W + scale * B core A, with autograd through the core alone."""

    def __init__(self, state, layer):
        super().__init__()
        self.a, self.b = (torch.from_numpy(state[layer + side]).double() for side in (A, B))
        self.core = torch.nn.Parameter(torch.from_numpy(state[layer + CORE]).double())

    def forward(self, weight):
        return weight + SCALE * self.b @ self.core @ self.a


def with_cores(state, *names, spread=0.2):
    draw = stream(17, "cores", *names)
    return state | {layer + CORE: draw.normal(0, spread, (R, R)).astype("float32") for layer in layers_of(state)}


def by_parametrisation(kind, state):
    """The bare model in float64 with the adapted weights written out; (model, key of core -> parameter).

    In float64, because autograd's float32 gradients of weights like these are themselves 1e-5 off.
    """
    base = tiny_model(kind).double().requires_grad_(False)
    cores = {}
    for layer in layers_of(state):
        written = Core(state, layer)
        parametrize.register_parametrization(base.get_submodule(bare_name(layer)), "weight", written)
        cores[layer + CORE] = written.core
    return base, dict(sorted(cores.items()))


def core_keys(state):
    return tuple(key for key in state if key.endswith(CORE))


@pytest.mark.parametrize("zero", [False, True], ids=["any core", "cores of zeros"])
@pytest.mark.parametrize("kind", ["llama", "gemma"])
def test_a_cores_gradient_equals_autograds_on_weights_written_out(kind, zero):
    model = adapted(kind)
    states = [
        with_cores(drawn(model, "factors", number, spread=0.3), number, spread=0.0 if zero else 0.2)
        for number in range(3)
    ]
    batches = [[rows(f"{number} {place}", 2 + number) for place in range(3 - number)] for number in range(3)]
    own = [HospitalAdapter(state, core_keys(state), CPU) for state in states]
    engine = Engine(model, TrainingSection())
    for _ in range(2):  # a second step starts from no gradient
        results = engine.gradients(own, batches)
    for state, adapter, result, hospital in zip(states, own, results, batches, strict=True):
        reference, cores = by_parametrisation(kind, state)
        assert result.loss == pytest.approx(slow_loss(reference, flat(hospital)), rel=1e-5)
        for key, parameter in cores.items():
            assert_same_gradient(adapter.gradients[key], parameter.grad, key)
        written = torch.cat([parameter.grad.flatten() for parameter in cores.values()])
        assert_same_gradient(adapter.flat.grad, written, "all that the optimiser sees")


@pytest.mark.parametrize("engine", ["packed", "single"])
def test_training_moves_the_cores_as_autograd_does_and_leaves_the_factors_bit_for_bit(engine):
    model = adapted("gemma")
    by_hospital = {"a": rows("a", 9), "b": rows("b", 3)}
    start = with_cores(drawn(model, "factors", spread=0.3), spread=0.0)
    jobs = [LocalJob(name, 1, 1, 17, start, trainable=core_keys(start)) for name in by_hospital]
    for result in EngineTrainer(model, by_hospital, STEPS.model_copy(update={"engine": engine})).run(jobs):
        reference, cores = by_parametrisation("gemma", start)
        losses = slow_training(reference, list(cores.values()), by_hospital[result.hospital], result.hospital)
        assert result.metrics.step_losses == pytest.approx(losses, rel=1e-5)
        assert result.state.keys() == start.keys()
        for key, array in start.items():
            if key.endswith(CORE):
                assert np.abs(result.state[key]).max() > 1e-3, key
                mine, theirs = torch.from_numpy(result.state[key]).double(), cores[key].detach()
                assert torch.linalg.norm(mine - theirs) <= 1e-3 * torch.linalg.norm(theirs), key
            else:
                assert result.state[key].tobytes() == array.tobytes(), key


def test_several_steps_lower_the_loss_by_the_cores_alone():
    model = adapted("llama")
    own = rows("a", 4)
    start = with_cores(drawn(model, "factors", spread=0.3), spread=0.0)
    config = TrainingSection(
        batch_size=4, gradient_accumulation_steps=1, max_steps=20, learning_rate=0.02, lr_scheduler="constant"
    )
    (result,) = EngineTrainer(model, {"a": own}, config).run(
        [LocalJob("a", 1, 1, 17, start, trainable=core_keys(start))]
    )
    before, after = (slow_loss(by_parametrisation("llama", state)[0], own) for state in (start, result.state))
    assert result.metrics.step_losses[0] == pytest.approx(before, rel=1e-5)
    assert after < 0.9 * before


def test_cores_train_on_a_folded_base():
    model = adapted("llama")
    products = drawn(model, "products", rank=7)
    state = with_cores(drawn(model, "factors", spread=0.3))
    adapter = HospitalAdapter(state, core_keys(state), CPU)
    batches = [rows("x", 2), rows("y", 3)]
    with folded(model, products):
        (result,) = Engine(model, TrainingSection()).gradients([adapter], [batches])
    reference, cores = by_parametrisation("llama", state)
    with torch.no_grad():
        for layer in layers_of(products):
            parts = reference.get_submodule(bare_name(layer)).parametrizations.weight
            parts.original.add_(SCALE * product(products, layer))
    assert result.loss == pytest.approx(slow_loss(reference, flat(batches)), rel=1e-5)
    for key, parameter in cores.items():
        assert_same_gradient(adapter.gradients[key], parameter.grad, key)


def test_the_plain_path_refuses_cores(tiny_llama):
    model = setup_lora(tiny_llama[0], LoraSection(r=R, alpha=ALPHA))
    start = with_cores(drawn(model, "factors"))
    job = LocalJob("a", 1, 1, 17, start, trainable=core_keys(start))
    with pytest.raises(TrainingError, match="fedsb"):
        train_plain(model, job, rows("a", 3), STEPS)
    assert fits(model)
    model.fedmed_engine_fits = False
    with pytest.raises(TrainingError, match="fedsb"):
        list(EngineTrainer(model, {"a": rows("a", 3)}, STEPS).run([job]))

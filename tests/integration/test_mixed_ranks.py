"""Hospitals of different ranks through the real engine: what travels, what comes of it, and what each one trains."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model

from fedmed.config.schema import LoraSection, PrivacySection, TrainingSection
from fedmed.data.encode import EncodedRow
from fedmed.federated.algorithms.fedavg import FedAvg
from fedmed.federated.algorithms.flora import FLora
from fedmed.federated.algorithms.sketch import Sketch
from fedmed.federated.runner import AllOrSampled, FederationState, run_rounds
from fedmed.federated.simulation import SimulationTransport
from fedmed.model.adapter import get_adapter_state, set_adapter_state
from fedmed.model.lora_setup import setup_lora
from fedmed.model.tiny import tiny_model
from fedmed.training.engine import EngineTrainer
from fedmed.training.steps import plan_steps
from fedmed.types import LocalJob, LocalPlan, LocalResult
from fedmed.utils.random_streams import stream

pytestmark = pytest.mark.integration

A, B = ".lora_A.weight", ".lora_B.weight"
R, ALPHA = 4, 32.0
SCALE = ALPHA / R
RANKS = {"hospital_A": 4, "hospital_B": 2, "hospital_C": 1}
COUNTS = {"hospital_A": 8, "hospital_B": 5, "hospital_C": 6}
TARGETS = ("q_proj", "k_proj", "v_proj")
CONFIG = TrainingSection(
    batch_size=4, gradient_accumulation_steps=1, max_steps=4, learning_rate=0.01, lr_scheduler="constant", threads=1
)
METHODS = {"fedavg": FedAvg(), "sketch": Sketch("fold"), "flora": FLora()}


def rows(name: str, count: int) -> list[EncodedRow]:
    draw = stream(17, "mixed ranks", name)
    words = draw.integers(3, 259, (4, 6))  # a hospital's own few words, so that there is something to learn
    return [EncodedRow(tuple(words[draw.integers(0, 4, 4)].ravel().tolist()), 6) for _ in range(count)]


ROWS = {name: rows(name, count) for name, count in COUNTS.items()}


@dataclass
class Watched:
    """The real trainer; what it was asked and what it gave are kept."""

    trainer: EngineTrainer
    jobs: list[LocalJob] = field(default_factory=list)
    results: list[LocalResult] = field(default_factory=list)

    def run(self, jobs: Sequence[LocalJob]) -> Iterator[LocalResult]:
        self.jobs += jobs
        for result in self.trainer.run(jobs):
            self.results.append(result)
            yield result


@dataclass
class Listening:
    """The real transport; the shapes of what it carries are kept."""

    transport: SimulationTransport
    shapes: dict[tuple[int, str], dict[str, tuple[int, ...]]] = field(default_factory=dict)

    def exchange(self, plan, global_state, algorithm) -> Iterator[Any]:
        for payload in self.transport.exchange(plan, global_state, algorithm):
            self.shapes[plan.round, payload.hospital] = {key: array.shape for key, array in payload.arrays.items()}
            yield payload

    def commit(self, report):
        return self.transport.commit(report)


def run(model, algorithm, rounds):
    trainer = Watched(EngineTrainer(model, ROWS, CONFIG))
    transport = Listening(SimulationTransport(trainer, {}, PrivacySection()))
    state, server = algorithm.start(get_adapter_state(model))
    states = [FederationState(0, state, server_state=server)]
    run_rounds(
        states[0],
        algorithm=algorithm,
        transport=transport,
        policy=AllOrSampled(tuple(RANKS), rounds, 17, ranks=RANKS),
        rounds=rounds,
        on_round=lambda state, report: states.append(state),
    )
    return states, trainer, transport


def own_loss(model, state, hospital):
    """Of a hospital's rows under an adapter, one by one through PEFT's own forward."""
    set_adapter_state(model, state, any_rank=True)
    model.eval()
    total = tokens = 0.0
    for row in ROWS[hospital]:
        ids = torch.tensor([row.input_ids])
        with torch.no_grad():
            logits = model(input_ids=ids).logits[0, row.prompt_length - 1 : -1]
        total += float(torch.nn.functional.cross_entropy(logits, ids[0, row.prompt_length :], reduction="sum"))
        tokens += len(row.input_ids) - row.prompt_length
    return total / tokens


def product(state, layer):
    return state[layer + B].astype(np.float64) @ state[layer + A].astype(np.float64)


def layers_of(state):
    return sorted(key.removesuffix(A) for key in state if key.endswith(A) and not key.startswith("folded."))


@pytest.mark.parametrize("family", ["tiny_llama", "tiny_gemma"])
@pytest.mark.parametrize("name", METHODS)
def test_three_ranks_learn_together_and_the_shared_adapter_keeps_its_own(name, family, request):
    model = setup_lora(request.getfixturevalue(family)[0], LoraSection(r=R, alpha=ALPHA, target_modules=TARGETS))
    algorithm, start = METHODS[name], get_adapter_state(model)
    states, trainer, transport = run(model, algorithm, rounds=3)

    shared = {key: array.shape for key, array in start.items()}
    for state in states:
        own = {key: array.shape for key, array in state.global_state.items() if not key.startswith("folded.")}
        assert own == shared
    for number in (1, 2, 3):
        for hospital, rank in RANKS.items():
            sent = transport.shapes[number, hospital]
            if name == "sketch":  # nothing tells the ranks apart, and they are known to be 7 and the shared 4
                assert sent == transport.shapes[1, "hospital_A"]
                width = 12  # a 32nd more than 7 + 4
                for layer in layers_of(start):
                    m, n = sorted((start[layer + B].shape[0], start[layer + A].shape[1]), reverse=True)
                    assert sent[layer + ".sketch_right"] == (m, width)
                    assert sent[layer + ".sketch_left"] == (2 * width, n)
            else:
                assert sent == {
                    key: (rank, shape[1]) if key.endswith(A) else (shape[0], rank) for key, shape in shared.items()
                }
    for job in trainer.jobs:
        assert {array.shape[0] for key, array in job.start.items() if key.endswith(A)} == {RANKS[job.hospital]}
    for hospital in RANKS:
        trained = [result.metrics for result in trainer.results if result.hospital == hospital]
        for metrics in trained:
            assert metrics.step_losses[-1] < metrics.step_losses[0], hospital
        assert trained[0].loss > trained[1].loss > trained[2].loss, hospital
        before, after = (
            own_loss(model, algorithm.export(s.global_state, {}), hospital) for s in (states[0], states[3])
        )
        assert trained[0].step_losses[0] == pytest.approx(before, rel=0.2)  # some of the same rows
        assert after < before - 0.1, hospital


@pytest.mark.parametrize("name", ["sketch", "flora"])
def test_what_is_exported_after_a_round_is_the_mean_of_what_the_hospitals_trained(tiny_llama, name):
    model = setup_lora(tiny_llama[0], LoraSection(r=R, alpha=ALPHA, target_modules=TARGETS))
    algorithm = METHODS[name]
    states, trainer, _ = run(model, algorithm, rounds=2)
    before = [algorithm.export(state.global_state, {}) for state in states]
    for number in (1, 2):
        results = [result for result in trainer.results if result.round == number]
        jobs = {job.hospital: job for job in trainer.jobs if job.round == number}
        for layer in layers_of(states[0].global_state):
            change = sum(
                COUNTS[result.hospital]
                * (product(result.state, layer) - product(jobs[result.hospital].start, layer))
                / sum(COUNTS.values())
                for result in results
            )
            now = product(before[number], layer) - product(before[number - 1], layer)
            assert np.linalg.norm(now - change) <= 1e-4 * np.linalg.norm(change), (number, layer)


def test_fedavg_means_each_row_over_the_hospitals_that_trained_it(tiny_llama):
    model = setup_lora(tiny_llama[0], LoraSection(r=R, alpha=ALPHA, target_modules=TARGETS))
    states, trainer, _ = run(model, METHODS["fedavg"], rounds=1)
    start, end = states[0].global_state, states[1].global_state
    for key, array in end.items():
        for row in range(R):
            having = [result for result in trainer.results if RANKS[result.hospital] > row]
            total = sum(COUNTS[result.hospital] for result in having)
            parts = [
                COUNTS[r.hospital] / total * (r.state[key][row] if key.endswith(A) else r.state[key][:, row])
                for r in having
            ]
            mine = array[row] if key.endswith(A) else array[:, row]
            np.testing.assert_allclose(mine, sum(parts), atol=1e-6)
            assert not np.array_equal(mine, start[key][row] if key.endswith(A) else start[key][:, row])


@pytest.mark.parametrize("rank", [2, 1, 4])
def test_a_hospitals_own_training_equals_plain_peft_of_its_rank_and_the_same_scale(rank):
    model = setup_lora(tiny_model("gemma"), LoraSection(r=R, alpha=ALPHA, target_modules=TARGETS))
    draw = stream(17, "mixed ranks", "global")
    shared = {
        key: draw.normal(0, 0.05, array.shape).astype("float32") for key, array in get_adapter_state(model).items()
    }
    job = FedAvg().begin(shared, {}, LocalPlan("run", 1, 1, "hospital_A", 17, rank=rank))
    config = CONFIG.model_copy(update={"max_grad_norm": None, "learning_rate": 2e-3})
    (result,) = EngineTrainer(model, ROWS, config).run([job])

    peft = get_peft_model(
        tiny_model("gemma"), LoraConfig(r=rank, lora_alpha=SCALE * rank, target_modules=list(TARGETS))
    )
    named = {name.replace(".default", ""): p for name, p in peft.named_parameters() if ".lora_" in name}
    with torch.no_grad():
        for key, parameter in named.items():
            nested = shared[key][:rank] if key.endswith(A) else shared[key][:, :rank]
            parameter.copy_(torch.from_numpy(nested))
    optimizer = torch.optim.AdamW(list(named.values()), lr=config.learning_rate, weight_decay=0.0)
    losses = []
    for step in plan_steps(COUNTS["hospital_A"], config, seed=17, hospital="hospital_A", round_number=1):
        chosen = [ROWS["hospital_A"][index] for batch in step for index in batch]
        answers = sum(len(row.input_ids) - row.prompt_length for row in chosen)
        optimizer.zero_grad()
        loss = torch.zeros(())
        for row in chosen:
            ids = torch.tensor([row.input_ids])
            logits = peft(input_ids=ids).logits[0, row.prompt_length - 1 : -1]
            loss = loss + torch.nn.functional.cross_entropy(logits, ids[0, row.prompt_length :], reduction="sum")
        (loss / answers).backward()
        losses.append(float(loss.detach()) / answers)
        optimizer.step()
    assert result.metrics.step_losses == pytest.approx(losses, rel=1e-5)
    assert result.state.keys() == named.keys()
    for key, parameter in named.items():
        theirs = parameter.detach().numpy()
        assert result.state[key].shape == theirs.shape
        moved = np.linalg.norm(theirs - job.start[key])
        assert np.linalg.norm(result.state[key] - theirs) <= 1e-2 * moved, key

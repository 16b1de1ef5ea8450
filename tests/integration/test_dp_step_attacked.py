"""The step of DP-SGD that trains, attacked a thousand times on a tiny model's own gradients, with a canary among them.

Each test of a correct step calls it broken with a chance of 0.1 % at most, and draws its noise from a seed, so it never
does.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fedmed.config.schema import LoraSection, TrainingSection
from fedmed.data.encode import EncodedRow
from fedmed.evaluation.attacks.gradient_audit import audit_mechanism
from fedmed.model.adapter import get_adapter_state
from fedmed.model.lora_setup import setup_lora
from fedmed.model.packed_lora import HospitalAdapter
from fedmed.model.tiny import tiny_model
from fedmed.privacy.accountant import solve_sigma
from fedmed.privacy.discrete_gaussian import SeededSource
from fedmed.training.dp_sgd import NoisySum, add_gradients, privatize
from fedmed.training.engine import Engine
from fedmed.utils.random_streams import stream

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

CLIP, DELTA, REPEATS = 0.5, 1e-5, 1000


@pytest.fixture(scope="module")
def gradients():
    """[6, numbers of the adapter]: one a record, from a tiny model by the engine."""
    model = setup_lora(tiny_model("llama"), LoraSection(r=2, target_modules=("q_proj",)))
    draw = stream(17, "records")
    start = {key: draw.normal(0, 0.1, array.shape).astype("float32") for key, array in get_adapter_state(model).items()}
    units = [[EncodedRow(tuple(draw.integers(3, 200, 24).tolist()), 8)] for _ in range(6)]
    found = []

    def keep(gradient: torch.Tensor) -> float:
        found.append(gradient.clone())
        return float(gradient.norm())

    adapter = HospitalAdapter(start, None, torch.device("cpu"))
    add_gradients(Engine(model, TrainingSection(threads=1)), adapter, units, keep)
    return torch.stack(found)


class Unclipped(NoisySum):
    def add(self, gradient: torch.Tensor) -> float:
        self._sum.add_(gradient)
        return float(gradient.norm())


def attacked(gradients, sigma: float, name: int, kind: type[NoisySum] = NoisySum):
    source = SeededSource(name)

    def step(rows: np.ndarray) -> np.ndarray:
        together = torch.cat([gradients, torch.from_numpy(rows.astype(np.float32))])
        if kind is NoisySum:
            return privatize(together, CLIP, sigma, source).numpy()
        noisy = kind(together.shape[1], CLIP, sigma, source)
        for gradient in together:
            noisy.add(gradient)
        return noisy.close().numpy()

    return audit_mechanism(
        step, clip=CLIP, delta=DELTA, repeats=REPEATS, dimension=gradients.shape[1], others=2, seed=name
    )


@pytest.mark.parametrize("claim", [1.0, 2.0])
def test_a_step_keeps_its_claim_and_three_broken_ones_do_not(gradients, claim):
    sigma = solve_sigma(claim, DELTA, 1.0, 1)
    assert (gradients.norm(dim=1) > CLIP).any()  # clipping has work to do
    assert attacked(gradients, sigma, 1).epsilon < claim
    assert attacked(gradients, 0.0, 2).epsilon > claim
    assert attacked(gradients, sigma, 3, Unclipped).epsilon > claim
    assert attacked(gradients, sigma / 4, 4).epsilon > claim

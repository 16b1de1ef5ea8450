"""Steps that the server takes of its own, against the papers' formulas written out."""

from __future__ import annotations

import numpy as np
import pytest

from fedmed.federated.algorithms.fedopt import FedAdam, FedAvgM
from fedmed.federated.server import apply_round

pytestmark = pytest.mark.unit
START = {"w": np.array([1.0, -2.0, 0.5], np.float32)}
CHANGES = [np.array(change, np.float32) for change in ([0.5, 0.0, -1.0], [0.25, 0.25, 1.0], [-0.5, 2.0, 0.0])]


def states_of(algorithm, toy):
    """The global array after each round in which one hospital sends the next of CHANGES."""
    state, server = algorithm.start(START)
    seen = []
    for number, change in enumerate(CHANGES, 1):
        plan = toy.plan(("hospital_A",), round=number)
        payload = toy.payload("hospital_A", {"w": change}, round=number, algorithm=algorithm.name)
        state, server, _ = apply_round(state, server, algorithm, plan, [payload])
        seen.append(state["w"])
    return seen


def test_fedavgm_is_hsus_momentum(toy):
    w, v = START["w"].astype(float), np.zeros(3)
    for change, got in zip(CHANGES, states_of(FedAvgM(0.7, 0.9), toy), strict=True):
        v = 0.9 * v + change
        w = w + 0.7 * v
        np.testing.assert_allclose(got, w, rtol=1e-6)


def test_fedavgm_without_momentum_at_rate_one_is_fedavg(toy):
    w = START["w"].astype(float)
    for change, got in zip(CHANGES, states_of(FedAvgM(1.0, 0.0), toy), strict=True):
        w = w + change
        np.testing.assert_allclose(got, w, rtol=1e-6)


def test_fedadam_is_reddis_adam(toy):
    w, m, v = START["w"].astype(float), np.zeros(3), np.full(3, 1e-3**2)
    for change, got in zip(CHANGES, states_of(FedAdam(0.1, 0.9, 0.99, 1e-3), toy), strict=True):
        m = 0.9 * m + 0.1 * change
        v = 0.99 * v + 0.01 * change.astype(float) ** 2
        w = w + 0.1 * m / (np.sqrt(v) + 1e-3)
        np.testing.assert_allclose(got, w, rtol=1e-6)
    assert np.abs(got - START["w"]).max() > 0.1  # it did move

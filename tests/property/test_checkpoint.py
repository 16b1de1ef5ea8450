"""Checkpoints survive the disk: what is saved is what is loaded, and damage is seen."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedmed.errors import RunError
from fedmed.federated.checkpoint import load_latest, save_round
from fedmed.federated.runner import FederationState
from fedmed.types import RoundReport, TrainMetrics

pytestmark = pytest.mark.property

numbers = st.floats(allow_nan=False, allow_infinity=False)
counts = st.integers(0, 2**40)
names = st.text(min_size=1, max_size=12, alphabet=st.characters(exclude_categories=["Cs"]))
arrays = hnp.arrays(np.float32, hnp.array_shapes(min_dims=0, max_dims=3, max_side=4)).map(np.asarray) | hnp.arrays(
    np.float32, (2, 3)
).map(np.transpose)
states = st.dictionaries(st.text("abc._", min_size=1, max_size=8), arrays, min_size=1, max_size=3)
metrics = st.builds(TrainMetrics, numbers, st.lists(numbers, max_size=3).map(tuple), counts, counts, counts, numbers)
reports = st.builds(
    RoundReport,
    st.integers(1, 50),
    st.lists(names, max_size=3).map(tuple),
    st.dictionaries(names, names, max_size=2),
    numbers,
    counts,
    counts,
    st.dictionaries(names, counts, max_size=2),
    st.dictionaries(names, metrics, max_size=2),
)
federations = st.builds(
    FederationState,
    st.integers(1, 20_000),
    states,
    st.dictionaries(names, states, max_size=2),
    st.lists(reports, max_size=3).map(tuple),
)


@settings(max_examples=40, deadline=None)
@given(state=federations)
def test_what_is_loaded_is_what_was_saved_bit_for_bit(toy, state):
    with tempfile.TemporaryDirectory() as folder:
        save_round(Path(folder), state, config_digest="d", keep=1)
        loaded = load_latest(Path(folder))
    assert (loaded.round, loaded.history) == (state.round, state.history)
    assert toy.same_bits(loaded.global_state, state.global_state)
    assert loaded.hospital_states.keys() == state.hospital_states.keys()
    for name, kept in state.hospital_states.items():
        assert toy.same_bits(loaded.hospital_states[name], kept)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_flipped_bit_or_cut_in_any_file_is_noticed(toy, data):
    with tempfile.TemporaryDirectory() as root:
        state = FederationState(1, toy.state("saved"), {"hospital_A": toy.state("kept")}, (RoundReport(1, ("a",)),))
        folder = save_round(Path(root), state, config_digest="d", keep=1)
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        assert len(files) == 3
        file = data.draw(st.sampled_from(files))
        raw = bytearray(file.read_bytes())
        position = data.draw(st.integers(0, len(raw) - 2))  # the last byte of state.json is a line feed, not data
        if data.draw(st.booleans()):
            raw[position] ^= 1 << data.draw(st.integers(0, 7))
        else:
            raw = raw[:position]
        file.write_bytes(bytes(raw))
        try:
            loaded = load_latest(Path(root))
        except RunError:
            return
        # White space of the JSON is not covered by its digest; everything it says is.
        assert file.name == "state.json"
        assert loaded.history == state.history
        assert toy.same_bits(loaded.global_state, state.global_state)

"""Which checkpoint is chosen, what is kept, and what a damaged one says."""

from __future__ import annotations

import json
import logging
import resource
import shutil
from dataclasses import replace

import numpy as np
import pytest

from fedmed.errors import ConfigChangedError, DiskFullError, OutputNotWritableError, RunError
from fedmed.federated.checkpoint import load_latest, save_round
from fedmed.federated.runner import FederationState
from fedmed.types import RoundReport

pytestmark = pytest.mark.unit


def state_after(toy, number):
    return FederationState(number, toy.state(number), {}, tuple(RoundReport(i + 1, ("a",)) for i in range(number)))


def save(toy, folder, *numbers, keep=3):
    for number in numbers:
        save_round(folder, state_after(toy, number), config_digest="d", keep=keep)


def rounds_in(folder):
    return sorted(path.name for path in (folder / "rounds").iterdir())


def test_a_run_without_checkpoints_has_nothing_to_load(tmp_path):
    assert load_latest(tmp_path) is None
    assert load_latest(tmp_path / "absent") is None


def test_only_the_newest_rounds_are_kept(toy, tmp_path):
    save(toy, tmp_path, 1, 2, 3, 4, 5, keep=2)
    assert rounds_in(tmp_path) == ["0004", "0005"]
    assert load_latest(tmp_path).round == 5


def test_hospital_files_exist_only_for_hospitals_that_keep_something(toy, tmp_path):
    state = replace(state_after(toy, 1), hospital_states={"hospital_A": {}, "hospital_B": {"x": np.ones(2)}})
    folder = save_round(tmp_path, state, config_digest="d", keep=1)
    assert sorted(path.name for path in folder.iterdir()) == ["adapter.safetensors", "hospitals", "state.json"]
    assert [path.name for path in (folder / "hospitals").iterdir()] == ["hospital_B.safetensors"]
    assert set(load_latest(tmp_path).hospital_states) == {"hospital_B"}
    assert not (save_round(tmp_path, state_after(toy, 2), config_digest="d", keep=1) / "hospitals").exists()


def test_a_hospitals_name_cannot_lead_out_of_the_checkpoint(toy, tmp_path):
    state = replace(state_after(toy, 1), hospital_states={"../../evil": {"x": np.ones(2)}, "..": {"x": np.ones(1)}})
    folder = save_round(tmp_path / "run", state, config_digest="d", keep=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]
    assert len(list((folder / "hospitals").iterdir())) == 2
    assert set(load_latest(tmp_path / "run").hospital_states) == {"../../evil", ".."}


@pytest.mark.parametrize(
    "damage", ["cut adapter", "flipped adapter", "no adapter", "cut state", "no state", "edited state"]
)
def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_it_is_used(toy, tmp_path, caplog, damage):
    save(toy, tmp_path, 1, 2)
    adapter, state = (tmp_path / "rounds" / "0002" / name for name in ("adapter.safetensors", "state.json"))
    raw = adapter.read_bytes()
    if damage == "cut adapter":
        adapter.write_bytes(raw[: len(raw) // 2])
    elif damage == "flipped adapter":
        adapter.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    elif damage == "no adapter":
        adapter.unlink()
    elif damage == "cut state":
        state.write_bytes(state.read_bytes()[:40])
    elif damage == "no state":
        state.unlink()
    else:
        body = json.loads(state.read_text())
        body["round"] = 3
        state.write_text(json.dumps(body))
    with caplog.at_level(logging.WARNING):
        loaded = load_latest(tmp_path)
    assert loaded.round == 1
    assert toy.same_bits(loaded.global_state, toy.state(1))
    assert "0002" in caplog.text


def test_when_no_checkpoint_is_whole_the_error_names_each(toy, tmp_path):
    save(toy, tmp_path, 1, 2)
    for folder in (tmp_path / "rounds").iterdir():
        (folder / "adapter.safetensors").write_bytes(b"")
    with pytest.raises(RunError, match=r"0002.*0001"):
        load_latest(tmp_path)


def test_a_round_written_again_after_going_back_replaces_the_damaged_one(toy, tmp_path):
    save(toy, tmp_path, 1, 2, 3)
    for number in ("0002", "0003"):
        (tmp_path / "rounds" / number / "state.json").unlink()
    assert load_latest(tmp_path).round == 1
    save(toy, tmp_path, 2, keep=1)
    assert load_latest(tmp_path).round == 2  # round 3 is still damaged, and must not count as one that is kept


def test_other_settings_are_refused_and_the_same_ones_accepted(toy, tmp_path):
    save(toy, tmp_path, 1)
    assert load_latest(tmp_path, config_digest="d").round == 1
    with pytest.raises(ConfigChangedError, match="other settings"):
        load_latest(tmp_path, config_digest="e")


def test_a_full_disk_leaves_the_last_checkpoint_and_no_litter(toy, tmp_path):
    save(toy, tmp_path, 1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, limits[1]))
    try:
        with pytest.raises(DiskFullError, match="0002"):
            save(toy, tmp_path, 2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert rounds_in(tmp_path) == ["0001"]
    assert load_latest(tmp_path).round == 1


def test_a_run_folder_that_is_a_file_is_an_error_that_names_it(toy, tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(OutputNotWritableError, match="run"):
        save(toy, tmp_path / "run", 1)


def test_what_a_killed_process_left_half_written_is_ignored_and_then_removed(toy, tmp_path):
    save(toy, tmp_path, 1)
    shutil.copytree(tmp_path / "rounds" / "0001", tmp_path / "rounds" / ".0002.tmp")
    assert load_latest(tmp_path).round == 1
    save(toy, tmp_path, 2)
    assert rounds_in(tmp_path) == ["0001", "0002"]

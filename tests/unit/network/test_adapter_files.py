"""Where a run starts from and what it exports, without torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from fedmed.errors import ModelCorruptError, ModelNotFoundError
from fedmed.network.adapter_files import base_of, bring_start, export, read_start

pytestmark = pytest.mark.unit


@pytest.fixture
def start(tmp_path: Path, toy: Any) -> Path:
    folder = tmp_path / "start"
    folder.mkdir()
    save_file(toy.state("start"), folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"r": 2, "lora_alpha": 4, "use_rslora": False}))
    (folder / "base_model.json").write_text(json.dumps({"name": "toy", "fingerprint": "00"}))
    (folder / "base_digest.json").write_text(json.dumps({"digest": "ab"}))
    return folder


def test_what_is_exported_is_read_back_to_the_bit(start: Path, tmp_path: Path, toy: Any) -> None:
    state = toy.state("final")
    export(state, start, tmp_path / "adapter")
    assert toy.same_bits(load_file(tmp_path / "adapter" / "adapter_model.safetensors"), state)
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["r"] == 2
    assert (tmp_path / "adapter" / "base_model.json").is_file()


@pytest.mark.parametrize(("rslora", "alpha"), [(False, 12.0), (True, 4 * 3**0.5)])
def test_another_rank_keeps_the_scale(start: Path, tmp_path: Path, toy: Any, rslora: bool, alpha: float) -> None:
    (start / "adapter_config.json").write_text(json.dumps({"r": 2, "lora_alpha": 4, "use_rslora": rslora}))
    state = {name: np.repeat(array, 3, axis=0 if "lora_A" in name else 1) for name, array in toy.state("x").items()}
    export(state, start, tmp_path / "adapter")
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["r"] == 6
    assert config["lora_alpha"] == pytest.approx(alpha)


def test_a_start_that_was_made_elsewhere_is_brought_along_whole(start: Path, tmp_path: Path, toy: Any) -> None:
    bring_start(start, tmp_path / "run" / "start")
    assert toy.same_bits(read_start(tmp_path / "run" / "start"), toy.state("start"))
    assert base_of(tmp_path / "run" / "start") == "ab"


def test_a_start_that_is_missing_or_damaged_is_told_plainly(start: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"adapter_model\.safetensors"):
        read_start(tmp_path / "nowhere")
    (start / "adapter_model.safetensors").write_bytes(b"\x00" * 40)
    with pytest.raises(ModelCorruptError, match="damaged"):
        bring_start(start, tmp_path / "run" / "start")
    assert not (tmp_path / "run" / "start").exists()

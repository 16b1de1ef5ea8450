"""Several adapters on one base answer as each would alone on a base of its own."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from fedmed.config.schema import LoraSection
from fedmed.errors import AdapterMismatchError, ModelNotFoundError
from fedmed.model.adapter import attach_adapter, get_adapter_state, save_adapter, set_adapter_state
from fedmed.model.adapter_shelf import AdapterShelf
from fedmed.model.frozen_linear import read_once_by_few_rows
from fedmed.model.load_model import load_model_and_tokenizer
from fedmed.model.lora_setup import setup_lora
from fedmed.utils.random_streams import stream

pytestmark = pytest.mark.unit

IDS = torch.tensor([[2, 40, 41, 42, 43]])


def base(name: str = "builtin:tiny-llama") -> Any:
    return load_model_and_tokenizer(name)[0]


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        return model(input_ids=IDS).logits


def write(folder: Path, seed: int, *, rank: int = 4, name: str = "builtin:tiny-llama") -> Path:
    """A random adapter in a folder."""
    model = setup_lora(base(name), LoraSection(r=rank, target_modules=("q_proj", "v_proj")), seed=17)
    draw = stream(seed, "shelf")
    state = {key: draw.normal(0, 0.3, value.shape).astype("float32") for key, value in get_adapter_state(model).items()}
    set_adapter_state(model, state)
    save_adapter(state, folder, model)
    return folder


def alone(folder: Path) -> torch.Tensor:
    return logits(attach_adapter(base(), folder))


def test_every_adapter_and_the_base_answer_as_they_do_alone_in_any_order(tmp_path: Path) -> None:
    folders = [write(tmp_path / str(seed), seed, rank=rank) for seed, rank in ((1, 4), (2, 8))]
    expected = {folder: alone(folder) for folder in folders} | {None: logits(base())}
    shelf = AdapterShelf(base())
    for folder in (None, folders[0], folders[1], None, folders[0]):
        with shelf.using(folder) as model:
            assert torch.equal(logits(model), expected[folder])
    assert len({float(one.sum()) for one in expected.values()}) == 3


def test_what_was_not_used_for_longest_goes_and_comes_back(tmp_path: Path) -> None:
    folders = [write(tmp_path / str(seed), seed) for seed in range(3)]
    shelf = AdapterShelf(base(), most=2)
    for folder in (*folders, folders[0]):
        with shelf.using(folder) as model:
            assert torch.equal(logits(model), alone(folder))
            assert len(model.peft_config) <= 2 + 1


def test_an_adapter_that_was_written_anew_is_read_anew(tmp_path: Path) -> None:
    folder = write(tmp_path / "run", 1)
    shelf = AdapterShelf(base())
    with shelf.using(folder):
        pass
    write(folder, 2)
    file = folder / "adapter_model.safetensors"
    os.utime(file, ns=(file.stat().st_atime_ns, file.stat().st_mtime_ns + 1))
    with shelf.using(folder) as model:
        assert torch.equal(logits(model), alone(folder))


def test_an_adapter_of_another_model_is_refused_and_the_others_still_answer(tmp_path: Path) -> None:
    good, wrong = write(tmp_path / "good", 1), write(tmp_path / "wrong", 1, name="builtin:tiny-gemma")
    shelf = AdapterShelf(base())
    for folder, error in ((wrong, AdapterMismatchError), (tmp_path / "none", ModelNotFoundError)):
        with pytest.raises(error), shelf.using(folder):
            pass
    with shelf.using(good) as model:
        assert torch.equal(logits(model), alone(good))
    with pytest.raises(AdapterMismatchError), shelf.using(wrong):
        pass
    with shelf.using(None) as model:
        assert torch.equal(logits(model), logits(base()))


def test_a_head_made_for_few_rows_gives_the_same_products() -> None:
    head = torch.nn.Linear(32, 500, bias=False)
    draw = stream(3, "few rows")
    head.weight.data = torch.from_numpy(draw.normal(size=(500, 32)).astype("float32"))
    rows = [torch.from_numpy(draw.normal(size=(n, 1, 32)).astype("float32")) for n in (1, 2, 8, 16, 40)]
    with torch.inference_mode():
        expected = [head(x) for x in rows]
        read_once_by_few_rows(head)
        assert "forward" in vars(head) or not torch.backends.mkldnn.is_available()
        for x, wanted in zip(rows, expected, strict=True):
            torch.testing.assert_close(head(x), wanted, rtol=1e-5, atol=1e-5)


def test_heads_that_are_no_plain_float32_layer_stay_as_they_are() -> None:
    for other in (torch.nn.Linear(4, 8), torch.nn.Linear(4, 8, bias=False).bfloat16(), torch.nn.Identity(), None):
        read_once_by_few_rows(other)
        assert other is None or "forward" not in vars(other)

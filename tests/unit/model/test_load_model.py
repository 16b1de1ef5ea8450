"""Loading: what is found, what it carries, and one clear line for what cannot be loaded."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
from huggingface_hub import errors

from fedmed.config.schema import LoraSection, ModelSection
from fedmed.errors import HubError, ModelCorruptError, ModelError, ModelNotFoundError
from fedmed.model import hardware
from fedmed.model.adapter import adapter_sha256, get_adapter_state, set_adapter_state
from fedmed.model.hardware import place
from fedmed.model.load_model import load_model_and_tokenizer, shared_model
from fedmed.model.tiny import byte_tokenizer, tiny_model

pytestmark = pytest.mark.unit


def _config(name, **settings):
    return ModelSection(name=str(name), **{"device": "cpu", "dtype": "fp32", **settings})


@pytest.fixture
def folder(tmp_path):
    """A local model folder that save_pretrained wrote."""
    tiny_model("llama").save_pretrained(tmp_path / "model")
    byte_tokenizer().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def _no_network(monkeypatch):
    import socket

    def refuse(*args, **kwargs):
        raise OSError("no network in this test")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.mark.usefixtures("_no_network")
def test_a_local_folder_loads_without_network(folder):
    model, tokenizer = load_model_and_tokenizer(config=_config(folder))
    ids = torch.arange(3, 40)[None]
    with torch.no_grad():
        assert torch.equal(model(ids).logits, tiny_model("llama")(ids).logits)
    assert tokenizer("Why?").input_ids == byte_tokenizer()("Why?").input_ids
    assert model.config._attn_implementation == "sdpa"
    assert not model.training


def test_a_loaded_model_carries_its_tokenizer_and_settings(folder):
    config = _config("builtin:tiny-gemma", max_length=99)
    model, tokenizer = load_model_and_tokenizer(str(folder), config=config)
    assert model.fedmed_tokenizer is tokenizer
    assert model.fedmed_name == str(folder)
    assert model.fedmed_config == config.model_copy(update={"name": str(folder)})


def test_without_arguments_the_default_settings_count(monkeypatch):
    monkeypatch.setenv("FEDMED_SET", "model.name=builtin:tiny-llama model.max_length=64")
    model, _ = load_model_and_tokenizer()
    assert (model.fedmed_name, model.fedmed_config.max_length) == ("builtin:tiny-llama", 64)


def test_the_dtype_is_the_asked_one(folder):
    assert load_model_and_tokenizer(config=_config(folder, dtype="bf16"))[0].dtype == torch.bfloat16
    assert load_model_and_tokenizer(config=_config("builtin:tiny-llama", dtype="bf16"))[0].dtype == torch.bfloat16


def test_loading_says_where_and_why(caplog):
    with caplog.at_level("INFO", logger="fedmed"):
        load_model_and_tokenizer(config=_config("builtin:tiny-llama"))
    assert "loading builtin:tiny-llama on cpu (as set), float32 (as set)" in caplog.text
    assert "random weights" in caplog.text


def test_truncated_weights_are_corrupt_and_named(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(ModelCorruptError, match="model.safetensors"):
        load_model_and_tokenizer(config=_config(folder))


def test_missing_weights_are_corrupt_and_never_made_up(folder):
    from safetensors.torch import load_file, save_file

    path = folder / "model.safetensors"
    weights = load_file(path)
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(ModelCorruptError, match="lacks 1 weights, model.layers.1.mlp.up_proj.weight"):
        load_model_and_tokenizer(config=_config(folder))


def test_weights_of_other_shapes_are_corrupt(folder):
    config = json.loads((folder / "config.json").read_text())
    config["intermediate_size"] = 32
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelCorruptError):
        load_model_and_tokenizer(config=_config(folder))


@pytest.mark.parametrize("content", ['{"model_type": "lla', '{"model_type": "nobody_knows"}', "[]"])
def test_a_broken_configuration_is_corrupt(folder, content):
    (folder / "config.json").write_text(content)
    with pytest.raises(ModelCorruptError):
        load_model_and_tokenizer(config=_config(folder))


def test_a_folder_without_configuration_is_not_found(folder):
    (folder / "config.json").unlink()
    with pytest.raises(ModelNotFoundError, match="config.json"):
        load_model_and_tokenizer(config=_config(folder))


def test_a_folder_without_weights_is_not_found(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelNotFoundError, match="safetensors"):
        load_model_and_tokenizer(config=_config(folder))


def test_a_folder_without_tokenizer_is_an_error(folder):
    for path in folder.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(ModelError):
        load_model_and_tokenizer(config=_config(folder))


@pytest.mark.parametrize("name", ["./absent", "/absent/model", "~/absent-model", "a/b/c", "builtin:absent"])
@pytest.mark.usefixtures("_no_network")
def test_a_missing_folder_is_not_looked_for_on_the_hub(name):
    with pytest.raises(ModelNotFoundError, match="there is no"):
        load_model_and_tokenizer(config=_config(name))


def test_a_plain_file_is_no_model(tmp_path):
    (tmp_path / "notes.txt").write_text("notes")
    with pytest.raises(ModelNotFoundError, match="neither"):
        load_model_and_tokenizer(config=_config(tmp_path / "notes.txt"))


@pytest.mark.usefixtures("_no_network")
def test_a_hub_that_cannot_be_reached_is_a_hub_error(monkeypatch):
    with pytest.raises(HubError, match="nobody/nothing") as caught:
        load_model_and_tokenizer(config=_config("nobody/nothing"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("answer", "expected", "words"),
    [
        (errors.RepositoryNotFoundError, ModelNotFoundError, "neither"),
        (errors.GatedRepoError, HubError, "login"),
        (errors.HfHubHTTPError, HubError, "did not give"),
    ],
)
def test_what_the_hub_says_becomes_one_line(monkeypatch, answer, expected, words):
    def refuse(*args, **kwargs):
        response = SimpleNamespace(headers={}, request=None, status_code=503)
        raise answer("503 Server Error\nand more", response=response)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(expected, match=words) as caught:
        load_model_and_tokenizer(config=_config("owner/model"))
    assert "owner/model" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_hub_model_is_loaded_from_the_folder_the_hub_gives(monkeypatch, folder):
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **_: str(folder))
    assert load_model_and_tokenizer(config=_config("owner/model"))[0].fedmed_name == "owner/model"


def test_a_tokenizer_without_padding_pads_with_its_end(folder):
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "pad_token"}))
    tokenizer = load_model_and_tokenizer(config=_config(folder))[1]
    assert tokenizer.pad_token_id == tokenizer.eos_token_id


def test_a_tokenizer_without_end_is_refused(folder):
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "eos_token"}))
    with pytest.raises(ModelError, match="end-of-sequence"):
        load_model_and_tokenizer(config=_config(folder))


def test_one_model_is_shared_for_equal_settings():
    config = _config("builtin:tiny-llama", lora=LoraSection(r=2))
    model, tokenizer = shared_model(config, 17)
    again, _ = shared_model(_config("builtin:tiny-llama", lora=LoraSection(r=2)), 17)
    assert again is model
    assert model.fedmed_tokenizer is tokenizer
    assert all(2 in array.shape for array in get_adapter_state(model).values())
    assert shared_model(config, 18)[0] is not model


def test_a_shared_model_is_handed_out_at_its_start():
    config = _config("builtin:tiny-llama", lora=LoraSection(r=2))
    model, _ = shared_model(config, 17)
    start = get_adapter_state(model)
    set_adapter_state(model, {key: array + 1 for key, array in start.items()})
    again = get_adapter_state(shared_model(config, 17)[0])
    assert adapter_sha256(again) == adapter_sha256(start)


def test_four_bit_needs_cuda():
    with pytest.raises(ModelError, match="CUDA"):
        place(_config("builtin:tiny-llama", quantization="4bit"))


def test_a_device_that_is_not_there_is_an_error(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ModelError, match="cuda:3"):
        place(_config("x", device="cuda:3"))


def test_auto_takes_bf16_on_a_gpu_that_has_it(monkeypatch):
    auto = ModelSection()
    for there, bf16, expected in (
        (True, True, ("cuda", torch.bfloat16)),
        (True, False, ("cuda", torch.float32)),
        (False, False, ("cpu", torch.float32)),
    ):
        monkeypatch.setattr(hardware.torch.cuda, "is_available", lambda there=there: there)
        monkeypatch.setattr(hardware.torch.cuda, "is_bf16_supported", lambda bf16=bf16: bf16)
        chosen = place(auto)
        assert (chosen.device.type, chosen.dtype) == expected


def test_a_copied_folder_loads_the_same(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "moved")
    ids = torch.arange(3, 40)[None]
    first, second = (load_model_and_tokenizer(config=_config(path))[0] for path in (folder, tmp_path / "moved"))
    with torch.no_grad():
        assert torch.equal(first(ids).logits, second(ids).logits)

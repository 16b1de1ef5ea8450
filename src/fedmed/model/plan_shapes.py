"""A model's shape from its configuration alone: no weights are read and nothing is asked of a hub.

Not covered: configurations that need code which comes with the model.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from fedmed.config.schema import LoraSection
from fedmed.errors import ModelCorruptError, ModelNotFoundError
from fedmed.model import builtin, tiny
from fedmed.model.lora_setup import check_targets, peft_lora_config
from fedmed.model.wrap import wrap
from fedmed.utils.extras import require

MISTRAL_7B = "mistralai/Mistral-7B-v0.1"
_MISTRAL_SHAPE = {
    "vocab_size": 32_000, "hidden_size": 4096, "intermediate_size": 14_336, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 32_768, "sliding_window": 4096,
    "tie_word_embeddings": False,
}  # fmt: skip
_GEMMA_SHAPE = {
    "vocab_size": 262_144, "hidden_size": 640, "intermediate_size": 2048, "num_hidden_layers": 18,
    "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 256, "sliding_window": 512,
    "max_position_embeddings": 32_768, "tie_word_embeddings": True,
}  # fmt: skip


def shape_of(name: str) -> Any:
    """The transformers configuration of a model.

    Args:
        name: a builtin, a folder that holds ``config.json``, such a file, or the hub id that ``gpu_32gb`` names.

    Raises:
        ModelNotFoundError: it is none of these. ModelCorruptError: the file cannot be read.
    """
    transformers = require("transformers", "train")
    if name == builtin.GEMMA:
        return transformers.Gemma3TextConfig(**_GEMMA_SHAPE)
    if name in builtin.TINY:
        return tiny.tiny_config(builtin.TINY[name])
    if name == MISTRAL_7B:
        return transformers.MistralConfig(**_MISTRAL_SHAPE)
    path = Path(name).expanduser()
    file = path / "config.json" if path.is_dir() else path
    if not file.is_file():
        raise ModelNotFoundError(f"there is no configuration for '{name}' here", "pass --model PATH/config.json")
    try:
        return transformers.AutoConfig.from_pretrained(str(file), local_files_only=True)
    except (ValueError, KeyError, OSError, TypeError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelCorruptError(f"{file} is no model configuration ({first})", "check --model") from error


def build_shape(config: Any, lora: LoraSection, dtype: torch.dtype) -> Any:
    """The PEFT model of a configuration, without memory: on the meta device; see ``on_fake_cpu``.

    Raises:
        TargetModuleError: an adapted layer is not there.
    """
    transformers = require("transformers", "train")
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=dtype)
        check_targets(model, lora.target_modules)
        return wrap(model, peft_lora_config(lora))


def on_fake_cpu(model: Any) -> None:
    """Inside a ``FakeTensorMode``: every parameter and buffer gets a shape on the CPU, whose kernels then run."""
    fresh: dict[int, torch.Tensor] = {}  # tied parameters stay tied
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                if id(parameter) not in fresh:
                    empty = torch.empty(parameter.shape, dtype=parameter.dtype)
                    fresh[id(parameter)] = torch.nn.Parameter(empty, requires_grad=parameter.requires_grad)
                module._parameters[name] = fresh[id(parameter)]
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)

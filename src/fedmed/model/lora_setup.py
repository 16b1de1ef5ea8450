"""Give a base model a fresh LoRA adapter; the base is frozen.

Source: Hu et al. 2021, arXiv:2106.09685; rsLoRA: Kalajdzievski 2023, arXiv:2312.03732; DoRA: Liu et al. 2024,
arXiv:2402.09353. All three as PEFT implements them.
Not covered: adapters on embeddings or convolutions, more than one adapter at a time.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from fedmed.config.load import default_config
from fedmed.config.schema import LoraSection
from fedmed.errors import TargetModuleError
from fedmed.model.adapter import adapter_parameters
from fedmed.model.wrap import refuse_second_adapter, wrap
from fedmed.utils.extras import require
from fedmed.utils.logger import get_logger
from fedmed.utils.random_streams import stream_seed

log = get_logger(__name__)


def setup_lora(model: Any, config: LoraSection | None = None, *, seed: int = 17) -> Any:
    """Wrap ``model`` in a LoRA adapter that changes nothing yet (B is zero).

    Args:
        model: from ``load_model_and_tokenizer``; changed in place.
        config: rank, scale, targets; None: the settings the model was loaded with, else the defaults.
        seed: of A; the start depends on it and on the layers' names only, and torch's global generator stays as it
            was.

    Returns:
        The PEFT model. Adapter parameters are float32, also on a bf16 base.

    Raises:
        TargetModuleError: a target is not there or is not a linear layer; lists those that are.
        ModelError: the model has an adapter already.
    """
    if config is None:
        loaded_with = getattr(model, "fedmed_config", None)
        config = (loaded_with or default_config().model).lora
    refuse_second_adapter(model)
    check_targets(model, config.target_modules)
    peft_model = wrap(model, peft_lora_config(config))
    draw_start(peft_model, seed)
    trainable, total = trainable_share(peft_model)
    log.info(
        "LoRA r=%d: an adapter of %s parameters, %.2f %% of all %s",
        config.r,
        f"{trainable:,}",
        100 * trainable / total,
        f"{total:,}",
    )
    return peft_model


def peft_lora_config(config: LoraSection) -> Any:
    """PEFT's own configuration of the adapter that our settings describe."""
    peft = require("peft", "train")
    return peft.LoraConfig(
        task_type="CAUSAL_LM",
        r=config.r,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=list(config.target_modules),
        use_rslora=config.use_rslora,
        use_dora=config.use_dora,
    )


def trainable_share(model: Any) -> tuple[int, int]:
    """How many parameters train, and how many there are in all; 4-bit weights count as what they stand for."""
    if hasattr(model, "get_nb_trainable_parameters"):
        trainable, total = model.get_nb_trainable_parameters()
        return int(trainable), int(total)
    sizes = [(parameter.requires_grad, parameter.numel()) for parameter in model.parameters()]
    return sum(size for trains, size in sizes if trains), sum(size for _, size in sizes)


def linear_names(model: Any) -> list[str]:
    """Last names of the linear layers that can carry an adapter, e.g. ``["down_proj", …, "v_proj"]``."""
    head = model.get_output_embeddings()
    return sorted(
        {name.rsplit(".", 1)[-1] for name, module in model.named_modules() if _is_linear(module) and module is not head}
    )


def check_targets(model: Any, targets: tuple[str, ...]) -> None:
    """Each target names at least one layer, and only linear ones. Raises TargetModuleError."""
    modules = dict(model.named_modules())
    for target in targets:
        hit = [module for name, module in modules.items() if name == target or name.endswith(f".{target}")]
        if not hit or not all(_is_linear(module) for module in hit):
            problem = "has no layer" if not hit else "has no linear layer"
            raise TargetModuleError(
                f"the model {problem} named '{target}'",
                f"set model.lora.target_modules to some of: {', '.join(linear_names(model))}",
            )


def draw_start(peft_model: Any, seed: int) -> None:
    """A as PEFT draws it (Kaiming uniform, a = sqrt 5), but each matrix from a stream of its own; B = 0."""
    with torch.no_grad():
        for key, parameter in adapter_parameters(peft_model).items():
            if key.endswith("lora_A.weight"):
                generator = torch.Generator().manual_seed(stream_seed(seed, "lora", key))
                start = torch.empty(parameter.shape, dtype=torch.float32)
                torch.nn.init.kaiming_uniform_(start, a=math.sqrt(5), generator=generator)
                parameter.copy_(start)
            elif key.endswith("lora_B.weight"):
                parameter.zero_()


def _is_linear(module: Any) -> bool:
    # bitsandbytes' 4-bit layer is a subclass of torch.nn.Linear
    return isinstance(module, torch.nn.Linear)

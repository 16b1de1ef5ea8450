"""Put PEFT's layers on a base model, once, without touching torch's global generators."""

from __future__ import annotations

import warnings
from typing import Any

from fedmed.errors import ModelError
from fedmed.model.hardware import keep_global_generators
from fedmed.utils.extras import require


def refuse_second_adapter(model: Any) -> None:
    """Raises ModelError when ``model`` carries an adapter already."""
    if any(hasattr(module, "lora_A") for module in model.modules()):
        raise ModelError("the model has a LoRA adapter already", "load the base model again")


def wrap(model: Any, peft_config: Any, name: str = "default") -> Any:
    """PEFT's ``get_peft_model``; torch's global generators, which it draws from, are put back."""
    peft = require("peft", "train")
    with keep_global_generators(), warnings.catch_warnings():
        # PEFT still asks transformers by the old name; nothing a user could mend.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        return peft.get_peft_model(model, peft_config, adapter_name=name)

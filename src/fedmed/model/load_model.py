"""Load a base model with its tokenizer: packaged, from a GGUF file, a local folder or the hub.

Only a hub id may use the network. Code that comes with a model is never run (``trust_remote_code`` stays off).
Not covered: models that need several devices, encoder-decoder models.
"""

from __future__ import annotations

import contextlib
import functools
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from fedmed.config.load import default_config
from fedmed.config.schema import ModelSection
from fedmed.errors import ModelCorruptError, ModelError, ModelNotFoundError
from fedmed.model import builtin, tiny
from fedmed.model.adapter import get_adapter_state, set_adapter_state
from fedmed.model.hardware import Placement, place
from fedmed.model.hub import hub_folder
from fedmed.model.lora_setup import setup_lora
from fedmed.types import AdapterState
from fedmed.utils.cache import cache_root
from fedmed.utils.extras import require
from fedmed.utils.logger import get_logger

log = get_logger(__name__)

_AGAIN = "get the model again"
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


def load_model_and_tokenizer(name: str | None = None, *, config: ModelSection | None = None) -> tuple[Any, Any]:
    """Load a causal language model.

    Args:
        name: ``builtin:gemma-3-270m``, ``builtin:tiny-llama``, ``builtin:tiny-gemma``, a ``.gguf`` file, a local folder
            or a hub id; None: the one of ``config``.
        config: dtype, device, prompt …; None: the defaults.

    Returns:
        The model, in evaluation mode, and its tokenizer. The model also carries both the tokenizer and its settings:
        ``model.fedmed_tokenizer``, ``model.fedmed_config``, ``model.fedmed_name``.

    Raises:
        ModelNotFoundError, ModelCorruptError, HubError, MissingExtraError.
        ModelError: the device is not there, or the tokenizer has no end-of-sequence token.
    """
    config = config or default_config().model
    if name is not None:
        config = config.model_copy(update={"name": name})
    placement = place(config)
    log.info("loading %s on %s", config.name, placement.reason)
    started = time.perf_counter()
    if config.name in builtin.TINY:
        log.info("%s has random weights: for tests only, it cannot answer", config.name)
        model = tiny.tiny_model(builtin.TINY[config.name]).to(placement.device, placement.dtype)
        tokenizer = tiny.byte_tokenizer()
    else:
        with _quiet():
            model, tokenizer = _load(_find(config.name), placement, config)
    _complete_tokenizer(tokenizer, config.name)
    model.eval()
    model.fedmed_tokenizer = tokenizer
    model.fedmed_config = config
    model.fedmed_name = config.name
    log.info("loaded in %.1f s", time.perf_counter() - started)
    return model, tokenizer


def shared_model(config: ModelSection, seed: int) -> tuple[Any, Any]:
    """The one base model with one LoRA adapter that this process works on, whatever the number of hospitals.

    The adapter is put back to the start that the seed draws, at every call. Other settings or another seed load anew.
    """
    model, tokenizer, start = _shared(config, seed)
    set_adapter_state(model, start, any_rank=True)  # a run that folds leaves it with a larger rank
    return model, tokenizer


@functools.lru_cache(maxsize=1)
def _shared(config: ModelSection, seed: int) -> tuple[Any, Any, AdapterState]:
    base, tokenizer = load_model_and_tokenizer(config=config)
    model = setup_lora(base, config.lora, seed=seed)
    return model, tokenizer, get_adapter_state(model)


def _find(name: str) -> Path:
    """The folder that holds the model, after conversion or download."""
    if name == builtin.GEMMA:
        return builtin.gemma_folder()
    if name.startswith("builtin:"):
        raise ModelNotFoundError(f"there is no model '{name}'", f"builtin models: {', '.join(builtin.NAMES)}")
    path = Path(name).expanduser()
    if path.suffix.lower() == ".gguf":
        return builtin.gguf_folder(path)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelNotFoundError(f"there is no config.json in {path}", "choose a folder that save_pretrained wrote")
        return path
    if path.exists():
        raise ModelNotFoundError(f"{path} is neither a model folder nor a .gguf file", "check model.name")
    if not _HUB_ID.fullmatch(name) or name.startswith("."):
        raise ModelNotFoundError(f"there is no folder {path}", "check model.name")
    return hub_folder(name)


def _load(folder: Path, placement: Placement, config: ModelSection) -> tuple[Any, Any]:
    from safetensors import SafetensorError

    transformers = require("transformers", "train")
    options: dict[str, Any] = {"dtype": placement.dtype, "output_loading_info": True}
    if config.quantization == "4bit":
        options |= _four_bit(placement)
    _check_weights(folder)
    source = str(folder)
    try:
        if config.name == builtin.GEMMA:
            tokenizer = builtin.gemma_tokenizer(folder)
        else:
            tokenizer = transformers.AutoTokenizer.from_pretrained(source, local_files_only=True)
        model, info = transformers.AutoModelForCausalLM.from_pretrained(
            source, local_files_only=True, use_safetensors=True, **options
        )
        if config.quantization is None:
            model = model.to(placement.device)
    except torch.OutOfMemoryError as error:
        raise ModelError(
            f"'{config.name}' does not fit into the memory of {placement.device}",
            "set model.quantization=4bit or choose a smaller model",
        ) from error
    except (SafetensorError, OSError, ValueError, TypeError, KeyError, RuntimeError) as error:
        raise ModelCorruptError(f"the model in {folder} cannot be loaded ({_first_line(error)})", _AGAIN) from error
    if missing := sorted(info["missing_keys"]):  # transformers would fill them with random numbers
        raise ModelCorruptError(f"the model in {folder} lacks {len(missing)} weights, {missing[0]} among them", _AGAIN)
    return model, tokenizer


def _check_weights(folder: Path) -> None:
    """Open every weights file, so that a damaged one is named."""
    from safetensors import SafetensorError, safe_open

    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ModelNotFoundError(f"there is no .safetensors file in {folder}", "save the model with safetensors")
    for path in files:
        try:
            with safe_open(path, framework="pt"):
                pass
        except SafetensorError as error:
            hint = "remove the folder to prepare it again" if folder.is_relative_to(cache_root()) else _AGAIN
            raise ModelCorruptError(f"{path} is truncated or no safetensors file ({error})", hint) from error


def _four_bit(placement: Placement) -> dict[str, Any]:
    """NF4 with double quantisation: Dettmers et al. 2023, arXiv:2305.14314."""
    transformers = require("transformers", "train")
    require("bitsandbytes", "gpu")
    quantization = transformers.BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=placement.dtype,
    )
    return {"quantization_config": quantization, "device_map": {"": placement.device}}


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def _complete_tokenizer(tokenizer: Any, name: str) -> None:
    if tokenizer.eos_token_id is None:
        raise ModelError(f"the tokenizer of '{name}' has no end-of-sequence token", "choose a causal language model")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No second progress bar under ours, and no table of loaded keys: missing ones are an error here."""
    chatter = require("transformers.utils.logging", "train")
    level, bars = chatter.get_verbosity(), chatter.is_progress_bar_enabled()
    chatter.set_verbosity_error()
    chatter.disable_progress_bar()
    try:
        yield
    finally:
        chatter.set_verbosity(level)
        if bars:
            chatter.enable_progress_bar()

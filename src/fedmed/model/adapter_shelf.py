"""Adapters of several runs on one base model in memory, one in use at a time. adapter -> HERE -> serving.

An adapter is read when it is first asked for and again when its file has changed; the one not used for longest goes.
Not covered: different adapters in one pass; a base model that carried an adapter before.
"""

from __future__ import annotations

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from fedmed.errors import AdapterMismatchError
from fedmed.model.adapter import WEIGHTS, adapter_for, check_same_layout
from fedmed.model.frozen_linear import read_once_by_few_rows
from fedmed.model.hardware import keep_global_generators
from fedmed.model.wrap import refuse_second_adapter, wrap
from fedmed.types import AdapterState
from fedmed.utils.extras import require

MOST = 8
"""Adapters kept in memory."""


class AdapterShelf:
    """One base model.

    Args:
        base: from ``load_model_and_tokenizer``; belongs to the shelf from now on.
        most: adapters kept in memory.

    Raises:
        ModelError: it has an adapter already.
    """

    def __init__(self, base: Any, *, most: int = MOST) -> None:
        refuse_second_adapter(base)
        read_once_by_few_rows(base.get_output_embeddings())  # the largest product of a written token by far
        self._base, self._most = base, most
        self._wrapped: Any = None  # PEFT's model, once there is an adapter
        self._names: OrderedDict[tuple[str, int, int], str] = OrderedDict()  # file, as it was -> PEFT's name of it
        self._made = 0
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def using(self, folder: Path | None) -> Iterator[Any]:
        """The model with the adapter of a folder, or without any; nobody else uses it meanwhile.

        Raises:
            AdapterMismatchError, ModelNotFoundError, ModelCorruptError: the adapter cannot be used; others still can.
        """
        with self._lock:
            if folder is not None:
                self._wrapped_with(Path(folder))
                yield self._wrapped
            elif self._wrapped is None:
                yield self._base
            else:
                with self._wrapped.disable_adapter():
                    yield self._wrapped

    def _wrapped_with(self, folder: Path) -> None:
        key = _key(folder)
        if key not in self._names:
            self._names[key] = self._add(folder)
        self._names.move_to_end(key)
        self._wrapped.set_adapter(self._names[key])
        while len(self._names) > self._most:
            _, oldest = self._names.popitem(last=False)
            self._wrapped.delete_adapter(oldest)

    def _add(self, folder: Path) -> str:
        state, config = adapter_for(self._base, folder)
        self._made += 1
        name = f"shelf_{self._made}"
        if self._wrapped is None:
            self._wrapped = wrap(self._base, config, name)
        else:
            with keep_global_generators():
                self._wrapped.add_adapter(name, config)
        try:
            self._fill(name, state)
        except BaseException:
            self._take_back(name)
            raise
        self._wrapped.eval()
        return name

    def _fill(self, name: str, state: AdapterState) -> None:
        peft = require("peft", "train")
        there = peft.get_peft_model_state_dict(self._wrapped, adapter_name=name, save_embedding_layers=False)
        check_same_layout(state, there)
        tensors = {key: torch.from_numpy(array) for key, array in state.items()}
        unknown = peft.set_peft_model_state_dict(self._wrapped, tensors, adapter_name=name).unexpected_keys
        if unknown:
            raise AdapterMismatchError(f"the adapter has unknown {unknown[0]}", "it was made for another model")

    def _take_back(self, name: str) -> None:
        if len(self._wrapped.peft_config) > 1:
            self._wrapped.delete_adapter(name)
        else:
            self._base = self._wrapped.unload()
            self._wrapped = None


def _key(folder: Path) -> tuple[str, int, int]:
    path = folder.resolve() / WEIGHTS
    try:
        there = path.stat()
    except OSError:
        return str(path), 0, 0  # reading it says what is wrong
    return str(path), there.st_mtime_ns, there.st_size

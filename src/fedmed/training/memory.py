"""What one training step holds in memory, counted on tensors that have shapes but no data. engine -> HERE -> plan.

The engine's own forward and backward, or the plain path's where a LoRA setting asks for it, run under torch's
``FakeTensorMode``; every allocation is counted while it lives.
Not covered: the allocator's fragmentation and kernels' scratch space, which ``fedmed plan`` adds or names; models that
the engine's probe sends to the plain path, which only their weights can tell.
"""

from __future__ import annotations

import statistics
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from fedmed.config.schema import FedMedConfig, TrainingSection
from fedmed.data.encode import EncodedRow
from fedmed.model.adapter import adapter_parameters
from fedmed.model.frozen_linear import product
from fedmed.model.packed_lora import HospitalAdapter, Pass, installed, setting_against
from fedmed.model.packing import pack_rows, token_losses
from fedmed.model.plan_shapes import build_shape, on_fake_cpu
from fedmed.training.engine import TOKENS_PER_WAVE, Engine, Part, place_in_wave
from fedmed.training.stepper import autocast, use_checkpointing
from fedmed.types import AdapterState

PROMPT_TOKENS = 16
"""Of each row; the rest is answer, which is the costly part."""

_NF4_BITS = 4 + 0.127  # 4 bits and double-quantised scales: Dettmers et al. 2023, arXiv:2305.14314


@dataclass(frozen=True, slots=True)
class StepMemory:
    """Bytes; the sum of all is the peak of one step."""

    weights: int  # of the frozen base
    adapters: int  # PEFT's own copy, the hospitals' and their gradients
    optimiser: int  # AdamW's two moments
    activations: int  # what forward keeps for backward, and backward's own, at the peak
    logits: int  # slices of the output layer's result alive at the peak
    tokens: int  # of the pass
    adapter_numbers: int  # of one hospital
    adapter_shapes: Mapping[str, tuple[int, ...]]  # by PEFT's keys
    body_parameters: int  # that multiply every token
    head_parameters: int
    lookup_parameters: int  # of embeddings that are no output layer: looked up, not multiplied

    @property
    def peak(self) -> int:
        return self.weights + self.adapters + self.optimiser + self.activations + self.logits


def step_memory(config: FedMedConfig, shape: Any, dtype: torch.dtype, *, bf16: bool, hospitals: int) -> StepMemory:
    """Count one pass of full-length rows.

    Args:
        config: settings of the run.
        shape: the model's configuration, from ``shape_of``.
        dtype: of the frozen base.
        bf16: whether the arithmetic is bf16 under autocast.
        hospitals: that train side by side at most; as many as fit into a pass do.
    """
    training, model_config = config.training, config.model
    model = build_shape(shape, model_config.lora, dtype)
    with FakeTensorMode(allow_non_fake_inputs=True):
        on_fake_cpu(model)
        named = adapter_parameters(model)
        numbers = sum(parameter.numel() for parameter in named.values())
        head = model.get_output_embeddings().weight
        frozen = {id(p): p for p in model.parameters() if id(p) not in {id(q) for q in named.values()}}
        total = sum(parameter.numel() for parameter in frozen.values())
        weights = sum(parameter.numel() * parameter.element_size() for parameter in frozen.values())
        if model_config.quantization == "4bit":
            linear = _linear_numbers(model)
            weights += int(linear * (_NF4_BITS / 8 - dtype.itemsize))
        rows = [
            EncodedRow(tuple([3] * model_config.max_length), min(PROMPT_TOKENS, model_config.max_length - 1))
        ] * training.batch_size
        own_tokens = training.batch_size * model_config.max_length
        plain = setting_against(model_config.lora.dropout, model_config.lora.use_dora) is not None
        side_by_side = 1
        if training.engine == "packed" and not plain:
            side_by_side = max(1, min(hospitals, TOKENS_PER_WAVE // place_in_wave(own_tokens)))
        counter = _Counter()
        if plain:
            _count_plain(counter, model, rows, _with_precision(training, bf16))
        else:
            start = {key: np.zeros(tuple(parameter.shape), dtype=np.float32) for key, parameter in named.items()}
            _count_engine(counter, model, [start] * side_by_side, rows, _with_precision(training, bf16))
        tables = {id(m.weight): m.weight for m in model.modules() if isinstance(m, torch.nn.Embedding)}
        lookup = sum(table.numel() for table in tables.values() if table is not head)
        dequantised = 0
        if model_config.quantization == "4bit":
            dequantised = max(m.weight.numel() for m in model.modules() if _plain_linear(m, head)) * 2
    return StepMemory(
        weights=weights,
        adapters=4 * numbers * (1 + 2 * side_by_side),
        optimiser=8 * numbers * side_by_side,
        activations=counter.peak - counter.loss_at_peak + dequantised,
        logits=counter.loss_at_peak,
        tokens=own_tokens * side_by_side,
        adapter_numbers=numbers,
        adapter_shapes={key: tuple(parameter.shape) for key, parameter in named.items()},
        body_parameters=total - head.numel() - lookup,
        head_parameters=head.numel(),
        lookup_parameters=lookup,
    )


def _count_engine(
    counter: _Counter,
    model: Any,
    starts: Sequence[AdapterState],
    rows: Sequence[EncodedRow],
    training: TrainingSection,
) -> None:
    engine = Engine(model, training)
    adapters = [HospitalAdapter(start, None, engine.device) for start in starts]
    answers = sum(len(row.input_ids) - row.prompt_length for row in rows)
    current = Pass(engine.device)
    model.train()
    engine.loss = counter.of_loss(engine.loss)
    with counter, installed(model, current):
        engine.pass_losses(current, [Part(adapter, adapter.gradient, answers, rows) for adapter in adapters])


def _count_plain(counter: _Counter, model: Any, rows: Sequence[EncodedRow], training: TrainingSection) -> None:
    """The plain path: whole logits, and the model's own attention, of the rows of one micro-batch in one pass."""
    use_checkpointing(model, training.gradient_checkpointing)
    pack = pack_rows([(row.input_ids, row.prompt_length) for row in rows])
    model.train()
    counter.vocabulary = model.get_output_embeddings().weight.shape[0]
    with counter:
        with autocast(training, torch.device("cpu")):
            losses = token_losses(model, pack)
        torch.autograd.backward(losses.sum())


def precision_of(config: FedMedConfig, *, gpu: bool) -> tuple[torch.dtype, bool]:
    """The base's number format, and whether the arithmetic is bf16, on a machine that may not be this one."""
    asked = config.model.dtype
    dtype = torch.bfloat16 if asked == "bf16" or (asked == "auto" and gpu) else torch.float32
    return dtype, config.training.precision == "bf16" or (config.training.precision == "auto" and gpu)


def machine_rate(
    multiply: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = product, *, size: int = 1024, runs: int = 5
) -> float:
    """FLOP/s of a product of two float32 squares on this CPU, the median of some runs after one to warm up."""
    draw = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(size, size, generator=draw) for _ in range(2))
    multiply(x, weight)
    times = []
    for _ in range(runs):
        started = time.perf_counter()
        multiply(x, weight)
        times.append(time.perf_counter() - started)
    return float(2 * size**3 / statistics.median(times))


def _with_precision(training: TrainingSection, bf16: bool) -> TrainingSection:
    # nothing is compiled on tensors without data
    return training.model_copy(update={"precision": "bf16" if bf16 else "fp32", "compile": "off"})


def _plain_linear(module: Any, head: torch.Tensor) -> bool:
    return isinstance(module, torch.nn.Linear) and module.weight is not head and not module.weight.requires_grad


def _linear_numbers(model: Any) -> int:
    """Of the layers that bitsandbytes quantises: all linear ones but the output layer."""
    head = model.get_output_embeddings().weight
    return sum(module.weight.numel() for module in model.modules() if _plain_linear(module, head))


class _Counter(TorchDispatchMode):
    """Bytes of the tensors made inside it that are still alive, and the largest sum of them."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.held = self.peak = 0
        self.loss_held = self.loss_at_peak = 0
        self.vocabulary = 0  # tensors of this width are logits too
        self._in_loss = False
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        before = {id(t.untyped_storage()) for t in tree_iter((args, kwargs)) if isinstance(t, torch.Tensor)}
        result = func(*args, **(kwargs or {}))
        for tensor in tree_iter(result):
            if isinstance(tensor, torch.Tensor):
                wide = bool(self.vocabulary and tensor.dim() and tensor.shape[-1] == self.vocabulary)
                self._count(tensor.untyped_storage(), before, self._in_loss or wide)
        return result

    def _count(self, storage: Any, before: set[int], in_loss: bool) -> None:
        if id(storage) in before or id(storage) in self._known:
            return  # a view, or in place
        size = storage.nbytes()
        self._known.add(id(storage))
        self._move(size, in_loss)
        weakref.finalize(storage, self._free, id(storage), size, in_loss)

    def _free(self, number: int, size: int, in_loss: bool) -> None:
        self._known.discard(number)
        self._move(-size, in_loss)

    def _move(self, size: int, in_loss: bool) -> None:
        self.held += size
        self.loss_held += size if in_loss else 0
        if self.held > self.peak:
            self.peak, self.loss_at_peak = self.held, self.loss_held

    def of_loss(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The same function; what is allocated inside it counts as the loss's."""

        def watched(*args: Any, **kwargs: Any) -> Any:
            self._in_loss = True
            try:
                return function(*args, **kwargs)
            finally:
                self._in_loss = False

        return watched

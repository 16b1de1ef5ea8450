"""One AdamW over one LoRA adapter: forward, backward, clip, step, on packed rows."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from fedmed.config.schema import TrainingSection
from fedmed.data.encode import EncodedRow
from fedmed.errors import NonFiniteLossError
from fedmed.model.adapter import adapter_parameters
from fedmed.model.hardware import keep_global_generators
from fedmed.model.packing import pack_rows, packs, token_losses
from fedmed.training.compiling import compiled, compiled_parts
from fedmed.types import TrainMetrics
from fedmed.utils.random_streams import stream_seed


@contextlib.contextmanager
def repeatable_dropout(seed: int, *names: str | int) -> Iterator[None]:
    """LoRA dropout can only draw from torch's global generators: seed them by name, and put them back at the end."""
    with keep_global_generators():
        drawn = stream_seed(seed, *names, "dropout")
        torch.default_generator.manual_seed(drawn)
        torch.cuda.manual_seed_all(drawn)
        yield


def use_checkpointing(model: Any, on: bool) -> None:
    """Keep layers' activations, or compute them again in the backward pass."""
    if on:
        model.activation_checkpointing_enable({"use_reentrant": False})
    elif any(getattr(module, "gradient_checkpointing", False) for module in model.modules()):
        model.activation_checkpointing_disable()


def autocast(config: TrainingSection, device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """bf16 arithmetic where ``training.precision`` asks for it, or leaves it to a device that has it."""
    wants = config.precision == "bf16"
    if config.precision == "auto":
        wants = device.type == "cuda" and torch.cuda.is_bf16_supported()
    return torch.autocast(device.type, dtype=torch.bfloat16) if wants else contextlib.nullcontext()


@dataclass(frozen=True, slots=True)
class StepResult:
    loss: float  # nats per answer token, over the whole step
    tokens: int
    answer_tokens: int


def train_metrics(results: Sequence[StepResult], seconds: float) -> TrainMetrics:
    """Counts and losses of a local training from those of its steps."""
    return TrainMetrics(
        loss=sum(result.loss for result in results) / len(results),
        step_losses=tuple(result.loss for result in results),
        tokens=sum(result.tokens for result in results),
        answer_tokens=sum(result.answer_tokens for result in results),
        steps=len(results),
        seconds=seconds,
    )


def not_finite(what: str, value: float, where: str) -> NonFiniteLossError:
    """The error for a loss or gradient that is not a number any more."""
    return NonFiniteLossError(
        f"the {what} became {value} at {where}", "lower training.learning_rate or inspect those records"
    )


class AdapterOptimizer:
    """A fresh AdamW, or SGD, over one adapter, with FedProx's pull to the start and clipping.

    Args:
        parameters: all that trains of the adapter.
        config: rate, weight decay, clipping.
        proximal_mu: FedProx's mu, pulling towards the parameters as they are now.
        fused: PyTorch's one-kernel AdamW.
        sgd: plain steps along the gradient in place of AdamW's.
    """

    def __init__(
        self,
        parameters: Sequence[torch.nn.Parameter],
        config: TrainingSection,
        *,
        proximal_mu: float = 0.0,
        fused: bool = True,
        sgd: bool = False,
    ) -> None:
        self._parameters = parameters
        self._limit = config.max_grad_norm if config.max_grad_norm is not None else math.inf
        self._mu = proximal_mu
        self._anchor = [parameter.detach().clone() for parameter in parameters] if proximal_mu else []
        kind = torch.optim.SGD if sgd else torch.optim.AdamW
        self._optimizer = kind(parameters, lr=config.learning_rate, weight_decay=config.weight_decay, fused=fused)

    def prepare(self, where: str) -> None:
        """Finish the gradient: pull, check, clip. Nothing has moved when this raises NonFiniteLossError."""
        if self._mu:
            for parameter, start in zip(self._parameters, self._anchor, strict=True):
                assert parameter.grad is not None
                parameter.grad.add_(parameter.detach() - start, alpha=self._mu)
        norm = float(torch.nn.utils.clip_grad_norm_(self._parameters, self._limit))
        if not math.isfinite(norm):
            raise not_finite("gradient", norm, where)

    def step(self, rate: float) -> None:
        """Move the parameters by the gradient that ``prepare`` left."""
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.step()


class LoraStepper:
    """Steps the trainable LoRA parameters of ``model``; the rest is frozen.

    Loss is the mean over all answer tokens of a step, whatever the micro-batches (Hugging Face's Trainer does the
    same), plus FedProx's pull to the start where asked for.

    Args:
        model: a PEFT model.
        config: precision, clipping, weight decay, checkpointing, compiling.
        trainable: PEFT keys that move; None: all.
        proximal_mu: FedProx's mu, pulling towards the parameters as they are now.
    """

    def __init__(
        self, model: Any, config: TrainingSection, *, trainable: Sequence[str] | None = None, proximal_mu: float = 0.0
    ) -> None:
        self.model = model
        self.config = config
        named = adapter_parameters(model)
        wanted = set(named) if trainable is None else set(trainable)
        for key, parameter in named.items():
            parameter.requires_grad_(key in wanted)
            parameter.grad = None
        self.parameters = [parameter for key, parameter in named.items() if key in wanted]
        self.device = self.parameters[0].device
        self.optimizer = AdapterOptimizer(
            self.parameters, config, proximal_mu=proximal_mu, fused=self.device.type == "cuda"
        )
        use_checkpointing(model, config.gradient_checkpointing)
        self.compiled = compiled_parts(model, config.compile)
        model.train()

    def step(self, micro_batches: Sequence[Sequence[EncodedRow]], learning_rate: float, where: str) -> StepResult:
        """One optimiser step.

        Args:
            micro_batches: rows of each forward pass.
            learning_rate: of this step.
            where: names this step in an error, e.g. "hospital_A round 2 step 3 (rows 4, 17)".

        Raises:
            NonFiniteLossError: the loss or the gradient is not finite; the parameters stay as they were.
        """
        if not packs(self.model):
            micro_batches = [[row] for rows in micro_batches for row in rows]
        packed = [pack_rows([(r.input_ids, r.prompt_length) for r in rows], self.device) for rows in micro_batches]
        answer_tokens = sum(pack.answer_tokens for pack in packed)
        for parameter in self.parameters:
            parameter.grad = None
        total = 0.0
        for pack in packed:
            with compiled(
                self.compiled, self.config.compile
            ):  # also while gradients are taken: checkpointing runs layers again
                with autocast(self.config, self.device):
                    losses = token_losses(self.model, pack)
                loss = losses.sum() / answer_tokens
                value = float(loss.detach())
                if not math.isfinite(value):
                    raise not_finite("loss", value, where)
                torch.autograd.backward(loss)
            total += value
        self.optimizer.prepare(where)
        self.optimizer.step(learning_rate)
        return StepResult(total, sum(pack.tokens for pack in packed), answer_tokens)

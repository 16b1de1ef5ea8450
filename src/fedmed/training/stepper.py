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


class LoraStepper:
    """Steps the trainable LoRA parameters of ``model``; the rest is frozen.

    Loss is the mean over all answer tokens of a step, whatever the micro-batches (Hugging Face's Trainer does the
    same), plus FedProx's pull to the start where asked for.

    Args:
        model: a PEFT model.
        config: precision, clipping, weight decay, checkpointing.
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
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=config.learning_rate, weight_decay=config.weight_decay, fused=self.device.type == "cuda"
        )
        self.mu = proximal_mu
        self.anchor = [p.detach().clone() for p in self.parameters] if proximal_mu else []
        use_checkpointing(model, config.gradient_checkpointing)
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
        self.optimizer.zero_grad(set_to_none=True)
        total = 0.0
        for pack in packed:
            with autocast(self.config, self.device):
                losses = token_losses(self.model, pack)
            loss = losses.sum() / answer_tokens
            value = float(loss.detach())
            if not math.isfinite(value):
                raise NonFiniteLossError(
                    f"the loss became {value} at {where}", "lower training.learning_rate or inspect those records"
                )
            torch.autograd.backward(loss)
            total += value
        if self.mu:
            for parameter, start in zip(self.parameters, self.anchor, strict=True):
                assert parameter.grad is not None
                parameter.grad.add_(parameter.detach() - start, alpha=self.mu)
        limit = self.config.max_grad_norm if self.config.max_grad_norm is not None else math.inf
        norm = float(torch.nn.utils.clip_grad_norm_(self.parameters, limit))
        if not math.isfinite(norm):
            raise NonFiniteLossError(
                f"the gradient became {norm} at {where}", "lower training.learning_rate or inspect those records"
            )
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.step()
        return StepResult(total, sum(pack.tokens for pack in packed), answer_tokens)

"""Write answers: greedy by default, sampled on request, batched, and over where the answer ends.

What a person reads goes through ``fedmed.safety``; only that room and ``evaluation`` import this one.
The loop is our own because transformers' keeps every step's logits (1 MB a token with a vocabulary of 262,144) to give
probabilities, samples from the global generator and goes on until the last row of a batch has ended.
Not covered: beam search, chat templates, speculative decoding.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from pydantic import ValidationError

from fedmed.config.load import default_config
from fedmed.config.problems import describe
from fedmed.config.schema import GenerationSection, ModelSection
from fedmed.errors import ConfigError, DataFormatError
from fedmed.utils.random_streams import stream_seed

BATCH = 16
"""Questions answered in one forward pass."""

_TORN = "\N{REPLACEMENT CHARACTER}"  # what a decoder shows for half of a character


@dataclass(frozen=True, slots=True)
class Generated:
    """One answer.

    ``token_logprobs``: natural log of the probability the model gave to each token of the answer, before temperature
    and penalties; ``finished``: the model ended the answer itself, it was not cut off at ``max_new_tokens``;
    ``token_entropies``: of the distribution each of those tokens was chosen from, in nats, before temperature too;
    ``prompt_tokens``: how many the model read.
    """

    text: str
    token_logprobs: tuple[float, ...]
    finished: bool
    token_entropies: tuple[float, ...]
    prompt_tokens: int = 0

    @property
    def answer_tokens(self) -> int:
        return len(self.token_logprobs)


def generate(
    model: Any,
    tokenizer: Any,
    questions: Sequence[str],
    *,
    model_config: ModelSection,
    seed: int | Sequence[int] = 17,
) -> list[Generated]:
    """Answer questions, in their order.

    An answer ends at the end-of-sequence token, at a blank line, where the model starts another question, or after
    ``max_new_tokens``.

    Args:
        model: with or without adapter.
        tokenizer: the model's own.
        questions: plain text.
        model_config: prompt template and generation settings.
        seed: of sampling; each question draws from a stream of its own, so the batch it is in does not matter. One
            seed for each question makes its place among them not matter either.

    Raises:
        DataFormatError: a prompt leaves no room for an answer in the model's context.
    """
    prompts = [_prompt_ids(model, tokenizer, question, model_config) for question in questions]
    streams = [(seed, index) if isinstance(seed, int) else (seed[index], 0) for index in range(len(prompts))]
    answers: dict[int, Generated] = {}
    by_length = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    for first in range(0, len(by_length), BATCH):
        chosen = by_length[first : first + BATCH]
        rows = [_Row(index, prompts[index], _generator(model, *streams[index])) for index in chosen]
        for _ in _write(model, tokenizer, rows, model_config):
            pass
        answers.update({row.index: row.result() for row in rows})
    return [answers[index] for index in range(len(questions))]


def generate_response(model: Any, tokenizer: Any, question: str, **overrides: Any) -> str:
    """Answer one question, as the model writes it: unchecked, see ``fedmed.safety`` for answers that people read.

    Args:
        model: from ``load_model_and_tokenizer`` or ``setup_lora``.
        tokenizer: the model's own.
        question: plain text.
        overrides: settings of ``model.generation``, e.g. ``max_new_tokens=32, temperature=0.7``; and ``seed``.

    Raises:
        ConfigError: an override that there is not. DataFormatError: the question is too long.
    """
    seed, config = _settings(model, overrides)
    return generate(model, tokenizer, [question], model_config=config, seed=seed)[0].text


def stream_response(model: Any, tokenizer: Any, question: str, **overrides: Any) -> Iterator[str]:
    """As ``generate_response``, piece by piece as it is written; the pieces joined are the same text.

    Raises:
        ConfigError, DataFormatError: before the first piece.
    """
    seed, config = _settings(model, overrides)
    row = _Row(0, _prompt_ids(model, tokenizer, question, config), _generator(model, seed, 0))
    return _pieces(model, tokenizer, row, config)


def _pieces(model: Any, tokenizer: Any, row: _Row, config: ModelSection) -> Iterator[str]:
    shown = 0
    opening = _opening(config.prompt_template)
    for _ in _write(model, tokenizer, [row], config):
        # Held back is what may not stay: half a character, trailing space, a line that begins like a new question.
        safe = row.text.rstrip(_TORN)
        head, _, line = safe.rpartition("\n")
        safe = (head if opening.startswith(line.lstrip()) else safe).rstrip()
        if len(safe) > shown and not row.over:
            yield safe[shown:]
            shown = len(safe)
    if len(row.text) > shown:
        yield row.text[shown:]


@dataclass(slots=True)
class _Row:
    """One answer being written."""

    index: int
    prompt: list[int]
    generator: torch.Generator
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    entropies: list[float] = field(default_factory=list)
    text: str = ""
    over: bool = False  # nothing more is written
    finished: bool = False  # the model ended it

    def result(self) -> Generated:
        return Generated(self.text, tuple(self.logprobs), self.finished, tuple(self.entropies), len(self.prompt))

    def take(
        self, token: int, sureness: tuple[float, float], tokenizer: Any, ends: frozenset[int],
        end_text: re.Pattern[str], room: int,
    ) -> None:  # fmt: skip
        """Add a token; ``sureness``: its log probability, and the entropy of what it was chosen from."""
        if token in ends:
            self.over = self.finished = True
        else:
            self.tokens.append(token)
            self.logprobs.append(sureness[0])
            self.entropies.append(sureness[1])
            raw = _decode(tokenizer, self.tokens)
            self.text = raw.lstrip()
            if end := end_text.search(self.text):
                self.text = self.text[: end.start()]
                kept = self.text.rstrip()
                self._forget_tail(tokenizer, len(raw) - len(raw.lstrip()) + len(kept) if kept else 0)
                self.over = self.finished = True
            elif len(self.tokens) == room:
                self.over = True
        if self.over:
            self.text = self.text.rstrip().rstrip(_TORN).rstrip()

    def _forget_tail(self, tokenizer: Any, kept: int) -> None:
        """Drop the tokens that no character of the answer needs."""
        while self.tokens and len(_decode(tokenizer, self.tokens[:-1])) >= kept:
            self.tokens.pop()
            self.logprobs.pop()
            self.entropies.pop()


@torch.inference_mode()
def _write(model: Any, tokenizer: Any, rows: Sequence[_Row], config: ModelSection) -> Iterator[None]:
    """Write all rows to their end; yields after every token."""
    ends = _end_tokens(model, tokenizer)
    end_text = _end_text(config.prompt_template)
    device = model.get_input_embeddings().weight.device
    width = max(len(row.prompt) for row in rows)
    pad = tokenizer.pad_token_id
    ids = torch.tensor([[pad] * (width - len(row.prompt)) + row.prompt for row in rows], device=device)
    mask = torch.tensor([[0] * (width - len(row.prompt)) + [1] * len(row.prompt) for row in rows], device=device)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    cache = None
    active = list(rows)
    with _evaluating(model):
        while active:
            output = model(
                input_ids=ids,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            cache = output.past_key_values
            logits = output.logits[:, -1].float()
            tokens = [_choose(logits[place], row, config.generation) for place, row in enumerate(active)]
            picked = torch.tensor(tokens, device=device)[:, None]
            sureness = zip(*_sureness(logits, picked), strict=True)
            for row, token, sure in zip(active, tokens, sureness, strict=True):
                row.take(token, sure, tokenizer, ends, end_text, config.generation.max_new_tokens)
            yield
            going = [place for place, row in enumerate(active) if not row.over]
            if len(going) < len(active):  # rows that are over cost nothing any more
                active = [active[place] for place in going]
                kept = torch.tensor(going, device=device, dtype=torch.long)
                if not active:
                    return
                cache.batch_select_indices(kept)
                picked, mask, positions = picked[kept], mask[kept], positions[kept]
            ids = picked
            mask = torch.cat([mask, mask.new_ones(len(active), 1)], dim=1)
            positions = positions[:, -1:] + 1


def _sureness(logits: torch.Tensor, picked: torch.Tensor) -> tuple[list[float], list[float]]:
    """Log probability of the ``picked`` [rows, 1] tokens and entropy of ``logits`` [rows, vocabulary], in nats."""
    logs = torch.log_softmax(logits, dim=1)
    entropy = -(logs.exp() * logs.clamp(min=torch.finfo(logs.dtype).min)).sum(1)  # 0 * -inf would be no number
    return logs.gather(1, picked)[:, 0].tolist(), entropy.clamp(min=0.0).tolist()


def _choose(logits: torch.Tensor, row: _Row, settings: GenerationSection) -> int:
    """The next token of one row; ``logits`` [vocabulary] stay as they are."""
    if settings.repetition_penalty != 1.0:  # Keskar et al. 2019, arXiv:1909.05858
        seen = torch.tensor(sorted({*row.prompt, *row.tokens}), device=logits.device)
        scores = logits[seen]
        scores = torch.where(scores > 0, scores / settings.repetition_penalty, scores * settings.repetition_penalty)
        logits = logits.index_copy(0, seen, scores)
    if settings.temperature == 0.0:
        return int(logits.argmax())
    shares, order = torch.softmax(logits / settings.temperature, dim=0).sort(descending=True, stable=True)
    before = shares.cumsum(0) - shares
    shares = shares * (before < settings.top_p)  # Holtzman et al. 2019, arXiv:1904.09751
    return int(order[torch.multinomial(shares, 1, generator=row.generator)])


def _prompt_ids(model: Any, tokenizer: Any, question: str, config: ModelSection) -> list[int]:
    ids: list[int] = tokenizer(config.prompt_template.format(question=question)).input_ids
    room = getattr(model.config, "max_position_embeddings", None)
    if room is not None and len(ids) + config.generation.max_new_tokens > room:
        raise DataFormatError(
            f"the prompt has {len(ids)} tokens and the model has room for {room}, answer included",
            "shorten the question or lower model.generation.max_new_tokens",
        )
    return ids


def _generator(model: Any, seed: int, index: int) -> torch.Generator:
    device = model.get_input_embeddings().weight.device
    return torch.Generator(device).manual_seed(stream_seed(seed, "generate", index))


def _settings(model: Any, overrides: dict[str, Any]) -> tuple[int, ModelSection]:
    config: ModelSection = getattr(model, "fedmed_config", None) or default_config().model
    given = dict(overrides)
    seed = given.pop("seed", 17)
    try:
        generation = GenerationSection.model_validate(config.generation.model_dump() | given)
    except ValidationError as error:
        raise ConfigError(
            [f"model.generation.{detail['loc'][0]}: {describe(detail)}" for detail in error.errors(include_url=False)]
        ) from error
    return seed, config.model_copy(update={"generation": generation})


def _end_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    settings = getattr(model, "generation_config", None)
    more = getattr(settings, "eos_token_id", None)
    listed = more if isinstance(more, list) else [more]
    return frozenset(token for token in [tokenizer.eos_token_id, *listed] if token is not None)


def _end_text(prompt_template: str) -> re.Pattern[str]:
    """A blank line, or a line that starts as the prompt does, e.g. "Question:"."""
    opening = _opening(prompt_template)
    ends = [r"\n[^\S\n]*\n"]
    if opening:
        ends += [rf"(^|\n)[^\S\n]*{re.escape(opening)}"]
    return re.compile("|".join(ends))


def _opening(prompt_template: str) -> str:
    return prompt_template.format(question="\0").split("\0")[0].strip()


def _decode(tokenizer: Any, tokens: list[int]) -> str:
    text: str = tokenizer.decode(tokens, skip_special_tokens=True)
    return text


@contextlib.contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    """No dropout meanwhile."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)

"""What a model's own answer and question say about how much it knows. inference, likelihood -> HERE -> assistant.

Signals are of the first ``LEAD`` tokens of an answer, whatever its length: calibrating then writes that much and no
more, and a long answer is not judged by its repetitions. Beside the answer it takes one short forward pass for the
question; agreement, where asked for, takes the first tokens of some answers more.
Not covered: the meaning of the words; retrieval; another model's opinion.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from fedmed.config.schema import ModelSection
from fedmed.data.encode import EncodedRow
from fedmed.evaluation.likelihood import score_rows
from fedmed.model.inference import Generated, generate
from fedmed.safety.confidence import LEAD, raw_confidence
from fedmed.utils.random_streams import stream_seed

SAMPLED_AT = 0.7
"""Temperature of the answers drawn for agreement."""


def read_signals(
    model: Any,
    tokenizer: Any,
    questions: Sequence[str],
    *,
    model_config: ModelSection,
    answers: Sequence[Generated] | None = None,
    samples: int = 0,
    seed: int | Sequence[int] = 17,
) -> list[dict[str, float]]:
    """Signals of each question's answer, by the names of ``confidence.SIGNALS``.

    Args:
        model, tokenizer: see ``inference.generate``.
        questions: plain text.
        model_config: as the answers are written.
        answers: what the model wrote to these questions; None: the first ``LEAD`` tokens are written here.
        samples: answers drawn beside each for ``agreement``; 0: there is no such signal.
        seed: of sampling, one for all or one for each question.

    Raises:
        DataFormatError: a question is too long. ValueError: there are more or fewer answers than questions.
    """
    short = with_generation(model_config, max_new_tokens=min(LEAD, model_config.generation.max_new_tokens))
    if answers is None:
        answers = generate(model, tokenizer, questions, model_config=short, seed=seed)
    if len(answers) != len(questions):
        raise ValueError(f"{len(answers)} answers for {len(questions)} questions")
    if not questions:
        return []
    asked = _question_logprobs(model, tokenizer, questions, model_config)
    found = [_of(answer, logprob) for answer, logprob in zip(answers, asked, strict=True)]
    if samples:
        warm = max(model_config.generation.temperature, SAMPLED_AT)
        drawn = [
            generate(
                model, tokenizer, questions, model_config=with_generation(short, temperature=warm),
                seed=_seed_of(seed, number),
            )
            for number in range(samples)
        ]  # fmt: skip
        for place, signals in enumerate(found):
            signals["agreement"] = agreement([own[place].text for own in drawn])
    return found


def with_generation(config: ModelSection, **changed: Any) -> ModelSection:
    """The same settings with others for generation."""
    return config.model_copy(update={"generation": config.generation.model_copy(update=changed)})


def agreement(texts: Sequence[str]) -> float:
    """Mean overlap of words (F1) over all pairs of texts, in [0, 1]; 1.0 for a single text."""
    bags = [Counter(text.lower().split()) for text in texts]
    pairs = [(left, right) for place, left in enumerate(bags) for right in bags[:place]]
    shares = [
        2 * (left & right).total() / (left.total() + right.total()) if left or right else 1.0 for left, right in pairs
    ]
    return float(np.mean(shares)) if shares else 1.0


def _seed_of(seed: int | Sequence[int], number: int) -> int | list[int]:
    if isinstance(seed, int):
        return stream_seed(seed, "agreement", number)
    return [stream_seed(own, "agreement", number) for own in seed]


def _of(answer: Generated, question_logprob: float) -> dict[str, float]:
    logprobs, entropies = answer.token_logprobs[:LEAD], answer.token_entropies[:LEAD]
    return {
        "token_probability": raw_confidence(logprobs),
        "entropy": float(np.mean(entropies)) if entropies else 0.0,
        "first_entropy": float(entropies[0]) if entropies else 0.0,
        "question_logprob": question_logprob,
    }


def _question_logprobs(model: Any, tokenizer: Any, questions: Sequence[str], config: ModelSection) -> list[float]:
    """Mean log probability a token of each question behind the prompt's opening words, in nats; 0.0 without a token."""
    opening = config.prompt_template.format(question="\0").split("\0")[0]
    known = max(len(tokenizer(opening.rstrip()).input_ids), 1)  # a row needs a first token that nothing foretells
    texts = [tuple(tokenizer(opening + question).input_ids) for question in questions]
    asked = [place for place, ids in enumerate(texts) if len(ids) > known]
    scores = score_rows(model, [EncodedRow(texts[place], known) for place in asked])
    found = dict(zip(asked, (-scores.nll / scores.tokens).tolist(), strict=True))
    return [found.get(place, 0.0) for place in range(len(questions))]

"""Turn questions and answers into token ids, the one shape that training and scoring read. data -> HERE -> training."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from fedmed.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BATCH = 1024  # records a tokenizer call; a batched call is several times faster than one call a record


@dataclass(frozen=True, slots=True)
class EncodedRow:
    """One record as token ids: the prompt, then the answer, then end-of-sequence where it fits."""

    input_ids: tuple[int, ...]
    prompt_length: int  # tokens; input_ids[prompt_length:] are the answer, never empty


@dataclass(frozen=True, slots=True)
class EncodeReport:
    """What became of the records handed in: rows = records - dropped."""

    rows: int
    cut: int  # rows whose answer lost its end; they carry no end-of-sequence
    dropped: int  # records whose prompt alone fills max_length


def encode_records(
    records: Iterable[Mapping[str, str]],
    tokenizer: PreTrainedTokenizerBase,
    *,
    prompt_template: str,
    answer_prefix: str,
    max_length: int,
) -> tuple[list[EncodedRow], EncodeReport]:
    """Encode records in their order.

    The prompt is encoded with the tokenizer's special tokens (BOS), the answer without them and with the
    end-of-sequence token after it. Prompt and answer are encoded apart, so that the prompt's tokens are the
    same here and at inference.

    Args:
        records: mappings with ``question`` and ``answer``; other keys are ignored.
        tokenizer: a Hugging Face tokenizer that has an end-of-sequence token.
        prompt_template: text with ``{question}`` once.
        answer_prefix: text put before the answer, for example one space.
        max_length: tokens of prompt, answer and end-of-sequence together, >= 1.

    Returns:
        The rows, and how many were cut or dropped.

    Raises:
        ModelError: the tokenizer has no end-of-sequence token, so a model could not learn where answers end.
    """
    eos = tokenizer.eos_token_id
    if not isinstance(eos, int):
        raise ModelError(
            "the tokenizer has no end-of-sequence token", "set eos_token in the model's tokenizer_config.json"
        )
    rows: list[EncodedRow] = []
    cut = dropped = 0
    for batch in _batches(records):
        prompts = _ids(tokenizer, [prompt_template.format(question=question) for question, _ in batch], special=True)
        answers = _ids(tokenizer, [answer_prefix + answer for _, answer in batch], special=False)
        for prompt, answer in zip(prompts, answers, strict=True):
            if len(prompt) >= max_length:
                dropped += 1
                continue
            ids = [*prompt, *answer, eos]
            if len(ids) > max_length:
                cut += 1
                # The last token of what is left is an answer token, never the end: the answer goes on.
                ids = [*prompt, *answer][:max_length]
            rows.append(EncodedRow(tuple(ids), len(prompt)))
    return rows, EncodeReport(rows=len(rows), cut=cut, dropped=dropped)


def _batches(records: Iterable[Mapping[str, str]]) -> Iterator[list[tuple[str, str]]]:
    pairs = ((record["question"], record["answer"]) for record in records)
    while batch := list(islice(pairs, BATCH)):
        yield batch


def _ids(tokenizer: PreTrainedTokenizerBase, texts: list[str], *, special: bool) -> list[list[int]]:
    encoded = tokenizer(
        texts, add_special_tokens=special, return_attention_mask=False, return_token_type_ids=False, verbose=False
    )
    ids: list[list[int]] = encoded["input_ids"]
    return ids

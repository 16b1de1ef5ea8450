"""How to de-identify: what replaces a finding, how sure a rule must be, whose key."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from fedmed.data.deidentify.findings import TYPES
from fedmed.errors import ConfigError, DataError

MIN_KEY_BYTES = 16


class Operator(StrEnum):
    """What stands where an identifier stood."""

    PLACEHOLDER = "placeholder"  # [NAME]
    REDACT = "redact"  # nothing but a dash
    SURROGATE = "surrogate"  # another name, another number, a date moved by the patient's own offset
    HASH = "hash"  # [NAME:9f2c41d07a3be615], the same for the same value under the same key


@dataclass(frozen=True, slots=True)
class Policy:
    """Settings of a ``Deidentifier``; ``key`` is secret and appears in no text, log or report."""

    operator: Operator = Operator.PLACEHOLDER
    min_score: float = 0.4  # findings below it are dropped; lower finds more and loses more other words
    key: bytes | None = field(default=None, repr=False)  # of surrogates, date offsets and hashes; None: a new one
    ner_model: Path | None = None  # folder of a spaCy pipeline with entities; None: rules and gazetteers only
    keep_zip3: bool = False  # [ZIP 021]: the first three digits, where their area holds more than 20,000 people
    keep_year: bool = False  # [DATE 2023]: the year alone, which Safe Harbor allows
    year: int | None = None  # the present year, for birth years that tell an age over 89; None: by the clock

    def __post_init__(self) -> None:
        problems = []
        if not 0.0 <= self.min_score <= 1.0:
            problems.append("min_score lies outside 0 to 1")
        if self.key is not None and len(self.key) < MIN_KEY_BYTES:
            problems.append(f"the key is shorter than {MIN_KEY_BYTES} bytes")
        if problems:
            raise ConfigError(problems, "see docs/de-identification.md")


def placeholder(kind: str, detail: str = "") -> str:
    """``[NAME]``, or with a detail after a space, ``[DATE 2023]``."""
    assert kind in TYPES
    return f"[{kind} {detail}]" if detail else f"[{kind}]"


def read_key(file: Path) -> bytes:
    """A key from a file: all its bytes, without a line end.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        return file.read_bytes().rstrip(b"\r\n")
    except OSError as error:
        raise DataError(
            f"cannot read the key file {file} ({error.strerror or 'no reason given'})", "check the path"
        ) from error

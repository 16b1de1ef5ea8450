"""The rules of the guardrails as data: what a policy may say, checked strictly. lexicon -> HERE -> policy_file, rails.

A hospital changes single rules, or replaces them all, through ``safety.policy``: docs/guardrails.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, model_validator

from fedmed.safety.lexicon import Lexicon
from fedmed.safety.signs import Phrase, Sign, parse, parse_sign

Severity: TypeAlias = Literal["low", "medium", "high"]
Action: TypeAlias = Literal["allow", "annotate", "rewrite", "withhold", "refer"]
Where: TypeAlias = Literal["before", "after", "clause", "sentence", "text", "question"]
Scope: TypeAlias = Literal["sentence", "near", "text"]


def _compile(source: Any) -> re.Pattern[str]:
    if not isinstance(source, str):
        raise ValueError(f"a pattern must be text, not {type(source).__name__}")
    try:
        # The text it meets has lost its apostrophes; a pattern that kept them would never match.
        pattern = re.compile(source.replace("'", ""), re.IGNORECASE)
    except re.error as error:
        raise ValueError(f"not a regular expression ({error}): {source!r}") from error
    if pattern.search(""):
        raise ValueError(f"this pattern matches every text: {source!r}")
    return pattern


def _sign(source: Any) -> Sign:
    if not isinstance(source, str):
        raise ValueError(f"a sign must be text, not {type(source).__name__}")
    return parse_sign(source)


def _phrases(source: Any) -> tuple[str, ...]:
    parts = [source] if isinstance(source, str) else source
    if not isinstance(parts, list | tuple) or not all(isinstance(part, str) for part in parts):
        raise ValueError("words are text, apart by commas, or a list of such")
    phrases = tuple(phrase.strip() for part in parts for phrase in part.split(",") if phrase.strip())
    for phrase in phrases:
        parse(phrase)
    return phrases


Regex: TypeAlias = Annotated[re.Pattern[str], PlainValidator(_compile)]
Signs: TypeAlias = tuple[Annotated[Sign, PlainValidator(_sign)], ...]
Text: TypeAlias = Annotated[str, Field(min_length=1)]
Id: TypeAlias = Annotated[str, Field(pattern=r"^[a-z_]+\.[a-z_]+$")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Context(_Strict):
    """Words around a match that change what it means: a negation before it, a person in the text."""

    where: Where
    patterns: Annotated[tuple[Regex, ...], Field(min_length=1)] | None = None
    signs: Annotated[Signs, Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _looks_for_something(self) -> Context:
        if not self.patterns and not self.signs:
            raise ValueError("a context needs 'signs' or 'patterns'")
        return self


Probability: TypeAlias = Annotated[float, Field(ge=0.0, le=1.0)]


class Score(_Strict):
    """Points for meanings that stand in a text and for contexts that hold; at ``at_least`` points the rule fires."""

    at_least: float
    points: dict[str, float]


class Check(_Strict):
    """One rule: fires when a sign, a pattern, its score or its judge says so.

    Unless an ``unless`` context holds; and, where ``only_with`` is given, only if one of those does. A learned score
    may fire a rule too, or keep it from being believed.
    """

    id: Id
    severity: Severity
    action: Action
    why: Text
    say: str = ""  # what the person is told instead; required where the action is refer
    signs: Signs = ()
    patterns: Annotated[tuple[Regex, ...], Field(min_length=1)] | None = None
    judge: str = ""  # a check in code, see checks/
    score: Score | None = None
    learned: dict[str, Probability] = {}  # a learned score (learned.py) and from where on it fires
    doubted_below: dict[str, Probability] = {}  # a learned score below which the rule is not believed
    scope: Scope = "sentence"  # how far apart the parts of a sign may lie
    unless: tuple[str, ...] = ()
    only_with: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _looks_for_something(self) -> Check:
        if not (self.signs or self.patterns or self.judge or self.score or self.learned):
            raise ValueError("a rule needs 'signs', 'patterns', 'score', 'learned' or 'judge'")
        return self


class Change(_Strict):
    """What a hospital says differently about a rule of the packaged policy."""

    off: bool = False
    severity: Severity | None = None
    action: Action | None = None
    why: Text | None = None
    say: str | None = None
    learned: dict[str, Probability] | None = None
    doubted_below: dict[str, Probability] | None = None

    @model_validator(mode="before")
    @classmethod
    def _off_is_a_word(cls, value: Any) -> Any:
        # YAML 1.1 reads a bare "off" as false, also where it is a key.
        return (
            {"off" if key == "false" else key: kept for key, kept in value.items()}
            if isinstance(value, dict)
            else value
        )


class Limits(_Strict):
    """Judged in code."""

    max_question_characters: Annotated[int, Field(ge=1)]
    max_phrase_repeats: Annotated[int, Field(ge=2)]  # the same words this often in a row are a loop


class PolicyFile(_Strict):
    """One YAML file: a whole policy, a part of one, or a hospital's changes."""

    format: Literal[1, 2] = 2
    version: Text = "part"
    extends: Literal["packaged"] | None = None
    include: tuple[Text, ...] = ()
    limits: Limits | None = None
    everyday: str = ""
    words: dict[str, Annotated[tuple[str, ...], PlainValidator(_phrases)]] = {}
    contexts: dict[str, Context] = {}
    input: tuple[Check, ...] = ()
    output: tuple[Check, ...] = ()
    change: dict[str, Change] = {}


@dataclass(frozen=True)
class Policy:
    """All rules of one version, ready to use."""

    version: str
    limits: Limits
    contexts: Mapping[str, Context]
    input: tuple[Check, ...]
    output: tuple[Check, ...]
    lexicon: Lexicon
    words: Mapping[str, tuple[str, ...]]
    everyday: frozenset[str]

    @property
    def checks(self) -> tuple[Check, ...]:
        return (*self.input, *self.output)


Location: TypeAlias = Sequence[int | str]

SCORES: Mapping[str, frozenset[str]] = {
    "input": frozenset(("emergency", "injection")),
    "output": frozenset(("answer",)),
}
"""The learned scores of each rail."""


def contradictions(
    file: PolicyFile, contexts: Mapping[str, Context], known: Lexicon | frozenset[str], judges: frozenset[str]
) -> Iterator[tuple[Location, str]]:
    """What a file says against itself, or about what nobody has given: where, and what."""
    names = known.names if isinstance(known, Lexicon) else known
    seen: set[str] = set()
    for rail, checks in (("input", file.input), ("output", file.output)):
        for index, check in enumerate(checks):
            if check.id in seen:
                yield (rail, index, "id"), "this id is used twice"
            seen.add(check.id)
            if check.action == "refer" and not check.say.strip():
                yield (rail, index, "say"), "action 'refer' needs 'say', the words the person is to read"
            if check.judge and check.judge not in judges:
                yield (rail, index, "judge"), f"no judge is called '{check.judge}' (there are: {_list(judges)})"
            for name in check.score.points if check.score else ():
                if name.removeprefix("@") not in (names if name.startswith("@") else contexts):
                    yield (rail, index, "score", "points", name), f"no meaning or context is called '{name}'"
            for field, scores in (("learned", check.learned), ("doubted_below", check.doubted_below)):
                for name in scores:
                    if name not in SCORES[rail]:
                        yield (rail, index, field, name), f"no learned score of this rail is called '{name}'"
            for field, used in (("unless", check.unless), ("only_with", check.only_with)):
                for name in used:
                    if name not in contexts:
                        yield (rail, index, field), f"no context is called '{name}' (there are: {_list(contexts)})"
            yield from (((rail, index, "signs"), problem) for problem in _unknown(phrases_of(check.signs), names))
    for name, context in file.contexts.items():
        yield from ((("contexts", name, "signs"), problem) for problem in _unknown(phrases_of(context.signs), names))
    for name, sources in file.words.items():
        yield from ((("words", name), problem) for problem in _unknown(map(parse, sources), names))


def _unknown(phrases: Iterator[Phrase] | map[Phrase], names: frozenset[str]) -> list[str]:
    asked = {
        label[1:] for phrase in phrases for element in phrase.elements for label in element.labels if label[0] == "@"
    }
    return [f"no meaning is called '@{name}'" for name in sorted(asked - names)]


def _list(names: Any) -> str:
    return ", ".join(sorted(names)) or "none"


def phrases_of(signs: Signs | None) -> Iterator[Phrase]:
    """Every phrase of some signs."""
    return (part for sign in signs or () for part in sign.parts)

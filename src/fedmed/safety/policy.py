"""The rules of the guardrails as data: what ``policy.yaml`` may say, checked strictly. rails.py applies it.

A hospital replaces the packaged file with its own through ``safety.policy``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import yaml
from pydantic import BaseModel, ConfigDict, Field, PlainValidator, ValidationError

from fedmed.errors import SafetyPolicyError

PACKAGED = Path(__file__).with_name("policy.yaml")

Severity: TypeAlias = Literal["low", "medium", "high"]
Action: TypeAlias = Literal["annotate", "withhold", "refer"]
Where: TypeAlias = Literal["before", "sentence", "text"]


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


Regex: TypeAlias = Annotated[re.Pattern[str], PlainValidator(_compile)]
Text: TypeAlias = Annotated[str, Field(min_length=1)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Context(_Strict):
    """Words around a match that change what it means: a negation before it, a person in the text."""

    where: Where
    patterns: Annotated[tuple[Regex, ...], Field(min_length=1)]


class Check(_Strict):
    """One rule: fires when a pattern matches, no ``unless`` context holds and, where given, an ``only_with`` does."""

    id: Annotated[str, Field(pattern=r"^[a-z_]+\.[a-z_]+$")]
    severity: Severity
    action: Action
    why: Text
    say: str = ""  # what the person is told instead; required where the action is refer
    patterns: Annotated[tuple[Regex, ...], Field(min_length=1)]
    unless: tuple[str, ...] = ()
    only_with: tuple[str, ...] = ()


class Limits(_Strict):
    max_question_characters: Annotated[int, Field(ge=1)]
    max_phrase_repeats: Annotated[int, Field(ge=2)]  # the same words this often in a row are a loop


class Policy(_Strict):
    """All rules of one version. Patterns are matched on normalised text, see normalise.py."""

    format: Literal[1]
    version: Text
    limits: Limits
    contexts: dict[str, Context]
    input: tuple[Check, ...]
    output: tuple[Check, ...]


Location: TypeAlias = Sequence[int | str]


def _line(root: yaml.Node, location: Location) -> int:
    """The 1-based line of the deepest node on the way to ``location`` that is there."""
    node = root
    for step in location:
        if isinstance(node, yaml.MappingNode):
            found = next((value for key, value in node.value if key.value == str(step)), None)
        elif isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
            found = node.value[step]
        else:
            found = None
        if found is None:
            break
        node = found
    return int(node.start_mark.line) + 1


def _rule(data: Any, location: Location) -> str:
    if len(location) < 2 or location[0] not in ("input", "output") or not isinstance(location[1], int):
        return ""
    check = data[location[0]][location[1]]
    return f"rule '{check['id']}', " if isinstance(check, dict) and isinstance(check.get("id"), str) else ""


def _contradictions(policy: Policy) -> Iterator[tuple[Location, str]]:
    seen: set[str] = set()
    for rail, checks in (("input", policy.input), ("output", policy.output)):
        for index, check in enumerate(checks):
            if check.id in seen:
                yield (rail, index, "id"), "this id is used twice"
            seen.add(check.id)
            if check.action == "refer" and not check.say.strip():
                yield (rail, index, "say"), "action 'refer' needs 'say', the words the person is to read"
            for field, names in (("unless", check.unless), ("only_with", check.only_with)):
                for name in names:
                    if name not in policy.contexts:
                        known = ", ".join(sorted(policy.contexts)) or "none"
                        yield (rail, index, field), f"no context is called '{name}' (there are: {known})"


def _read(path: Path) -> tuple[yaml.Node, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise SafetyPolicyError(f"there is no policy file {path}", "correct safety.policy or leave it out") from error
    except (OSError, UnicodeDecodeError) as error:
        raise SafetyPolicyError(f"{path} cannot be read as text", "correct safety.policy or the file") from error
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "unreadable"
        raise SafetyPolicyError(f"{path}{place}: not YAML ({problem})", "correct that line") from error
    if node is None or not isinstance(data, dict):
        raise SafetyPolicyError(f"{path}, line 1: not a policy", "start from the packaged policy.yaml")
    return node, data


def read_policy(path: Path) -> Policy:
    """Read and check a policy file.

    Args:
        path: a YAML file of the packaged policy's shape.

    Returns:
        The policy, its patterns compiled.

    Raises:
        SafetyPolicyError: names the file, the line and the rule of everything that is wrong with it.
    """
    node, data = _read(path)
    problems: list[tuple[Location, str]] = []
    try:
        policy = Policy.model_validate_json(json.dumps(data, default=str))
    except ValidationError as error:
        problems = [(item["loc"], item["msg"].removeprefix("Value error, ")) for item in error.errors()]
    else:
        problems = list(_contradictions(policy))
    if problems:
        lines = []
        for location, message in problems:
            field = ".".join(str(step) for step in location)
            lines.append(f"{path}, line {_line(node, location)}: {_rule(data, location)}{field}: {message}")
        raise SafetyPolicyError("; ".join(lines), "correct these lines of the policy")
    return policy


@lru_cache(maxsize=1)
def _packaged() -> Policy:
    return read_policy(PACKAGED)


def load_policy(path: str | None = None) -> Policy:
    """The policy at ``path``, or the packaged one where it is None. Raises SafetyPolicyError."""
    return _packaged() if path is None else read_policy(Path(path))

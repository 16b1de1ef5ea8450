"""Policy files: reading, joining, and every problem with its file, line and rule. policy -> HERE -> guardrails."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from fedmed.errors import SafetyPolicyError
from fedmed.safety.checks import JUDGES
from fedmed.safety.lexicon import Lexicon
from fedmed.safety.policy import Check, Context, Location, Policy, PolicyFile, contradictions, phrases_of

PACKAGED = Path(__file__).with_name("policy.yaml")


class _Source:
    """One file: its path, what YAML found where, and its content once checked."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.node, self.data = _read(path)
        try:
            self.file = PolicyFile.model_validate_json(json.dumps(self.data, default=str))
        except ValidationError as error:
            found: list[tuple[Location, str]] = [
                (item["loc"], item["msg"].removeprefix("Value error, ")) for item in error.errors()
            ]
            raise self.refusal(found) from error

    def refusal(self, problems: list[tuple[Location, str]]) -> SafetyPolicyError:
        """All problems of this file in one error."""
        lines = []
        for location, message in problems:
            field = ".".join(str(step) for step in location)
            lines.append(
                f"{self.path}, line {_line(self.node, location)}: {_rule(self.data, location)}{field}: {message}"
            )
        return SafetyPolicyError("; ".join(lines), "correct these lines of the policy")


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


def _read(path: Path) -> tuple[yaml.Node, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise SafetyPolicyError(f"there is no policy file {path}", "correct safety.policy or leave it out") from error
    except (OSError, UnicodeDecodeError) as error:
        raise SafetyPolicyError(f"{path} cannot be read as text", "correct safety.policy or the file") from error
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the fast one where PyYAML was built with it
    try:
        node = yaml.compose(text, Loader=loader)
        data = yaml.load(text, Loader=loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "unreadable"
        raise SafetyPolicyError(f"{path}{place}: not YAML ({problem})", "correct that line") from error
    if node is None or not isinstance(data, dict):
        raise SafetyPolicyError(f"{path}, line 1: not a policy", "start from the packaged policy.yaml")
    return node, data


def read_policy(path: Path) -> Policy:
    """Read and check a policy file, with the files it includes or extends.

    Args:
        path: a YAML file of the packaged policy's shape, of format 2 or of the older format 1.

    Returns:
        The policy, its patterns and meanings compiled.

    Raises:
        SafetyPolicyError: names the file, the line and the rule of everything that is wrong with it.
    """
    top = _Source(path)
    missing = [name for name in ("format", "version") if name not in top.data]
    if top.file.extends is None:
        missing += [name for name in ("limits", "input", "output") if name not in top.data]
    if missing:
        raise top.refusal([((name,), f"'{name}' is missing") for name in missing])
    base = _packaged() if top.file.extends or (top.file.format == 1 and path != PACKAGED) else None
    sources = [top, *(_Source(path.parent / name) for name in top.file.include)]
    return _join(sources, base, keep=top.file.extends is not None)


def _join(sources: list[_Source], base: Policy | None, *, keep: bool) -> Policy:
    """One policy from its files; ``keep``: the rules of ``base`` stay, but for what the files change."""
    top = sources[0].file
    contexts: dict[str, Context] = dict(base.contexts) if base and keep else {}
    words: dict[str, tuple[str, ...]] = dict(base.words) if base else {}
    everyday = set(base.everyday) if base else set()
    for source in sources:
        contexts |= source.file.contexts
        everyday |= set(source.file.everyday.split())
        for name, phrases in source.file.words.items():
            words[name] = (*words.get(name, ()), *phrases) if keep else phrases
    for source in sources:
        problems = list(contradictions(source.file, contexts, frozenset(words), frozenset(JUDGES)))
        if problems:
            raise source.refusal(problems)
    given = [check.id for source in sources for check in (*source.file.input, *source.file.output)]
    rails: dict[str, tuple[Check, ...]] = {}
    for rail in ("input", "output"):
        own = [check for source in sources for check in getattr(source.file, rail)]
        kept = [
            check
            for check in (getattr(base, rail) if base else ())
            if check.id not in given and (keep or check.id.startswith("text."))
        ]
        rails[rail] = tuple(_changed(check, sources[0]) for check in [*kept, *own] if not _off(check, top))
    _refuse_unknown_changes(sources[0], base, given)
    limits = top.limits or (base.limits if base else None)
    assert limits is not None  # asked for above
    return _ready(
        Policy(top.version, limits, contexts, rails["input"], rails["output"], _NO_WORDS, words, frozenset(everyday)),
        sources[0],
    )


_NO_WORDS = Lexicon({})


def _ready(policy: Policy, source: _Source) -> Policy:
    try:
        lexicon = Lexicon(policy.words, policy.everyday)
    except ValueError as error:
        raise source.refusal([(("words",), str(error))]) from error
    for check in policy.checks:
        lexicon.prepare(phrases_of(check.signs))
    for context in policy.contexts.values():
        lexicon.prepare(phrases_of(context.signs))
    lexicon.finish()
    return replace(policy, lexicon=lexicon)


def _off(check: Check, top: PolicyFile) -> bool:
    return check.id in top.change and top.change[check.id].off


def _changed(check: Check, source: _Source) -> Check:
    change = source.file.change.get(check.id)
    if change is None:
        return check
    new = check.model_copy(
        update={name: value for name, value in change.model_dump(exclude={"off"}).items() if value is not None}
    )
    if new.action == "refer" and not new.say.strip():
        raise source.refusal([(("change", check.id), "action 'refer' needs 'say', the words the person is to read")])
    return new


def _refuse_unknown_changes(source: _Source, base: Policy | None, given: list[str]) -> None:
    known = {check.id for check in base.checks} if base else set()
    unknown = [name for name in source.file.change if name not in known | set(given)]
    if unknown:
        raise source.refusal([(("change", name), "no rule of the packaged policy has this id") for name in unknown])


@lru_cache(maxsize=1)
def _packaged() -> Policy:
    return read_policy(PACKAGED)


def load_policy(path: str | None = None) -> Policy:
    """The policy at ``path``, or the packaged one where it is None. Raises SafetyPolicyError."""
    return _packaged() if path is None else read_policy(Path(path))

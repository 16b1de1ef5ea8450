"""One layer of settings, read from a YAML file or from ``--set a.b=v``, with the place where each value stands.

YAML is read as version 1.2 reads it where 1.1 surprises: ``1e-4`` is a number, ``no`` and ``off`` are text,
``2024-01-01`` is text, and ``010`` is text, not eight. Anchors and aliases are refused.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from fedmed.config.schema import FedMedConfig, Section

KeyPath: TypeAlias = tuple[str | int, ...]
Place: TypeAlias = Callable[[yaml.Node], str]

_FLOAT = re.compile(
    r"[-+]?(?:(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+|\.(?:inf|Inf|INF))$|\.(?:nan|NaN|NAN)$"
)
_RESOLVERS = (
    ("tag:yaml.org,2002:null", re.compile(r"(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""]),
    ("tag:yaml.org,2002:bool", re.compile(r"(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")),
    ("tag:yaml.org,2002:int", re.compile(r"[-+]?(?:0|[1-9][0-9]*)$"), list("-+0123456789")),
    ("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789")),
)


class _Loader(yaml.SafeLoader):
    """Safe, without YAML 1.1's surprises; see the module's text."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(None, None, "aliases (*name) are not used in settings", mark)
        return super().compose_node(parent, index)


for _tag, _pattern, _first in _RESOLVERS:
    _Loader.add_implicit_resolver(_tag, _pattern, _first)


@dataclass(frozen=True, slots=True)
class Leaf:
    """One setting as one layer gives it."""

    path: tuple[str, ...]
    value: Any
    places: Mapping[KeyPath, str]  # the path itself and the items under it -> "file:line" or the flag's text


@dataclass(slots=True)
class Layer:
    """The settings of one source, and what is wrong with its shape."""

    leaves: list[Leaf] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def dotted(path: Sequence[str | int]) -> str:
    return ".".join(str(part) for part in path)


def sub_section(section: type[Section], name: str) -> type[Section] | None:
    """The section that the field ``name`` holds, or None where it holds a plain value."""
    annotation = section.model_fields[name].annotation
    return annotation if isinstance(annotation, type) and issubclass(annotation, Section) else None


def setting_paths(section: type[Section] = FedMedConfig, above: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """The path of every setting there is, in the order of the schema."""
    paths: list[tuple[str, ...]] = []
    for name in section.model_fields:
        inner = sub_section(section, name)
        paths += setting_paths(inner, (*above, name)) if inner else [(*above, name)]
    return paths


def read_file(path: Path, *, section: str | None = None, ignore: Sequence[str] = ()) -> Layer:
    """Read a recipe, an extra file, or (with ``section``) one of the five files of defaults.

    Args:
        path: the file.
        section: the section whose keys stand at the top of this file; None: the sections themselves do.
        ignore: top-level keys to pass over.

    Returns:
        The layer. A file that cannot be read or parsed gives a layer with one problem.
    """
    source = display_path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return Layer(problems=[f"{source}: no such file"])
    except UnicodeDecodeError:
        return Layer(problems=[f"{source}: not a text file in UTF-8"])
    except OSError as error:
        return Layer(problems=[f"{source}: cannot be read ({error.strerror or error})"])
    return read_text(text, source, section=section, ignore=ignore)


def read_text(text: str, source: str, *, section: str | None = None, ignore: Sequence[str] = ()) -> Layer:
    """As ``read_file``, for text that is already here; ``source`` names it in problems."""
    layer = Layer()

    def place(node: yaml.Node) -> str:
        return f"{source}:{node.start_mark.line + 1}"

    node = _compose(text, layer, lambda line: f"{source}:{line}")
    if node is None:
        return layer
    if section is None:
        _collect_section(node, FedMedConfig, (), place, layer, ignore)
    else:
        inner = sub_section(FedMedConfig, section)
        assert inner is not None, f"{section} is not a section"
        _collect_section(node, inner, (section,), place, layer, ignore)
    return layer


def read_override(text: str, flag: str) -> Layer:
    """Read one ``a.b=value``; the value is YAML, so lists, ``null`` and numbers work.

    Args:
        text: e.g. ``federated.rounds=2``.
        flag: what the user wrote before it, e.g. ``--set``; names the place in problems.
    """
    layer = Layer()
    where = f"{flag} {text}"
    key, equals, value = text.partition("=")
    keys = key.strip().split(".")
    if not equals or not all(keys):
        layer.problems.append(f"{where}: must read section.key=value, e.g. federated.rounds=2")
        return layer
    node = _compose(value, layer, lambda _line: where)
    if layer.problems:
        return layer
    if node is None:
        node = yaml.ScalarNode("tag:yaml.org,2002:null", "")
    for part in reversed(keys):
        node = yaml.MappingNode("tag:yaml.org,2002:map", [(yaml.ScalarNode("tag:yaml.org,2002:str", part), node)])
    _collect_section(node, FedMedConfig, (), lambda _node: where, layer, ())
    return layer


def read_values(text: str, source: str) -> tuple[Any, Mapping[KeyPath, str], list[str]]:
    """Any other YAML file by the same rules: its value, the place of each part of it ("file:line"), and problems."""
    layer, places = Layer(), dict[KeyPath, str]()
    node = _compose(text, layer, lambda line: f"{source}:{line}")
    if node is None:
        return None, places, layer.problems
    value = _plain(node, (), lambda part: f"{source}:{part.start_mark.line + 1}", layer, places)
    return value, places, layer.problems


def display_path(path: Path) -> str:
    """``path`` as a person would write it: relative to the working folder where it lies inside."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def _compose(text: str, layer: Layer, place: Callable[[int], str]) -> yaml.Node | None:
    """Parse ``text``; None with a problem noted, or None for an empty text."""
    try:
        loader = _Loader(text)
        try:
            return loader.get_single_node()
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        reason = getattr(error, "problem", None) or getattr(error, "reason", None) or "it cannot be parsed"
        layer.problems.append(f"{place(mark.line + 1 if mark else 1)}: not valid YAML: {reason}")
    except RecursionError:
        layer.problems.append(f"{place(1)}: not valid YAML: nested too deeply")
    return None


def _collect_section(
    node: yaml.Node, section: type[Section], path: tuple[str, ...], place: Place, layer: Layer, ignore: Sequence[str]
) -> None:
    if len(path) <= 1 and node.tag == "tag:yaml.org,2002:null":
        return  # a section whose lines are all commented out
    if not isinstance(node, yaml.MappingNode):
        name = f"{dotted(path)}: " if path else ""
        layer.problems.append(
            f"{place(node)}: {name}must hold 'key: value' lines, {', '.join(list(section.model_fields)[:3])} …"
        )
        return
    for key, value in _items(node, path, place, layer):
        if not path and key in ignore:
            continue
        if key not in section.model_fields:
            layer.problems.append(
                f"{place(value)}: {dotted((*path, key))}: no such setting{_suggest(key, section, path)}"
            )
        elif inner := sub_section(section, key):
            _collect_section(value, inner, (*path, key), place, layer, ())
        else:
            places: dict[KeyPath, str] = {}
            before = len(layer.problems)
            plain = _plain(value, (*path, key), place, layer, places)
            if len(layer.problems) == before:
                layer.leaves.append(Leaf((*path, key), plain, places))


def _items(node: yaml.MappingNode, path: KeyPath, place: Place, layer: Layer) -> list[tuple[str, yaml.Node]]:
    """The entries of a mapping whose keys are text and stand there once."""
    seen: dict[str, yaml.Node] = {}
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode) or key.tag != "tag:yaml.org,2002:str":
            shown = key.value if isinstance(key, yaml.ScalarNode) else "a list or mapping"
            layer.problems.append(f"{place(key)}: {dotted(path) or 'settings'}: a key must be text, is {shown}")
        elif key.value in seen:
            first = place(seen[key.value])
            layer.problems.append(f"{place(key)}: {dotted((*path, key.value))}: given twice, first at {first}")
        else:
            seen[key.value] = value
    return list(seen.items())


def _plain(node: yaml.Node, path: KeyPath, place: Place, layer: Layer, places: dict[KeyPath, str]) -> Any:
    """The Python value of a node: lists become tuples, as the schema has them."""
    places[path] = place(node)
    if isinstance(node, yaml.MappingNode):
        return {
            key: _plain(value, (*path, key), place, layer, places) for key, value in _items(node, path, place, layer)
        }
    if isinstance(node, yaml.SequenceNode):
        return tuple(_plain(item, (*path, i), place, layer, places) for i, item in enumerate(node.value))
    loader = _Loader("")
    try:
        return loader.construct_object(node, deep=True)
    except (yaml.YAMLError, ValueError) as error:
        reason = getattr(error, "problem", None) or error
        layer.problems.append(f"{place(node)}: {dotted(path)}: cannot be read: {reason}")
        return None
    finally:
        loader.dispose()


def _suggest(key: str, section: type[Section], path: tuple[str, ...]) -> str:
    near = difflib.get_close_matches(key, section.model_fields, n=1, cutoff=0.6)
    if near:
        return f", did you mean {dotted((*path, near[0]))}?"
    elsewhere = [dotted(other) for other in setting_paths() if other[-1] == key]
    if elsewhere:
        return f", did you mean {' or '.join(elsewhere)}?"
    return f"; there are {', '.join(section.model_fields)}"

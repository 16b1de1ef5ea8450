"""Resolve the settings: defaults < recipe < extra files < ``--set``, and report everything that is wrong at once."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from fedmed.config.layers import KeyPath, Layer, dotted, read_file, read_override
from fedmed.config.problems import describe
from fedmed.config.recipes import find_recipe
from fedmed.config.schema import FedMedConfig
from fedmed.errors import ConfigError

DEFAULT_FILES = {name: Path(__file__).with_name(f"{name}_config.yaml") for name in FedMedConfig.model_fields}
"""Section -> the YAML file that holds all of its defaults."""

_RUN_SECTION = "run"  # what a run's config.yaml says besides the settings: seed, versions, commit


class _Dumper(yaml.SafeDumper):
    """Writes no aliases, and quotes text that reads as a number with or without a dot (``1e-6``)."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    several_lines = text.splitlines() != [text]  # also where a rare line break such as U+0085 is in it
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"' if several_lines else None)


_Dumper.add_representer(str, _represent_text)
_Dumper.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def load_config(
    recipe: str | None = None, files: Sequence[Path] = (), overrides: Sequence[str] = (), *, flag: str = "--set"
) -> FedMedConfig:
    """Resolve the settings of a run.

    Args:
        recipe: name of a recipe, see ``fedmed.config.recipes``; None: only the defaults.
        files: YAML files laid out as a recipe is, a run's ``config.yaml`` among them; later ones win.
        overrides: ``section.key=value``, the value in YAML; later ones win.
        flag: how problems name an override.

    Returns:
        Settings that are complete, in range and frozen. Mappings are merged key by key, lists are replaced.

    Raises:
        ConfigError: lists every problem of every layer, each with its file and line or its flag.
    """
    layers = [read_file(path, section=section) for section, path in DEFAULT_FILES.items()]
    if recipe is not None:
        layers.append(read_file(find_recipe(recipe)))
    layers += [read_file(path, ignore=(_RUN_SECTION,)) for path in files]
    layers += [read_override(text, flag) for text in overrides]
    return _resolve(layers)


def default_config() -> FedMedConfig:
    """The settings a plain script gets: the defaults, then the recipe and overrides that the environment names.

    ``FEDMED_RECIPE=quick FEDMED_SET="federated.rounds=1 model.device=cpu" python script.py`` runs a script small
    without editing it. ``FEDMED_SET`` is split as a shell splits words.

    Raises:
        ConfigError: as ``load_config``, or the quotes of ``FEDMED_SET`` do not match.
    """
    try:
        overrides = shlex.split(os.environ.get("FEDMED_SET", ""))
    except ValueError as error:
        raise ConfigError([f"FEDMED_SET cannot be split into words ({error})"], "check its quotes") from error
    return load_config(os.environ.get("FEDMED_RECIPE") or None, (), overrides, flag="FEDMED_SET")


def config_digest(config: FedMedConfig) -> str:
    """SHA-256, in hex, of the settings as canonical JSON: equal exactly when the settings are."""
    text = json.dumps(config.as_dict(), sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def dump_config(config: FedMedConfig, extra: Mapping[str, Any] | None = None) -> str:
    """The settings as YAML text, for a run's ``config.yaml``.

    Args:
        config: the settings.
        extra: what else to keep, under ``run``: seed, versions, commit; plain JSON values.
    """
    parts: dict[str, Any] = {_RUN_SECTION: dict(extra)} if extra else {}
    parts |= config.as_dict()
    text = yaml.dump(parts, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1_000_000)
    return f"# Settings, resolved: defaults < recipe < files < --set.      Check: fedmed config check FILE\n{text}"


def read_run_config(path: Path) -> FedMedConfig:
    """The settings that ``dump_config`` wrote; its ``run`` section is passed over.

    Raises:
        ConfigError: the file is missing, not YAML, or its settings cannot be used.
    """
    return _resolve([read_file(path, ignore=(_RUN_SECTION,))])


def _resolve(layers: Iterable[Layer]) -> FedMedConfig:
    """Lay one layer over the other and check the result."""
    values: dict[str, Any] = {}
    places: dict[KeyPath, str] = {}
    problems: list[str] = []
    for layer in layers:
        problems += layer.problems
        for leaf in layer.leaves:
            target = values
            for part in leaf.path[:-1]:
                target = target.setdefault(part, {})
            name = leaf.path[-1]
            old = target.get(name)
            merge = isinstance(old, dict) and isinstance(leaf.value, dict)
            target[name] = {**old, **leaf.value} if merge and old is not None else leaf.value
            for place in [place for place in places if place[: len(leaf.path)] == leaf.path]:
                if not merge or place == leaf.path:
                    del places[place]  # so that the newest value is also the last in the table
            places.update(leaf.places)
    try:
        config = FedMedConfig.model_validate(values)
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            message = describe(detail)
            where, path = _blame(detail["loc"], message, places)
            problems.append(f"{where}{path}: {message}")
        config = None
    if problems or config is None:
        raise ConfigError(problems)
    return config


def _blame(location: KeyPath, message: str, places: Mapping[KeyPath, str]) -> tuple[str, str]:
    """Where the value that a message is about was set ("file:line: "), and its key path."""
    for length in range(len(location), 0, -1):
        if location[:length] in places:
            return f"{places[location[:length]]}: ", dotted(location[:length])
    # A rule about several settings of one section: the newest of those that the message names.
    inside = [path for path in places if path[: len(location)] == location]
    named = [path for path in inside if str(path[-1]) in message.split()]
    where = f"{places[named[-1]]}: " if named else ""
    return where, dotted(location) or "settings"

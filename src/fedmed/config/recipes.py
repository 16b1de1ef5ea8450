"""Where recipes lie: in the installed package, else in the checkout. A recipe is a short override of the defaults."""

from __future__ import annotations

import difflib
from pathlib import Path

from fedmed.errors import ConfigError

_PACKAGE = Path(__file__).resolve().parents[1]


def recipe_folder() -> Path:
    """``fedmed/recipes`` in an installed package, ``recipes`` beside ``src`` in a checkout."""
    packaged = _PACKAGE / "recipes"
    if packaged.is_dir() or _PACKAGE.parent.name != "src":
        return packaged
    return _PACKAGE.parents[1] / "recipes"


def list_recipes() -> dict[str, Path]:
    """Every recipe's name -> its file, sorted; a recipe in a sub-folder is called ``folder/name``."""
    folder = recipe_folder()
    return {file.relative_to(folder).with_suffix("").as_posix(): file for file in sorted(folder.rglob("*.yaml"))}


def find_recipe(name: str) -> Path:
    """The file of the recipe ``name``.

    Raises:
        ConfigError: there is no such recipe; lists those there are.
    """
    recipes = list_recipes()
    if name in recipes:
        return recipes[name]
    near = difflib.get_close_matches(name, recipes, n=1, cutoff=0.6)
    guess = f", did you mean {near[0]}?" if near else ""
    raise ConfigError(
        [f"no recipe is called '{name}'{guess}"],
        f"there are {', '.join(recipes) or 'none'}; a file of your own goes with --config FILE",
    )

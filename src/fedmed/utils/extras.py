"""Optional dependencies, imported late; a missing one is an error that names the extra."""

from __future__ import annotations

import importlib
from typing import Any

from fedmed.errors import MissingExtraError


def require(package: str, extra: str) -> Any:
    """Import ``package`` (dotted names allowed) or say which extra of FED-MED brings it."""
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name and package.startswith(error.name.split(".")[0]):
            raise MissingExtraError(error.name, extra) from error
        raise

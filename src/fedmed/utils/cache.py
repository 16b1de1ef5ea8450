"""Where things are kept that can be made again: converted models, tokenised records."""

from __future__ import annotations

import os
from pathlib import Path


def cache_root() -> Path:
    """``$FEDMED_CACHE``, else ``$XDG_CACHE_HOME/fedmed``, else ``~/.cache/fedmed``."""
    if chosen := os.environ.get("FEDMED_CACHE"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "fedmed"

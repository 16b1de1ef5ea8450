"""A public key as the command line takes it."""

from __future__ import annotations

from pathlib import Path

import typer


def public_key(given: str) -> str:
    """64 hexadecimal digits, given as they are or as a file of them. Raises typer.BadParameter."""
    path = Path(given)
    text = (path.read_text(encoding="ascii", errors="replace") if path.is_file() else given).strip().lower()
    if len(text) != 64 or not set(text) <= set("0123456789abcdef"):
        raise typer.BadParameter("neither 64 hexadecimal digits nor a file of them", param_hint="--key")
    return text

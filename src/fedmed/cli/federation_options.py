"""What the commands of ``fedmed federation`` share: options, passphrases, lines of text."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from fedmed.utils.console import err, out

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Coordinator = Annotated[Path, typer.Option("--folder", metavar="DIR", help="The coordinator's folder.")]
Hospital = Annotated[Path, typer.Option("--folder", metavar="DIR", help="The hospital's folder.")]
AskPassphrase = Annotated[
    bool, typer.Option("--ask-passphrase", help="Encrypt the keys; without it $FEDMED_PASSPHRASE does, if set.")
]


def line(text: str) -> None:
    """One line of the result."""
    out.print(text, highlight=False, markup=False)


def note(text: str) -> None:
    """One line for a person, apart from the result."""
    err.print(text, highlight=False, markup=False)


def is_interactive() -> bool:
    """Whether a person can be asked."""
    return sys.stdin.isatty()


def passphrase_for_new_keys(ask: bool) -> bytes | None:
    """Typed twice, or from the environment, or none. Never from the command line, which others can read."""
    from fedmed.network.key_files import passphrase_from_environment

    if ask:
        typed: str = typer.prompt(
            "passphrase for the private keys", hide_input=True, confirmation_prompt=True, err=True
        )
        return typed.encode()
    return passphrase_from_environment()


def note_plain_keys(passphrase: bytes | None) -> None:
    """Say so where new keys are not encrypted."""
    if passphrase is None:
        note("note: the private keys are not encrypted; --ask-passphrase or FEDMED_PASSPHRASE encrypts them")


def passphrase_for(*keys: Path) -> bytes | None:
    """The passphrase of keys that are there: from the environment, or typed where one of them needs it."""
    from fedmed.network.key_files import is_encrypted, passphrase_from_environment

    given = passphrase_from_environment()
    if given is None and is_interactive() and any(is_encrypted(key) for key in keys):
        typed: str = typer.prompt(f"passphrase of {keys[0]}", hide_input=True, err=True)
        return typed.encode()
    return given

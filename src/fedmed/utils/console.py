"""The two consoles, results on stdout and everything else on stderr, and progress for people and for log files."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Protocol

from rich.console import Console

out = Console(soft_wrap=True)
"""Results: what a script may want to read."""

err = Console(stderr=True, soft_wrap=True)
"""Progress, notes and errors."""

PLAIN_INTERVAL = 10.0
"""Seconds that lie at least between two progress lines when stderr is not a terminal."""


class Step(Protocol):
    """Moves a progress display on."""

    def __call__(self, n: int = 1, **info: str | int | float) -> None:
        """Add ``n`` to what is done, and show ``info``, e.g. ``round=2, hospital="hospital_A", loss=1.9``.

        ``_per_`` in a name is shown as a slash: ``tokens_per_s=36`` reads "tokens/s 36".
        """


@contextlib.contextmanager
def track(
    description: str,
    total: int | None = None,
    *,
    console: Console = err,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Step]:
    """Show progress on stderr: a bar with the time left on a terminal, else plain lines.

    Args:
        description: what is being done, e.g. "training".
        total: how many steps there are; None: not known.
        console: where to show it.
        clock: seconds, for the plain lines' times.

    Yields:
        The function to call after each step.
    """
    shown = _bar(description, total, console) if console.is_terminal else _lines(description, total, console, clock)
    with shown as step:
        yield step


def describe_info(info: dict[str, str | int | float]) -> str:
    """``{"round": 2, "tokens_per_s": 36.251}`` -> "round 2, tokens/s 36.25"."""
    return ", ".join(
        f"{name.replace('_per_', '/').replace('_', ' ')} {f'{value:.4g}' if isinstance(value, float) else value}"
        for name, value in info.items()
    )


def describe_seconds(seconds: float) -> str:
    """``75.2`` -> "1:15"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


@contextlib.contextmanager
def _bar(description: str, total: int | None, console: Console) -> Iterator[Step]:
    from rich.progress import (  # here, so that a command that shows no progress starts sooner
        BarColumn,
        MofNCompleteColumn,
        Progress,
        SpinnerColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    known = (BarColumn(), MofNCompleteColumn()) if total is not None else (SpinnerColumn(),)
    left = (TextColumn("left"), TimeRemainingColumn()) if total is not None else ()
    columns = (TextColumn("{task.description}", markup=False), *known, TimeElapsedColumn(), *left)
    text = TextColumn("{task.fields[info]}", markup=False)
    with Progress(*columns, text, console=console) as progress:
        task = progress.add_task(description, total=total, info="")

        def step(n: int = 1, **info: str | int | float) -> None:
            progress.update(task, advance=n, **({"info": describe_info(info)} if info else {}))  # type: ignore[arg-type]

        yield step


@contextlib.contextmanager
def _lines(description: str, total: int | None, console: Console, clock: Callable[[], float]) -> Iterator[Step]:
    start = last = clock()
    done = 0
    newest = ""

    def show(ending: str) -> None:
        seconds = clock() - start
        count = f" {done}/{total}" if total is not None else f" {done}" if done else ""
        parts = [f"{description}{count}", newest, f"{ending} {describe_seconds(seconds)}"]
        if ending == "after" and total is not None and 0 < done < total:
            parts.append(f"{describe_seconds(seconds / done * (total - done))} left")
        console.print(", ".join(filter(None, parts)), markup=False, highlight=False)

    def step(n: int = 1, **info: str | int | float) -> None:
        nonlocal done, last, newest
        done += n
        newest = describe_info(info) if info else newest
        if clock() - last >= PLAIN_INTERVAL:
            last = clock()
            show("after")

    try:
        yield step
    except BaseException:
        show("not finished after")
        raise
    show("done in")

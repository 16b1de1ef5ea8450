"""Progress for people and for log files; logging that swallows no error."""

import io
import logging
import os
from collections.abc import Iterator

import pytest
from rich.console import Console

from fedmed.utils.console import describe_info, describe_seconds, track
from fedmed.utils.logger import get_logger, setup_logging

pytestmark = pytest.mark.unit


def plain() -> tuple[Console, io.StringIO]:
    stream = io.StringIO()
    return Console(file=stream, force_terminal=False, soft_wrap=True), stream


def test_without_a_terminal_there_is_a_line_every_ten_seconds_and_one_at_the_end() -> None:
    console, stream = plain()
    times: Iterator[float] = iter(float(second) for second in range(1000))
    clock = {"now": 0.0}
    with track("training", 40, console=console, clock=lambda: clock["now"]) as step:
        for number in range(40):
            clock["now"] = next(times) + 1
            step(round=number // 4 + 1, loss=2.0)
    assert stream.getvalue().splitlines() == [
        "training 10/40, round 3, loss 2, after 0:10, 0:30 left",
        "training 20/40, round 5, loss 2, after 0:20, 0:20 left",
        "training 30/40, round 8, loss 2, after 0:30, 0:10 left",
        "training 40/40, round 10, loss 2, after 0:40",
        "training 40/40, round 10, loss 2, done in 0:40",
    ]


def test_a_quick_job_without_a_total_is_one_line() -> None:
    console, stream = plain()
    with track("loading the model", console=console, clock=lambda: 5.0):
        pass
    assert stream.getvalue() == "loading the model, done in 0:00\n"


def test_a_job_that_fails_says_how_far_it_came_and_raises() -> None:
    console, stream = plain()

    def fail_after_one_step() -> None:
        with track("training", 4, console=console, clock=lambda: 5.0) as step:
            step()
            raise KeyError("x")

    with pytest.raises(KeyError):
        fail_after_one_step()
    assert stream.getvalue() == "training 1/4, not finished after 0:00\n"


def test_a_terminal_gets_a_bar_with_the_info() -> None:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=120)
    with track("training [a]", 2, console=console) as step:
        step(hospital="hospital_A", tokens_per_s=36.251)
        step()
    assert "training [a]" in stream.getvalue()
    assert "2/2" in stream.getvalue()
    assert "hospital hospital_A, tokens/s 36.25" in stream.getvalue()


def test_info_and_seconds_read_well() -> None:
    assert describe_info({"round": 2, "tokens_per_s": 36.251}) == "round 2, tokens/s 36.25"
    assert [describe_seconds(value) for value in (0.4, 75.2, 3661)] == ["0:00", "1:15", "1:01:01"]


@pytest.fixture
def restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    names = ("fedmed", "transformers", "datasets")
    before = {name: (logging.getLogger(name).level, logging.getLogger(name).handlers) for name in names}
    monkeypatch.setattr(os, "environ", os.environ.copy())
    yield
    for name, (level, handlers) in before.items():
        logging.getLogger(name).setLevel(level)
        logging.getLogger(name).handlers = handlers


@pytest.mark.usefixtures("restored")
def test_notes_go_to_stderr_and_debug_lines_only_when_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    logger = get_logger("fedmed.data")
    assert get_logger("data") is logger
    setup_logging()
    logger.info("read %d records [a]", 3)
    logger.warning("one is cut")
    logger.debug("hidden")
    shown = capsys.readouterr()
    assert shown.err == "read 3 records [a]\nwarning: one is cut\n"
    assert shown.out == ""
    setup_logging(debug=True)
    logger.debug("shown")
    assert capsys.readouterr().err == "[fedmed.data] shown\n"


@pytest.mark.usefixtures("restored")
def test_other_libraries_keep_quiet_but_their_errors_are_heard() -> None:
    setup_logging()
    for name in ("transformers", "datasets"):
        assert not logging.getLogger(name).isEnabledFor(logging.WARNING)
        assert logging.getLogger(name).isEnabledFor(logging.ERROR)


@pytest.mark.usefixtures("restored")
def test_what_a_user_set_in_the_environment_stays() -> None:
    os.environ["TRANSFORMERS_VERBOSITY"] = "debug"
    setup_logging()
    assert os.environ["TRANSFORMERS_VERBOSITY"] == "debug"

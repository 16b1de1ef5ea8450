"""A browser that is there for real, and the page in it: real rails, queue and page, a writer for a model."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.serving_writer import Writer, served, text_of

HARMLESS = ("net::ERR_ABORTED", "net::ERR_NETWORK_CHANGED")
"""A stream of events that was read far enough; another program that brought up an interface of this machine."""

KEY = "a-key-of-a-ward-long-enough"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Of one file: Playwright keeps an event loop running, and later tests in this process want their own."""
    from playwright.sync_api import sync_playwright

    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    assert program, "these tests need Chromium; on Debian: apt-get install chromium"
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        yield started
        started.close()


@pytest.fixture(scope="session")
def writer() -> Writer:
    from fedmed.safety.guardrails import MedicalGuardrails

    made = Writer(MedicalGuardrails())
    made.says = lambda asked: text_of(
        "You have cancer." if "wrong with me" in asked else f"It is about {asked.removeprefix('What is ')}"
    )
    return made


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where runs lie that the page draws."""
    return tmp_path_factory.mktemp("output-models")


@pytest.fixture(scope="session")
def address(writer: Writer, runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where the page is."""
    from fedmed.demo.mount import mount_page
    from fedmed.serving.api import ServeSettings, create_app
    from fedmed.serving.audit import AnswerAudit

    audit = tmp_path_factory.mktemp("logs") / "audit.jsonl"
    app = create_app(writer, ServeSettings(AnswerAudit(audit), rate=0))
    mount_page(app, [runs])
    with served(app) as address:
        yield address


@pytest.fixture
def locked_address(writer: Writer, tmp_path: Path) -> Iterator[str]:
    """Where the page is on a server with keys."""
    from fedmed.demo.mount import mount_page
    from fedmed.serving.api import ServeSettings, create_app
    from fedmed.serving.audit import AnswerAudit
    from fedmed.serving.limits import ApiKeys

    settings = ServeSettings(AnswerAudit(tmp_path / "audit.jsonl"), keys=ApiKeys({"ward-3": KEY}), hosts=())
    app = create_app(writer, settings)
    mount_page(app, [])
    with served(app) as address:
        yield address


@pytest.fixture
def open_page(browser: Any, address: str) -> Iterator[Callable[..., Any]]:
    """Opens the page; at the end nothing may have gone to another machine, or wrong in its console."""
    contexts: list[Any] = []
    problems: list[str] = []

    def note(kind: str, text: str) -> None:
        problems.append(f"{kind}: {text}")

    def go(
        width: int = 1100,
        height: int = 900,
        scheme: str = "light",
        url: str = address,
        until: str = "#ask",
        **more: Any,
    ) -> Any:
        context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme, device_scale_factor=2, **more
        )
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda said: note(said.type, said.text) if said.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: note("fault", str(error)))
        page.on("requestfailed", lambda asked: None if asked.failure in HARMLESS else note("failed", asked.url))
        page.on(
            "request",
            lambda asked: None if asked.url.startswith((url, "data:", "blob:")) else note("abroad", asked.url),
        )
        page.goto(url)
        page.wait_for_selector(until, timeout=60_000)
        return page

    yield go
    for context in contexts:
        context.close()
    assert problems == []

"""Below the page's address nothing answers but what the page needs."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from fedmed.demo.mount import PageGuard

pytestmark = pytest.mark.unit


def call(
    method: str, path: str, chunks: Sequence[bytes] = (b"",), *, cut_off: bool = False, origin: str | None = None
) -> tuple[int, list[bytes]]:
    """The status, and the bodies that the page's own application read."""
    read: list[bytes] = []
    sent: list[dict[str, Any]] = []
    left = list(chunks)

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        message = await receive() if method == "POST" else {"body": b""}
        read.append(message["body"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def receive() -> dict[str, Any]:
        if not left:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": left.pop(0), "more_body": bool(left) or cut_off}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope: dict[str, Any] = {"type": "http", "method": method, "path": path, "headers": [(b"host", b"127.0.0.1:8000")]}
    if origin is not None:
        scope["headers"].append((b"origin", origin.encode()))
    asyncio.run(PageGuard(inner, most=10, seconds=1.0)(scope, receive, send))  # type: ignore[arg-type]
    headers = dict(sent[0]["headers"])
    if sent[0]["status"] == 200 and path.startswith("/demo/"):
        assert b"default-src 'none'" in headers[b"content-security-policy"]
    return sent[0]["status"], read


@pytest.mark.parametrize("path", ["/demo/", "/demo/config", "/demo/assets/x.js", "/demo/gradio_api/queue/data"])
def test_the_page_itself_is_let_through(path: str) -> None:
    assert call("GET", path)[0] == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/demo/gradio_api/upload"), ("GET", "/demo/gradio_api/file=/etc/passwd"), ("GET", "/demo/monitoring"),
        ("GET", "/demo/gradio_api/proxy=http://x"), ("POST", "/demo/gradio_api/run/predict"), ("PUT", "/demo/"),
        ("POST", "/demo/gradio_api/vibe-edit"), ("GET", "/demo/gradio_api/runs"), ("POST", "/demo/"),
    ],
)  # fmt: skip
def test_the_rest_of_what_it_is_made_with_is_not(method: str, path: str) -> None:
    assert call(method, path) == (404, [])


def test_other_addresses_are_not_its_business() -> None:
    assert call("PUT", "/v1/models")[0] == 200
    assert call("GET", "/demonstration")[0] == 200


def test_a_body_reaches_the_page_whole_or_not_at_all() -> None:
    join = "/demo/gradio_api/queue/join"
    assert call("POST", join, [b"123", b"456"]) == (200, [b"123456"])
    assert call("POST", join, [b"123456", b"789abc"]) == (413, [])
    assert call("POST", join, [b"123"], cut_off=True) == (400, [])


def test_a_page_elsewhere_cannot_ask() -> None:
    join = "/demo/gradio_api/queue/join"
    assert call("POST", join, origin="http://127.0.0.1:8000")[0] == 200
    assert call("POST", join, origin="http://evil.example")[0] == 403
    assert call("POST", join, origin="null")[0] == 403

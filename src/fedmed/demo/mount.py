"""The page on the server's application, and what keeps it small and at home. page -> HERE -> cli.

Gradio brings more than a page needs: uploads, proxies, a monitor. Only what the page itself calls is let through,
bodies are bounded, and a browser is told to load nothing from elsewhere. Where there are keys, a person signs in with
the name of a key and the key.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fastapi import FastAPI, Response
from fastapi.responses import JSONResponse, RedirectResponse
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fedmed.serving.desk import Desk
from fedmed.serving.limits import read_body
from fedmed.serving.messages import ApiError

AT = "/demo"
_ACCENT = "#0f766e"

_READ = re.compile(
    r"/?|/(config|theme\.css|favicon\.ico|manifest\.json|robots\.txt|logout)/?|/(assets|static|svelte)/.+"
    r"|/gradio_api/(info|queue/data|startup-events|app_id|user|login_check|theme\.css|heartbeat/\w+)/?"
)
_WRITTEN = re.compile(r"/login/?|/gradio_api/(queue/join|cancel|reset)/?")
_POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; manifest-src 'self'; "
    "worker-src 'self' blob:; base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
)
_ICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32"><rect width="32" height="32" rx="7" fill="#0f766e"/>'
    '<path d="M16 7v18M7 16h18" stroke="#fff" stroke-width="5" stroke-linecap="round"/></svg>'
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


def mount_page(app: FastAPI, roots: Sequence[Path]) -> Callable[[], Awaitable[None]]:
    """Put the page at ``/demo`` and lead ``/`` to it.

    Args:
        app: of ``serving.api.create_app``.
        roots: folders whose runs the page draws.

    Returns:
        To be awaited when the server goes down: waits for the answers that people are waiting for, then ends the
        connections that open pages hold.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    import gradio as gr

    from fedmed.demo.page import build

    desk: Desk = app.state.desk
    keys = desk.settings.keys
    style = resources.files("fedmed.demo").joinpath("page.css").read_text(encoding="utf-8")

    async def to_page() -> RedirectResponse:
        return RedirectResponse(f"{AT}/")

    async def icon() -> Response:
        return Response(_ICON, media_type="image/svg+xml")

    app.add_api_route("/", to_page, methods=["GET"])
    app.add_api_route("/favicon.ico", icon, methods=["GET"])
    app.add_middleware(PageGuard, most=desk.settings.most_bytes, seconds=desk.settings.body_seconds)
    gr.mount_gradio_app(
        app,
        build(desk, roots),
        path=AT,
        theme=_theme(),
        head=f"<style>{style}</style>",
        auth=keys.matches if keys is not None else None,
        auth_message="Sign in with the name of an API key, and the key as password.",
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        mcp_server=False,
        pwa=False,
        enable_monitoring=False,
        show_error=False,
    )

    mounted: Any = next(route for route in app.router.routes if getattr(route, "path", None) == AT)

    async def close() -> None:
        while desk.busy:
            await asyncio.sleep(0.05)
        await asyncio.sleep(0.5)  # for the last of them to reach their readers
        mounted.app.stop_event.set()

    return close


class PageGuard:
    """Lets through what the page needs, and nothing else below ``/demo``."""

    def __init__(self, app: ASGIApp, most: int, seconds: float) -> None:
        self._app, self._most, self._seconds = app, most, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = str(scope.get("path", ""))
        if scope["type"] == "lifespan" or not (path == AT or path.startswith(f"{AT}/")):
            await self._app(scope, receive, send)
            return
        try:
            receive = await self._admitted(scope, path[len(AT) :], receive)
        except ApiError as error:
            await JSONResponse(error.body, error.status, dict(error.headers))(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        await self._app(scope, receive, send_with_headers)

    async def _admitted(self, scope: Scope, path: str, receive: Receive) -> Receive:
        if scope["type"] == "http" and scope["method"] in ("GET", "HEAD") and _READ.fullmatch(path):
            return receive
        if scope["type"] != "http" or scope["method"] != "POST" or not _WRITTEN.fullmatch(path):
            raise ApiError(404, "there is nothing at this address: the page is at /demo/", "not_found")
        headers = Headers(scope=scope)
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != headers.get("host"):
            raise ApiError(403, "a page elsewhere may not ask here: open the page itself", "foreign_origin")
        declared = headers.get("content-length")
        body = await read_body(_chunks(receive), declared=declared, most=self._most, seconds=self._seconds)
        given = False

        async def once() -> Message:
            nonlocal given
            if given:
                return await receive()
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        return once


async def _chunks(receive: Receive) -> AsyncIterator[bytes]:
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ApiError(400, "the body ended before its end: send it again", "body_cut_off")
        yield message.get("body", b"")
        if not message.get("more_body"):
            return


def _theme() -> Any:
    import gradio as gr

    letters = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "DejaVu Sans", "sans-serif"]
    return gr.themes.Base(
        primary_hue=gr.themes.colors.teal,
        neutral_hue=gr.themes.colors.stone,
        font=letters,
        font_mono=["ui-monospace", "Menlo", "Consolas", "DejaVu Sans Mono", "monospace"],
        radius_size=gr.themes.sizes.radius_lg,
        text_size=gr.themes.sizes.text_lg,
    ).set(
        button_primary_background_fill=_ACCENT,
        button_primary_background_fill_dark=_ACCENT,
        button_primary_background_fill_hover="#115e59",
        button_primary_background_fill_hover_dark="#115e59",
        button_primary_text_color="#ffffff",
        button_primary_text_color_dark="#ffffff",
    )

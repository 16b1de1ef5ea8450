"""The application: OpenAI's chat protocol over guarded answers. messages, desk, stream -> HERE -> server, demo.

A request is admitted (host, key, rate, size) and read; the desk answers. All refusals are OpenAI's error objects.
Not covered: TLS, which is a reverse proxy's; conversations; pages of documentation, which would load scripts from afar.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from fedmed.serving.answers import Answerer, Question, completion, new_id
from fedmed.serving.desk import LOCAL_HOSTS, Desk, ServeSettings
from fedmed.serving.limits import read_body
from fedmed.serving.messages import ApiError, read_request
from fedmed.serving.metrics import CONTENT_TYPE
from fedmed.serving.stream import events
from fedmed.types import Answer
from fedmed.utils.logger import get_logger

__all__ = ["LOCAL_HOSTS", "ServeSettings", "create_app"]

log = get_logger(__name__)

_GONE = 499  # the client left; as nginx has it


def create_app(answerer: Answerer, settings: ServeSettings) -> FastAPI:
    """The application.

    Args:
        answerer: whose answers are served.
        settings: limits, keys and the audit.

    Returns:
        An ASGI application; its ``state.desk`` takes questions, and its lifespan ends when every accepted one is
        answered.
    """
    desk = Desk(answerer, settings)
    service = _Service(desk)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        if not await asyncio.to_thread(desk.queue.drain, settings.drain_seconds):
            log.warning("some questions were not answered before the server ended")

    app = FastAPI(title="FED-MED", docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)
    app.state.desk = desk
    app.add_middleware(KnownHosts, hosts=settings.hosts, refused=desk.metrics.request)
    app.add_api_route("/health", service.health, methods=["GET"])
    app.add_api_route("/metrics", service.metrics_text, methods=["GET"])
    app.add_api_route("/v1/models", service.models, methods=["GET"])
    app.add_api_route("/v1/models/{name:path}", service.model, methods=["GET"])
    app.add_api_route("/v1/chat/completions", service.chat, methods=["POST"])
    app.add_exception_handler(ApiError, _refused)
    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(Exception, _fault)
    return app


class KnownHosts:
    """Answers requests that call the server by one of its names: a page elsewhere may have rebound its own to us."""

    def __init__(self, app: ASGIApp, hosts: tuple[str, ...], refused: Callable[[int], None]) -> None:
        self._app, self._hosts, self._refused = app, hosts, refused

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan" and self._hosts and scope["path"] != "/health":
            host = re.sub(r":\d*$", "", Headers(scope=scope).get("host", "")).lower()
            if host not in self._hosts:
                self._refused(403)
                why = "the server is not called by this name: use the address it shows"
                await _response(ApiError(403, why, "wrong_host"))(scope, receive, send)
                return
        await self._app(scope, receive, send)


class _Service:
    def __init__(self, desk: Desk) -> None:
        self.desk, self.settings, self.metrics = desk, desk.settings, desk.metrics
        self._started = int(time.time())

    async def health(self, request: Request) -> Response:
        if self.desk.queue.closed:
            return JSONResponse({"status": "going down"}, status_code=503)
        return JSONResponse({"status": "ok", "waiting": self.desk.queue.waiting})

    async def metrics_text(self, request: Request) -> Response:
        self._asker(request)
        return Response(self.metrics.text(), media_type=CONTENT_TYPE)

    async def models(self, request: Request) -> Response:
        self._asker(request)
        return JSONResponse({"object": "list", "data": [self._card(name) for name in await self.desk.models()]})

    async def model(self, request: Request, name: str) -> Response:
        self._asker(request)
        await self.desk.check(name)
        return JSONResponse(self._card(name))

    async def chat(self, request: Request) -> Response:
        try:
            response = await self._chat(request)
        except ClientDisconnect:
            self.metrics.client_gone()
            response = Response(status_code=_GONE)
        except ApiError as error:
            self.metrics.request(error.status)
            raise
        self.metrics.request(response.status_code)
        return response

    async def _chat(self, request: Request) -> Response:
        asker = self._asker(request)
        self.desk.rate.take(asker if self.settings.keys else _address(request))
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise ApiError(415, "the body is not sent as JSON: set 'Content-Type: application/json'", "not_json")
        body = await read_body(
            request.stream(),
            declared=request.headers.get("content-length"),
            most=self.settings.most_bytes,
            seconds=self.settings.body_seconds,
        )
        asked = read_request(body)
        await self.desk.check(asked.model)
        id = new_id()
        waiting = await self.desk.accept(id, asker, Question.of(asked))
        if asked.stream:
            stream = events(
                id,
                asked.model,
                waiting,
                gone=self.metrics.client_gone,
                include_usage=asked.stream_options is not None and asked.stream_options.include_usage,
                keep_alive=self.settings.keep_alive,
            )
            headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
            return StreamingResponse(stream, media_type="text/event-stream", headers=headers)
        return JSONResponse(completion(id, asked.model, await _unless_gone(request, waiting)))

    def _asker(self, request: Request) -> str:
        """The name of the key, where there are keys. Raises ApiError."""
        if self.settings.keys is None:
            return "anybody"
        return self.settings.keys.name_of(request.headers.get("authorization"))

    def _card(self, name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": self._started, "owned_by": "fedmed"}


async def _unless_gone(request: Request, waiting: asyncio.Future[Answer]) -> Answer:
    """The answer, as long as its client is there. Raises ClientDisconnect."""
    gone = asyncio.ensure_future(_gone(request))
    try:
        either: set[asyncio.Future[Any]] = {waiting, gone}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not waiting.done():
            raise ClientDisconnect
        return waiting.result()
    finally:
        waiting.cancel()
        gone.cancel()


async def _gone(request: Request) -> None:
    """Returns when the client has left."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _address(request: Request) -> str:
    return request.client.host if request.client else "unknown"


def _response(error: ApiError) -> JSONResponse:
    return JSONResponse(error.body, status_code=error.status, headers=dict(error.headers))


async def _refused(request: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException):
        what = "there is nothing at this address" if error.status_code == 404 else str(error.detail).lower()
        code = "not_found" if error.status_code == 404 else "bad_request"
        error = ApiError(error.status_code, f"{what}: see GET /v1/models and POST /v1/chat/completions", code)
    assert isinstance(error, ApiError)
    return _response(error)


async def _fault(request: Request, error: Exception) -> Response:
    return await _refused(request, ApiError(500, "a fault in FED-MED: see the server's log", "fault"))

"""The application: OpenAI's chat protocol over guarded answers. messages, queue, stream, audit -> HERE -> server.

A question is admitted (host, key, rate, size), read, answered at once where no model is needed, and queued otherwise;
what became of it is written to the audit before any of it is sent. All refusals are OpenAI's error objects.
Not covered: TLS, which is a reverse proxy's; conversations; pages of documentation, which would load scripts from afar.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from fedmed.errors import FedMedError, UpstreamError
from fedmed.serving.answers import Answerer, Question, completion, new_id, with_notes
from fedmed.serving.audit import AnswerAudit
from fedmed.serving.limits import ApiKeys, Rate, read_body
from fedmed.serving.messages import ApiError, read_request
from fedmed.serving.metrics import CONTENT_TYPE, Metrics
from fedmed.serving.queue import BATCH, AnswerQueue
from fedmed.serving.stream import KEEP_ALIVE, events
from fedmed.types import Answer
from fedmed.utils.logger import get_logger

Result = TypeVar("Result")

log = get_logger(__name__)

LOCAL_HOSTS = ("127.0.0.1", "localhost", "[::1]")
"""Names by which this machine's own programs call the server."""

_GONE = 499  # the client left; as nginx has it


@dataclass(frozen=True, slots=True)
class ServeSettings:
    """What a hospital decides about its server."""

    audit: AnswerAudit
    keys: ApiKeys | None = None  # None: everybody who reaches the server may ask
    hosts: tuple[str, ...] = LOCAL_HOSTS  # names it may be called by; empty: any
    rate: int = 300  # questions a minute for each key; 0: no limit
    queue_size: int = 64  # questions that may wait
    batch: int = BATCH  # questions of one pass
    workers: int = 1  # passes at a time
    most_bytes: int = 256 * 1024  # of a request's body
    body_seconds: float = 30.0  # for a request's body to come
    answer_seconds: float = 300.0  # from a question to its answer
    drain_seconds: float = 600.0  # for accepted questions when the server goes down
    keep_alive: float = KEEP_ALIVE  # seconds between signs of life in a stream


def create_app(answerer: Answerer, settings: ServeSettings) -> FastAPI:
    """The application.

    Args:
        answerer: whose answers are served.
        settings: limits, keys and the audit.

    Returns:
        An ASGI application; its lifespan ends when every accepted question is answered.
    """
    service = _Service(answerer, settings)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        if not await asyncio.to_thread(service.queue.drain, settings.drain_seconds):
            log.warning("some questions were not answered before the server ended")

    app = FastAPI(title="FED-MED", docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)
    app.state.service = service
    app.add_api_route("/health", service.health, methods=["GET"])
    app.add_api_route("/metrics", service.metrics_text, methods=["GET"])
    app.add_api_route("/v1/models", service.models, methods=["GET"])
    app.add_api_route("/v1/models/{name:path}", service.model, methods=["GET"])
    app.add_api_route("/v1/chat/completions", service.chat, methods=["POST"])
    app.add_exception_handler(ApiError, _refused)
    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(Exception, _fault)
    return app


class _Service:
    def __init__(self, answerer: Answerer, settings: ServeSettings) -> None:
        self.answerer, self.settings = answerer, settings
        self.metrics = Metrics()
        self.rate = Rate(settings.rate)
        self.queue = AnswerQueue(
            answerer.answer,
            size=settings.queue_size,
            batch=settings.batch,
            workers=settings.workers,
            answered=self.metrics.answered,
        )
        self.metrics.waiting.set_function(lambda: self.queue.waiting)
        self._started = int(time.time())

    async def health(self, request: Request) -> Response:
        if self.queue.closed:
            return JSONResponse({"status": "going down"}, status_code=503)
        return JSONResponse({"status": "ok", "waiting": self.queue.waiting})

    async def metrics_text(self, request: Request) -> Response:
        self._asker(request)
        return Response(self.metrics.text(), media_type=CONTENT_TYPE)

    async def models(self, request: Request) -> Response:
        self._asker(request)
        names = await _in_thread(self.answerer.models)
        return JSONResponse({"object": "list", "data": [self._card(name) for name in names]})

    async def model(self, request: Request, name: str) -> Response:
        self._asker(request)
        await _in_thread(lambda: self.answerer.check(name))
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
        started = time.monotonic()
        asker = self._asker(request)
        self.rate.take(asker if self.settings.keys else _address(request))
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise ApiError(415, "the body is not sent as JSON: set 'Content-Type: application/json'", "not_json")
        body = await read_body(
            request.stream(),
            declared=request.headers.get("content-length"),
            most=self.settings.most_bytes,
            seconds=self.settings.body_seconds,
        )
        asked = read_request(body)
        await _in_thread(lambda: self.answerer.check(asked.model))
        question, id = Question.of(asked), new_id()
        future = await self._begin(question)
        waiting = asyncio.ensure_future(self._within_time(future, question))

        def over(done: asyncio.Future[Answer]) -> None:
            future.cancel()  # out of the queue, where it still is
            if not done.cancelled():
                done.exception()  # seen, also where nobody waits any more

        waiting.add_done_callback(over)

        async def record(answer: Answer) -> None:
            await self._record(id, asker, question, answer, time.monotonic() - started)

        if asked.stream:
            stream = events(
                id,
                asked.model,
                waiting,
                record,
                gone=self.metrics.client_gone,
                include_usage=asked.stream_options is not None and asked.stream_options.include_usage,
                keep_alive=self.settings.keep_alive,
            )
            headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
            return StreamingResponse(stream, media_type="text/event-stream", headers=headers)
        gone = asyncio.ensure_future(_gone(request))
        try:
            await asyncio.wait({waiting, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not waiting.done():
                raise ClientDisconnect
            answer = waiting.result()
        finally:
            waiting.cancel()
            gone.cancel()
        await record(answer)
        return JSONResponse(completion(id, asked.model, answer))

    async def _begin(self, question: Question) -> Future[Answer]:
        """Answered at once, also where the queue is full, or put into the queue. Raises ApiError."""
        at_once = await _in_thread(lambda: self.answerer.at_once(question))
        if at_once is None:
            return self.queue.submit(question)
        done: Future[Answer] = Future()
        done.set_result(at_once)
        return done

    async def _within_time(self, future: Future[Answer], question: Question) -> Answer:
        """Cancelling this takes the question out of the queue."""
        seconds = self.settings.answer_seconds
        try:
            return with_notes(await asyncio.wait_for(asyncio.wrap_future(future), seconds), question)
        except TimeoutError:
            why = f"the answer was not ready within {seconds:g} s: ask again later"
            raise ApiError(504, why, "answer_too_slow", retry_after=30) from None

    async def _record(self, id: str, asker: str, question: Question, answer: Answer, seconds: float) -> None:
        try:
            await asyncio.to_thread(self.settings.audit.write, id, asker, question, answer, seconds)
        except FedMedError as error:
            log.error("an answer was not given: %s", error)
            why = "the answer could not be recorded and is not given: see the server's log"
            raise ApiError(503, why, "audit_failed") from error
        self.metrics.answer(question.model, answer, seconds)

    def _asker(self, request: Request) -> str:
        """The name of the key, where there are keys. Raises ApiError."""
        host = re.sub(r":\d*$", "", request.headers.get("host", "")).lower()
        if self.settings.hosts and host not in self.settings.hosts:  # a page elsewhere may have rebound its name to us
            raise ApiError(403, "the server is not called by this name: use the address it shows", "wrong_host")
        if self.settings.keys is None:
            return "anybody"
        return self.settings.keys.name_of(request.headers.get("authorization"))

    def _card(self, name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": self._started, "owned_by": "fedmed"}


async def _in_thread(call: Callable[[], Result]) -> Result:
    """Off the event loop, its errors as a client may know them."""
    try:
        return await asyncio.to_thread(call)
    except UpstreamError as error:
        log.warning("%s", error)
        why = "the server behind this one gave no answer: ask again later"
        raise ApiError(502, why, "upstream_failed", retry_after=10) from error
    except FedMedError as error:
        log.warning("%s", error)
        raise ApiError(500, "the model cannot be used: see the server's log", "model_failed") from error


async def _gone(request: Request) -> None:
    """Returns when the client has left."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _address(request: Request) -> str:
    return request.client.host if request.client else "unknown"


async def _refused(request: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException):
        what = "there is nothing at this address" if error.status_code == 404 else str(error.detail).lower()
        code = "not_found" if error.status_code == 404 else "bad_request"
        error = ApiError(error.status_code, f"{what}: see GET /v1/models and POST /v1/chat/completions", code)
    assert isinstance(error, ApiError)
    return JSONResponse(error.body, status_code=error.status, headers=dict(error.headers))


async def _fault(request: Request, error: Exception) -> Response:
    return await _refused(request, ApiError(500, "a fault in FED-MED: see the server's log", "fault"))

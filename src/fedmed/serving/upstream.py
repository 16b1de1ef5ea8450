"""The same rails in front of any OpenAI-compatible server: vLLM, llama.cpp, a model elsewhere. safety.guarded -> HERE.

A question that the rails answer goes nowhere. Of the others the server behind gets the question as a model may read it,
without identifiers, and how it is to be written; never who asked, what stood before, or this server's keys.
Not covered: the server's own streaming (an answer is judged whole), its tools, several servers.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import httpx

from fedmed.config.schema import FedMedConfig
from fedmed.errors import ServeError, UpstreamError
from fedmed.safety.confidence import raw_confidence
from fedmed.safety.guarded import Written, answer_guarded, as_answer
from fedmed.safety.guardrails import MedicalGuardrails
from fedmed.serving.answers import Question
from fedmed.serving.messages import ApiError
from fedmed.types import Answer

KEY_VARIABLE = "FEDMED_UPSTREAM_KEY"
_MOST_BYTES = 4 * 1024 * 1024  # of a reply
_CONNECT = 5.0  # seconds, also for the list of models
_NAMES_LAST = 60.0  # seconds that the list of models is believed
_CHECK = "see that it runs and that its API begins at this address"


class Upstream:
    """A server of OpenAI's protocol behind this one.

    Args:
        url: where it is, e.g. ``http://127.0.0.1:8001/v1``; ``/v1`` is added where it is missing.
        config: its safety section judges; its generation section says how answers are written.
        seconds: for one answer.
        transport: of HTTP; None: the network.

    Raises:
        ServeError: the address is none. SafetyPolicyError.
    """

    def __init__(
        self, url: str, config: FedMedConfig, *, seconds: float = 300.0, transport: httpx.BaseTransport | None = None
    ) -> None:
        self.url = _base_url(url)
        self._config, self._guardrails = config, MedicalGuardrails(config.safety)
        key = os.environ.get(KEY_VARIABLE)
        self._http = httpx.Client(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            transport=transport,
            follow_redirects=False,  # a question goes to the address that was given and nowhere else
            trust_env=False,
        )
        self._seconds = seconds
        self._names: tuple[float, list[str]] | None = None
        self._names_lock = threading.Lock()
        self._logprobs = True  # until it refuses them

    def models(self) -> list[str]:
        """Those of the server behind. Raises UpstreamError."""
        with self._names_lock:
            if self._names is None or time.monotonic() - self._names[0] > _NAMES_LAST:
                listed = self._ask("GET", "/models")
                data = listed.get("data")
                names = [one.get("id") for one in data if isinstance(one, dict)] if isinstance(data, list) else []
                if not names or not all(isinstance(name, str) and name for name in names):
                    raise UpstreamError(f"{self.url}/models does not list models", _CHECK)
                self._names = (time.monotonic(), [str(name) for name in names])
            return list(self._names[1])

    def check(self, model: str) -> None:
        """Raises ApiError (404), UpstreamError."""
        if model not in self.models():
            hint = "GET /v1/models lists those that there are"
            raise ApiError(404, f"there is no model with this name: {hint}", "model_not_found", param="model")

    def load(self) -> None:
        """See that it is there. Raises UpstreamError."""
        self.models()

    def at_once(self, question: Question) -> Answer | None:
        """The answer that needs no model; None for all others."""
        decision = self._guardrails.answer_without_model(question.text)
        return None if decision is None else as_answer(decision, self._config.safety, question.model, None)

    def answer(self, questions: Sequence[Question]) -> list[Answer]:
        """Answers in their order, each asked for by itself. Raises UpstreamError."""

        def write(asked: Mapping[int, str]) -> list[Written]:
            return [self._write(text, questions[place]) for place, text in asked.items()]

        return answer_guarded(
            [question.text for question in questions],
            write,
            guardrails=self._guardrails,
            model_name=questions[0].model,
            run=None,
        )

    def close(self) -> None:
        self._http.close()

    def _write(self, text: str, question: Question) -> Written:
        generation = question.generation(self._config.model.generation)
        body: dict[str, Any] = {
            "model": question.model,
            "messages": [{"role": "user", "content": text}],
            "stream": False,
            "temperature": generation.temperature,
            "top_p": generation.top_p,
            "max_tokens": generation.max_new_tokens,
            "seed": question.seed,
        }
        if self._logprobs:
            try:
                return _read(self._ask("POST", "/chat/completions", body | {"logprobs": True}), self.url)
            except _Refused:  # some servers know no log probabilities
                reply = self._ask("POST", "/chat/completions", body)
                self._logprobs = False
                return _read(reply, self.url)
        return _read(self._ask("POST", "/chat/completions", body), self.url)

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        url = self.url + path
        too_slow = UpstreamError(f"{url} did not answer in time", _CHECK)
        seconds = _CONNECT if body is None else self._seconds
        end = time.monotonic() + seconds  # of the whole reply; HTTP's own limit is between two pieces of it
        try:
            limit = httpx.Timeout(seconds, connect=_CONNECT)
            with self._http.stream(method, url, json=body, timeout=limit) as reply:
                raw = b""
                for chunk in reply.iter_bytes():
                    raw += chunk
                    if len(raw) > _MOST_BYTES:
                        raise UpstreamError(f"{url} sends more than {_MOST_BYTES} bytes", _CHECK)
                    if time.monotonic() > end:
                        raise too_slow
        except httpx.TimeoutException as error:
            raise too_slow from error
        except httpx.HTTPError as error:
            raise UpstreamError(f"{url} cannot be reached ({type(error).__name__})", _CHECK) from error
        if reply.status_code in (400, 422):
            raise _Refused(f"{url} refuses the request (HTTP {reply.status_code})", _CHECK)
        if reply.status_code != 200:
            hint = f"put its key into the variable {KEY_VARIABLE}" if reply.status_code in (401, 403) else _CHECK
            raise UpstreamError(f"{url} answers with HTTP {reply.status_code}", hint)
        try:
            value = json.loads(raw)
        except (ValueError, RecursionError) as error:
            raise UpstreamError(f"{url} does not answer in JSON", _CHECK) from error
        if not isinstance(value, dict):
            raise UpstreamError(f"{url} does not answer with an object", _CHECK)
        return value


class _Refused(UpstreamError):
    """It does not take this request; perhaps a simpler one."""


def _base_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        fine = parts.scheme in ("http", "https") and bool(parts.hostname) and not parts.query and not parts.fragment
    except ValueError:
        fine = False
    if not fine:
        raise ServeError(f"'{url}' is no address of a server", "give --upstream http://HOST:PORT/v1")
    if parts.username or parts.password:
        raise ServeError("the upstream's address holds a password", f"put its key into the variable {KEY_VARIABLE}")
    base = url.rstrip("/")
    return base if base.endswith("/v1") else f"{base}/v1"


def _read(reply: dict[str, Any], url: str) -> Written:
    """The one choice of a reply. Raises UpstreamError."""
    try:
        choice = reply["choices"][0]
        text = choice["message"]["content"]
        finished = choice.get("finish_reason") != "length"
        logprobs = _logprobs(choice.get("logprobs"))
        counted = reply.get("usage") or {}
        tokens = [counted.get(name) for name in ("prompt_tokens", "completion_tokens")]
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise UpstreamError(f"{url} answers in another protocol than OpenAI's", _CHECK) from error
    if not isinstance(text, str):
        raise UpstreamError(f"{url} answers without text", _CHECK)
    prompt, answer = (one if isinstance(one, int) and one >= 0 else 0 for one in tokens)
    return Written(
        text=text,
        confidence=None if logprobs is None else raw_confidence(logprobs),
        calibrated=False,
        finished=finished,
        prompt_tokens=prompt,
        answer_tokens=answer or len(logprobs or ()),
    )


def _logprobs(value: Any) -> tuple[float, ...] | None:
    """Of every token, or None where there are none that can be used: a figure made of a part would be no figure."""
    content = value.get("content") if isinstance(value, dict) else None
    if not isinstance(content, list) or not content:
        return None
    found = tuple(one.get("logprob") if isinstance(one, dict) else None for one in content)
    usable = all(isinstance(one, int | float) and not isinstance(one, bool) and one <= 1e-4 for one in found)
    return tuple(float(one) for one in found if one is not None) if usable else None

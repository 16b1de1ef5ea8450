"""What a client may ask, and how it is refused: OpenAI's chat protocol, read strictly. HERE -> answers, api.

Honoured: model, messages, stream, stream_options.include_usage, max_tokens, max_completion_tokens, temperature, top_p,
seed. Taken and not used: user, metadata, store=false, n=1, penalties of 0. Everything else is refused by name, since an
answer made without it would not be what was asked for. No error repeats a value that a client wrote.
Not covered: tools, images, audio, several choices, stop words, log probabilities (they would tell a withheld text).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

MOST_MESSAGES = 200
LONGEST_CONTENT = 100_000  # characters; the policy's own, lower limit answers in words a person can read
_KNOWN_KEY = 40  # characters of an unknown field's name that an error repeats


class ApiError(Exception):
    """A refusal as OpenAI's clients expect it.

    Args:
        status: of HTTP.
        message: one line: the culprit, and the next step.
        code: for programs.
        param: the field that is wrong.
        retry_after: seconds after which it may be tried again.
    """

    def __init__(
        self, status: int, message: str, code: str, *, param: str | None = None, retry_after: int | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param, self.retry_after = status, message, code, param, retry_after

    @property
    def body(self) -> dict[str, Any]:
        kind = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
        fallback = "invalid_request_error" if self.status < 500 else "server_error"
        error = {
            "message": self.message,
            "type": kind.get(self.status, fallback),
            "param": self.param,
            "code": self.code,
        }
        return {"error": error}

    @property
    def headers(self) -> Mapping[str, str]:
        headers = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        return headers | ({"WWW-Authenticate": "Bearer"} if self.status == 401 else {})


class _Strict(BaseModel):
    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        hide_input_in_errors=True,
        protected_namespaces=(),
    )


class TextPart(_Strict):
    """A part of a message; text is the only kind there is."""

    type: Literal["text"]
    text: Annotated[str, Field(max_length=LONGEST_CONTENT)]


class Message(_Strict):
    """One turn."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[str, Field(max_length=LONGEST_CONTENT)] | Annotated[tuple[TextPart, ...], Field(max_length=64)]
    name: Annotated[str, Field(max_length=64)] | None = None

    @property
    def text(self) -> str:
        if isinstance(self.content, str):
            return self.content
        return "\n".join(part.text for part in self.content)


class StreamOptions(_Strict):
    include_usage: bool = False
    include_obfuscation: bool = False  # padding against eavesdroppers; there is none


class ChatRequest(_Strict):
    """The body of ``POST /v1/chat/completions``."""

    model: Annotated[str, Field(min_length=1, max_length=200)]
    messages: Annotated[tuple[Message, ...], Field(min_length=1, max_length=MOST_MESSAGES)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0.0, le=2.0)] | None = None
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    n: Literal[1] | None = None
    presence_penalty: Annotated[float, Field(ge=0.0, le=0.0)] | None = None
    frequency_penalty: Annotated[float, Field(ge=0.0, le=0.0)] | None = None
    store: Literal[False] | None = None
    user: Annotated[str, Field(max_length=256)] | None = None
    metadata: Annotated[dict[str, str], Field(max_length=16)] | None = None

    @model_validator(mode="after")
    def _ends_with_a_question(self) -> ChatRequest:
        if self.messages[-1].role != "user":
            raise ValueError("the last message must have the role 'user': it is the question")
        return self

    @property
    def question(self) -> str:
        """The last message; the others are not read."""
        return self.messages[-1].text

    @property
    def unread(self) -> int:
        return len(self.messages) - 1

    @property
    def most_tokens(self) -> int | None:
        limits = [limit for limit in (self.max_tokens, self.max_completion_tokens) if limit is not None]
        return min(limits, default=None)


def read_request(body: bytes) -> ChatRequest:
    """The request in a body. Raises ApiError, which names the first field that cannot be used."""
    try:
        return ChatRequest.model_validate_json(body)
    except ValidationError as error:
        raise _refusal(error) from None  # the cause would hold the text


def _refusal(error: ValidationError) -> ApiError:
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    if first["type"] == "json_invalid":
        return ApiError(400, "the body is not JSON in UTF-8: send one JSON object", "invalid_json")
    # A union's own marks ("str", "tuple[...]") stand in the location; they are not the client's fields.
    steps = [step for step in first["loc"] if isinstance(step, int) or step.replace("_", "").isalnum()]
    param = ".".join(str(step) for step in steps if step != "str")[: 3 * _KNOWN_KEY] or None
    if first["type"] == "extra_forbidden":
        name = str(first["loc"][-1])[:_KNOWN_KEY]
        name = name if name.replace("_", "").isalnum() and name.isascii() else "with this name"
        return ApiError(
            400, f"the field '{name}' is not supported here: leave it out", "unsupported_parameter", param=param
        )
    why = first["msg"].removeprefix("Value error, ")
    if param is None:
        return ApiError(400, f"the request cannot be used: {why}", "invalid_request")
    why = why[:1].lower() + why[1:]
    return ApiError(400, f"the field '{param}' cannot be used: {why}", "invalid_value", param=param)

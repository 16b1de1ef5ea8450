"""Who may ask, how often, and how much at once. HERE -> api.

A keys file has one ``name key`` a line; ``#`` begins a comment. Names stand in the audit of answers, keys never.
Not covered: limits that several servers share; a list of keys that changes while the server runs.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import math
import re
import stat
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from fedmed.errors import ServeError
from fedmed.serving.messages import ApiError

SHORTEST_KEY = 20  # characters
_MOST_BUCKETS = 10_000  # askers remembered; the one not seen for longest is forgotten first
_NAME = re.compile(r"[\w.-]{1,64}")
_MAKE = "make one with: python -c 'import secrets; print(secrets.token_urlsafe(32))'"


class ApiKeys:
    """The keys that are let in.

    Args:
        keys: name -> key; kept as digests only.
    """

    def __init__(self, keys: dict[str, str]) -> None:
        self._digests = {name: _digest(key) for name, key in keys.items()}

    @classmethod
    def read(cls, path: Path) -> ApiKeys:
        """The keys of a file. Raises ServeError: names the line, never the key."""
        try:
            mode = path.stat().st_mode
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError as error:
            raise ServeError(f"there is no keys file {path}", f"write 'name key' lines; {_MAKE}") from error
        except (OSError, UnicodeDecodeError) as error:
            raise ServeError(f"the keys file {path} cannot be read as text", "correct the file") from error
        if stat.S_IMODE(mode) & 0o077:
            raise ServeError(f"the keys file {path} is open to others", f"chmod 600 {path}")
        keys: dict[str, str] = {}
        for number, line in enumerate(text.splitlines(), start=1):
            words = line.split("#")[0].split()
            if not words:
                continue
            if len(words) != 2 or not _NAME.fullmatch(words[0]):
                raise ServeError(
                    f"{path}, line {number}: not 'name key'", "one name and one key a line, without spaces"
                )
            name, key = words
            if len(key) < SHORTEST_KEY:
                raise ServeError(f"{path}, line {number}: the key is shorter than {SHORTEST_KEY} characters", _MAKE)
            if name in keys:
                raise ServeError(f"{path}, line {number}: the name '{name}' is used twice", "give each key a name")
            keys[name] = key
        if not keys:
            raise ServeError(f"{path} holds no key", f"write 'name key' lines; {_MAKE}")
        return cls(keys)

    def name_of(self, authorization: str | None) -> str:
        """Whose key a header ``Authorization: Bearer KEY`` holds. Every key is compared, in constant time.

        Raises:
            ApiError: 401.
        """
        scheme, _, given = (authorization or "").partition(" ")
        found = self._names(given)
        if scheme.lower() != "bearer" or not found:
            why = "the API key is not known" if given else "an API key is needed"
            raise ApiError(401, f"{why}: send 'Authorization: Bearer KEY'", "invalid_api_key")
        return found[0]

    def matches(self, name: str, key: str) -> bool:
        """Whether a person's name and key belong together."""
        return name in self._names(key)

    def _names(self, given: str) -> list[str]:
        digest = _digest(given.strip())
        return [name for name, known in self._digests.items() if hmac.compare_digest(known, digest)]


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


class Rate:
    """A bucket of tokens for each asker: so many at once, refilled evenly over a minute.

    Args:
        per_minute: questions; 0: no limit.
        clock: seconds.
    """

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_minute, self._clock = per_minute, clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # asker -> tokens left, when

    def take(self, asker: str) -> None:
        """Raises ApiError (429) when the asker has none left."""
        if self._per_minute == 0:
            return
        now = self._clock()
        left, then = self._buckets.pop(asker, (float(self._per_minute), now))
        left = min(float(self._per_minute), left + (now - then) * self._per_minute / 60.0)
        allowed = left >= 1.0
        self._buckets[asker] = (left - 1.0 if allowed else left, now)
        if len(self._buckets) > _MOST_BUCKETS:
            self._buckets.popitem(last=False)
        if not allowed:
            wait = max(1, math.ceil((1.0 - left) * 60.0 / self._per_minute))
            many = f"{self._per_minute} questions a minute are allowed"
            raise ApiError(429, f"{many}: ask again in {wait} s", "rate_limit_exceeded", retry_after=wait)


async def read_body(chunks: AsyncIterator[bytes], *, declared: str | None, most: int, seconds: float) -> bytes:
    """A request's body, no larger and no slower than allowed.

    Args:
        chunks: the body as it comes.
        declared: the header ``Content-Length``.
        most: bytes.
        seconds: for the whole body.

    Raises:
        ApiError: 413 or 408.
    """
    too_large = ApiError(413, f"the body is larger than {most} bytes: send a shorter question", "body_too_large")
    if declared is not None and declared.isascii() and declared.isdigit() and int(declared[:20]) > most:
        raise too_large
    parts: list[bytes] = []
    total = 0
    try:
        async with asyncio.timeout(seconds):
            async for chunk in chunks:
                total += len(chunk)
                if total > most:
                    raise too_large
                parts.append(chunk)
    except TimeoutError:
        raise ApiError(408, f"the body did not come within {seconds:g} s: send it again", "body_too_slow") from None
    return b"".join(parts)

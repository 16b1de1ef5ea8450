"""One value of a foreign record as text, or a complaint that the caller completes with file and line."""

from __future__ import annotations


class BadValueError(Exception):
    """A value that its column cannot have; says which column and why, never the value."""


def text(value: object, column: str, *, numbers: bool = False) -> str:
    """A value as text without outer white space; absent is empty.

    Raises:
        BadValueError: it is neither text nor, where ``numbers`` says so, a number.
    """
    if value is None:
        return ""
    if isinstance(value, str):
        if not _encodable(value):
            raise BadValueError(f"'{column}' holds half a surrogate pair, which is no character")
        return value.strip()
    if numbers and isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    raise BadValueError(f"'{column}' is {type(value).__name__}, not text")


def _encodable(value: str) -> bool:
    """JSON's escapes can spell halves of surrogate pairs, which no file can hold as UTF-8."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True

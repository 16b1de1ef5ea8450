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
        if value != value:  # NaN: how tables write an absent number
            return ""
        return str(int(value)) if float(value).is_integer() else str(value)  # nullable columns turn 4711 into 4711.0
    raise BadValueError(f"'{column}' is {type(value).__name__}, not text")


REFUSING = frozenset({"no", "unknown"})
"""What ``yes_or_no`` may say of consent that was not given; an empty text says that nobody was asked."""
_YES = frozenset({"yes", "y", "true", "1", "given", "granted"})
_NO = frozenset({"no", "n", "false", "0", "refused", "withdrawn", "denied"})


def yes_or_no(value: object, column: str) -> str:
    """``yes``, ``no``, or ``unknown`` where the value is absent or empty.

    Raises:
        BadValueError: it says anything else.
    """
    said = str(value).lower() if isinstance(value, bool | int | float) else text(value, column).lower()
    said = said.removesuffix(".0")
    if not said:
        return "unknown"
    if said not in _YES | _NO:
        raise BadValueError(f"'{column}' says neither yes nor no")
    return "yes" if said in _YES else "no"


def _encodable(value: str) -> bool:
    """JSON's escapes can spell halves of surrogate pairs, which no file can hold as UTF-8."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True

"""What the schema has against a value, in plain words: 'must be >= 1, is -3'."""

from __future__ import annotations

import difflib
import json
from typing import Any

from pydantic_core import ErrorDetails

_RANGES = {
    "greater_than_equal": (">=", "ge"),
    "greater_than": (">", "gt"),
    "less_than_equal": ("<=", "le"),
    "less_than": ("<", "lt"),
}
_TYPES = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "string_type": "text",
    "tuple_type": "a list",
    "dict_type": "a mapping of key: value",
    "model_type": "a mapping of key: value",
}
_PATTERNS = {r"^(auto|cpu|cuda(:[0-9]+)?)$": "be auto, cpu, cuda or cuda:N"}
_LONGEST = 80


def describe(error: ErrorDetails) -> str:
    """One clause for one of pydantic's errors: what must be, and what is."""
    kind, value, context = error["type"], error["input"], error.get("ctx", {})
    if kind == "value_error":  # a rule of the schema's own, about several settings
        return str(context["error"])
    if kind in _RANGES:
        sign, key = _RANGES[kind]
        return f"must be {sign} {context[key]:g}, is {_shown(value)}"
    if kind == "literal_error":
        return f"must be {context['expected']}, is {_shown(value)}{_near(value, context['expected'])}"
    if kind in ("string_pattern_mismatch", "too_short"):
        return f"must {_PATTERNS.get(context.get('pattern', ''), 'not be empty')}, is {_shown(value)}"
    if kind in _TYPES:
        return f"must be {_TYPES[kind]}, is {_shown(value)}{_quotes(kind, value)}"
    return f"{error['msg'][:1].lower()}{error['msg'][1:]}, is {_shown(value)}"


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    text = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
    return f"the text {text}" if isinstance(value, str) else text


def _quotes(kind: str, value: Any) -> str:
    """A hint where a number was written as text."""
    if not isinstance(value, str) or kind not in ("int_type", "float_type"):
        return ""
    try:
        float(value)
    except ValueError:
        return ""
    return f" (write it without quotes: {float(value):g})"


def _near(value: Any, expected: str) -> str:
    options = [option.strip(" '") for part in expected.split(",") for option in part.split(" or ")]
    near = difflib.get_close_matches(str(value), options, n=1, cutoff=0.6)
    return f", did you mean {near[0]}?" if near else ""

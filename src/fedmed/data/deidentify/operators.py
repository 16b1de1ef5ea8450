"""Put something else where an identifier stood; each way is a Presidio operator too, for those who use that already."""

from __future__ import annotations

import functools
import hmac
import re
from collections.abc import Callable, Sequence
from typing import Any

from fedmed.data.deidentify.findings import Finding
from fedmed.data.deidentify.lexicon import EXTRA
from fedmed.data.deidentify.policy import Operator, Policy, placeholder
from fedmed.data.deidentify.surrogates import Surrogates
from fedmed.utils.extras import require

# Three-digit areas with 20,000 people or fewer, by the Census of 2000: the list in the guidance of the Office for Civil
# Rights on 45 CFR 164.514(b). Their first three digits become 000.
SMALL_ZIP_AREAS = frozenset(
    [
        "036",
        "059",
        "063",
        "102",
        "203",
        "556",
        "692",
        "790",
        "821",
        "823",
        "830",
        "831",
        "878",
        "879",
        "884",
        "890",
        "893",
    ]
)
REDACTED = "—"
HASH_DIGITS = 16


def value_hash(key: bytes, value: str) -> str:
    """HMAC-SHA-256 of a value without case and outer spaces: equal ones meet, and only the key lets one guess."""
    return hmac.digest(key, " ".join(value.split()).lower().encode("utf-8", "surrogatepass"), "sha256").hex()


def apply(text: str, findings: Sequence[Finding], policy: Policy, key: bytes, patient: str, record: str) -> str:
    """Replace every finding; they must be in order and without overlap."""
    if not findings:
        return text
    replace = _replacer(policy, key, patient, record, [text[found.start : found.end] for found in findings])
    parts: list[str] = []
    last = 0
    for found in findings:
        parts += [text[last : found.start], replace(found, text[found.start : found.end])]
        last = found.end
    return "".join([*parts, text[last:]])


def _replacer(
    policy: Policy, key: bytes, patient: str, record: str, originals: Sequence[str]
) -> Callable[[Finding, str], str]:
    if policy.operator is Operator.REDACT:
        return lambda found, value: REDACTED
    if policy.operator is Operator.HASH:
        return lambda found, value: f"[{found.type}:{value_hash(key, value)[:HASH_DIGITS]}]"
    if policy.operator is Operator.SURROGATE:
        return Surrogates(key, patient, record, originals).replace
    return lambda found, value: placeholder(found.type, _detail(found.type, value, policy))


def _detail(kind: str, value: str, policy: Policy) -> str:
    if kind == "ZIP" and policy.keep_zip3 and re.match(r"\d{5}", value):
        return "000" if value[:3] in SMALL_ZIP_AREAS else value[:3]
    if kind == "DATE" and policy.keep_year and (year := re.search(r"(?<!\d)(1[89]|20)\d\d(?!\d)", value)):
        return year.group()
    return ""


@functools.cache
def presidio_operators() -> dict[Operator, Any]:
    """Our ways as operators for Presidio's ``AnonymizerEngine.add_anonymizer``; ``params`` are those of ``apply``."""
    presidio = require("presidio_anonymizer.operators", EXTRA)

    def made(way: Operator) -> Any:
        class OneWay(presidio.Operator):  # type: ignore[misc,name-defined]
            def operate(self, text: str, params: dict[str, Any] | None = None) -> str:
                given = params or {}
                policy = Policy(operator=way, key=given["key"])
                found = Finding(0, len(text), given["entity_type"], 1.0, "presidio", "given by the caller")
                return apply(text, [found], policy, given["key"], given.get("patient", ""), given.get("record", ""))

            def validate(self, params: dict[str, Any] | None = None) -> None:
                if not params or "key" not in params:
                    raise ValueError("the operator needs a key")

            def operator_name(self) -> str:
                return f"fedmed_{way.value}"

            def operator_type(self) -> Any:
                return presidio.OperatorType.Anonymize

        return OneWay

    return {way: made(way) for way in Operator}

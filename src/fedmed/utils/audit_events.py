"""What an audit log may say: each kind of line, its fields, and what a field may hold. callers -> HERE -> audit_log.

No record text can be entered by its field: fields are digests, names, counts, numbers, and reasons that FED-MED's own
code words, one short line each. Anything else is refused. Digests are of whole files and arrays, never of one record.

Not covered: a name or a reason into which a caller puts a record's text all the same.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from fedmed.errors import AuditLogError

FORMAT = 1
LONGEST_NAME = 128
LONGEST_REASON = 300
MOST_NAMES = 10_000

_HEX = re.compile(r"(?:[0-9a-f]{2}){8,64}")


def _is_digest(value: object) -> bool:
    return isinstance(value, str) and _HEX.fullmatch(value) is not None


def _is_text(value: object, longest: int) -> bool:
    return isinstance(value, str) and 0 < len(value) <= longest and value.isprintable()


def _is_name(value: object) -> bool:
    return _is_text(value, LONGEST_NAME)


def _is_reason(value: object) -> bool:
    return _is_text(value, LONGEST_REASON)


def _is_names(value: object) -> bool:
    return isinstance(value, list) and len(value) <= MOST_NAMES and all(_is_name(one) for one in value)


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_numbers(value: object) -> bool:
    return (
        isinstance(value, dict)
        and len(value) <= MOST_NAMES
        and all(_is_name(key) and (one is None or _is_number(one)) for key, one in value.items())
    )


def _is_flag(value: object) -> bool:
    return isinstance(value, bool)


def _or_null(check: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: value is None or check(value)


_ATTEMPT = {"round": _is_count, "attempt": _is_count}  # attempt: from 0; above it, the round was trained again

KINDS: Mapping[str, Mapping[str, Callable[[object], bool]]] = {
    # the first line; key: the public key that signs this log
    "open": {"format": _is_count, "run": _is_name, "key": _is_digest, "fedmed": _is_name},
    # what was agreed to do; digest: of the settings, digest_of_start: of the state before the first round
    "plan": {
        "digest": _is_digest, "algorithm": _is_name, "rounds": _is_count, "hospitals": _is_names,
        "digest_of_start": _is_digest, "secure_sum": _is_flag, "example_epsilon": _or_null(_is_number),
        "hospital_epsilon": _or_null(_is_number),
    },
    # who agreed to the plan with that digest; how: simulated, or signed with the signature
    "approval": {"by": _is_name, "plan": _is_digest, "how": _is_name, "signature": _or_null(_is_digest)},
    # a hospital's records; digest: of its part of the manifest, which holds counts and digests of its files
    "manifest": {"hospital": _is_name, "digest": _is_digest},
    # a stopped run goes on; digest: of the state after that round, again: rounds that will be trained again
    "resume": {"after_round": _is_count, "digest": _is_digest, "again": _or_null(_is_count)},
    # who, how long, at which rate: the choice, its reason, the numbers behind it
    "decision": {
        "round": _is_count, "decision": _is_name, "hospitals": _is_names, "reason": _is_reason, "numbers": _is_numbers,
    },
    # a round begins; digest: of the state that hospitals start from. The digest of this line is what they are given.
    "round": _ATTEMPT | {"hospitals": _is_names, "min_replies": _is_count, "digest": _is_digest},
    # a hospital's ledger was charged; attempt is the ledger's own, line and head say where in the ledger
    "charge": _ATTEMPT | {
        "hospital": _is_name, "unit": _is_name, "mechanism": _is_name, "line": _is_count, "head": _is_digest,
    },
    # what a hospital sent and was summed; null where masks hide it
    "payload": _ATTEMPT | {"hospital": _is_name, "digest": _or_null(_is_digest), "weight": _is_count},
    "refusal": _ATTEMPT | {"hospital": _is_name, "reason": _is_reason},
    # a round ends; digest: of the state that came of it
    "applied": _ATTEMPT | {"admitted": _is_names, "digest": _is_digest, "update_norm": _is_number},
    # what the run hands out; hospital: null where all share it
    "adapter": {"hospital": _or_null(_is_name), "digest": _is_digest, "file": _is_name, "file_sha256": _is_digest},
    # something was measured; file: where it is, in the run's folder
    "evaluation": {"what": _is_name, "file": _is_name, "file_sha256": _is_digest, "numbers": _is_numbers},
    "release": {
        "decision": _is_name, "adapter": _or_null(_is_digest), "signed_off_by": _is_names, "reason": _is_reason,
    },
    # a process ended before the run did; reason: the class of the error
    "stopped": {"reason": _is_name},
    "end": {"rounds": _is_count},
    # of everything before this line, and of this line
    "signature": {"key": _is_digest, "signature": _is_digest},
}  # fmt: skip
"""kind -> field -> what it may hold. Every line has ``at`` besides: the writer's clock, UTC."""


def event(kind: str, **fields: Any) -> dict[str, Any]:
    """The body of one line, checked.

    Raises:
        AuditLogError: a kind or field that there is not, or a value that a field may not hold; names the field, never
            the value.
    """
    known = KINDS.get(kind)
    if known is None:
        raise AuditLogError(f"an audit log has no lines of kind '{kind}'", f"kinds are {', '.join(KINDS)}")
    if fields.keys() != known.keys():
        wrong = ", ".join(sorted(fields.keys() ^ known.keys()))
        raise AuditLogError(f"a line of kind '{kind}' has other fields ({wrong})", f"it has {', '.join(known)}")
    for name, value in fields.items():
        if not known[name](value):
            raise AuditLogError(
                f"field '{name}' of a line of kind '{kind}' may not hold this value",
                "digests, names, counts, numbers and one-line reasons only; see utils/audit_events.py",
            )
    return {"kind": kind, **fields}


def reason(text: str) -> str:
    """A reason as a line may hold it: one line, not too long."""
    line = " ".join("".join(one if one.isprintable() else " " for one in text).split())
    return line if 0 < len(line) <= LONGEST_REASON else (line[: LONGEST_REASON - 1] + "…" if line else "none given")

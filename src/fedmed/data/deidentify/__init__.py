"""De-identification by the Safe Harbor rule: find the eighteen identifiers of 45 CFR 164.514(b)(2), replace them.

``Deidentifier(policy).find(text)`` gives findings, ``.apply(text, findings)`` the text without them; ``jsonl.py`` does
whole files. Extra ``privacy``. Presidio, gazetteers and our own rules; no model file and no network.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fedmed.data.deidentify.findings import TYPES, Finding
from fedmed.data.deidentify.policy import Operator, Policy

if TYPE_CHECKING:
    from fedmed.data.deidentify.engine import Deidentifier

__all__ = ["TYPES", "Deidentifier", "Finding", "Operator", "Policy"]


def __getattr__(name: str) -> Any:
    """The engine comes late: its patterns take longer to compile than a command that does not need them may take."""
    if name == "Deidentifier":
        from fedmed.data.deidentify.engine import Deidentifier

        return Deidentifier
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""De-identification by the Safe Harbor rule: find the eighteen identifiers of 45 CFR 164.514(b)(2), replace them.

``Deidentifier(policy).find(text)`` gives findings, ``.apply(text, findings)`` the text without them; ``jsonl.py`` does
whole files. Extra ``privacy``. Presidio, gazetteers and our own rules; no model file and no network.
"""

from fedmed.data.deidentify.engine import Deidentifier
from fedmed.data.deidentify.findings import TYPES, Finding
from fedmed.data.deidentify.policy import Operator, Policy

__all__ = ["TYPES", "Deidentifier", "Finding", "Operator", "Policy"]

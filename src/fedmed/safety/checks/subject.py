"""Whether a question is about health at all. words -> HERE -> rails.

Rare medical names are in no list: a word that the policy does not know speaks for medicine, unless the sentence is
plainly about something else.
"""

from __future__ import annotations

from fedmed.safety.checks.case import Case

_ELSEWHERE, _MEDICAL = "@elsewhere", "@medical"


def not_medical(case: Case) -> str | None:
    """Plainly about something else, and no word in it is medical."""
    words = case.words
    if words.has(_MEDICAL):
        # "How do noise cancelling headphones work": one weak medical word among several that are not.
        medical = len(words.spans[_MEDICAL])
        elsewhere = len(words.spans.get(_ELSEWHERE, ()))
        return "" if elsewhere >= 2 and elsewhere > 2 * medical else None
    return "" if words.has(_ELSEWHERE) else None

"""Which words announce which number: "MRN", "policy no.", "serial number of the pacemaker is".

Read backwards from a value: fillers are passed over, the first label decides, a vague one ("ID", "code") only where no
other stands before it.
"""

from __future__ import annotations

import re

from fedmed.data.deidentify.lists import phrases_of, words_of

_FILLERS = words_of("label_fillers")
_WEAK = words_of("labels_weak")
"""Labels that are also everyday words: what follows them must look more like a code."""
_TABLE = {tuple(phrase.split()): kind for kind, phrases in phrases_of("labels").items() for phrase in phrases}
_TOKEN = re.compile(r"[a-z]+(?:['’./-][a-z]+)*|[^\sa-z]")
_WINDOW = 64
_PASSED = frozenset(":=#()[]-–—_*|'\"“”/.•\u2022\t")
_BETWEEN = "".join(_PASSED) + " \n\r"
_READ_ON = _FILLERS.union(phrase[-1] for phrase in _TABLE)
"""Any other word directly before a value says that no label announces it."""


def label_before(text: str, start: int) -> tuple[str, bool] | None:
    """The type that a label in front of ``start`` announces, and whether that label is a weak one."""
    line = text.rfind("\n", 0, start)
    begin = max(start - _WINDOW, 0)
    before = text[begin:start].lower().replace("’", "'")
    words = before.rstrip(_BETWEEN).rsplit(None, 1)
    if words and len(words[-1]) > 1 and words[-1].isalpha() and words[-1].isascii() and words[-1] not in _READ_ON:
        return None
    tokens = _TOKEN.findall(
        before[max(0, line - begin) :] if line - begin > 0 and before[line - begin :].strip() else before
    )
    vague: tuple[str, bool] | None = None
    at = len(tokens) - 1
    while at >= 0:
        token = tokens[at]
        if token == "." and at and len(tokens[at - 1]) > 4 and at + 1 <= len(tokens) and _ended(before, tokens[at - 1]):
            return vague  # a sentence ended between the two
        if token in _PASSED:
            at -= 1
            continue
        for length in (3, 2, 1):
            if at - length + 1 < 0:
                continue
            phrase = tuple(tokens[at - length + 1 : at + 1])
            kind = _TABLE.get(phrase)
            if kind is not None:
                if kind == "UNIQUE_CODE":
                    vague = vague or (kind, phrase[-1] in _WEAK)
                    at -= length
                    break
                weak = length == 1 and token in _WEAK
                if weak and token in _FILLERS:
                    vague = vague or (kind, True)
                    at -= 1
                    break
                return kind, weak
        else:
            if token not in _FILLERS and not (len(token) == 1 and token.isalpha()):
                return vague
            at -= 1
    return vague


def _ended(before: str, word: str) -> bool:
    """Whether a full stop and a space follow a word that is no abbreviation."""
    return word.isalpha() and f"{word}. " in before

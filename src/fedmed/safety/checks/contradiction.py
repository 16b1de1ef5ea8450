"""An answer against itself, or against what the question says of an allergy or a condition.

words, tables -> HERE -> rails.

Two sentences contradict where they are about the same words, one with a denial and one without, and neither sets a
condition. Not covered: contradictions in other words, in numbers, or against knowledge.
"""

from __future__ import annotations

from typing import NamedTuple

from fedmed.safety.checks.case import Case
from fedmed.safety.checks.tables import forbidden, places
from fedmed.safety.words import CLAUSE, Words, listed

_NOT = listed(
    "not no never none nothing without cannot cant dont doesnt didnt isnt arent wont shouldnt mustnt neednt "
    "nobody avoid avoided "
    "forbidden contraindicated unsafe dangerous wrong unnecessary nor neither harmful"
)
_CONDITION = listed(
    "if unless until when while although though however but except some sometimes usually often may might could "
    "other others "
    "different whereas instead than first then later before after only most many rather either more depending without"
)
_EMPTY = listed(
    "the a an of to in on often very almost at by for with from and or is are was were be been it its this that "
    "these those you your i we they he she "
    "his her their our as do does did have has had can will would should must may very so also too there here "
    "what which who how "
    "all any each every both them him me my yes one us up out into about because since due per well just even "
    "still much "
    "answer means case people person make made get take"
)
_TAKE = listed("take taken takes taking answer")
_RECOMMENDS = listed(
    "best recommend recommended suggest suggested option choose choice take try use ideal good suit suits safe "
    "safest give well fine "
    "can may have eat spoon yes so"
)
_ALLERGY = listed("allergic allergy allergies anaphylaxis anaphylactic intolerant intolerance react reaction cant")
_JUDGES = listed(
    "safe unsafe must should need needs needed necessary unnecessary essential take taken avoid avoided "
    "recommended recommend best may can "
    "have required allowed forbidden fine right wrong dangerous harmless suitable use put never always often "
    "eat drink go give "
    "given treat stop fast vaccines safest help helps work works cure cures cured curable contagious normal abnormal"
)  # two sentences that only describe ("the extra chromosome is … ") are not set against each other
_MOST = 9  # sentences; longer texts weigh two sides, and words recur by chance


class _Said(NamedTuple):
    stems: frozenset[str]
    judges: bool
    denied: bool
    conditional: bool


def contradiction(case: Case) -> str | None:
    """What contradicts what, in a few words."""
    return _with_question(case) or _with_itself(case.words)


def _with_itself(words: Words) -> str | None:
    said = [_say(words, *span) for span in _clauses(words)]
    if len(words.sentences()) > _MOST:
        return None
    for index, one in enumerate(said):
        for other in said[index + 1 : index + 6]:
            if one.denied == other.denied or not (one.judges and other.judges) or one.conditional or other.conditional:
                continue
            shared = one.stems & other.stems
            smaller = min(len(one.stems), len(other.stems))
            if smaller and len(shared) >= 0.6 * smaller and (len(shared) >= 2 or _short(one, other)):
                return f"two sentences say the opposite of each other about: {', '.join(sorted(shared))}"
    return None


def _short(one: _Said, other: _Said) -> bool:
    """Two commands of one word each: "Take it. Do not take it." """
    return len(one.stems) == len(other.stems) == 1


def _clauses(words: Words) -> list[tuple[int, int]]:
    marks = [index for index, strength in enumerate(words.breaks) if strength >= CLAUSE and index]
    return [span for span in zip([0, *marks], [*marks, len(words.tokens)], strict=True) if span[0] < span[1]]


def _say(words: Words, first: int, last: int) -> _Said:
    tokens = words.tokens[first:last]
    stems = frozenset(_stem(token) for token in tokens if token not in _EMPTY and token not in _NOT and len(token) > 1)
    if not stems and _TAKE & set(tokens):
        stems = frozenset(("take",))
    # "No, you must not": the first word answers the question, it does not turn the sentence round.
    denials = sum(token in _NOT for token in tokens[tokens[0] == "no" and len(tokens) > 2 :])
    return _Said(
        stems,
        bool(_JUDGES & set(tokens)) or tokens[:2] == ["do", "not"],
        denials % 2 == 1,
        bool(_CONDITION & set(tokens)) or last - first > 32,
    )


def _stem(token: str) -> str:
    for ending in ("ing", "ed", "es", "s", "e"):
        if token.endswith(ending) and len(token) - len(ending) >= 4:
            return token.removesuffix(ending)
    return token


def _with_question(case: Case) -> str | None:
    if case.question is None:
        return None
    of_somebody = any(case.question.has(label) for label in ("@me", "@relative", "@they"))
    if not of_somebody and len(case.words.sentences()) > _MOST:
        return None  # a lesson on a disease names what its patients may and may not have
    allergic = bool(_ALLERGY & set(case.question.tokens))
    for row in forbidden():
        named = [name for name in row.when if places(name, case.question)]
        if not named or not (allergic or row.anyway):
            continue
        for name in row.never:
            for at in places(name, case.words):
                if _recommended(case.words, at):
                    return f"{name} is recommended, although the question names {named[0]}"
    return None


def _recommended(words: Words, at: int) -> bool:
    first, last = words.sentence(at, at + 1)
    tokens = words.tokens[first:last]
    if not _RECOMMENDS & set(tokens):
        return False
    return not any(
        token in _NOT or token in ("risk", "allergic", "allergy", "avoiding", "check", "ask", "doctor")
        for token in tokens
    ) or (
        ("because" in tokens or "since" in tokens or "so" in tokens)
        and not any(token in _NOT for token in words.tokens[max(first, at - 6) : at])
    )

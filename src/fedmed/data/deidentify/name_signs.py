"""What tells that a name follows: titles, words for people, labels, closings, the end of a letter."""

from __future__ import annotations

import re
from collections.abc import Iterator

from fedmed.data.deidentify.findings import Finding
from fedmed.data.deidentify.lists import words_of
from fedmed.data.deidentify.vocabulary import LIKELY, MAYBE, SURE, UNKNOWN, WORD, Vocabulary
from fedmed.data.deidentify.words import INITIAL, LOWER, UPPER, Words

TITLES = words_of("titles")
SHORT_TITLES = frozenset(["dr", "mr", "mrs", "ms", "mx", "prof", "dra", "mme"])
"""Titles that belong to the name, and stand before small letters too."""
LABEL, NEAR = "label", "near"

CREDENTIAL = re.compile(
    r",?\s*(?:M\.?D\.?|D\.?O\.?|R\.?N\.?|N\.?P\.?|P\.?A\.?(?:-C)?|Ph\.?D\.?|L\.?P\.?N\.?|D\.?D\.?S\.?|LCSW|MSW"
    r"|PharmD|DPT|FACP|FACS|"
    r"FACC|FRC[PS]|MRC[PS]|MBBS|MBChB|CRNA|APRN|BSN|MSN|DNP|OTR|CCC-SLP|RD|PT|OT|RRT|CNM|Jr\.?|Sr\.?|Esq\.?)(?![\w])"
)
_PERSON_WORDS = words_of("person_words")
_LABELS = words_of("name_labels")
_CLOSINGS = words_of("closings")
_PERSON_VERBS = words_of("person_verbs")
_PERSON_AFTER = re.compile(
    r"\s+(?:an?\s+\d|\d{1,3}[\s-]y|now\s+\d|seen|told|asked|admitted|born|discharged|referred|married|divorced"
    r"|retired|accompanied|brought|given|able|unable|happy|[\"“]|"
    r"advised|counsel|diagnosed|started|a\s+(?:pleasant|man|woman|boy|girl|retired|former)|been|never|always"
    r"|not\s+(?:been|had|taken|able)|pharmacy|the\s+(?:pharmacy|lab|clinic|ward)|my|her|his|our)"
)
_WEAK_BEFORE = frozenset(
    [
        "for",
        "by",
        "with",
        "like",
        "from",
        "and",
        "or",
        "to",
        "per",
        "of",
        "regarding",
        "about",
        "as",
        "saw",
        "met",
        "both",
        "asked",
        "told",
    ]
)
_BETWEEN = frozenset(["is", "was", "named", "called", "by", "to", "with", "for", "as", "like"])
_DONE_BY = frozenset(
    [
        "name",
        "signed",
        "dictated",
        "authored",
        "reviewed",
        "transcribed",
        "verified",
        "attested",
        "reported",
        "prepared",
        "entered",
        "seen",
        "written",
        "read",
    ]
)
_TELLING = _LABELS | _CLOSINGS | _PERSON_WORDS | _DONE_BY | _BETWEEN
"""Behind any other word nothing tells of a name."""
_LINKS = re.compile(
    r"[\s,:;.(\"'“–—\-/]*(?:is|was|are|as|of|by|named|called|name|to|for|with|from)?[\s,:;(\"'“–—\-]*", re.IGNORECASE
)
_LABEL_GAP = re.compile(r'\s*(?:\([a-z ]*\))?"?\s*[:=]\s*\[?"?|\s*\(')
ABBREVIATIONS = words_of("abbreviations")
_DOTTED = re.compile(r"[A-Z](?<![\w.][A-Z])\.\s?(?:[A-Z]\.\s?){1,2}(?![A-Za-z\d])")
_DOTTED_BEFORE = re.compile(
    r"(?i)\b(?:patient|pt\.?|initials|named|for|client|subject|mr\.?|mrs\.?|ms\.?|by|with|case of|of|ref|re"
    r"|about|cc|signed|dr\.?)\s*[:,(]?\s*$|\(\s*$"
)
_CAPITALS = re.compile(r"[A-Z](?<![\w.][A-Z])[A-Z]{1,2}(?![\w’'])")
_CAPITALS_BEFORE = re.compile(
    r"(?:\b[Pp]t |\b[Pp]atient |[Aa]pproved |[Ss]igned |[Ii]nitialed |[Ii]nitials:? |[a-z]: )$"
)
_CAPITALS_AFTER = re.compile(r"[,;.]?\s|[,;.]?$")
_AGE_AFTER = re.compile(r"\s?[,(]\s?(?:a\s)?\d{1,3}[\s-]*(?:y|year|M\b|F\b)")
_PAIR = re.compile(r"\((?:[A-Z]{2,3}|(?:[A-Z]\.){2,3})/(?:[A-Z]{2,3}|(?:[A-Z]\.){2,3})\)")
_QUOTED = re.compile(r"[\"“][A-ZÀ-Þ]")
_NICKNAME = re.compile(
    r"(?:called|named|known as|goes by|nicknamed?|out for|ask(?:s|ing|ed)? for|aka"
    r"|a\.k\.a\.?)\s+[\"“]([A-ZÀ-Þ]\w+)[\"”]"
    r"|[\"“]([A-ZÀ-Þ]\w+)[\"”],?\s+(?:real name|aka|a\.k\.a)"
)
_LAST_CAPITALS = re.compile(r"(?:[.!?\n]\s*|[-–—/]{1,2}\s?)([A-Z]{2,3})\s*$")
_NAME_LINE = re.compile(
    r"(?:^|\n|[.!?)]\s+|[-–—]{1,2}\s*)"
    r"([^\W\d_][\w'’.\-]*+(?:[ \t]++[^\W\d_][\w'’.\-]*+){0,3}[ \t]*)(?:,[^.\n,]{1,14}){0,2}\s*$"
)


def may_tell(word: str) -> bool:
    """Whether a name can be told by this word before it."""
    return word in _TELLING or word in TITLES


def trigger(view: Words, index: int) -> str | None:
    """LABEL where a name must follow, NEAR where one may, else None."""
    if index == 0 or view.words[index - 1].lower not in _TELLING:
        return None
    words = view.words
    word, before = words[index], words[index - 1]
    if before.lower in _LABELS and (_LABEL_GAP.fullmatch(word.gap) or before.lower in ("named", "dear")):
        return LABEL
    if before.lower in _CLOSINGS and word.gap.strip(" \t") in (",", ",\n", "\n", ",\n\n", "\n\n", ":"):
        return LABEL
    if before.lower in _CLOSINGS and word.joined and view.text[word.stop :].strip(" .") == "":
        return LABEL  # "Thx Mark"
    two = words[index - 2] if index > 1 else None
    if before.lower in ("is", "by") and two is not None and two.lower in _DONE_BY:
        return LABEL if before.lower == "is" and two.lower == "name" else NEAR
    if before.lower == "by" and two is not None and two.lower.endswith(("ed", "en", "ne")) and word.joined:
        return NEAR  # obtained by, given by
    if before.lower in _PERSON_WORDS and len(word.gap) < 4 and "." not in word.gap and _LINKS.fullmatch(word.gap):
        return NEAR
    if before.lower in _DONE_BY and _LABEL_GAP.fullmatch(word.gap):
        return LABEL
    if (
        two is not None
        and before.lower in _BETWEEN
        and word.joined
        and (two.lower in _PERSON_WORDS or before.lower in ("named", "called"))
    ):
        return NEAR
    return None


def acts(view: Words, last: int) -> bool:
    """Whether a verb of people follows: "Willem is a 30-year-old", "Rob was told"."""
    if last + 1 >= len(view.words):
        return False
    after = view.words[last + 1]
    if not after.joined or after.case != LOWER:
        return False
    if after.lower in ("is", "was", "has", "had", "did", "from"):
        return _PERSON_AFTER.match(view.text, after.stop) is not None
    return after.lower in _PERSON_VERBS


def weak_before(view: Words, index: int) -> bool:
    """Whether a word stands before that a name may follow."""
    return index > 0 and view.words[index - 1].lower in _WEAK_BEFORE and view.words[index].joined


def _stands_for_somebody(text: str, start: int, end: int) -> bool:
    """Whether two or three capitals are somebody's: "Pt CVH,", "AB, 54 y"."""
    if _AGE_AFTER.match(text, end):
        return True
    before = _CAPITALS_BEFORE.search(text, max(0, start - 12), start)
    if before is None or not _CAPITALS_AFTER.match(text, end):
        return False
    return not before.group().endswith(": ") or text[end : end + 1] in (".", ";", ",")


def opens_line(view: Words, first: int, last: int) -> bool:
    """Whether a name begins a line and a comma or a colon follows: "Iain, bed 4 …", "Noor: hi"."""
    begins = first == 0 or "\n" in view.words[first].gap
    return begins and first == last and view.text[view.words[last].stop : view.words[last].stop + 1] in (",", ":")


def signature_start(view: Words, vocabulary: Vocabulary) -> tuple[int, int] | None:
    """First and last word of a signature: the last line or fragment, if it is one to four words that can be a name."""
    match = _NAME_LINE.search(view.text, max(0, len(view.text) - 60)) if len(view.words) >= 8 else None
    if match is None:
        return None
    tail = range(max(0, len(view.words) - 6), len(view.words))
    inside = [at for at in tail if match.start(1) <= view.words[at].start < match.end(1)]
    if not inside:
        return None
    words = [view.words[at] for at in inside]
    full = [word for word in words if word.case != INITIAL and len(word.lower) > 1]
    kinds = [vocabulary.kind(word.lower) for word in full]
    if not kinds or (words[0].case == UPPER and not view.shouted):
        return None
    given = full[0].lower in vocabulary.lexicon.given
    small = any(word.case == LOWER for word in words)
    if small and not (given and len(kinds) == 2 and kinds[1] != "word"):
        return None
    names = kinds[0] in (SURE, LIKELY) or (kinds[0] == UNKNOWN and not view.shouted)
    maybe = kinds[0] == MAYBE and given and not vocabulary.is_form_word(full[0].lower)
    short = given and len(words) == 1 and len(full[0].lower) < 4
    return (inside[0], inside[-1]) if names or maybe or short else None


def initials(view: Words) -> Iterator[Finding]:
    """Initials where a person is spoken of, and at the end of a note."""
    why = "initials where a person is spoken of"
    for match in _DOTTED.finditer(view.text):
        letters = re.sub(r"[^A-Z]", "", match.group()).lower()
        before = view.text[max(0, match.start() - 16) : match.start()]
        if letters not in ABBREVIATIONS:
            score = 0.6 if _DOTTED_BEFORE.search(before) else 0.45
            yield Finding(*match.span(), "NAME", score, "name.initials", why)
    for match in _CAPITALS.finditer(view.text):
        if match.group().lower() not in ABBREVIATIONS and _stands_for_somebody(view.text, *match.span()):
            yield Finding(*match.span(), "NAME", 0.55, "name.initials", why)
    for match in _PAIR.finditer(view.text):
        yield Finding(match.start() + 1, match.end() - 1, "NAME", 0.6, "name.initials", why)
    for match in _NICKNAME.finditer(view.text) if _QUOTED.search(view.text) else ():
        span = match.span(1) if match.group(1) else match.span(2)
        yield Finding(*span, "NAME", 0.7, "name.nickname", "a name in quotes, where somebody is called so")
    last = _LAST_CAPITALS.search(view.text, max(0, len(view.text) - 12))
    if last is not None and last.group(1).lower() not in ABBREVIATIONS and not view.shouted:
        yield Finding(*last.span(1), "NAME", 0.5, "name.initials", "initials that end the text as a signature does")


def components(view: Words, vocabulary: Vocabulary) -> Iterator[Finding]:
    """Names in messages of hospital systems, "Carrion^Ricardo"."""
    if "^" not in view.text:
        return
    for match in re.finditer(
        r"(?<![\w^])([^\W\d_](?:[^\W\d_]|['’\- ])+)\^([^\W\d_](?:[^\W\d_]|['’\-])+)(?:\^[^\W\d_](?:[^\W\d_]"
        r"|['’\-])*)?",
        view.text,
    ):
        if vocabulary.kind(match.group(1).lower()) != WORD or vocabulary.kind(match.group(2).lower()) in (SURE, LIKELY):
            yield Finding(
                *match.span(), "NAME", 0.85, "name.components", "surname and given name as a message has them"
            )

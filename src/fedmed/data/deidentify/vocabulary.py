"""What a capital word may be: surely a name, likely one, a name and a word, a word nobody knows, or a plain word."""

from __future__ import annotations

import re

from fedmed.data.deidentify.lexicon import Lexicon
from fedmed.data.deidentify.lists import words_of
from fedmed.data.deidentify.words import INITIAL, LOWER, TITLE, UPPER, Word, Words

SURE, LIKELY, MAYBE, UNKNOWN, WORD = "sure", "likely", "maybe", "unknown", "word"

_HEADS = words_of("clinical_heads")
_FUNCTION = words_of("function_words")
_FORMS = _FUNCTION | words_of("headings") | words_of("name_suffixes") | words_of("demonyms")
_PEOPLE = words_of("person_words") | words_of("titles")
_NEVER = words_of("brands") | words_of("drugs") | words_of("shorthand")
_OPEN_NAMES = frozenset({"may", "will", "june", "jan", "april", "see", "august", "art", "do", "an", "so", "in"})
_ENDINGS = tuple(sorted(words_of("drug_endings")))
_TOWN_ENDINGS = ("ville", "burgh", "burg", "mouth", "chester", "shire", "stad", "borough", "town", "bury", "haven")
_MORE_TOWN_ENDINGS = ("land", "port", "side", "view", "fort")
_ARTICLES = ("al-", "el-", "abd-", "abu-", "ben-", "bin-", "ibn-", "o'", "o’", "d'", "d’")
_CACHE = 50_000
_RESULT = re.compile(
    r"['’]?s?\s*(?:score\s*|scale\s*|grade\s*|stage\s*|type\s*|class\s*|index\s*|risk\s*|=\s*|:\s*|was\s+|is\s+"
    r"|of\s+)?"
    r"(?:[<>≤≥~]?\s*\d|[IVX]{1,4}[abAB]?(?![\w.])|\+|(?:neg|pos|negative|positive|normal|none|absent|present"
    r"|pending|n/?a|equivocal|intact|"
    r"clear|patent|low|high|grade|stage|done|unremarkable|not)\b)"
)


class Vocabulary:
    """Tells what words may be; remembers its answers."""

    def __init__(self, lexicon: Lexicon) -> None:
        self.lexicon = lexicon
        self._kinds: dict[str, str] = {}

    def kind(self, word: str) -> str:
        """One of SURE, LIKELY, MAYBE, UNKNOWN, WORD for a folded word."""
        kind = self._kinds.get(word)
        if kind is None:
            if len(self._kinds) >= _CACHE:
                self._kinds.clear()
            kind = self._kinds[word] = self._kind_of(word)
        return kind

    def _kind_of(self, word: str) -> str:
        lexicon = self.lexicon
        if word in _FORMS:
            return MAYBE if word in _OPEN_NAMES else WORD
        if word in _NEVER or (word in _PEOPLE and word not in lexicon.sure_given):
            return WORD
        named = word in lexicon.given or word in lexicon.surnames
        if word in lexicon.regions:
            return MAYBE if word in lexicon.given else WORD
        if word in lexicon.sure_given:
            return SURE
        if word in lexicon.eponyms or word in lexicon.big_towns:
            return MAYBE if named else WORD
        if word.startswith(_ARTICLES):
            return LIKELY
        if word in lexicon.common_surnames:
            return LIKELY
        if lexicon.known(word):
            return MAYBE if named else WORD
        if not word.isalpha():
            parts = [part for part in re.split(r"['’\-‐‑]", word) if len(part) > 2]
            if re.search(r"['’](?:m|re|t|ll|ve|d)$", word):
                return WORD  # don't
            if parts and all(part in lexicon.eponyms for part in parts):
                return MAYBE
            if any(part in lexicon.sure_given for part in parts) and all(
                part in lexicon.given or part in lexicon.surnames for part in parts
            ):
                return SURE
            if any(lexicon.medical(part) and part not in lexicon.surnames for part in parts):
                return WORD
            if any(part in lexicon.given or part in lexicon.surnames for part in parts):
                return LIKELY
        if named:
            return LIKELY
        if lexicon.drug(word) or (word.isascii() and not re.search("[aeiouy]", word)):
            return WORD
        return UNKNOWN if len(word) > 2 or not word.isascii() else WORD

    def is_form_word(self, word: str) -> bool:
        return word in _FORMS

    def is_function_word(self, word: str) -> bool:
        return word in _FUNCTION

    def medical(self, word: str) -> bool:
        return self.lexicon.medical(word)

    def town_like(self, word: str) -> bool:
        """Whether an unknown word is built as a town's name."""
        if len(word) > 6 and word.endswith(_TOWN_ENDINGS):
            return self.kind(word) in (UNKNOWN, LIKELY)
        return len(word) > 7 and word.endswith(_MORE_TOWN_ENDINGS) and self.kind(word) == UNKNOWN

    def head_follows(self, view: Words, index: int) -> bool:
        """Whether a noun of medicine follows a capital word within three: a disease, a sign, a score …"""
        words = view.words
        word = words[index]
        for step in (1, 2, 3):
            if index + step >= len(words):
                break
            after = words[index + step]
            if not (after.joined or after.gap in ("-", "–", "/")):
                break
            if after.lower in _HEADS:
                if self.kind(word.lower) == SURE and step == 1 and word.lower not in self.lexicon.eponyms:
                    return word.stop != word.end
                return True
            if after.case == LOWER and step > 1:
                break
        return False

    def eponymous(self, view: Words, index: int) -> bool:
        """Whether a capital word names a disease, a sign, a score …: it is known for it, or what follows says so."""
        words = view.words
        word = words[index]
        kind = self.kind(word.lower)
        if self.head_follows(view, index):
            return True
        if index > 1 and words[index - 1].lower == "of" and word.joined and words[index - 2].lower in _HEADS:
            return True  # the pouch of Douglas
        if self.next_is_name(view, index):
            return False
        eponyms = self.lexicon.eponyms
        if word.lower in eponyms or all(part in eponyms for part in word.lower.split("-")):
            return kind != SURE or word.stop != word.end or _RESULT.match(view.text, word.end) is not None
        return kind in (UNKNOWN, LIKELY) and _RESULT.match(view.text, word.end) is not None

    def next_is_name(self, view: Words, index: int) -> bool:
        """Whether what follows a word can be the rest of a name."""
        if index + 1 >= len(view.words):
            return False
        after = view.words[index + 1]
        if not after.joined or view.words[index].stop != view.words[index].end:
            return False
        if after.case == INITIAL:
            return view.text[after.end : after.end + 1] in (".", ",", "") or self.kind(view.words[index].lower) == SURE
        return after.case in (TITLE, UPPER) and self.kind(after.lower) in (SURE, LIKELY, MAYBE, UNKNOWN)

    def small_name(self, word: Word) -> bool:
        """Whether a word in small letters is more likely a name than a word."""
        kind = self.kind(word.lower)
        if kind == MAYBE:
            return word.lower not in self.lexicon.clinical and word.lower not in _FUNCTION
        return kind in (SURE, LIKELY)

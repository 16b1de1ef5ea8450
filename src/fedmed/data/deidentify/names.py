"""Names of people: by the company they keep (titles, relations, signatures), by gazetteer, by being no other word."""

from __future__ import annotations

import re
from collections.abc import Iterator

from fedmed.data.deidentify.findings import Finding
from fedmed.data.deidentify.lists import words_of
from fedmed.data.deidentify.name_signs import (
    ABBREVIATIONS,
    CREDENTIAL,
    LABEL,
    NEAR,
    SHORT_TITLES,
    TITLES,
    acts,
    initials,
    opens_line,
    signature_start,
    trigger,
    weak_before,
)
from fedmed.data.deidentify.vocabulary import LIKELY, MAYBE, SURE, UNKNOWN, WORD, Vocabulary
from fedmed.data.deidentify.words import INITIAL, LOWER, TITLE, UPPER, Word, Words

_PARTICLES = words_of("name_particles")
_SUFFIXES = words_of("name_suffixes")
_SURNAME_WORDS = frozenset("may will see black white young west north long short day hill wood brown green gray english french".split())
_INITIAL_GAPS = frozenset({".", ". ", ".  ", " "})
_LONGEST = 5


class NameFinder:
    """Finds names; holds the vocabulary."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self._kind = vocabulary.kind

    def find(self, view: Words) -> Iterator[Finding]:
        """Names in one text, and then every other place where a found name stands."""
        found = [*self._runs(view), *initials(view), *self._components(view)]
        yield from found
        yield from self._again(view, found)

    def _runs(self, view: Words) -> Iterator[Finding]:
        words, index = view.words, 0
        signed = signature_start(view, self.vocabulary)
        while index < len(words):
            found, index = self._at(view, index, signed[1] if signed and index == signed[0] else None)
            if found is not None:
                yield found

    def _at(self, view: Words, index: int, signed: int | None) -> tuple[Finding | None, int]:
        """A name that begins at a word, and where to go on."""
        words = view.words
        word = words[index]
        if signed is not None:
            last = self._absorb(view, index, sure=True)
            last = signed if last is None else last
            return self._finding(view, index, last, 0.7, "name.signature", "ends the text as a signature does"), last + 1
        if index and self._titled(view, index):
            last = self._absorb(view, index, sure=True)
            if last is not None:
                return self._finding(view, index, last, 0.95, "name.title", "follows a title"), last + 1
        if word.case == LOWER:
            return self._lower_case(view, index)
        if word.case == INITIAL:
            return self._initial_first(view, index)
        told = trigger(view, index)
        kind = self._kind(word.lower)
        if word.case == UPPER and not self._shouted_name(view, index, kind, told):
            return None, index + 1
        if word.lower in TITLES and kind != SURE and index + 1 < len(words) and self._titled(view, index + 1):
            return None, index + 1
        if told != LABEL and self.vocabulary.eponymous(view, index):
            return None, index + 1
        called = told is not None and view.words[index - 1].lower in ("called", "named", "nicknamed")
        if kind == WORD and not (
            (told == LABEL or called) and not self.vocabulary.is_form_word(word.lower) and (called or self.vocabulary.next_is_name(view, index))
        ):
            return None, index + 1
        last = self._absorb(view, index, sure=kind == SURE or told is not None, label=told == LABEL)
        if last is None:
            return None, index + 1
        score, rule, why = self._judge(view, index, last, kind, told)
        if not score:
            return None, index + 1
        return self._finding(view, self._back(view, index), last, score, rule, why), last + 1

    def _back(self, view: Words, first: int) -> int:
        """Take what stands before a name into it: an initial ("P Morris"), a capital word that is plainly no other."""
        words = view.words
        for _ in range(2):
            if first == 0:
                return first
            word, before = words[first], words[first - 1]
            if before.case == INITIAL and word.gap in _INITIAL_GAPS and view.text[before.start] not in "AI":
                earlier = words[first - 2] if first > 1 else None
                if earlier is None or not before.joined or not self.vocabulary.medical(earlier.lower):
                    first -= 1
                    continue
            fits = before.case == TITLE and word.joined and word.case == TITLE and before.stop == before.end
            if not fits or self.vocabulary.is_form_word(before.lower) or self.vocabulary.medical(before.lower):
                return first
            kind = self._kind(before.lower)
            if before.lower in TITLES or (kind == WORD and (before.opens or before.lower in self.vocabulary.lexicon.towns)):
                return first
            if kind == WORD and not (first > 1 and (trigger(view, first - 1) or not before.opens)):
                return first
            first -= 1
        return first

    def _judge(self, view: Words, first: int, last: int, kind: str, told: str | None) -> tuple[float, str, str]:
        words, lexicon = view.words, self.vocabulary.lexicon
        run = words[first : last + 1]
        full = [word for word in run if word.case != INITIAL]
        kinds = [self._kind(word.lower) for word in full]
        initial = any(word.case == INITIAL for word in run[1:])
        if told == LABEL:
            return 0.9, "name.label", "follows a label or a word that a name follows"
        if SURE in kinds and len(kinds) > 1:
            return 0.9, "name.full", "a given name with a surname"
        if SURE in kinds and initial:
            return 0.92, "name.initial", "a given name with an initial"
        if told == NEAR and (kind != WORD or words[first - 1].lower in ("called", "named", "nicknamed")):
            return 0.8, "name.relation", "stands beside a word for a person"
        if self._reversed(view, last):
            return 0.8, "name.reversed", "a surname, a comma and a given name"
        if kind == SURE:
            return 0.75, "name.given", "a given name that is no other word"
        if initial and kind in (MAYBE, LIKELY, UNKNOWN) and not (run[0].lower in lexicon.clinical or lexicon.drug(run[0].lower)):
            return 0.7, "name.initial", "a name with an initial"
        if CREDENTIAL.match(view.text, words[last].stop) and kind != WORD:
            return 0.85, "name.credential", "followed by a credential"
        if len(full) > 1:
            if kind == MAYBE and full[0].lower in lexicon.given and full[-1].lower in lexicon.surnames:
                return 0.6, "name.full", "a given name and a surname, each also a word"
            if kind != WORD and any(each in (LIKELY, UNKNOWN) for each in kinds) and not any(map(lexicon.medical, (w.lower for w in full))):
                return 0.6, "name.unknown_words", "capital words that are in no vocabulary"
        if kind != WORD and not lexicon.clinical.intersection((run[0].lower,)) and acts(view, last) and (kind != MAYBE or run[0].lower in lexicon.given):
            return 0.6, "name.acts", "does what people do"
        if opens_line(view, first, last) and kind in (SURE, LIKELY, UNKNOWN):
            return 0.5, "name.line", "begins a line as somebody who is spoken to, or who speaks"
        if kind == LIKELY and (not words[first].opens or run[0].lower in lexicon.common_surnames):
            return 0.55, "name.surname", "a surname that is no other word"
        if kind == LIKELY:
            return 0.45, "name.surname", "a surname that is no other word"
        if kind == UNKNOWN and not words[first].opens:
            return 0.42, "name.unknown", "a capital word that is in no vocabulary"
        if kind == MAYBE and run[0].lower in lexicon.given and not words[first].opens and run[0].lower not in lexicon.regions and weak_before(view, first):
            return 0.4, "name.weak", "a given name that is also a word, where a name may stand"
        return 0.0, "", ""

    def _turned(self, view: Words, index: int) -> bool:
        """Whether a word after a comma can be a given name, where a label announced a whole name."""
        word = view.words[index]
        before = view.words[index - 1].case
        return word.case in (before, TITLE if before == UPPER else before) and self._kind(word.lower) != WORD

    def _absorb(self, view: Words, first: int, *, sure: bool, label: bool = False) -> int | None:
        """The last word of the name that begins at ``first``; None: nothing here can be one."""
        words = view.words
        index, last, count = first, None, 0
        while index < len(words) and count < _LONGEST:
            word = words[index]
            if index > first:
                before = words[index - 1]
                if before.stop != before.end:
                    break  # a possessive ends a name
                turned = word.gap in (", ", ",") and count == 1 and word.case != LOWER and (self._reversed(view, index - 1) or (label and self._turned(view, index)))
                if not (word.joined or turned or (before.case == INITIAL and word.gap in _INITIAL_GAPS)):
                    break
            if word.case == LOWER:
                if word.lower in _PARTICLES and self._capital_after(view, index) and (index > first or sure):
                    index += 1
                    continue
                if sure and (index == first or view.small) and (self.vocabulary.small_name(word) or (view.small and self._kind(word.lower) == UNKNOWN)):
                    last, index, count = index, index + 1, count + 1
                    continue
                if view.small and index > first and len(word.lower) == 1:
                    last, index, count = index, index + 1, count + 1
                    continue
                break
            if word.case == INITIAL:
                if index > first and not _is_initial(view, index):
                    break
            elif index > first and not self._goes_on(view, first, index, count, sure):
                break
            last, index, count = index, index + 1, count + 1
        return last

    def _goes_on(self, view: Words, first: int, index: int, count: int, sure: bool) -> bool:
        """Whether a capital word after the first still belongs to the name."""
        word, kind = view.words[index], self._kind(view.words[index].lower)
        if word.lower in _PARTICLES and word.case == TITLE and self._capital_after(view, index):
            return True
        if self.vocabulary.is_form_word(word.lower):
            return sure and index == first + 1 and word.lower in _SURNAME_WORDS and word.case == view.words[first].case
        if word.case == UPPER and view.words[first].case == TITLE and (kind != SURE or len(word.lower) < 4) and not (sure and kind == LIKELY):
            return False
        if kind == WORD and (not sure or count >= 2 or self.vocabulary.medical(word.lower)):
            return False
        lexicon = self.vocabulary.lexicon
        if kind == MAYBE and view.words[first].lower in lexicon.given and word.lower in lexicon.surnames:
            return True
        return not (kind == MAYBE and not sure and self.vocabulary.medical(word.lower))

    def _capital_after(self, view: Words, index: int) -> bool:
        """Whether a capital follows the particles that begin here: "van der Berg"."""
        for word in view.words[index + 1 : index + 3]:
            if not word.joined:
                return False
            if word.case == TITLE:
                return True
            if word.lower not in _PARTICLES:
                return view.small and (self.vocabulary.small_name(word) or self._kind(word.lower) == UNKNOWN)
        return False

    def _titled(self, view: Words, index: int) -> bool:
        """Whether a title stands directly in front of a word that can be a name."""
        before, word = view.words[index - 1], view.words[index]
        if before.lower not in TITLES or before.stop != before.end or word.gap not in (" ", ". ", ".", "  ", ".  ", "\u00a0"):
            return False
        if before.case == UPPER and word.case != UPPER:
            return False  # "MR. Probe in place", "MS patient"
        if word.case == INITIAL:
            return True
        if word.case == LOWER and word.lower in _PARTICLES and self._capital_after(view, index):
            return before.lower in SHORT_TITLES
        if word.case == LOWER:
            return before.lower in SHORT_TITLES and self.vocabulary.small_name(word) and not (before.lower == "ms" and before.case == LOWER and not view.small)
        if before.lower in SHORT_TITLES or before.lower in ("professor", "doctor", "miss", "nurse"):
            return not self.vocabulary.is_function_word(word.lower) or word.lower in _SURNAME_WORDS
        return before.case != LOWER and "." not in word.gap and self._kind(word.lower) != WORD

    def _lower_case(self, view: Words, index: int) -> tuple[Finding | None, int]:
        """Names that nobody capitalised: a given name that is no word, with a surname, an initial or a trigger."""
        word = view.words[index]
        kind = self._kind(word.lower)
        told = trigger(view, index) if view.small else None
        if view.small and told == LABEL and (self.vocabulary.small_name(word) or kind == UNKNOWN):
            last = self._absorb(view, index, sure=True)
            last = index if last is None else last
            return self._finding(view, index, last, 0.7, "name.label", "follows a label in a text without capitals"), last + 1
        if kind != SURE or word.lower in self.vocabulary.lexicon.english or len(word.lower) < 3:
            return None, index + 1
        last = index
        for after in view.words[index + 1 : index + 4]:
            kind = self._kind(after.lower)
            fits = kind in (LIKELY, SURE, UNKNOWN) and not self.vocabulary.medical(after.lower)
            if (after.joined or after.gap == ". ") and (len(after.lower) == 1 or fits or after.lower in _PARTICLES):
                last += 1
                continue
            break
        if last > index or told is not None or (view.small and trigger(view, index) is not None):
            return self._finding(view, index, last, 0.6, "name.lower_case", "a given name in small letters"), last + 1
        return None, index + 1

    def _initial_first(self, view: Words, index: int) -> tuple[Finding | None, int]:
        """"J. Smith", "J.R. Novak", "M bin Said": initials and a name that is not plainly a word."""
        words, step = view.words, index + 1
        while step < len(words) and words[step].case == INITIAL and words[step].gap in _INITIAL_GAPS:
            step += 1
        while step < len(words) and words[step].lower in _PARTICLES and words[step].case == LOWER and words[step].gap in _INITIAL_GAPS:
            step += 1
        if step >= len(words) or words[step].case not in (TITLE, UPPER):
            return None, index + 1
        word, told = words[step], trigger(view, index)
        if index and words[index].joined and told is None and self.vocabulary.medical(words[index - 1].lower):
            return None, index + 1  # "Vitamin D. Anna": the initial belongs to what stands before it
        dotted = word.gap in (". ", ".", ".  ")
        if not (dotted or word.joined) or self.vocabulary.eponymous(view, step) or (word.case == UPPER and not view.shouted):
            return None, index + 1
        kind = self._kind(word.lower)
        fits = kind != WORD if dotted or told is not None else kind in (SURE, LIKELY)
        if not fits or (told is None and (not dotted or (kind != SURE and words[index].opens is False and not words[index].joined))):
            return None, index + 1
        if dotted and told is None and index and words[index].joined and words[index - 1].case != LOWER and words[index].gap == " ":
            return None, index + 1  # "Hepatitis B. Novak": another sentence begins
        last = self._absorb(view, step, sure=True)
        if last is None:
            return None, index + 1
        return self._finding(view, index, last, 0.8, "name.initial", "initials and a name"), last + 1

    def _shouted_name(self, view: Words, index: int, kind: str, told: str | None) -> bool:
        """A word in capitals that begins a name; abbreviations do not."""
        word = view.words[index]
        if len(word.lower) < 3:
            return told == LABEL and kind in (SURE, LIKELY, MAYBE)
        if told == LABEL:
            return kind in (SURE, LIKELY, MAYBE) or (kind == UNKNOWN and len(word.lower) > 3)
        if self._reversed(view, index):
            return True
        if kind in (SURE, LIKELY) and view.shouted and len(word.lower) > 3:
            return True
        if kind == SURE and len(word.lower) > 3 and told is not None:
            return True
        after = view.words[index + 1] if index + 1 < len(view.words) else None
        if kind == SURE and after is not None and after.joined and after.case == UPPER:
            return self._kind(after.lower) in (LIKELY, SURE) and len(after.lower) > 2
        return view.shouted and kind == UNKNOWN and told == NEAR

    def _reversed(self, view: Words, index: int) -> bool:
        """Whether a comma and a given name follow a surname: "Smith, John"."""
        if index + 1 >= len(view.words) or view.words[index].stop != view.words[index].end:
            return False
        word, after = view.words[index], view.words[index + 1]
        if after.gap not in (", ", ",") or after.case not in (TITLE, UPPER) or after.case != word.case and word.case != UPPER:
            return False
        kind = self._kind(word.lower)
        if word.case == UPPER and word.lower in ABBREVIATIONS:
            return False
        if self._kind(after.lower) == SURE:
            lexicon = self.vocabulary.lexicon
            return (kind in (LIKELY, UNKNOWN, MAYBE) or (kind == SURE and word.lower in lexicon.surnames)) and (word.lower not in lexicon.towns or word.lower in lexicon.common_surnames)
        if word.case == UPPER and after.case == TITLE and len(word.lower) > 2 and kind != WORD:
            return self._kind(after.lower) in (LIKELY, UNKNOWN, MAYBE)  # SMITH, Jo: only surnames are written so
        return kind == LIKELY and self._kind(after.lower) == MAYBE and after.lower in self.vocabulary.lexicon.given

    def _components(self, view: Words) -> Iterator[Finding]:
        """Names in messages of hospital systems, "Carrion^Ricardo"."""
        if "^" not in view.text:
            return
        for match in re.finditer(r"(?<![\w^])([^\W\d_][^\W\d_'’\- ]+)\^([^\W\d_][^\W\d_'’\-]+)(?:\^[^\W\d_][^\W\d_'’\-]*)?", view.text):
            if self._kind(match.group(1).lower()) != WORD or self._kind(match.group(2).lower()) in (SURE, LIKELY):
                yield Finding(*match.span(), "NAME", 0.85, "name.components", "surname and given name as a message has them")

    def _again(self, view: Words, found: list[Finding]) -> Iterator[Finding]:
        """Every other mention of a word of a name that was found for a good reason."""
        known: set[str] = set()
        covered: set[int] = set()
        for finding in found:
            for word in view.words:
                if word.start >= finding.end:
                    break
                if word.start >= finding.start:
                    covered.add(word.start)
                    if finding.score >= 0.6 and len(word.lower) > 1 and not self.vocabulary.is_form_word(word.lower) and word.lower not in TITLES:
                        known.add(word.lower)
        if not known:
            return
        why = "a name that this text has already shown"
        for index, word in enumerate(view.words):
            if word.lower in known and word.start not in covered:
                kind = self._kind(word.lower)
                if word.case in (TITLE, UPPER) and (kind != WORD or word.case == TITLE) and not self.vocabulary.eponymous(view, index):
                    yield self._finding(view, index, index, 0.65, "name.again", why)
                elif word.case == LOWER and kind in (SURE, LIKELY, UNKNOWN) and word.lower not in self.vocabulary.lexicon.english:
                    yield self._finding(view, index, index, 0.5, "name.again", why)

    @staticmethod
    def _finding(view: Words, first: int, last: int, score: float, rule: str, why: str) -> Finding:
        """From the title, which belongs to the name, to the last word; a possessive 's stays outside."""
        words = view.words
        start = words[first].start
        if first and words[first - 1].lower in SHORT_TITLES | {"miss", "professor", "doctor"} and words[first].gap in _INITIAL_GAPS:
            start = words[first - 1].start
        return Finding(start, words[last].end, "NAME", score, rule, why)


def _is_initial(view: Words, index: int) -> bool:
    """A single capital after a name: "Anna S.", not "Anna I think"."""
    word: Word = view.words[index]
    after = view.text[word.end : word.end + 2]
    return view.text[word.start] != "I" or after[:1] == "." or after[:1] != " "

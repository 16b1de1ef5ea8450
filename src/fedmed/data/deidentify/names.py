"""Names of people: by the company they keep (titles, relations, signatures), by gazetteer, by being no other word."""

from __future__ import annotations

import functools
from bisect import bisect_left
from collections.abc import Iterator

from fedmed.data.deidentify.findings import Finding
from fedmed.data.deidentify.name_company import NameCompany
from fedmed.data.deidentify.name_extent import INITIAL_GAPS, PARTICLES
from fedmed.data.deidentify.name_signs import (
    CREDENTIAL,
    LABEL,
    NEAR,
    SHORT_TITLES,
    TITLES,
    acts,
    components,
    initials,
    may_tell,
    opens_line,
    signature_start,
    trigger,
    weak_before,
)
from fedmed.data.deidentify.vocabulary import LIKELY, MAYBE, SURE, UNKNOWN, WORD, Vocabulary
from fedmed.data.deidentify.words import INITIAL, LOWER, TITLE, UPPER, Words

_LEADING = PARTICLES - {"e", "y", "o", "la", "le", "das", "do", "san", "santa", "av", "af", "st"}


class NameFinder(NameCompany):
    """Finds names; holds the vocabulary."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        super().__init__(vocabulary)
        self._plain = functools.lru_cache(maxsize=1 << 15)(self._is_plain)

    def find(self, view: Words) -> Iterator[Finding]:
        """Names in one text, and then every other place where a found name stands."""
        found = [*self._runs(view), *self.cells(view), *initials(view), *components(view, self.vocabulary)]
        found += list(self.beside(view, found))
        yield from found
        yield from self._again(view, found)

    def _runs(self, view: Words) -> Iterator[Finding]:
        words, small = view.words, view.small
        signed = signature_start(view, self.vocabulary)
        after = 0  # the first word that no name has taken yet
        for index, word in enumerate(words):
            if index < after:
                continue
            ends = signed[1] if signed and index == signed[0] else None
            if ends is None and index:  # the way of most words: no name, and nothing before that tells of one
                before = words[index - 1].lower
                if word.case == LOWER:
                    plain = not small and before not in TITLES and self._plain(word.lower)
                else:
                    plain = word.case != INITIAL and self.kind(word.lower) == WORD and not may_tell(before)
                if plain:
                    continue
            found, after = self._at(view, index, ends)
            if found is not None:
                yield found

    def _is_plain(self, word: str) -> bool:
        """Whether a word in small letters begins no name without a title before it."""
        return self.kind(word) != SURE and word not in _LEADING

    def _at(self, view: Words, index: int, signed: int | None) -> tuple[Finding | None, int]:
        """A name that begins at a word, and where to go on."""
        words = view.words
        word = words[index]
        if signed is not None:
            last = self.absorb(view, index, sure=True)
            last = signed if last is None else last
            return self._finding(
                view, index, last, 0.7, "name.signature", "ends the text as a signature does"
            ), last + 1
        if index and self.titled(view, index):
            last = self.absorb(view, index, sure=True)
            if last is not None:
                return self._finding(view, index, last, 0.95, "name.title", "follows a title"), last + 1
        if word.case == LOWER and word.lower in PARTICLES and self.capital_after(view, index) and index:
            last = self.absorb(view, index, sure=True)
            if last is not None and (trigger(view, index) or self.kind(words[last].lower) in (LIKELY, UNKNOWN, SURE)):
                return self._finding(
                    view, self.back(view, index), last, 0.62, "name.particle", "a particle and a capital word"
                ), last + 1
        if word.case == LOWER:
            return self._lower_case(view, index)
        if word.case == INITIAL:
            return self._initial_first(view, index)
        told = trigger(view, index)
        kind = self.kind(word.lower)
        if word.case == UPPER and not self._shouted_name(view, index, kind, told):
            return None, index + 1
        if word.lower in TITLES and kind != SURE and index + 1 < len(words) and self.titled(view, index + 1):
            return None, index + 1
        if kind == WORD and (told is None or not self._called(view, index, told)):
            return None, index + 1
        beside = told == NEAR and word.joined  # "PCP Barr": not named after Barr, if no disease follows
        if told != LABEL and (
            self.vocabulary.head_follows(view, index) if beside else self.vocabulary.eponymous(view, index)
        ):
            return None, index + 1
        last = self.absorb(view, index, sure=kind == SURE or told is not None, label=told == LABEL)
        if last is None:
            return None, index + 1
        score, rule, why = self._judge(view, index, last, kind, told)
        if not score:
            return None, index + 1
        return self._finding(view, self.back(view, index), last, score, rule, why), last + 1

    def _called(self, view: Words, index: int, told: str) -> bool:
        """Whether a plain word is a name by what stands before it: "named Rose", or a label."""
        word = view.words[index]
        if self.vocabulary.is_form_word(word.lower):
            return False
        if view.words[index - 1].lower in ("called", "named", "nicknamed") or '"' in word.gap:
            return True
        return told == LABEL and self.vocabulary.next_is_name(view, index)

    def _judge(self, view: Words, first: int, last: int, kind: str, told: str | None) -> tuple[float, str, str]:
        words, lexicon = view.words, self.vocabulary.lexicon
        run = words[first : last + 1]
        full = [word for word in run if word.case != INITIAL]
        kinds = [self.kind(word.lower) for word in full]
        initial = any(word.case == INITIAL for word in run[1:])
        if told == LABEL:
            return 0.9, "name.label", "follows a label or a word that a name follows"
        if SURE in kinds and len(kinds) > 1:
            return 0.9, "name.full", "a given name with a surname"
        if SURE in kinds and initial:
            return 0.92, "name.initial", "a given name with an initial"
        if told == NEAR and (kind != WORD or words[first - 1].lower in ("called", "named", "nicknamed")):
            return 0.8, "name.relation", "stands beside a word for a person"
        if self.reversed(view, last):
            return 0.8, "name.reversed", "a surname, a comma and a given name"
        if kind == SURE:
            return 0.75, "name.given", "a given name that is no other word"
        if (
            initial
            and kind in (MAYBE, LIKELY, UNKNOWN)
            and not (run[0].lower in lexicon.clinical or lexicon.drug(run[0].lower))
        ):
            return 0.7, "name.initial", "a name with an initial"
        if CREDENTIAL.match(view.text, words[last].stop) and kind != WORD:
            return 0.85, "name.credential", "followed by a credential"
        if len(full) > 1:
            if kind == MAYBE and full[0].lower in lexicon.given and full[-1].lower in lexicon.surnames:
                return 0.6, "name.full", "a given name and a surname, each also a word"
            if (
                kind != WORD
                and any(each in (LIKELY, UNKNOWN) for each in kinds)
                and not any(map(lexicon.medical, (w.lower for w in full)))
            ):
                return 0.6, "name.unknown_words", "capital words that are in no vocabulary"
        if (
            kind != WORD
            and not lexicon.clinical.intersection((run[0].lower,))
            and acts(view, last)
            and (kind != MAYBE or run[0].lower in lexicon.given)
        ):
            return 0.6, "name.acts", "does what people do"
        if opens_line(view, first, last) and (
            kind in (SURE, LIKELY, UNKNOWN)
            or (kind == MAYBE and run[0].lower in lexicon.given and not lexicon.medical(run[0].lower))
        ):
            return 0.5, "name.line", "begins a line as somebody who is spoken to, or who speaks"
        if kind == LIKELY and (not words[first].opens or run[0].lower in lexicon.common_surnames):
            return 0.55, "name.surname", "a surname that is no other word"
        if kind == LIKELY:
            return 0.45, "name.surname", "a surname that is no other word"
        if kind == UNKNOWN and not words[first].opens:
            return 0.42, "name.unknown", "a capital word that is in no vocabulary"
        if (
            kind == MAYBE
            and run[0].lower in lexicon.given
            and not words[first].opens
            and run[0].lower not in lexicon.regions
            and weak_before(view, first)
        ):
            return 0.4, "name.weak", "a given name that is also a word, where a name may stand"
        return 0.0, "", ""

    def _lower_case(self, view: Words, index: int) -> tuple[Finding | None, int]:
        """Names that nobody capitalised: a given name that is no word, with a surname, an initial or a trigger."""
        word = view.words[index]
        kind = self.kind(word.lower)
        told = trigger(view, index) if view.small else None
        if view.small and told == LABEL and (self.vocabulary.small_name(word) or kind == UNKNOWN):
            last = self.absorb(view, index, sure=True)
            last = index if last is None else last
            return self._finding(
                view, index, last, 0.7, "name.label", "follows a label in a text without capitals"
            ), last + 1
        lexicon = self.vocabulary.lexicon
        if view.small and kind in (LIKELY, UNKNOWN) and not lexicon.drug(word.lower):
            last = self.absorb(view, index, sure=True)
            run = [each.lower for each in view.words[index : (index if last is None else last) + 1]]
            if len(run) > 1 and any(each in lexicon.surnames or each in lexicon.given for each in run):
                return self._finding(
                    view, index, index + len(run) - 1, 0.5, "name.lower_case", "words that are in no vocabulary"
                ), (index + len(run))
        if kind != SURE or word.lower in lexicon.english or len(word.lower) < 3:
            return None, index + 1
        last = index
        for after in view.words[index + 1 : index + 4]:
            kind = self.kind(after.lower)
            fits = kind in (LIKELY, SURE, UNKNOWN) or (kind == MAYBE and after.lower in lexicon.surnames)
            fits = fits and after.lower not in lexicon.clinical and not lexicon.drug(after.lower)
            if (after.joined or after.gap == ". ") and (len(after.lower) == 1 or fits or after.lower in PARTICLES):
                last += 1
                continue
            break
        if last > index or told is not None or (view.small and trigger(view, index) is not None):
            return self._finding(view, index, last, 0.6, "name.lower_case", "a given name in small letters"), last + 1
        return None, index + 1

    def _initial_first(self, view: Words, index: int) -> tuple[Finding | None, int]:
        """ "J. Smith", "J.R. Novak", "M bin Said": initials and a name that is not plainly a word."""
        words, step = view.words, index + 1
        while step < len(words) and words[step].case == INITIAL and words[step].gap in INITIAL_GAPS:
            step += 1
        while (
            step < len(words)
            and words[step].lower in PARTICLES
            and words[step].case == LOWER
            and words[step].gap in INITIAL_GAPS
        ):
            step += 1
        if step >= len(words) or words[step].case not in (TITLE, UPPER):
            return None, index + 1
        word, told = words[step], trigger(view, index)
        before = words[index - 1].lower if index and words[index].joined else ""
        if told is None and self.vocabulary.medical(before) and not self.vocabulary.is_function_word(before):
            return None, index + 1  # "Vitamin D. Anna": the initial belongs to what stands before it
        dotted = word.gap in (". ", ".", ".  ")
        if (
            not (dotted or word.joined)
            or self.vocabulary.eponymous(view, step)
            or (word.case == UPPER and not view.shouted)
        ):
            return None, index + 1
        kind = self.kind(word.lower)
        fits = kind != WORD if dotted or told is not None else kind in (SURE, LIKELY)
        led = told is None and weak_before(view, index) and view.text[words[index].start] not in "I"
        led = led and (kind in (SURE, LIKELY) or (kind == MAYBE and word.lower in self.vocabulary.lexicon.surnames))
        if led and not self.vocabulary.head_follows(view, step):
            fits = True
        if not fits or (
            told is None
            and not led
            and (not dotted or (kind != SURE and words[index].opens is False and not words[index].joined))
        ):
            return None, index + 1
        if (
            dotted
            and told is None
            and index
            and words[index].joined
            and words[index - 1].case != LOWER
            and words[index].gap == " "
        ):
            return None, index + 1  # "Hepatitis B. Novak": another sentence begins
        last = self.absorb(view, step, sure=True)
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
        if self.reversed(view, index):
            return True
        if kind in (SURE, LIKELY) and view.shouted and len(word.lower) > 3:
            return True
        if kind == SURE and len(word.lower) > 3 and told is not None:
            return True
        after = view.words[index + 1] if index + 1 < len(view.words) else None
        if kind == SURE and after is not None and after.joined and after.case == UPPER:
            return self.kind(after.lower) in (LIKELY, SURE) and len(after.lower) > 2
        return view.shouted and kind == UNKNOWN and told == NEAR

    def _again(self, view: Words, found: list[Finding]) -> Iterator[Finding]:
        """Every other mention of a word of a name that was found for a good reason."""
        known: set[str] = set()
        covered: set[int] = set()
        starts = [word.start for word in view.words]
        for finding in found:
            for index in range(bisect_left(starts, finding.start), bisect_left(starts, finding.end)):
                covered.add(index)
                lower = view.words[index].lower
                if (
                    finding.score >= 0.6
                    and len(lower) > 1
                    and not self.vocabulary.is_form_word(lower)
                    and lower not in TITLES
                ):
                    known.add(lower)
        if not known:
            return
        why = "a name that this text has already shown"
        for index, word in enumerate(view.words):
            if word.lower in known and index not in covered:
                kind = self.kind(word.lower)
                if (
                    word.case in (TITLE, UPPER)
                    and (kind != WORD or word.case == TITLE)
                    and not self._named_after(view, index)
                ):
                    yield self._finding(view, index, index, 0.65, "name.again", why)
                elif (
                    word.case == LOWER
                    and kind in (SURE, LIKELY, UNKNOWN)
                    and word.lower not in self.vocabulary.lexicon.english
                ):
                    yield self._finding(view, index, index, 0.5, "name.again", why)

    def _named_after(self, view: Words, index: int) -> bool:
        """Whether a name that this text has shown stands for a disease here: a known eponym, and a noun after it."""
        return view.words[index].lower in self.vocabulary.lexicon.eponyms and self.vocabulary.head_follows(view, index)

    @staticmethod
    def _finding(view: Words, first: int, last: int, score: float, rule: str, why: str) -> Finding:
        """From the title, which belongs to the name, to the last word; a possessive 's stays outside."""
        words = view.words
        start = words[first].start
        if (
            first
            and words[first - 1].lower in SHORT_TITLES | {"miss", "professor", "doctor"}
            and words[first].gap in INITIAL_GAPS
        ):
            start = words[first - 1].start
        return Finding(start, words[last].end, "NAME", score, rule, why)

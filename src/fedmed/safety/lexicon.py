"""What words mean to the policy: marks every word and phrase of a text with its meanings.

words, signs -> HERE -> policy.

A meaning (``pain``) lists words and phrases, and may build on other meanings (``@chest .. @pain``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter

from fedmed.safety.signs import Phrase, labels_of, parse
from fedmed.safety.words import Words, split

_MOST_MARKS = 20_000  # words that are kept
_SHORTEST_REPAIRED = 6  # letters; shorter words have too many neighbours


class Lexicon:
    """Meanings, ready to be found.

    Args:
        meanings: name -> words and phrases.
        everyday: words that are never taken for a misspelling of another.

    Raises:
        ValueError: a phrase cannot be read, or meanings stand on each other in a circle.
    """

    def __init__(self, meanings: Mapping[str, Sequence[str]], everyday: Iterable[str] = ()) -> None:
        self.names = frozenset(meanings)
        self._single: dict[str, list[str]] = {}
        self._beginnings: dict[str, list[str]] = {}
        self._endings: dict[str, list[str]] = {}
        self._levels: list[
            dict[str, list[tuple[str, Phrase]]]
        ] = []  # by depth: a label that a phrase cannot do without
        self._wanted: set[str] = set()
        self._everyday = frozenset(everyday)
        phrases: dict[str, list[Phrase]] = {}
        for name, sources in meanings.items():
            phrases[name] = []
            for source in sources:
                phrase = parse(source)
                self._want(phrase)
                lead = phrase.elements[0]
                if len(phrase.elements) == 1 and lead.kind == "word" and len(lead.labels) == 1 and "@" not in source:
                    (label,) = lead.labels
                    self._home(label).setdefault(label.strip("*"), []).append(f"@{name}")
                else:
                    phrases[name].append(phrase)
        self._sort(phrases)
        self._spellings: dict[str, str] = {}
        self._marks: dict[str, tuple[str, ...]] = {}  # what was found for a word, kept for the next text

    def _sort(self, phrases: Mapping[str, Sequence[Phrase]]) -> None:
        needs = {
            name: {label[1:] for label in labels_of(found) if label.startswith("@")} & set(phrases)
            for name, found in phrases.items()
        }
        sorter = TopologicalSorter(needs)
        try:
            sorter.prepare()
        except CycleError as error:
            raise ValueError(f"these meanings stand on each other in a circle: {', '.join(error.args[1])}") from error
        while sorter.is_active():
            names = sorter.get_ready()
            level: dict[str, list[tuple[str, Phrase]]] = {}
            for name in sorted(names):
                for phrase in phrases[name]:
                    for label in phrase.rarest:
                        level.setdefault(label, []).append((f"@{name}", phrase))
            if level:
                self._levels.append(level)
            sorter.done(*names)

    def _home(self, label: str) -> dict[str, list[str]]:
        return self._beginnings if label.endswith("*") else self._endings if label.startswith("*") else self._single

    def _want(self, phrase: Phrase) -> None:
        for label in labels_of([phrase]):
            self._wanted.add(label)

    def prepare(self, phrases: Iterable[Phrase]) -> None:
        """Let signs outside the lexicon use beginnings of words (``swell*``) of their own."""
        for phrase in phrases:
            self._want(phrase)

    def finish(self) -> None:
        """After the last ``prepare``: make ready what every reading needs."""
        for label in self._wanted:
            if "*" in label:
                self._home(label).setdefault(label.strip("*"), [])
        self._spellings = self._neighbours()
        self._marks = {}

    def unknown(self, phrases: Iterable[Phrase]) -> list[str]:
        """Meanings that some phrases ask for and that nobody has given."""
        asked = {label[1:] for label in labels_of(phrases) if label.startswith("@")}
        return sorted(asked - self.names)

    def read(self, plain: str, *, repair: bool = False) -> Words:
        """Take a normalised text apart and mark its meanings.

        Args:
            plain: what ``normalise`` gave.
            repair: read an unknown word as the known one that is a single slip of the keyboard away.
        """
        words = split(plain)
        for index, token in enumerate(words.tokens):
            self._mark(words, index, token)
            if repair and len(token) >= _SHORTEST_REPAIRED and not self._knows(token):
                meant = self._meant(token)
                if meant:
                    words.add(meant, index, index + 1)
                    self._mark(words, index, meant)
        for level in self._levels:
            found = {
                id(phrase): (name, phrase)
                for label in level.keys() & words.spans.keys()
                for name, phrase in level[label]
            }
            for name, phrase in found.values():
                if phrase.possible(words):  # most are not
                    for start, end in phrase.find(words):
                        words.add(name, start, end)
        return words

    def _mark(self, words: Words, index: int, token: str) -> None:
        labels = self._marks.get(token)
        if labels is None:
            labels = tuple(self._labels(token))
            if len(self._marks) < _MOST_MARKS:
                self._marks[token] = labels
        for label in labels:
            words.add(label, index, index + 1)

    def _labels(self, token: str) -> Iterator[str]:
        """Beginnings and endings of a word that some sign asks for, and the meanings of the word by itself."""
        yield from self._single.get(token, ())
        for length in range(2, len(token) + 1):
            found = self._beginnings.get(token[:length])
            if found is not None:
                yield token[:length] + "*"
                yield from found
            found = self._endings.get(token[-length:]) if length < len(token) else None
            if found is not None:
                yield "*" + token[-length:]
                yield from found

    def _knows(self, token: str) -> bool:
        return (
            token in self._single
            or token in self._wanted
            or token in self._everyday
            or any(token[:length] in self._beginnings for length in range(4, len(token) + 1))
        )

    def _neighbours(self) -> dict[str, str]:
        """Every word with one letter left out -> the word; what two words share is nobody's."""
        found: dict[str, str] = {}
        known = {
            word for word in {*self._single, *self._wanted} if word.isalpha() and len(word) >= _SHORTEST_REPAIRED - 1
        }
        for word in sorted(known):
            for key in _with_one_left_out(word):
                found[key] = word if found.get(key, word) == word else ""
        return found

    def _meant(self, token: str) -> str:
        found = {self._spellings.get(key, "") for key in _with_one_left_out(token)} - {""}
        close = {word for word in found if abs(len(word) - len(token)) <= 1 and word[0] == token[0]}
        return close.pop() if len(close) == 1 else ""


def _with_one_left_out(word: str) -> set[str]:
    return {word} | {word[:at] + word[at + 1 :] for at in range(len(word))}

"""Our finders as Presidio recognisers, a language engine without a model file, and a hospital's own model if any.

Presidio (MIT) brings the frame: recognisers, their explanations, its operators. It gets no model and no network: the
engine here only cuts a text into words, once for all recognisers.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedmed.data.deidentify import dates, identifiers, lexicon, tables
from fedmed.data.deidentify.findings import TYPES, Finding
from fedmed.data.deidentify.names import NameFinder
from fedmed.data.deidentify.places import PlaceFinder
from fedmed.data.deidentify.vocabulary import Vocabulary
from fedmed.data.deidentify.words import Words
from fedmed.errors import ModelNotFoundError
from fedmed.utils.extras import require

if TYPE_CHECKING:
    from presidio_analyzer import AnalyzerEngine

_MODEL_TYPES = {"PERSON": "NAME", "LOCATION": "LOCATION", "GPE": "LOCATION", "LOC": "LOCATION", "FAC": "LOCATION"}
_MODEL_TYPES |= {
    "PER": "NAME",
    "PATIENT": "NAME",
    "STAFF": "NAME",
    "HCW": "NAME",
    "HOSP": "LOCATION",
    "HOSPITAL": "LOCATION",
}
_MODEL_TYPES |= {"DATE": "DATE", "PHONE": "PHONE", "ID": "UNIQUE_CODE"}
_MODEL_SCORE = 0.6


def build_analyzer(year: int | None, model: Path | None) -> AnalyzerEngine:
    """Presidio's engine with our recognisers only.

    Args:
        year: the present year, for ages told by birth years; None: by the clock.
        model: folder of a spaCy pipeline with entities, chosen by the hospital; None: none.

    Raises:
        MissingExtraError: the extra ``privacy`` is not installed.
        ModelNotFoundError: ``model`` is no folder of a spaCy pipeline that can be loaded here.
    """
    presidio = require("presidio_analyzer", lexicon.EXTRA)
    vocabulary = Vocabulary(lexicon.load())
    names, places = NameFinder(vocabulary), PlaceFinder(vocabulary)
    _, engine_class, recogniser_class, enhancer_class = _classes()
    identifier_types = [kind for kind in TYPES if kind not in ("NAME", "LOCATION", "ZIP", "DATE", "AGE_OVER_89")]
    finders: list[tuple[str, list[str], Callable[[Words], Iterator[Finding]]]] = [
        ("FedMedIdentifiers", identifier_types, identifiers.find),
        ("FedMedDates", ["DATE", "AGE_OVER_89"], lambda view: dates.find(view, year)),
        ("FedMedPlaces", ["LOCATION", "ZIP"], places.find),
        ("FedMedNames", ["NAME"], names.find),
        ("FedMedTables", list(tables.KINDS), lambda view: tables.find(view, vocabulary)),
    ]
    recognisers = [recogniser_class(name, kinds, finder) for name, kinds, finder in finders]
    if model is not None:
        recognisers.append(
            recogniser_class("FedMedModel", ["NAME", "LOCATION", "DATE", "PHONE", "UNIQUE_CODE"], _model_finder(model))
        )
    registry = presidio.RecognizerRegistry(recognizers=recognisers, supported_languages=["en"])
    analyzer: AnalyzerEngine = presidio.AnalyzerEngine(
        registry=registry,
        nlp_engine=engine_class(),
        supported_languages=["en"],
        context_aware_enhancer=enhancer_class(),
    )
    return analyzer


def artifacts(view: Words) -> Any:
    """A text's words as what Presidio passes on to recognisers."""
    return _classes()[0](view)


def to_finding(result: Any) -> Finding:
    """A Presidio result of one of our recognisers as the finding that it was made of."""
    finding: Finding = result.recognition_metadata["finding"]
    return finding


def _model_finder(folder: Path) -> Callable[[Words], Iterator[Finding]]:
    if not (folder / "config.cfg").is_file():
        raise ModelNotFoundError(
            f"{folder} is no folder of a spaCy pipeline", "give the folder that holds its config.cfg"
        )
    spacy = require("spacy", lexicon.EXTRA)
    try:
        pipeline = spacy.load(folder)
    except (OSError, ValueError, ImportError) as error:
        raise ModelNotFoundError(
            f"the spaCy pipeline in {folder} cannot be loaded here",
            "install what it needs, or train it for this version",
        ) from error

    def find(view: Words) -> Iterator[Finding]:
        for entity in pipeline(view.text).ents:
            kind = _MODEL_TYPES.get(entity.label_.upper())
            if kind is not None:
                yield Finding(
                    entity.start_char,
                    entity.end_char,
                    kind,
                    _MODEL_SCORE,
                    "model.entity",
                    "the hospital's model says so",
                )

    return find


@functools.cache
def _classes() -> tuple[Any, Any, Any, Any]:
    """Subclasses of Presidio's, made late: importing Presidio takes seconds that a command without it need not pay."""
    presidio: Any = require("presidio_analyzer", lexicon.EXTRA)
    nlp: Any = require("presidio_analyzer.nlp_engine", lexicon.EXTRA)
    enhancers: Any = require("presidio_analyzer.context_aware_enhancers", lexicon.EXTRA)

    class WordArtifacts(nlp.NlpArtifacts):  # type: ignore[misc]
        """The words of a text where spaCy's document would be."""

        def __init__(self, view: Words) -> None:
            super().__init__([], [], [], [], None, "en")
            self.view = view

    class WordEngine(nlp.NlpEngine):  # type: ignore[misc]
        """Cuts texts into words; needs no model file."""

        def load(self) -> None:
            return

        def is_loaded(self) -> bool:
            return True

        def process_text(self, text: str, language: str) -> WordArtifacts:
            return WordArtifacts(Words(text))

        def process_batch(
            self, texts: Iterable[str], language: str, batch_size: int = 1, n_process: int = 1, **_: Any
        ) -> Iterator[tuple[str, WordArtifacts]]:
            for text in texts:
                yield text, WordArtifacts(Words(text))

        def is_stopword(self, word: str, language: str) -> bool:
            return False

        def is_punct(self, word: str, language: str) -> bool:
            return not word.isalnum()

        def get_supported_entities(self) -> list[str]:
            return []

        def get_supported_languages(self) -> list[str]:
            return ["en"]

    class FinderRecogniser(presidio.EntityRecognizer):  # type: ignore[misc]
        """One finder; its findings travel in Presidio's results."""

        def __init__(self, name: str, kinds: list[str], finder: Callable[[Words], Iterator[Finding]]) -> None:
            super().__init__(supported_entities=kinds, name=name, supported_language="en")
            self.finder = finder

        def load(self) -> None:
            return

        def analyze(self, text: str, entities: list[str], nlp_artifacts: WordArtifacts) -> list[Any]:
            # With its recogniser's id in it a result is not looked through again by Presidio.
            of = {"recognizer_name": self.name, "recognizer_identifier": self.id}
            return [
                presidio.RecognizerResult(
                    found.type, found.start, found.end, found.score, recognition_metadata={**of, "finding": found}
                )
                for found in self.finder(nlp_artifacts.view)
            ]

    class NoEnhancer(enhancers.ContextAwareEnhancer):  # type: ignore[misc]
        """Our rules read their context words themselves, where they stand; no score is raised afterwards."""

        def __init__(self) -> None:
            super().__init__(0.0, 0.0, 0, 0)

        def enhance_using_context(self, text: str, raw_results: list[Any], *_: Any, **__: Any) -> list[Any]:
            return raw_results

    return WordArtifacts, WordEngine, FinderRecogniser, NoEnhancer

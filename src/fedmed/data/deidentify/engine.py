"""De-identify one text: find what identifies somebody, resolve overlaps, replace.

data loading -> HERE -> splits and training. Nothing here keeps, logs or raises a record's text.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fedmed.data.deidentify import operators, recognisers
from fedmed.data.deidentify.findings import BY_PLACE, TYPES, Finding, resolve
from fedmed.data.deidentify.policy import Operator, Policy
from fedmed.data.deidentify.words import WALL, Words

if TYPE_CHECKING:
    from presidio_analyzer import AnalyzerEngine

OURS = re.compile(rf"\[(?:{'|'.join(TYPES)})(?::[0-9a-f]{{16}}| \d{{3,4}})?\]")
"""What ``apply`` writes; it identifies nobody and is never found."""
_PASSES = 3
_BY_COMPANY = ["NAME", "LOCATION"]
"""Types whose rules look at the words around: what was found may change the company of what was not."""


class Deidentifier:
    """Finds and replaces the identifiers of Safe Harbor in English clinical text.

    Building one loads the vocabularies (seconds, about 200 MB); after that it keeps no state between texts.

    Args:
        policy: what replaces a finding, and how sure a rule must be.

    Raises:
        MissingExtraError: the extra ``privacy`` is not installed.
        ModelNotFoundError: ``policy.ner_model`` cannot be used.

    Not covered: languages other than English, identifiers told as riddles, images; see ``blind_spots_of``.
    """

    def __init__(self, policy: Policy | None = None) -> None:
        self.policy = policy or Policy()
        self._key = self.policy.key or secrets.token_bytes(32)
        self._analyzer: AnalyzerEngine = recognisers.build_analyzer(self.policy.year, self.policy.ner_model)
        self._kinds = list(TYPES)

    def find(self, text: str) -> tuple[Finding, ...]:
        """Everything that identifies somebody, in order and without overlap; offsets are those of ``text``.

        What a first pass found is walled off and the rest is read again, so that de-identified text comes out as it
        went in.
        """
        rest = Words(OURS.sub(lambda match: WALL * len(match.group()), text))
        found = more = self._once(rest, self._kinds)
        for _ in range(_PASSES):
            if not more:
                break
            rest = rest.behind_walls([(finding.start, finding.end) for finding in more])
            more = self._once(rest, _BY_COMPANY)
            found = tuple(sorted((*found, *more), key=BY_PLACE))
        return found

    def apply(self, text: str, findings: Sequence[Finding], *, patient: str = "", record: str = "") -> str:
        """Replace findings of ``find``.

        Args:
            text: the text they were found in.
            findings: in order and without overlap.
            patient: surrogates only: all records of one patient share names and one date offset.
            record: surrogates only: tells records without a patient apart.
        """
        return operators.apply(text, findings, self.policy, self._key, patient, record)

    def value_hash(self, value: str) -> str:
        """HMAC-SHA-256 of an identifier under the policy's key."""
        return operators.value_hash(self._key, value)

    @staticmethod
    def blind_spots_of(policy: Policy) -> list[str]:
        """What the engine cannot see under a policy, for reports."""
        spots = [
            "languages other than English, and scripts other than Latin",
            "people told by what they are or did (a mayor, the only survivor of a crash)",
            "names spelled so far off that they resemble no name, and names in small letters without company",
            "fields other than the one that was read, and pictures",
        ]
        if policy.ner_model is None:
            spots.append("names and places that are also everyday words where no title, relation or preposition tells")
        return spots

    def _once(self, view: Words, kinds: list[str]) -> tuple[Finding, ...]:
        results = self._analyzer.analyze(
            view.text, "en", entities=kinds, score_threshold=self.policy.min_score, return_decision_process=True,
            nlp_artifacts=recognisers.artifacts(view),
        )  # fmt: skip
        return resolve(map(recognisers.to_finding, results), view.text)


__all__ = ["Deidentifier", "Finding", "Operator", "Policy"]

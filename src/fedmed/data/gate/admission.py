"""Who may come in: consent and tombstones, before anything else is done to a document. Ids become keyed ones here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Set
from dataclasses import dataclass, field, replace

from fedmed.data.documents import Document
from fedmed.data.gate.forgotten import marks, patient_of
from fedmed.data.gate.keys import HospitalKey, keyed

NO_CONSENT = "no_consent"
FORGOTTEN = "forgotten"


@dataclass(frozen=True, slots=True)
class Admitted:
    """A document under keyed ids; ``document.raw.patient`` is empty."""

    document: Document
    content: str  # c-…, of its words as they came


@dataclass
class Admission:
    """Admits documents one by one and counts those that it refuses.

    - id: r-…, of the document's own id, else of its words
    - group: p-… of its patient, so that no patient is on both sides of the train/test line; else g-… of its own group;
      else, for a note, its id
    - ``key_groups=False`` leaves a document's own group as it is, so that shares do not depend on the key

    Rows that were keyed before, as those of a split, are recognised by the names they bring.
    """

    key: HospitalKey
    forgotten: Set[str]
    key_groups: bool = True
    refused: Counter[str] = field(default_factory=Counter)

    def admit(self, document: Document) -> Admitted | None:
        raw, key = document.raw, self.key
        content = key.content(raw.question, raw.answer)
        record = key.record(raw.id or content)
        patient = key.patient(raw.patient) if raw.patient else patient_of(raw.group)
        brought = raw.id if keyed(raw.id).startswith("r-") else record  # of a passage: the note's
        if marks(brought, patient, content) & self.forgotten:
            self.refused[FORGOTTEN] += 1
            return None
        if raw.consent in ("no", "unknown"):
            self.refused[NO_CONSENT] += 1
            return None
        own = key.group(raw.group) if raw.group and self.key_groups else raw.group
        group = patient or own or (record if document.is_note else "")
        return Admitted(replace(document, raw=replace(raw, id=record, group=group, patient="", consent="")), content)

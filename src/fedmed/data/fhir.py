"""Clinical notes out of FHIR resources: ``DocumentReference`` and ``DiagnosticReport``, R4 and R5. documents -> HERE.

The text is the attachments' ``data`` (base64 of plain text, HTML or XHTML); a report without one gives its conclusion,
else its narrative. What was entered in error or superseded is left out.

Not covered: attachments that are only a URL (nothing is fetched), PDF and images; both come out as notes without text.
Source: https://hl7.org/fhir/R4/documentreference.html, diagnosticreport.html.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator, Mapping, Sequence
from html.parser import HTMLParser
from typing import Any

from fedmed.data.columns import NOTE, Raw
from fedmed.data.values import BadValueError, text

NOTES = ("DocumentReference", "DiagnosticReport")
_WITHDRAWN = frozenset({"entered-in-error", "superseded", "cancelled"})
_REFERENCE = re.compile(r"(?:.*/)?Patient/([^/]+)(?:/_history/[^/]+)?/?|urn:(?:uuid|oid):(.+)")
_BREAKS = frozenset({"p", "div", "br", "li", "tr", "h1", "h2", "h3", "h4", "h5", "h6", "table", "section"})


def resources(record: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The resource itself, or those in a Bundle."""
    if record.get("resourceType") != "Bundle":
        yield record
        return
    for entry in _list(record.get("entry")):
        if isinstance(resource := entry.get("resource"), Mapping):
            yield resource


def note(resource: Mapping[str, Any]) -> Raw | None:
    """A resource's note, perhaps without text; None where it is no note, or was withdrawn.

    Raises:
        BadValueError: an attachment is no base64, or not text in the encoding it names.
    """
    kind = resource.get("resourceType")
    if kind not in NOTES or {_text(resource.get("status")), _text(resource.get("docStatus"))} & _WITHDRAWN:
        return None
    if kind == "DocumentReference":
        attachments = [content.get("attachment") for content in _list(resource.get("content"))]
    else:
        attachments = list(_list(resource.get("presentedForm")))
    texts = [_attached(attachment) for attachment in attachments if isinstance(attachment, Mapping)]
    body = "\n\n".join(filter(None, texts))
    if not body and kind == "DiagnosticReport":
        narrative = resource.get("text")
        div = narrative.get("div") if isinstance(narrative, Mapping) else None
        body = _text(resource.get("conclusion")) or _without_tags(_text(div))
    concept = resource.get("type") if kind == "DocumentReference" else resource.get("code")
    return Raw(
        question="", answer=body, id=_text(resource.get("id")), kind=_concept(concept) or NOTE,
        specialty=next(filter(None, map(_concept, _list(resource.get("category")))), ""),
        patient=reference_id(_reference(resource.get("subject"))),
    )  # fmt: skip


def reference_id(reference: str) -> str:
    """``Patient/12``, ``https://a.example/fhir/Patient/12/_history/3`` and ``urn:uuid:12`` -> ``12``; else as it is."""
    found = _REFERENCE.fullmatch(reference.strip())
    return found[1] or found[2] if found else reference.strip()


def _attached(attachment: Mapping[str, Any]) -> str:
    data, kind = attachment.get("data"), _text(attachment.get("contentType")).lower()
    if not data or not (kind.startswith("text/") or kind.startswith("application/xhtml") or not kind):
        return ""
    try:
        raw = base64.b64decode("".join(_text(data).split()), validate=True)
    except (binascii.Error, ValueError):
        raise BadValueError("an attachment's data is not base64") from None
    charset = kind.partition("charset=")[2].partition(";")[0].strip(' "') or "utf-8"
    try:
        decoded = raw.decode(charset)
    except (UnicodeDecodeError, LookupError):
        raise BadValueError("an attachment is not text in the encoding it names") from None
    return _without_tags(decoded) if "html" in kind else decoded.strip()


def _reference(value: object) -> str:
    return _text(value.get("reference")) if isinstance(value, Mapping) else ""


def _concept(value: object) -> str:
    if not isinstance(value, Mapping):
        return ""
    said = [_text(coding.get("display")) for coding in _list(value.get("coding"))]
    return _text(value.get("text")) or next(filter(None, said), "")


def _text(value: object) -> str:
    return text(value, "the resource") if isinstance(value, str) else ""


def _list(value: object) -> Iterator[Mapping[str, Any]]:
    yield from (one for one in value if isinstance(one, Mapping)) if isinstance(value, Sequence) else ()


class _Text(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []
        self._silent = 0

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self._silent += tag in ("script", "style")
        if tag in _BREAKS:
            self.parts.append("\n")

    def handle_endtag(self, tag: str) -> None:
        self._silent -= tag in ("script", "style") and self._silent > 0
        if tag in _BREAKS:
            self.parts.append("\n")

    def handle_data(self, data: str) -> None:
        if not self._silent:
            self.parts.append(data)


def _without_tags(markup: str) -> str:
    parser = _Text()
    parser.feed(markup)
    parser.close()
    lines = (" ".join(line.split()) for line in "".join(parser.parts).split("\n"))
    return "\n".join(line for line in lines if line)

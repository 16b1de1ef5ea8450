"""One page about one dataset: a single file that opens offline and holds no script and no record's text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from fedmed.data.inspect import SMALL_CELL, Inspection, Lengths
from fedmed.evaluation import report_parts as part
from fedmed.utils.files import write_atomic

_SHOWN = 14
_NAMES = {
    "NAME": "names", "LOCATION": "places", "ZIP": "ZIP codes", "DATE": "dates", "AGE_OVER_89": "ages over 89",
    "PHONE": "telephone numbers", "FAX": "fax numbers", "EMAIL": "e-mail addresses", "SSN": "social security numbers",
    "MRN": "record numbers", "HEALTH_PLAN": "health plan numbers", "ACCOUNT": "account numbers",
    "LICENSE": "licence numbers", "VEHICLE": "vehicle identifiers", "DEVICE": "device identifiers",
    "URL": "web addresses", "IP": "IP addresses", "BIOMETRIC": "biometric identifiers", "PHOTO": "photographs",
    "UNIQUE_CODE": "other codes",
}  # fmt: skip


def write_page(inspection: Inspection, target: Path) -> Path:
    """Write the page; an older one is replaced whole. Readable by its owner only: it describes a hospital's records.

    Raises:
        OutputNotWritableError, DiskFullError.
    """
    write_atomic(target, render(inspection), private=True)
    return target


def render(made: Inspection) -> str:
    """The page as text; the same input gives the same bytes."""
    style = "".join(
        resources.files("fedmed.evaluation").joinpath(name).read_text(encoding="utf-8")
        for name in ("report.css", "inspection.css")
    )
    name = part.esc(Path(made.report.name).name or made.report.name)
    return part.page(
        "FED-MED data inspection", name, styles=style,
        header=(
            f'<p class="meta">{_meta(made)}</p>\n'
            f'<ul class="findings">{"".join(_finding(*one) for one in findings(made))}</ul>'
        ),
        sections=(
            ("Sizes", _sizes(made)),
            ("Lengths", _lengths(made)),
            ("What identifies people", _identifiers(made.identifiers or {})),
            ("Duplicates", _duplicates(made)),
            ("Specialties", _specialties(made)),
            ("Hospital by hospital", _hospitals(made)),
            ("Small numbers", _small(made)),
        ),
        footer=(
            "No record's text is on this page, but its counts describe a hospital's records: keep it there.\n"
            "Written by <code>fedmed data inspect --html</code>."
        ),
    )  # fmt: skip


def findings(made: Inspection) -> Iterator[tuple[bool, str, str]]:
    """What to look at first: whether it is a warning, what, and what to do. Plain text."""
    phi = made.identifiers or {}
    near = made.near_duplicates
    if not phi.get("scanned"):
        yield True, "Not scanned for identifiers", str(phi.get("reason", "no scan was made"))
    elif phi["with_findings"]:
        share = 100 * phi["with_findings"] / phi["scanned"]
        yield (
            True, f"{share:.0f} % of the records scanned hold what may identify people",
            "'fedmed data prepare' replaces it before training",
        )  # fmt: skip
    else:
        yield False, "The rules found nothing that identifies people", "they miss some; let people read a sample"
    if near.test_records_near_training:
        yield (
            True, f"{_several(near.test_records_near_training, 'held-out record')} all but in training",
            "scores on them flatter; give such records one group",
        )  # fmt: skip
    if near.clusters_across_hospitals:
        yield (
            True, f"{_several(near.clusters_across_hospitals, 'cluster')} of near-duplicates across hospitals",
            "one hospital's records then tell of another's",
        )  # fmt: skip
    if made.consent and made.consent["no"] + made.consent["unknown"]:
        refused = made.consent["no"] + made.consent["unknown"]
        yield True, f"{_several(refused, 'document')} without consent", "the gate refuses what has none"
    if made.small_cells:
        yield (
            True, f"{_several(len(made.small_cells), 'count')} below {SMALL_CELL}",
            "such numbers may single people out: do not publish them",
        )  # fmt: skip
    skews = [share["label_skew"] for share in made.hospitals.values()]
    if skews and max(skews) > 0.3:
        yield True, f"Hospitals differ: label skew up to {max(skews):.2f}", "see docs/which-algorithm.md"
    if not (near.test_records_near_training or near.clusters_across_hospitals):
        yield False, "No near-duplicate crosses the line between training and test", "nor between hospitals"


def _several(count: int, what: str) -> str:
    return f"{count:,} {what}{'s' * (count != 1)}"


def _finding(warns: bool, what: str, then: str) -> str:
    mark, kind = ("!", "look") if warns else ("✓", "fine")
    words = f"<b>{part.esc(what)}</b>: {part.esc(then)}."
    return f'<li class="{kind}"><span aria-hidden="true">{mark}</span><div>{words}</div></li>'


def _meta(made: Inspection) -> str:
    words = [f"{part.count(made.records)} records", f"{part.count(made.groups)} groups"]
    if made.patients:
        words.append(f"{part.count(made.patients['patients'])} patients")
    return " · ".join(words)


def _sizes(made: Inspection) -> str:
    report = made.report
    pairs = [
        ("read", part.count(report.read)), ("kept", part.count(report.kept)),
        ("training", part.count(made.by_split.get("train", 0))), ("held out", part.count(made.by_split.get("test", 0))),
        ("left out: empty", part.count(report.empty)), ("left out: duplicate", part.count(report.duplicate)),
        ("left out: over-long", part.count(report.overlong)), ("sources", part.count(made.sources)),
    ]  # fmt: skip
    if made.patients:
        pairs.append(("documents of one patient, at most", part.count(made.patients["most_documents"])))
    if made.consent:
        pairs += [(f"consent: {said}", part.count(number)) for said, number in made.consent.items()]
    kinds = _bars(made.by_kind) if len(made.by_kind) > 1 else ""
    return part.facts(pairs) + (f"<h3>Kinds</h3>{kinds}" if kinds else "")


def _lengths(made: Inspection) -> str:
    return (
        '<p class="note">Characters. A model that takes 512 tokens sees about the first 2,000 of a record.</p>'
        f'<div class="two">{_one_length("Questions", made.question_characters)}'
        f"{_one_length('Answers', made.answer_characters)}</div>"
    )


def _one_length(title: str, lengths: Lengths) -> str:
    filled = [place for place, count in enumerate(lengths.histogram.values()) if count] or [0]
    shown = dict(list(lengths.histogram.items())[filled[0] : filled[-1] + 1])
    words = f"median {lengths.median:,}, 95 % up to {lengths.p95:,}, longest {lengths.max:,}"
    return f'<div><h3>{title}</h3><p class="note">{words}</p>{_bars(shown)}</div>'


def _identifiers(phi: Mapping[str, Any]) -> str:
    if not phi.get("scanned"):
        return f'<p class="missing">Not scanned: {part.esc(phi.get("reason", "no scan was made"))}.</p>'
    of = "all" if phi["scanned"] == phi["records"] else f"a sample of {part.count(phi['scanned'])} of"
    intro = (
        f"<p>{part.count(phi['with_findings'])} of the records in {of} {part.count(phi['records'])} hold something "
        "that the rules take for an identifier. Examples are masked: ••• is a word, # a digit.</p>"
    )
    kinds = "".join(
        f'<div class="kind"><h3>{part.esc(_NAMES.get(kind, kind))}'
        f"<small>{part.count(one['found'])} in "
        f"{part.count(one['records'])} record{'s' * (one['records'] != 1)}</small></h3>{_masked(one['examples'])}</div>"
        for kind, one in phi["types"].items()
    )
    return intro + kinds + '<p class="note">What rules cannot see: docs/de-identification.md.</p>'


def _masked(examples: Sequence[tuple[str, int]]) -> str:
    shown = (f'<span class="mask">{part.esc(shape)}<small>×{times}</small></span>' for shape, times in examples)
    return f"<p>{''.join(shown)}</p>"


def _duplicates(made: Inspection) -> str:
    near = made.near_duplicates
    across = near.clusters_across_hospitals
    return part.facts(
        [
            ("exact duplicates, left out", part.count(made.report.duplicate)),
            ("clusters of near-duplicates", part.count(near.clusters)),
            ("records in them", part.count(near.records)),
            ("the largest", part.count(near.largest)),
            ("held-out records near training", part.count(near.test_records_near_training)),
            ("clusters across hospitals", part.count(across)),
        ]
    ) + (
        f'<p class="note">Near: at least {100 * near.threshold:.0f} % of the word triples of question and answer are '
        "shared (Jaccard).</p>"
    )


def _specialties(made: Inspection) -> str:
    return _bars(made.by_specialty)


def _hospitals(made: Inspection) -> str:
    basis = f'<p class="note">{part.esc(made.hospitals_basis[:1].upper() + made.hospitals_basis[1:])}.</p>'
    if not made.hospitals:
        return basis
    rows = [
        (
            part.esc(name), part.count(share["train"]), part.count(share["test"]),
            part.count(len(share["by_specialty"])), f"{share['label_skew']:.3f}",
        )
        for name, share in made.hospitals.items()
    ]  # fmt: skip
    table = part.table(
        "Records and skew of each hospital",
        ("", "training", "held out", "specialties", "label skew"),
        rows,
        optional=(3,),
    )
    legend = "0: the same mix of specialties as all together; 1: nothing in common."
    return basis + table + f'<p class="note">Label skew, {legend}</p>'


def _small(made: Inspection) -> str:
    if not made.small_cells:
        return f"<p>No specialty and no hospital has fewer than {SMALL_CELL} records.</p>"
    rows = [(part.esc(cell["name"]), part.esc(cell["what"]), part.count(cell["records"])) for cell in made.small_cells]
    more = f'<p class="note">and {len(rows) - _SHOWN} more</p>' if len(rows) > _SHOWN else ""
    note = (
        f'<p class="note">Counts from 1 to {SMALL_CELL - 1} may single people out, above all two of them crossed. '
        "Leave them out of what you publish, or merge the groups.</p>"
    )
    return note + part.table("Small counts", ("", "what", "records"), rows[:_SHOWN]) + more


def _bars(counts: Mapping[str, int]) -> str:
    """Counts as bars; beyond the first few, one bar for all others."""
    shown = list(counts.items())[:_SHOWN]
    rest = list(counts.values())[_SHOWN:]
    if rest:
        shown.append((f"{len(rest)} others", sum(rest)))
    most = max([count for _, count in shown], default=0) or 1
    lines = "".join(
        f'<span>{part.esc(name)}</span><span class="value">{part.count(count)}</span>'
        f'<span class="track" aria-hidden="true"><i class="main" style="width:{100 * count / most:.1f}%"></i></span>'
        for name, count in shown
    )
    return f'<div class="bars counts">{lines}</div>'

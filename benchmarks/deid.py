"""What de-identification catches, misses and costs: ``make bench-deid`` -> benchmarks/results/deid.json.

Sets: the development halves of ASQ-PHI and of presidio-research's synthetic set, from ``../shared/data`` where they
lie, and records generated from the templates of ``deid_cases/``, each half by itself. No model file. Measured:

- recall: an identifier is caught when no letter or digit of it survives
- precision: findings that touch an identifier, of all findings
- specificity: records without an identifier that come out as they went in
- leak_free: records with identifiers of which every one is caught
- words_lost: words outside all identifiers of which a letter or digit is gone
- records_per_s: one process, on records as they are and on their text cut into pieces of 200 words

What a set marks is taken as it is, but for what Safe Harbor lets stay: years alone, ages up to 89, states and
countries; firms, titles and peoples of the synthetic set are left out. Finished sets are kept until the code changes.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kept import CACHE, RESULTS, ROOT, Kept, digest_of, say, stamp, write_result

from fedmed.data.deidentify import Deidentifier, Policy, lexicon
from fedmed.data.deidentify.findings import Finding

SHARED = ROOT.parent / "shared" / "data"
CASES = Path(__file__).parent / "deid_cases"
WORDS = 200  # of a record whose speed is measured
YEAR = 2026  # for birth years, so that figures do not move with the clock
ASQ = {
    "NAME": "NAME", "GEOGRAPHIC_LOCATION": "LOCATION", "DATE": "DATE", "MEDICAL_RECORD_NUMBER": "MRN",
    "HEALTH_PLAN_BENEFICIARY_NUMBER": "HEALTH_PLAN", "PHONE_NUMBER": "PHONE", "SOCIAL_SECURITY_NUMBER": "SSN",
    "EMAIL_ADDRESS": "EMAIL", "UNIQUE_IDENTIFIER": "UNIQUE_CODE", "ACCOUNT_NUMBER": "ACCOUNT", "IP_ADDRESS": "IP",
}  # fmt: skip
SYNTH = {
    "PERSON": "NAME", "STREET_ADDRESS": "LOCATION", "GPE": "LOCATION", "ZIP_CODE": "ZIP", "PHONE_NUMBER": "PHONE",
    "EMAIL_ADDRESS": "EMAIL", "US_SSN": "SSN", "CREDIT_CARD": "ACCOUNT", "IBAN_CODE": "ACCOUNT", "DOMAIN_NAME": "URL",
    "IP_ADDRESS": "IP", "US_DRIVER_LICENSE": "LICENSE", "DATE_TIME": "DATE", "AGE": "AGE_OVER_89",
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A text with the identifiers that were marked in it."""

    text: str
    spans: tuple[tuple[int, int, str], ...]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few records: whether it runs, not how well")
    parser.add_argument("--out", type=Path, default=RESULTS / "deid.json")
    parser.add_argument("--cache", type=Path, default=CACHE)
    parser.add_argument("--seed", type=int, default=1, help="of the generated records")
    args = parser.parse_args(argv)
    count = 60 if args.quick else 2000
    sets: dict[str, Callable[[], list[Case]]] = {}
    result: dict[str, Any] = {"quick": args.quick, "seed": args.seed, "model": None, "skipped": {}}
    for name, file, read in (("asq_phi", "asq_phi", asq_phi), ("presidio_synth", "presidio_synth", presidio_synth)):
        path = SHARED / f"{file}.jsonl.gz"
        if path.is_file():
            sets[name] = lambda read=read, path=path: read(path)[: count if args.quick else None]
        else:
            result["skipped"][name] = f"skipped: no file {path.name} in ../shared/data"
    if (CASES / "generate.py").is_file():
        for half in ("read", "held_back"):
            sets[f"generated_{half}"] = lambda half=half: generated(args.seed, count, half)
    else:
        result["skipped"]["generated"] = "skipped: no benchmarks/deid_cases"
    for name, why in result["skipped"].items():
        say(f"{name}: {why}")
    kept = Kept(args.cache, len(sets))
    engines: list[Deidentifier] = []  # built once, and only if something is measured
    code = digest_of(Path(__file__), *sorted(CASES.rglob("*.py")))
    result["sets"] = {}
    for name, cases in sets.items():
        key = {"bench": "deid", "set": name, "count": count, "seed": args.seed, "code": code, "lists": lists_digest()}
        result["sets"][name] = kept.get(name, key, lambda cases=cases: measure(engine_of(engines), cases()))
        say(summary(result["sets"][name]))
    write_result(args.out, {**result, "sources": lexicon.sources(), "environment": stamp()})


def engine_of(engines: list[Deidentifier]) -> Deidentifier:
    if not engines:
        engines.append(Deidentifier(Policy(year=YEAR)))
    return engines[0]


def lists_digest() -> str:
    """The engine's word lists are data that decide figures, and no code."""
    import hashlib

    import fedmed.data.deidentify.lists as lists

    digest = hashlib.sha256()
    for file in sorted(Path(str(lists.__file__)).parent.glob("*.txt")):
        digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()


def measure(engine: Deidentifier, cases: list[Case]) -> dict[str, Any]:
    """Figures of one set."""
    engine.find(cases[0].text)
    started = time.perf_counter()
    found = [engine.find(case.text) for case in cases]
    seconds = time.perf_counter() - started
    total: Counter[str] = Counter()
    caught: Counter[str] = Counter()
    typed: Counter[str] = Counter()
    with_phi = leak_free = without = untouched = words = lost = right = 0
    for case, findings in zip(cases, found, strict=True):
        gone = covered(case.text, [(each.start, each.end) for each in findings])
        marked = covered(case.text, [(start, end) for start, end, _ in case.spans])
        misses = 0
        for start, end, kind in case.spans:
            total[kind] += 1
            whole = all(gone[at] or not case.text[at].isalnum() for at in range(start, end))
            caught[kind] += whole
            misses += not whole
            typed[kind] += whole and any(same(each, start, end, kind) for each in findings)
        if case.spans:
            with_phi += 1
            leak_free += not misses
        else:
            without += 1
            untouched += not findings
        right += sum(any(marked[each.start : each.end]) for each in findings)
        for match in re.finditer(r"\w+", case.text):
            if not any(marked[match.start() : match.end()]):
                words += 1
                lost += any(gone[match.start() : match.end()])
    findings_count = sum(map(len, found))
    pieces = list(cut(cases))
    started = time.perf_counter()
    for piece in pieces:
        engine.find(piece)
    piece_seconds = time.perf_counter() - started
    return {
        "records": len(cases), "identifiers": sum(total.values()),
        "recall": share(sum(caught.values()), sum(total.values())),
        "precision": share(right, findings_count), "specificity": share(untouched, without),
        "leak_free": share(leak_free, with_phi), "words_lost": share(lost, words),
        "records_per_s": len(cases) / seconds, "records_of_200_words_per_s": share(len(pieces), piece_seconds),
        "types": {
            kind: {"identifiers": count, "recall": share(caught[kind], count), "typed_right": share(typed[kind], count)}
            for kind, count in sorted(total.items())
        },
        "stopped": None,
    }  # fmt: skip


def same(finding: Finding, start: int, end: int, kind: str) -> bool:
    return finding.type == kind and finding.start < end and start < finding.end


def covered(text: str, spans: Sequence[tuple[int, int]]) -> bytearray:
    marks = bytearray(len(text))
    for start, end in spans:
        marks[start:end] = b"\1" * (end - start)
    return marks


def cut(cases: Sequence[Case]) -> Iterator[str]:
    """The set's text in pieces of 200 words."""
    piece: list[str] = []
    for case in cases:
        piece += case.text.split(" ")
        while len(piece) >= WORDS:
            yield " ".join(piece[:WORDS])
            piece = piece[WORDS:]


def share(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def summary(found: dict[str, Any]) -> str:
    names = ("recall", "precision", "leak_free", "specificity", "words_lost")
    figures = [f"{name} {found[name]:.4f}" for name in names if found[name] is not None]
    return f"    {', '.join(figures)}, {found['records_of_200_words_per_s'] or 0:.0f} records of 200 words/s"


def asq_phi(path: Path) -> list[Case]:
    """ASQ-PHI names values, not places: each is looked for behind the one before, else anywhere."""
    cases = []
    for row in rows(path):
        spans, last = [], 0
        for phi in row["phi"]:
            start = row["text"].find(phi["value"], last)
            start = row["text"].find(phi["value"]) if start < 0 else start
            if start >= 0:
                last = start + len(phi["value"])
                spans.append((start, last, ASQ[phi["type"]]))
        cases.append(Case(row["text"], tuple(spans)))
    return cases


def presidio_synth(path: Path) -> list[Case]:
    regions = lexicon.load().regions
    cases = []
    for row in rows(path):
        spans = []
        for span in row["spans"]:
            kind, value = SYNTH.get(span["type"]), span["value"]
            stays = kind == "DATE" and re.fullmatch(r"\d{4}", value)
            stays = stays or (span["type"] == "GPE" and value.lower() in regions)
            young = kind == "AGE_OVER_89" and not (value.isdigit() and int(value) > 89)
            if kind and not stays and not young:
                spans.append((span["start"], span["end"], kind))
        cases.append(Case(row["text"], tuple(spans)))
    return cases


def generated(seed: int, count: int, half: str) -> list[Case]:
    sys.path.insert(0, str(CASES.parent))
    from deid_cases.generate import generate

    return [
        Case(record.text, tuple((span.start, span.end, span.type) for span in record.spans))
        for record in generate(seed, count, half)
    ]


def rows(path: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        yield from map(json.loads, lines)


if __name__ == "__main__":
    main()

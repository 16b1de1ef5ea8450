"""Records with gold spans, from a seed.

``python benchmarks/deid_cases/generate.py --seed 1 --count 3000 --half read --out F.jsonl``
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

if not __package__:  # run as a file: the package itself has to be found, and its modules by no other name
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from deid_cases.fillers import Fillers
from deid_cases.templates import CHOICE, HALVES, KEY, Half, Template, load_templates

BARE_EVERY = 5  # every fifth record carries no identifier


@dataclass(frozen=True)
class Span:
    """``text[start:end]`` is an identifier of a type of ``fillers.TYPES``."""

    start: int
    end: int
    type: str


@dataclass(frozen=True)
class Record:
    """One note; its id names half, seed, place in the run, template and kind."""

    id: str
    text: str
    spans: tuple[Span, ...]


def generate(seed: int, count: int, half: Half) -> Iterator[Record]:
    """Records of one half; equal for an equal seed and version of Faker, whatever ``count`` is."""
    fillers = Fillers(f"{half} {seed}")
    templates = load_templates(half)
    bare = _rounds([each for each in templates if each.bare], fillers.rng)
    others = _rounds([each for each in templates if not each.bare], fillers.rng)
    for number in range(count):
        template = next(others if number % BARE_EVERY else bare)
        fillers.new_record()
        text, spans = _render(template, fillers)
        yield Record(f"{half}-{seed}-{number:05}-t{template.number:03}-{template.kind}", text, spans)


def _rounds(templates: Sequence[Template], rng: random.Random) -> Iterator[Template]:
    # Rounds in a new order each: every template comes equally often, so that no type hangs on the draw.
    while True:
        yield from rng.sample(templates, len(templates))


def _render(template: Template, fillers: Fillers) -> tuple[str, tuple[Span, ...]]:
    rng = fillers.rng
    # Some wards type in capitals, some on a telephone. A case can change a text's length, so pieces are changed first.
    case = rng.choices((str, str.upper, str.lower), (92, 4, 4))[0]
    source = CHOICE.sub(lambda found: rng.choice(found[1].split("|")), template.text)
    text, spans, done = "", [], 0
    for found in KEY.finditer(source):
        text += case(source[done : found.start()])
        filled, kind = fillers.fill(found[1])
        filled = case(filled)
        if kind is not None:
            spans.append(Span(len(text), len(text) + len(filled), kind))
        text += filled
        done = found.end()
    return text + case(source[done:]), tuple(spans)


def main() -> None:
    """Write one half as JSON lines."""
    parser = argparse.ArgumentParser(description="Generated clinical records with gold spans.")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--count", type=int, default=3000)
    parser.add_argument("--half", choices=HALVES, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    with args.out.open("w", encoding="utf-8", newline="\n") as out:
        for record in generate(args.seed, args.count, args.half):
            out.write(json.dumps(asdict(record), ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()

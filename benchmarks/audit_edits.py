"""Edits of an audit log, by anyone and by its owner, who can write all of it anew. -> audit.py, and the property test.

An edit takes the log's lines and gives the file and the lines, from 1, at one of which, or beside, it must be found.
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from fedmed.utils.audit_breaks import Finding
from fedmed.utils.audit_log import signed_part
from fedmed.utils.audit_verify import Audit
from fedmed.utils.hash_chain import NOTHING, make_line
from fedmed.utils.signing import Identity

Edit = Callable[[list[bytes], random.Random], tuple[bytes, Collection[int]]]


def bodies(lines: list[bytes]) -> list[dict[str, Any]]:
    taken = ("seq", "previous", "sha256")
    return [{key: one for key, one in json.loads(line).items() if key not in taken} for line in lines]


def chained(contents: list[dict[str, Any]], owner: Identity) -> bytes:
    """A whole log of these lines, as its owner can write it at any time: numbers, digests and signatures fit."""
    raw, previous = [], NOTHING
    for seq, content in enumerate(contents):
        body = dict(content)
        if body["kind"] in ("open", "signature"):
            body["key"] = owner.public.hex()
        if body["kind"] == "signature":
            body.pop("signature")
            body["signature"] = owner.sign(signed_part({"seq": seq, "previous": previous, **body})).hex()
        raw.append(make_line(body, seq, previous))
        previous = json.loads(raw[-1])["sha256"]
    return b"".join(raw)


def altered(content: dict[str, Any], draw: random.Random) -> dict[str, Any]:
    """The same line saying something else."""
    changed = dict(content)
    key = draw.choice([key for key in content if key not in ("kind", "key", "signature")])
    old = content[key]
    if key == "at":
        changed[key] = f"2031-01-01T00:00:{draw.randrange(60):02}.{draw.randrange(1000):03}Z"
    elif isinstance(old, bool) or old is None:
        changed[key] = not old if isinstance(old, bool) else 1.0
    elif isinstance(old, int | float):
        changed[key] = old + 1
    elif isinstance(old, str):
        changed[key] = draw.randbytes(32).hex() if len(old) == 64 else f"{old}x"
    else:
        changed[key] = [*old, "hospital_Z"]
    return changed


def around(index: int, more: int = 1) -> range:
    return range(max(1, index), index + more + 2)


def a_byte(lines: list[bytes], draw: random.Random) -> tuple[bytes, Collection[int]]:
    raw = b"".join(lines)
    place = draw.randrange(len(raw))
    changed = bytes([raw[place] ^ draw.randrange(1, 256)])
    return raw[:place] + changed + raw[place + 1 :], around(raw[:place].count(b"\n"))


def a_line_with_its_digest(lines: list[bytes], draw: random.Random) -> tuple[bytes, Collection[int]]:
    index = draw.randrange(len(lines))
    values = json.loads(lines[index])
    body = altered(bodies(lines)[index], draw)
    new = make_line(body, values["seq"], values["previous"])
    return b"".join([*lines[:index], new, *lines[index + 1 :]]), around(index)


def lines_out(lines: list[bytes], draw: random.Random) -> tuple[bytes, Collection[int]]:
    index = draw.randrange(len(lines) - 1)
    count = draw.randint(1, min(3, len(lines) - 1 - index))
    return b"".join(lines[:index] + lines[index + count :]), around(index)


def a_copy_in(lines: list[bytes], draw: random.Random) -> tuple[bytes, Collection[int]]:
    source, index = draw.randrange(len(lines)), draw.randrange(len(lines) + 1)
    return b"".join([*lines[:index], lines[source], *lines[index:]]), {index + 1, source + 1, source + 2}


def a_forged_line_in(lines: list[bytes], draw: random.Random) -> tuple[bytes, Collection[int]]:
    index = draw.randrange(1, len(lines) + 1)
    before = json.loads(lines[index - 1])
    body = altered(bodies(lines)[draw.randrange(1, len(lines) - 1)], draw)
    new = make_line(body, before["seq"] + 1, before["sha256"])
    return b"".join([*lines[:index], new, *lines[index:]]), around(index)


def rubbish_in(lines: list[bytes], draw: random.Random) -> tuple[bytes, Collection[int]]:
    index = draw.randrange(len(lines) + 1)
    new = draw.choice([b"\n", b"{}\n", b"null\n", b" " + lines[0], b"\xff\n", b'{"seq":3}\n', b"[" * 99_999 + b"\n"])
    return b"".join([*lines[:index], new, *lines[index:]]), around(index)


def moved(lines: list[bytes], draw: random.Random) -> tuple[bytes, Collection[int]]:
    one, other = sorted(draw.sample(range(len(lines)), 2))
    if draw.random() < 0.5:
        order = [*range(one), other, *range(one + 1, other), one, *range(other + 1, len(lines))]
    else:
        order = [*range(one), *range(one + 1, other + 1), one, *range(other + 1, len(lines))]
    return b"".join(lines[index] for index in order), range(one + 1, other + 2)


def cut_at_a_byte(lines: list[bytes], draw: random.Random) -> tuple[bytes, Collection[int]]:
    raw = b"".join(lines)
    place = draw.randrange(len(raw))
    return raw[:place], around(raw[:place].count(b"\n"))


def cut_at_a_line(lines: list[bytes], draw: random.Random) -> tuple[bytes, Collection[int]]:
    left = draw.randrange(len(lines))
    return b"".join(lines[:left]), around(left)


def anew(lines: list[bytes], draw: random.Random, owner: Identity) -> tuple[bytes, Collection[int]]:
    """The owner's own edit: another history, whole and signed."""
    contents = bodies(lines)
    index = draw.randrange(1, len(contents) - 1)
    what = draw.choice(("alter", "take", "add", "swap", "cut", "many"))
    if what == "alter":
        contents[index] = altered(contents[index], draw)
    elif what == "take":
        del contents[index]
    elif what == "add":
        contents.insert(index, altered(contents[draw.randrange(1, len(contents) - 1)], draw))
    elif what == "swap" and index + 1 < len(contents) - 1:
        contents[index], contents[index + 1] = contents[index + 1], contents[index]
    elif what == "cut":
        del contents[index:-1]
    else:
        contents = [contents[0], *(altered(one, draw) for one in contents[1:-1]), contents[-1]]
        index = 1
    # A shorter log shows at its end, where nothing that was given covers what was touched.
    return chained(contents, owner), range(1, (len(lines) if len(contents) < len(lines) else index) + 2)


def anew_and_unsigned(lines: list[bytes], draw: random.Random, owner: Identity) -> tuple[bytes, Collection[int]]:
    contents = bodies(lines)[:-1]
    index = draw.randrange(1, len(contents))
    contents[index] = altered(contents[index], draw)
    return chained(contents, owner), range(1, len(lines) + 1)


def edits_by(owner: Identity, stranger: Identity) -> dict[str, Edit]:
    """Every edit by its name; the last three are made by whoever holds a key: the log's owner, or a stranger."""
    by_anyone = (
        a_byte, a_line_with_its_digest, lines_out, a_copy_in, a_forged_line_in, rubbish_in, moved, cut_at_a_byte,
        cut_at_a_line,
    )  # fmt: skip
    return {edit.__name__: edit for edit in by_anyone} | {
        "anew": partial(anew, owner=owner),
        "anew_by_a_stranger": partial(anew, owner=stranger),
        "anew_and_unsigned": partial(anew_and_unsigned, owner=owner),
    }


NAMED = {
    "a_line_with_its_digest": {"changed", "forged"}, "lines_out": {"missing"}, "a_copy_in": {"added"},
    "a_forged_line_in": {"added"}, "moved": {"reordered"}, "cut_at_a_byte": {"truncated"},
    "cut_at_a_line": {"truncated"}, "anew": {"re-chained", "truncated"},
    "anew_and_unsigned": {"re-chained", "truncated"}, "anew_by_a_stranger": {"re-chained"},
}  # fmt: skip
"""What must be said of an edit, one of these; of the others anything."""


@dataclass(frozen=True, slots=True)
class Tried:
    """One edit, and whether it was found, called by its name, and placed."""

    edit: str
    found: bool
    named: bool
    placed: bool
    findings: tuple[Finding, ...]


def tried(
    raw: bytes, verify: Callable[[bytes], Audit], edits: Mapping[str, Edit], draw: random.Random, wanted: int
) -> Iterator[Tried]:
    """So many edits of a log, each kind in its turn; one that happens to change nothing does not count."""
    lines = raw.splitlines(keepends=True)
    for name, edit in itertools.islice(itertools.cycle(edits.items()), wanted * 2):
        edited, places = edit(lines, draw)
        if edited == raw:
            continue
        audit = verify(edited)
        kinds = {finding.kind for finding in audit.findings}
        placed = any(finding.line in places for finding in audit.findings)
        yield Tried(name, audit.verdict == "broken", bool(kinds & NAMED.get(name, kinds)), placed, audit.findings)
        wanted -= 1
        if not wanted:
            return

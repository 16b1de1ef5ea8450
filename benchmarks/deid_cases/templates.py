"""The two halves of hand-written templates, kept as text so that they read like notes.

A template starts at a line ``=== kind``. In it ``{key}`` is filled (fillers.py), ``[[a|b]]`` becomes one of its parts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from deid_cases.fillers import is_identifier

Half = Literal["read", "held_back"]
HALVES: tuple[Half, ...] = get_args(Half)
FOLDER = Path(__file__).parent / "templates"
KEY = re.compile(r"\{([A-Za-z][A-Za-z0-9.]*)\}")
CHOICE = re.compile(r"\[\[(.*?)\]\]", re.DOTALL)


@dataclass(frozen=True)
class Template:
    """One kind of note; ``bare`` ones hold no identifier."""

    number: int
    kind: str
    text: str

    @property
    def bare(self) -> bool:
        return not any(is_identifier(key) for key in KEY.findall(self.text))


def load_templates(half: Half) -> tuple[Template, ...]:
    """All templates of a half, in the order of its file."""
    blocks = re.split(r"^=== (\S+)\n", (FOLDER / f"{half}.txt").read_text(encoding="utf-8"), flags=re.MULTILINE)
    pairs = zip(blocks[1::2], blocks[2::2], strict=True)
    return tuple(Template(number, kind, text.strip()) for number, (kind, text) in enumerate(pairs, 1))

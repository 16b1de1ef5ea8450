"""Other ways to read a question that was written so as not to be read: spaced, turned round, encoded.

normalise -> HERE -> rails.
"""

from __future__ import annotations

import base64
import binascii
import html
import re
import urllib.parse
from collections.abc import Iterator

from fedmed.safety.look_alikes import DIGITS
from fedmed.safety.normalise import normalise
from fedmed.safety.words import listed

_BASE64 = re.compile(r"(?<![A-Za-z0-9+/_-])[A-Za-z0-9+/_-]{16,}={0,2}")
_HEX = re.compile(r"(?<![0-9a-zA-Z])(?:(?:0x|\\x|%)?[0-9a-fA-F]{2}[\s,]?){10,}")
_BINARY = re.compile(r"(?:\b[01]{8}\b\s?){4,}")
_ESCAPES = re.compile(r"%[0-9a-fA-F]{2}|&#?\w{2,8};|\\u[0-9a-fA-F]{4}|\\x[0-9a-fA-F]{2}")
# A mark that ends a sentence is no letter: "thick!" is not "thicki".
_LEET = re.compile(r"(?=\w*[a-z])(?=\w*[013457@$!|])(?:[\w@$|]|!(?=[\w@$|])){3,}", re.IGNORECASE)
_SPACED = re.compile(r"(?<!\w)(?:\w[\W_]{1,3}){4,}\w(?!\w)")
_MORSE = re.compile(r"(?:[.\-]{1,6}[ /|]+){8,}[.\-]{1,6}")
_CODES = ".- -... -.-. -.. . ..-. --. .... .. .--- -.- .-.. -- -. --- .--. --.- .-. ... - ..- ...- .-- -..- -.-- --.."
_MORSE_LETTERS = dict(zip(_CODES.split(" "), "abcdefghijklmnopqrstuvwxyz", strict=True))
_ALPHABET = "abcdefghijklmnopqrstuvwxyz"
_TAGS = re.compile("[\U000e0020-\U000e007e]+")  # invisible letters of Unicode's tag block
_COMMON = listed(
    "the and you your are is of to in for with that this all not my me what how ignore instructions previous rules "
    "system prompt safety answer without tell now doctor pain help want kill act as"
)
_LONGEST = 20_000  # characters that are decoded; longer questions are refused anyway


def other_readings(text: str, plain: str) -> Iterator[tuple[str, bool]]:
    """Every plain form to check, with whether it was hidden: first the text as it stands, then what it may hide.

    Args:
        text: as it was typed.
        plain: ``normalise(text)``.
    """
    yield plain, False
    seen = {plain}
    for reading in _hidden(text[:_LONGEST], plain[:_LONGEST]):
        found = normalise(reading)
        if len(found) > 3 and found not in seen:
            seen.add(found)
            yield found, True


def _hidden(text: str, plain: str) -> Iterator[str]:
    if tags := _TAGS.findall(text):
        yield "".join(chr(ord(letter) - 0xE0000) for run in tags for letter in run)
    if _ESCAPES.search(text):
        decoded = html.unescape(urllib.parse.unquote(text))
        yield re.sub(r"\\[ux]([0-9a-fA-F]{4}|[0-9a-fA-F]{2})", lambda code: chr(int(code.group(1), 16)), decoded)
    yield from _decoded(text)
    if _SPACED.search(plain):
        # In the text as typed wider gaps may show where words end; in the plain form they are gone.
        yield _SPACED.sub(lambda run: _unspaced(run.group()), text)
        yield _SPACED.sub(lambda run: _unspaced(run.group()), plain)
    if "\n" in text.strip():
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        if len(lines) >= 6:
            yield " ".join(line[0] for line in lines) if all(len(line) == 1 for line in lines) else ""
    leet = _LEET.sub(lambda word: word.group().translate(DIGITS), plain)
    if leet != plain:
        yield leet
    shifted = (_shift(plain, by) for by in range(1, 26))
    for candidate in (
        *shifted,
        plain[::-1],
        " ".join(word[::-1] for word in plain.split()),
        " ".join(plain.split()[::-1]),
    ):
        if _english(candidate) > max(2, 1.5 * _english(plain)):
            yield candidate


def _shift(plain: str, by: int) -> str:
    """Every letter moved on in the alphabet (13: rot13)."""
    moved = _ALPHABET[by:] + _ALPHABET[:by]
    return plain.translate(str.maketrans(_ALPHABET, moved))


def _unspaced(run: str) -> str:
    """Letters apart by single marks, joined; wider gaps are where words end."""
    parts = re.split(r"\s{2,}|(?<=\w)\s*[/|]\s*(?=\w)", run)
    return " ".join(re.sub(r"[\W_]", "", part) for part in parts)


def _english(text: str) -> int:
    return sum(word in _COMMON for word in re.findall(r"[a-z]+", text))


def _decoded(text: str) -> Iterator[str]:
    for match in _BASE64.finditer(text):
        body = match.group().rstrip("=").translate(str.maketrans("-_", "+/"))
        if not re.search(r"[a-z]", body) and not re.search(r"\d", body):
            continue
        for decode in (base64.b64decode, _base32):
            if found := _printable(decode, body):
                yield text.replace(match.group(), f" {found} ")
    for match in _HEX.finditer(text):
        digits = re.sub(r"0x|\\x|[^0-9a-fA-F]", "", match.group())
        if found := _printable(bytes.fromhex, digits[: len(digits) // 2 * 2]):
            yield text.replace(match.group(), f" {found} ")
    for match in _BINARY.finditer(text):
        yield "".join(chr(int(byte, 2)) for byte in re.findall(r"[01]{8}", match.group()))
    for match in _MORSE.finditer(text):
        codes = re.split(r" |(?=[/|])|(?<=[/|])", match.group())
        yield "".join(_MORSE_LETTERS.get(code, " ") for code in codes if code)


def _base32(body: str) -> bytes:
    return base64.b32decode(body.upper() + "=" * (-len(body) % 8))


def _printable(decode: object, body: str) -> str:
    try:
        padded = body + "=" * (-len(body) % 4) if decode is base64.b64decode else body
        found: str = decode(padded).decode("utf-8")  # type: ignore[operator]
    except (binascii.Error, ValueError):
        return ""
    letters = sum(character.isalpha() or character.isspace() for character in found)
    return found if len(found) >= 6 and letters >= 0.75 * len(found) else ""

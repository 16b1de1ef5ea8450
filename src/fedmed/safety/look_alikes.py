"""Letters of other alphabets, and digits, that are drawn like Latin letters. HERE -> normalise, readings.

Not covered: the whole of Unicode's confusables table; these are the letters that are seen in real disguises.
"""

from __future__ import annotations

LETTERS: dict[str, str] = {
    # Cyrillic
    "а": "a", "в": "b", "ь": "b", "с": "c", "ԁ": "d", "е": "e", "ѐ": "e", "ғ": "f", "һ": "h", "н": "h", "і": "i",
    "ј": "j", "к": "k", "ӏ": "l", "м": "m", "п": "n", "о": "o", "р": "p", "ԛ": "q", "г": "r", "ѕ": "s", "т": "t",
    "ц": "u", "ѵ": "v", "ԝ": "w", "х": "x", "у": "y", "ү": "y", "з": "z",
    # Greek
    "α": "a", "β": "b", "ϲ": "c", "δ": "d", "ε": "e", "η": "n", "ι": "i", "κ": "k", "ν": "v", "ο": "o", "ρ": "p",
    "σ": "o", "ς": "s", "τ": "t", "υ": "u", "χ": "x", "γ": "y", "ω": "w", "μ": "u", "ζ": "z",
    # Latin letters that do not come apart into a plain one and an accent
    "ı": "i", "ɑ": "a", "ɡ": "g", "ɩ": "i", "ł": "l", "ø": "o", "đ": "d", "ħ": "h", "ŧ": "t", "ɪ": "i", "ʀ": "r",
    "ᴀ": "a", "ʙ": "b", "ᴄ": "c", "ᴅ": "d", "ᴇ": "e", "ꜰ": "f", "ɢ": "g", "ʜ": "h", "ᴊ": "j", "ᴋ": "k", "ʟ": "l",
    "ᴍ": "m", "ɴ": "n", "ᴏ": "o", "ᴘ": "p", "ꜱ": "s", "ᴛ": "t", "ᴜ": "u", "ᴠ": "v", "ᴡ": "w", "ʏ": "y", "ᴢ": "z",
    # Armenian and Cherokee, in lower case
    "օ": "o", "ս": "u", "հ": "h", "ո": "n", "ց": "g", "զ": "q", "ꭺ": "a", "ꭼ": "e", "ꮃ": "w", "ꮮ": "l", "ꮪ": "s",
}  # fmt: skip
"""A look-alike in lower case -> the Latin letter."""

DIGITS = str.maketrans("013457@$!|", "oieastasil")
"""What stands for letters in "1gn0re"; for a second reading only, as a dose is made of digits too."""


def latin(word: str) -> str:
    """``word`` in Latin letters where every letter of it has a Latin look-alike; else as it is.

    A true Russian or Greek word nearly always holds a letter without one, and stays readable as Russian or Greek.
    """
    if word.isascii():
        return word
    changed = "".join(LETTERS.get(character, character) for character in word)
    return changed if changed.isascii() else word

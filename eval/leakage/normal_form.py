"""The normal form of a text, in which copies are equal: its words in lower case, and nothing else.

A combining mark belongs to its letter, so that Hindi, Thai or pointed Hebrew texts that differ in a vowel sign differ
here too. Canonically equivalent spellings of a text are equal, as are its compatibility forms (full-width letters).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator

_SPACELESS_RANGES = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x1000, 0x109F),  # Burmese
    (0x1780, 0x17FF),  # Khmer
    (0x1950, 0x19DF),  # Tai Le, New Tai Lue
    (0x1A20, 0x1AAF),  # Tai Tham
    (0xA980, 0xA9FF),  # Javanese, Burmese
    (0xAA60, 0xAADF),  # Burmese, Tai Viet
)
"""Blocks of Southeast Asian scripts that are written without spaces between words."""
_IDEOGRAPHIC_RANGES = (
    (0x3005, 0x3007),  # iteration mark, zero
    (0x3031, 0x303C),
    (0x3040, 0x312F),  # kana, Bopomofo
    (0x31A0, 0x31FF),
    (0x3400, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x1AFF0, 0x1B16F),
    (0x20000, 0x3FFFF),
)
"""Blocks of Han, kana and Bopomofo."""
_IGNORABLE_RANGES = (
    (0x00AD, 0x00AD),  # soft hyphen
    (0x034F, 0x034F),
    (0x061C, 0x061C),
    (0x0640, 0x0640),  # Arabic tatweel, which only stretches a word
    (0x115F, 0x1160),
    (0x17B4, 0x17B5),
    (0x180B, 0x180F),
    (0x200B, 0x200F),  # zero-width space and joiners
    (0x202A, 0x202E),
    (0x2060, 0x206F),
    (0xFE00, 0xFE0F),  # variation selectors
    (0xFEFF, 0xFEFF),
    (0x1BCA0, 0x1BCA3),
    (0x1D173, 0x1D17A),
    (0xE0000, 0xE0FFF),
)
"""Characters that show nothing themselves (Default_Ignorable_Code_Point), and the tatweel."""


def _class(characters: Iterable[str]) -> str:
    """The inside of a character class of a regular expression, as ranges. The characters come in ascending order."""
    ranges: list[list[str]] = []
    for character in characters:
        if ranges and ord(character) == ord(ranges[-1][1]) + 1:
            ranges[-1][1] = character
        else:
            ranges.append([character, character])
    return "".join(f"{first}-{last}" for first, last in ranges)


def _letters(ranges: Iterable[tuple[int, int]]) -> Iterator[str]:
    """The letters and digits of the blocks; of large blocks all characters, since nearly all are letters."""
    for first, last in ranges:
        for code in range(first, last + 1):
            if code >= _HAN or chr(code).isalnum():
                yield chr(code)


_HAN = 0x3400
"""The blocks from here on hold letters alone."""
_MARKS_END = 0x1F000
"""No combining mark has a higher code, but for variation selectors, which are ignored."""
_MARK = _class(chr(code) for code in range(0x300, _MARKS_END) if unicodedata.category(chr(code)).startswith("M"))
IDEOGRAPHIC = _class(_letters(_IDEOGRAPHIC_RANGES))
"""Letters of Han, kana and Bopomofo, for a character class."""
_SPACELESS = IDEOGRAPHIC + _class(_letters(_SPACELESS_RANGES))
_UNIT = re.compile(rf"[{_SPACELESS}][{_MARK}]*|[^\W{_SPACELESS}](?:[^\W{_SPACELESS}]|[{_MARK}])*")
_ASCII_WORD = re.compile(r"\w+", re.ASCII)
_GAP = re.compile(rf"(?<=[{_SPACELESS}{_MARK}]) (?=[{_SPACELESS}])")
"""What separates two characters of scripts without spaces."""
_BEGINS_SPACELESS = re.compile(f"[{_SPACELESS}]")
_TURKISH = re.compile("[\u0130\u0131\u011e\u011f]")
"""Dotted capital I, dotless i, and g with breve: no other language's casing of i is in question with them."""
_TURKISH_LOWER = {ord("I"): "\u0131", 0x0130: "i"}
_TO_APOSTROPHE = {0x02BC: "'"}
"""The apostrophe as a letter (Ukrainian), which is also written as the punctuation mark."""
_REPLACED = dict.fromkeys(code for first, last in _IGNORABLE_RANGES for code in range(first, last + 1)) | _TO_APOSTROPHE


def normalized(text: str) -> str:
    """The words of a text: equal for texts that differ in case, punctuation, symbols, spacing and Unicode form alone.

    Words are separated by a space, but in scripts without spaces there is none.
    """
    if text.isascii():
        return " ".join(_ASCII_WORD.findall(text.lower()))
    words = " ".join(_UNIT.findall(_folded(text)))
    return words if words.isascii() else _GAP.sub("", words)


def units(key: str) -> list[str]:
    """The words of a normal form; each character of a script without spaces, with its marks, is a unit of its own."""
    return key.split() if key.isascii() else _UNIT.findall(key)


def is_spaceless(unit: str) -> bool:
    """Whether a unit is a character of a script without spaces."""
    return _BEGINS_SPACELESS.match(unit) is not None


def _folded(text: str) -> str:
    """NFKC_Casefold of the Unicode standard; with the Turkish pairs of i in texts with letters of Turkish alone."""
    composed = unicodedata.normalize("NFKC", text)
    if _TURKISH.search(composed):
        composed = composed.translate(_TURKISH_LOWER)
    return unicodedata.normalize("NFKC", composed.casefold().translate(_REPLACED))

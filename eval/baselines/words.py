"""What a word is to a baseline, in any script."""

from __future__ import annotations

import re
import sys
import unicodedata
from functools import cache

SPACELESS = (
    "\u0e01-\u0e30\u0e32\u0e33\u0e40-\u0e46"  # Thai
    "\u0e81-\u0eb0\u0eb2\u0eb3\u0ebd-\u0ec6\u0edc-\u0edf"  # Lao
    "\u0f40-\u0f6c\u0f88-\u0f8c"  # Tibetan
    "\u1000-\u102a\u103f\u1050-\u1055"  # Burmese
    "\u1780-\u17b3"  # Khmer
    "\u3040-\u3098\u309b-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # kana and Han
)
"""Letters of scripts that put no blank between words, as a range of a regular expression."""


def words(text: str) -> list[str]:
    """Lower-cased runs of letters, digits and their combining marks; in scripts without blanks each letter is a word.

    Punctuation is dropped. No segmenter is needed, which is the point of a baseline; one might do better.
    """
    found: list[str] = _word_pattern().findall(unicodedata.normalize("NFC", text).lower())
    return found


def index_words(text: str) -> list[str]:
    """Those that scikit-learn's vectorizers count by default: without single letters and digits of other scripts."""
    return [word for word in words(text) if len(word) > 1 or is_spaceless(word)]


def is_spaceless(word: str) -> bool:
    """Whether a word is a letter of a script without blanks."""
    return _SPACELESS_LETTER.match(word) is not None


_SPACELESS_LETTER = re.compile(f"[{SPACELESS}]")


@cache
def _word_pattern() -> re.Pattern[str]:
    """Python's `\\w` lacks combining marks: it would cut Hindi and Tamil words into pieces."""
    marks = [chr(code) for code in range(sys.maxunicode + 1) if unicodedata.category(chr(code)).startswith("M")]
    mark = "".join(marks)
    return re.compile(rf"[{SPACELESS}][{mark}]*|(?:(?![{SPACELESS}])\w)(?:(?![{SPACELESS}])[\w{mark}])*")

"""Words of a text, for every baseline alike, in scripts with and without spaces."""

from __future__ import annotations

import re

_SPACELESS = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
"""Kana and Han."""
_WORD = re.compile(rf"[{_SPACELESS}]|[^\W{_SPACELESS}]+")


def words(text: str) -> list[str]:
    """Lower-cased runs of letters and digits; each kana or Han character is a word, as nothing marks where words end.

    Punctuation is dropped. No segmenter is needed, which is the point of a baseline; one might do better.
    """
    return _WORD.findall(text.lower())

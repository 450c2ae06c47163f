"""Planted copies, near copies and unlike texts in 24 languages: the share of each that overlap finds.

    python scripts/checks/check_overlap.py

Copies differ in Unicode form, case, punctuation, width or spacing. Near copies are the passage of all sentences with
one word (in scripts without spaces: one character) replaced, at every third place in turn. Unlike texts are sentences
of at most ten words that lack one mark, or have another letter where there are no marks (English, Chinese, Korean).
"""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from overlap_languages import SENTENCES, SPACELESS

from eval.leakage.near import NearIndex
from eval.leakage.normal_form import normalized, units

WIDE = {code: code + 0xFEE0 for code in range(0x21, 0x7F)} | {0x20: 0x3000}
"""ASCII to its full-width forms."""
ZERO_WIDTH_SPACE = "\u200b"
STEP = 3
"""Every third place gets another word in turn."""


@dataclass(frozen=True)
class Found:
    """Counts of one language."""

    language: str
    copies: int
    copies_found: int
    near: int
    near_found: int
    unlike: int
    unlike_copies: int
    """Unlike texts that pass for copies."""
    unlike_near: int
    """Unlike texts that pass for near-duplicates."""


def copies(language: str, text: str) -> Iterator[str]:
    """The text in other spellings."""
    yield unicodedata.normalize("NFD", text)
    yield unicodedata.normalize("NFC", text)
    upper = text.replace("i", "\u0130").upper() if language == "Turkish" else text.upper()
    yield upper
    yield f"\u00ab{text.translate(WIDE)}\u00bb!"
    if language in SPACELESS:
        yield ZERO_WIDTH_SPACE.join(units(text))
        yield " ".join(text[start : start + 1] for start in range(len(text))) if language == "Chinese" else f" {text} "
    else:
        yield text.replace(" ", " \u2014 ")
        yield text.replace(" ", "\u00a0\n ")


def near_copies(language: str, passage: str) -> Iterator[str]:
    """The passage with one unit replaced by one from half a passage away."""
    separator = "" if language in SPACELESS else " "
    parts = units(normalized(passage))
    for place, part in list(enumerate(parts))[::STEP]:
        other = parts[(place + len(parts) // 2) % len(parts)]
        if other != part:
            yield separator.join([*parts[:place], other, *parts[place + 1 :]])


def unlike(language: str, text: str) -> Iterator[str]:
    """The text without one of its marks in turn, or with one letter replaced where the language has none."""
    decomposed = unicodedata.normalize("NFD", text)
    marks = [place for place, character in enumerate(decomposed) if unicodedata.category(character).startswith("M")]
    if language == "Korean":
        marks = [place for place, character in enumerate(decomposed) if 0x11A8 <= ord(character) <= 0x11C2]
    for place in marks:
        yield unicodedata.normalize("NFC", decomposed[:place] + decomposed[place + 1 :])
    if not marks:
        letters = [place for place, character in enumerate(text) if character.isalpha()]
        for place in letters:
            other = text[letters[(place + 1) % len(letters)]]
            if other.casefold() != text[place].casefold():
                yield text[:place] + other + text[place + 1 :]


def examine(language: str, sentences: Sequence[str]) -> Found:
    """Each planted text is looked for alone."""
    index = NearIndex(map(normalized, sentences))
    passage = " ".join(sentences)
    of_passage = NearIndex([normalized(passage)])
    planted = [(normalized(text), normalized(copy)) for text in sentences for copy in copies(language, text)]
    near = list(near_copies(language, passage))
    others = [(normalized(text), normalized(other)) for text in sentences for other in unlike(language, text)]
    return Found(
        language,
        copies=len(planted),
        copies_found=sum(one == other for one, other in planted),
        near=len(near),
        near_found=sum(bool(of_passage.found([normalized(text)])) for text in near),
        unlike=len(others),
        unlike_copies=sum(one == other for one, other in others),
        unlike_near=sum(bool(index.found([other])) for _, other in others),
    )


def table() -> list[Found]:
    """All languages."""
    return [examine(language, sentences) for language, sentences in SENTENCES.items()]


def share(found: int, total: int) -> str:
    """In percent, with the total."""
    return f"{100 * found / total:.1f} % of {total}"


def main() -> int:
    """The table, as Markdown."""
    lines = ["| language | copies found | near copies found | unlike taken for copies | unlike taken for near |"]
    lines.append("|---|---|---|---|---|")
    for row in table():
        cells = [share(row.copies_found, row.copies), share(row.near_found, row.near)]
        cells += [share(row.unlike_copies, row.unlike), share(row.unlike_near, row.unlike)]
        lines.append(f"| {' | '.join([row.language, *cells])} |")
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

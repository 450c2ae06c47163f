"""What a cell of a table holds: a text, a name, a number or nothing; and what to say of everything else."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence

from dec2vec.errors import UserError

SHOWN = 40
"""Number of characters of a cell that an error shows."""
_NEGATIVE = re.compile(r"negative(?:_(\d+))?")


def is_absent(value: object) -> bool:
    """Whether a cell holds nothing: null, or the NaN that pandas has in its place."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def as_name(value: object) -> str | None:
    """The name of a class or a document. None for what cannot be one, such as a blank text or 0.5.

    3, 3.0 and "3" are one name: csv cannot tell numbers from texts, and pandas makes floats of whole numbers in a
    column with gaps.
    """
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else None
    if isinstance(value, int):  # True is "True", as pandas writes it into a csv
        return str(value)
    return value if isinstance(value, str) and value.strip() else None


def not_text(column: str, value: object, *, in_json: bool) -> str:
    """The end of an error about a cell that holds something other than a text, with the fix."""
    kind, fix = f"a {type(value).__name__}", "save the column as text"
    if isinstance(value, (bool, int, float)):
        kind = "true or false" if isinstance(value, bool) else "a number"
        fix = "put it in quotes" if in_json else fix
    elif isinstance(value, bytes):
        kind, fix = "bytes", "save the column as text, decoded from UTF-8"
    elif isinstance(value, list) and is_negative_column(column):
        fix = "give each text a column of its own: negative_1, negative_2, ..."
    elif isinstance(value, list):
        fix = "give each text a row of its own"
    elif isinstance(value, dict):
        kind, fix = "an object", "take its text out of it"
    return f"{column} is {kind} ({str(value)[:SHOWN]}), not text; {fix}"


def listed(columns: Iterable[str]) -> str:
    """Names of columns for an error; in quotation marks where a space or a separator would go unnoticed."""
    return ", ".join(name if re.fullmatch(r"[^\s,;'\"]+", name) else repr(name) for name in columns)


def is_negative_column(name: str) -> bool:
    """Whether a column holds hard negatives by its name: `negative`, `negative_1`, `negative_2` ..."""
    return _NEGATIVE.fullmatch(name) is not None


def negative_columns(columns: Iterable[str]) -> list[str]:
    """Those of the columns that hold hard negatives, in the order of their numbers."""
    matches = [match for match in map(_NEGATIVE.fullmatch, columns) if match]
    return [match.group() for match in sorted(matches, key=lambda match: int(match.group(1) or -1))]


def is_number(value: str | int | float) -> bool:
    try:
        return math.isfinite(float(value))
    except (ValueError, OverflowError):
        return False


def only_numbers(texts: Sequence[str]) -> bool:
    """Whether there are texts, and all of them are numbers."""
    return bool(texts) and all(map(is_number, texts))


def holds_only_numbers(name: str, column: str) -> UserError:
    """The error for a column in which `only_numbers` is true."""
    return UserError(f"{name}: column {column!r} contains only numbers; give a column of texts")

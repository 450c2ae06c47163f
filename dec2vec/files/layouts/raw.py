"""Rows as they stand in a file, also those without names: lists in jsonl, and tsv files without a header."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain, islice
from pathlib import Path

from dec2vec.errors import UserError
from dec2vec.files.compressed import content_suffix
from dec2vec.files.formats import Numbered, json_values, jsonl_values, text_lines, tsv_rows, unit_of
from dec2vec.files.sources import Reader, usual_reader

LINE = "list"
"""Column of a jsonl line that is a list instead of an object."""
FIELDS = "fields"
"""Column of a tsv line without a header: the list of its fields."""
_NAME = re.compile(r"[A-Za-z_][\w.-]*")
_WORDS_OF_NAMES = re.compile(
    r"anchor|query|queries|question|answer|positive|pos|negative|neg|passage|document|doc|text|title|sentence\d?|label|"
    r"score|id|premise|hypothesis|response|prompt|instruction|corpus|source|split|language|lang"
)


def raw_reader(path: Path) -> Reader:
    """What reads the rows of a file, with the columns `LINE` and `FIELDS` where rows have no names."""
    values = {".jsonl": jsonl_values, ".json": json_values}.get(content_suffix(path))
    if values is not None:
        return partial(_named, values)
    return _tsv if content_suffix(path) == ".tsv" else usual_reader(path)


def is_header(fields: Sequence[str]) -> bool:
    """Whether the first line of a tsv file names its columns.

    It does if each field is a single word that may be a name, or a short phrase with a word that names have; or if
    there are so many columns, or only one, that no layout without a header would fit.
    """
    if not 2 <= len(fields) <= 3:
        return True
    return all(_NAME.fullmatch(field) for field in fields) or all(map(_is_title, fields))


def _is_title(field: str) -> bool:
    words = re.findall(r"[a-z]+\d?", field.lower())
    return len(words) <= 3 and any(_WORDS_OF_NAMES.fullmatch(word) for word in words)


def _named(values: Callable[[Path], Iterator[tuple[int, object]]], path: Path) -> Iterator[Numbered]:
    for number, value in values(path):
        if isinstance(value, dict):
            yield number, value
        elif isinstance(value, list):
            yield number, {LINE: value}
        else:
            shown = repr(value)[:40]
            raise UserError(
                f'{path} {unit_of(path)} {number}: a row must be an object {{"column": value}} or a list, not {shown}'
            )


def _tsv(path: Path) -> Iterator[Numbered]:
    lines = ((number, line) for number, line in text_lines(path) if line)
    first = list(islice(lines, 1))
    if not first or is_header(first[0][1].split("\t")):
        yield from tsv_rows(path)
        return
    width = first[0][1].count("\t") + 1
    for number, line in chain(first, lines):
        fields = line.split("\t")
        if len(fields) != width:
            raise UserError(f"{path} row {number}: {len(fields)} fields, but {width} in row {first[0][0]}")
        yield number, {FIELDS: fields}

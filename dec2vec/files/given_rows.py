"""What a value in Python holds: one table or several, and the rows of a table one by one.

A table is a `datasets.Dataset`, a pandas frame, a pyarrow table, a numpy array, a dict of columns, or any iterable of
rows. A row is a mapping of columns to cells, or a list of texts as in the lists of sentence-transformers.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from pathlib import Path
from typing import Any

from dec2vec.errors import UserError
from dec2vec.files.formats import reader_of
from dec2vec.files.hub_datasets import is_hub_id
from dec2vec.files.sources import Named, is_pattern

_BLOCK = 8192
_ROWS = {
    "data": '{"anchor": "a query", "positive": "its document"}, or {"text": "a text"} with data.0.kind texts',
    "dev": '{"sentence1": "a text", "sentence2": "another text", "score": 0.8}',
}


def are_rows(value: object) -> bool:
    """Whether a value is one table of rows, and not several tables, or the name of a file."""
    if isinstance(value, (str, os.PathLike)):
        return False
    return not isinstance(value, (list, tuple)) or not value or is_row(value[0])


def is_row(item: object) -> bool:
    """Whether an item is a mapping of columns, or texts without columns as in sentence-transformers' lists."""
    is_list = isinstance(item, (list, tuple))
    return isinstance(item, Mapping) or (is_list and all(isinstance(text, str) for text in item))  # type: ignore[attr-defined]


def each_row(table: object, name: str) -> Iterator[Any]:
    """The rows of a table. UserError, which calls it `name`, for anything else and for a row of another type."""
    for number, given in enumerate(_items(table, name), start=1):
        row = given._asdict() if hasattr(given, "_asdict") else given  # a named tuple
        if not is_row(row):
            raise UserError(f"{name} row {number} is {described(row)}; {a_row(name)}")
        yield row


def check_name(given: object, name: str) -> None:
    """Raise UserError for a text where a file, a folder or a Hub id is to be named, but no such name can be meant."""
    if not isinstance(given, str):
        return
    source = Named(given).resolved().source
    if not (Path(source).exists() or is_pattern(source) or is_hub_id(source) or reader_of(Path(source))):
        raise UserError(f"{name}: {_shown(given)} is no file, no folder and no Hub id; {a_row(name)}")


def a_row(name: str) -> str:
    """What a row of the table called `name` looks like."""
    example = _ROWS.get(name.partition("[")[0])
    return f"a row is a dict of columns, such as {example}" if example else "a row is a dict of columns"


def described(value: object) -> str:
    """A value in words, such as `an int`."""
    if isinstance(value, str):
        return f"the text {_shown(value)}"
    kind = type(value).__name__
    if inspect.isroutine(value):
        return f"the function {value.__name__}"
    return "None" if value is None else f"{'an' if kind[0].lower() in 'aeiou' else 'a'} {kind}"


def _items(table: Any, name: str) -> Iterable[Any]:
    if isinstance(table, Mapping):
        return _of_columns(table, name)
    if _is_frame(table):
        return _of_frame(table, name)
    if hasattr(table, "to_batches"):  # pyarrow
        _check_unique(table.column_names, name)
        return (row for batch in table.to_batches(max_chunksize=_BLOCK) for row in batch.to_pylist())
    if hasattr(table, "dtype") and hasattr(table, "tolist"):  # numpy
        fields = getattr(table.dtype, "names", None)
        table = [dict(zip(fields, row, strict=True)) for row in table.tolist()] if fields else table.tolist()
    if inspect.isfunction(table):
        raise UserError(f"{name}: {described(table)}; call it, and give the rows that it returns or yields")
    if isinstance(table, (str, bytes, set, frozenset)) or not isinstance(table, Iterable):
        raise UserError(f"{name}: {described(table)}; give a datasets.Dataset, a pandas frame or a list of dicts")
    plain: Iterable[Any] = table.with_format(None) if hasattr(table, "with_format") else table
    return plain


def _of_columns(columns: Mapping[Any, Any], name: str) -> Iterator[dict[Any, Any]]:
    """The rows of a dict that has a list of cells for each column."""
    if columns and all(_is_table(value) for value in columns.values()):
        splits = ", ".join(map(str, list(columns)[:5]))
        raise UserError(
            f"{name}: {described(columns)} of {splits}; give one of them, such as {name}[{next(iter(columns))!r}]"
        )
    for column, cells in columns.items():
        if isinstance(cells, (str, bytes, Mapping)) or not (isinstance(cells, Iterable) and isinstance(cells, Sized)):
            raise UserError(
                f"{name}: column {column!r} is {described(cells)}, and not a list; give a list of rows, or a dict with "
                "a list of values for each column"
            )
    counts = {column: len(cells) for column, cells in columns.items()}
    other = next((column for column in counts if counts[column] != counts[next(iter(counts))]), None)
    if other is not None:
        first, count = next(iter(counts.items()))
        raise UserError(
            f"{name}: column {first!r} has {count} values and column {other!r} has {counts[other]}; give each row a "
            "value, None where there is none"
        )
    cells = [_cells(values) for values in columns.values()]
    return (dict(zip(columns, row, strict=True)) for row in zip(*cells, strict=True))


def _cells(values: Any) -> Iterable[Any]:
    """The values of a column in Python's own types."""
    plain = next((getattr(values, way) for way in ("tolist", "to_pylist") if hasattr(values, way)), None)
    found: Iterable[Any] = values if plain is None else plain()
    return found


def _is_table(value: object) -> bool:
    """Whether a value is certainly a table, and not a column of cells."""
    if isinstance(value, (list, tuple)):
        return bool(value) and isinstance(value[0], Mapping)
    return _is_frame(value) or hasattr(value, "column_names")


def _is_frame(table: object) -> bool:
    """Whether this is a pandas frame, without importing pandas."""
    return hasattr(table, "iloc") and hasattr(table, "to_dict") and hasattr(table, "columns")


def _of_frame(frame: Any, name: str) -> Iterator[dict[Any, Any]]:
    """The rows of a pandas frame. An index that has a name is a column, as it is in files that pandas writes."""
    levels = [level for level in frame.index.names if level is not None]
    _check_unique([*levels, *frame.columns], name)
    for start in range(0, len(frame), _BLOCK):
        block = frame.iloc[start : start + _BLOCK]
        yield from (block.reset_index(levels) if levels else block).to_dict(orient="records")


def _check_unique(columns: Sequence[object], name: str) -> None:
    """Raise UserError if two columns have one name, of which only one would be read."""
    named = list(map(str, columns))
    twice = next((column for column in named if named.count(column) > 1), None)
    if twice is not None:
        raise UserError(f"{name} has two columns called {twice!r}; rename one of them")


def _shown(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:37]}...")

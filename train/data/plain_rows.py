"""The usual rows of pairs, read a column at a time: several times as fast as row by row, with the same result.

Usual are rows of a .jsonl (also compressed) or .parquet file in which every cell that is used is a text, without scores
and instructions. For any other file, and at the first cell that is something else, `NotPlainError` is raised, and the
rows are read one by one as all others: `train.data.read` alone decides what is refused, and says why.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.compute
import pyarrow.json
import pyarrow.parquet

from dec2vec.files.cells import negative_columns, only_numbers
from dec2vec.files.compressed import content_suffix, opened
from dec2vec.files.formats import PARQUET_ROWS
from train.data.row_extras import NOTHING, Extras
from train.data.stored import RowWriter
from train.options.data import SourceConfig

Column = Any
"""An Arrow array; pyarrow has no types."""
BYTES = 8 << 20
"""Length of the pieces in which a .jsonl file is read."""
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_NO_INSTRUCTIONS = repr(("", ""))
"""The instructions of a row without any."""
_EMPTY = pyarrow.scalar(b"", pyarrow.binary())


class NotPlainError(Exception):
    """The rows have to be read one by one."""


@dataclass
class Plain:
    """What reading a source has shown."""

    columns: dict[str, None] = field(default_factory=dict)
    left_out: int = 0
    """Rows with a blank text, which `clean` leaves out."""
    worded: set[str] = field(default_factory=set)
    """Columns with a text that is no number."""


def write_plain(source: SourceConfig, files: Iterable[Path], writer: RowWriter, extras: Extras = NOTHING) -> Plain:
    """Write the rows of pairs in these files; NotPlainError where they have to be read one by one.

    The caller has made sure that the rows have the layout of `anchor` and `positive`, or columns that are named.
    """
    if source.only or source.document_id is not None or extras.scores is not None:
        raise NotPlainError
    found, left = Plain(), source.limit
    try:
        for table in chain.from_iterable(_tables(path, source) for path in files):
            rows = table if left is None else table.slice(0, left)
            _write(rows, source, extras, writer, found)
            left = None if left is None else left - rows.num_rows
            if left == 0:
                break
    except (pyarrow.ArrowException, UnicodeDecodeError, KeyError, EOFError, OSError):
        raise NotPlainError from None  # whatever is wrong is found again, and explained
    if not {source.anchor, source.positive} <= found.worded or not found.columns.keys() >= set(source.negatives or ()):
        raise NotPlainError
    return found


def _tables(path: Path, source: SourceConfig) -> Iterator[Column]:
    suffix = content_suffix(path)
    if suffix == ".jsonl":
        schema = pyarrow.schema([(name, pyarrow.string()) for name in (source.anchor, source.positive)])
        return (_parsed(piece, schema) for piece in _pieces(path))
    if suffix == ".parquet" and path.suffix.lower() == ".parquet":
        batches = pyarrow.parquet.ParquetFile(path).iter_batches(batch_size=PARQUET_ROWS)
        return (pyarrow.Table.from_batches([batch]) for batch in batches)
    raise NotPlainError


def _pieces(path: Path) -> Iterator[bytes]:
    """The content in pieces that end with a line."""
    with opened(path) as file:
        rest = b""
        first = True
        while piece := file.read(BYTES):  # type: ignore[attr-defined]
            data = rest + (piece.removeprefix(_BYTE_ORDER_MARK) if first else piece)
            first, stop = False, data.rfind(b"\n") + 1
            rest = data[stop:]
            if stop:
                yield data[:stop]
        if rest.strip():
            yield rest + b"\n"


def _parsed(piece: bytes, schema: Column) -> Column:
    """The rows of a piece, one a line. Arrow checks neither the encoding nor that a line holds one object."""
    str(piece, "utf-8")
    options = pyarrow.json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="infer")
    reading = pyarrow.json.ReadOptions(use_threads=False, block_size=len(piece) + 1)
    table = pyarrow.json.read_json(pyarrow.BufferReader(piece), reading, options)
    if table.num_rows != piece.count(b"\n") and table.num_rows != sum(map(bool, map(bytes.strip, piece.split(b"\n")))):
        raise NotPlainError
    return table


def _write(table: Column, source: SourceConfig, extras: Extras, writer: RowWriter, found: Plain) -> None:
    names = table.column_names
    if len(set(names)) != len(names) or not set(names).isdisjoint(extras.columns(own=True)):
        raise NotPlainError
    found.columns.update(dict.fromkeys(names))
    further = negative_columns(names) if source.negatives is None else [n for n in source.negatives if n in names]
    columns = [_texts(table[name]) for name in (source.anchor, source.positive)]
    if any(column.null_count for column in columns):
        raise NotPlainError
    columns += [texts for name in further if (texts := _negatives(table[name])) is not None]
    is_blank = [_blank(column) for column in columns]
    empty = pyarrow.compute.or_(*is_blank[:2])
    if any(pyarrow.compute.any(blank).as_py() for blank in is_blank[0 if not source.clean else 2 :]):
        raise NotPlainError
    if pyarrow.compute.any(empty).as_py():
        kept = pyarrow.compute.invert(empty)
        columns = [column.filter(kept) for column in columns]
        found.left_out += table.num_rows - len(columns[0])
    if len(columns[0]):
        _note_words(source, columns, found)
        if extras.query_instruction or extras.document_instruction:
            columns.append(pyarrow.array([_NO_INSTRUCTIONS] * len(columns[0])))
        _append(columns, writer)


def _texts(column: Column) -> Column:
    """A column as one array of texts; NotPlainError for other types."""
    array = column.combine_chunks()
    if pyarrow.types.is_large_string(array.type) or pyarrow.types.is_string_view(array.type):
        array = array.cast(pyarrow.string())
    if array.type != pyarrow.string():
        raise NotPlainError
    return array


def _negatives(column: Column) -> Column | None:
    """Hard negatives, null where a row has none; None if no row has one."""
    if pyarrow.types.is_null(column.type):
        return None
    array = _texts(column)
    return pyarrow.compute.if_else(pyarrow.compute.equal(array, ""), pyarrow.scalar(None, pyarrow.string()), array)


def _blank(column: Column) -> Column:
    trimmed = pyarrow.compute.utf8_trim_whitespace(column)
    return pyarrow.compute.fill_null(pyarrow.compute.equal(pyarrow.compute.binary_length(trimmed), 0), False)


def _note_words(source: SourceConfig, columns: list[Column], found: Plain) -> None:
    for name, column in zip((source.anchor, source.positive), columns, strict=False):
        if name not in found.worded and not only_numbers(column.to_pylist()):
            found.worded.add(name)


def _append(columns: list[Column], writer: RowWriter) -> None:
    """The bytes of `encoded_row`, of all rows at once."""
    lengths = [pyarrow.compute.binary_length(column) for column in columns]
    counts = np.stack([np.asarray(column.is_valid()) for column in columns]).sum(axis=0, dtype=np.int64)
    pieces = [_as_bytes(counts)]
    for column, length in zip(columns, lengths, strict=True):
        data = column.cast(pyarrow.binary())
        prefix = _as_bytes(np.asarray(length.fill_null(0)).astype(np.int64))
        if column.null_count:
            prefix = pyarrow.compute.if_else(column.is_valid(), prefix, _EMPTY)
            data = data.fill_null(b"")
        pieces += [prefix, data]
    rows = pyarrow.compute.binary_join_element_wise(*pieces, _EMPTY)
    sizes = np.asarray(pyarrow.compute.binary_length(rows)).astype(np.int64)
    content = rows.buffers()[2]
    first = int(np.frombuffer(rows.buffers()[1], dtype=np.int32)[rows.offset])
    writer.extend_encoded(memoryview(content)[first : first + int(sizes.sum())], sizes)


def _as_bytes(numbers: np.ndarray) -> Column:
    """Each number as its eight bytes."""
    edges = np.arange(len(numbers) + 1, dtype=np.int32) * 8
    buffers = [None, pyarrow.py_buffer(edges), pyarrow.py_buffer(numbers.astype("<i8"))]
    return pyarrow.Array.from_buffers(pyarrow.binary(), len(numbers), buffers)

"""Read the rows of a file by its format. `dec2vec.files.tables` checks the rows."""

from __future__ import annotations

import csv
import io
import json
import struct
from collections.abc import Callable, Iterable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

from dec2vec.errors import UserError
from dec2vec.files.cells import listed
from dec2vec.files.compressed import byte_lines, content_suffix, whole_text

Row = dict[str, object]
Numbered = tuple[int, Row]
"""A row and its number in the file, from 1: the line in text formats, the row in others."""
PARQUET_ROWS = 8192
"""Number of rows of a parquet file that are in memory at a time."""
ROWS_OF_BYTES = 64
"""The same if a column holds bytes, such as images."""
_LONGEST = 2 ** (8 * struct.calcsize("l") - 1) - 1
"""Number of characters of a csv field, as long as the csv module can count."""


def text_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a UTF-8 file, numbered from 1, without their line ends.

    Lines are split at \\n only: str.splitlines would also split at U+2028, \\x0b and others that occur in texts. One
    line is in memory at a time.
    """
    for number, line in enumerate(byte_lines(path), start=1):
        try:
            yield number, line.removesuffix(b"\r").decode("utf-8")
        except UnicodeDecodeError as error:
            byte = f"byte 0x{error.object[error.start]:02x}"
            raise UserError(f"{path} line {number}: {byte} is not UTF-8; save the file as UTF-8") from None


def jsonl_rows(path: Path) -> Iterator[Numbered]:
    """Read one JSON object from each line; blank lines are skipped."""
    for number, row in jsonl_values(path):
        if not isinstance(row, dict):
            shown = json.dumps(row, ensure_ascii=False)[:40]
            raise UserError(f'{path} line {number}: a row must be an object {{"column": value}}, not {shown}')
        yield number, row


def jsonl_values(path: Path) -> Iterator[tuple[int, object]]:
    """Read one JSON value from each line, whatever it is; blank lines are skipped."""
    for number, line in text_lines(path):
        if not line.strip():
            continue
        try:
            yield number, _decode(line)
        except (_RepeatedKeyError, ValueError, RecursionError) as error:
            raise UserError(f"{path} line {number}: {_why_no_json(error)}") from None


def json_rows(path: Path) -> Iterator[Numbered]:
    """Read a JSON array of objects, or the one under `data` of an object; rows are numbered from 1."""
    for number, row in json_values(path):
        if not isinstance(row, dict):
            shown = json.dumps(row, ensure_ascii=False)[:40]
            raise UserError(f'{path} row {number}: a row must be an object {{"column": value}}, not {shown}')
        yield number, row


def json_values(path: Path) -> Iterator[tuple[int, object]]:
    """The items of the array of `json_rows`, whatever they are.

    A file that has an object on each line is read as .jsonl, because many of those are called .json.
    """
    text = whole_text(path)
    try:
        found = _decode(text)
    except (_RepeatedKeyError, ValueError, RecursionError) as error:
        if text.lstrip().startswith("{") and "\n" in text.strip():
            yield from jsonl_values(path)
            return
        raise UserError(f"{path}: {_why_no_json(error)}") from None
    rows = found.get("data") if isinstance(found, dict) and "data" in found else found
    if isinstance(rows, dict):
        rows = [rows]
    if not isinstance(rows, list):
        raise UserError(f"{path}: neither a JSON array of rows nor an object with one under data")
    yield from enumerate(rows, start=1)


def _why_no_json(error: Exception) -> str:
    if isinstance(error, _RepeatedKeyError):
        return f"{error.args[0]!r} occurs twice in an object; keep one"
    if isinstance(error, json.JSONDecodeError):
        line = f"line {error.lineno}, " if error.lineno > 1 else ""
        return f"not JSON: {error.msg} at {line}column {error.colno}"
    return f"not a row: {error}"  # a number of thousands of digits, brackets in brackets


def csv_rows(path: Path) -> Iterator[Numbered]:
    """Read CSV as in RFC 4180: a quoted text may contain line ends. The header is row 1.

    A blank line is a blank text where there is one column, and nothing where there are several.
    """
    lines = (part for _, line in text_lines(path) for part in io.StringIO(f"{line}\n", newline=""))
    yield from _under_header(path, _records(path, lines))


def tsv_rows(path: Path) -> Iterator[Numbered]:
    """Read fields separated by tabs. Quotation marks are part of the text, as in GLUE and SentEval.

    Blank lines are those of `csv_rows`.
    """
    numbered = ((number, line.split("\t") if line else []) for number, line in text_lines(path))
    yield from _under_header(path, numbered)


def parquet_rows(path: Path) -> Iterator[Numbered]:
    """Read a parquet file block by block; rows are numbered from 1."""
    import pyarrow

    try:
        file = _parquet(path)
        _refuse_repeated(str(path), file.schema_arrow.names)
        size = ROWS_OF_BYTES if _holds_bytes(file.schema_arrow) else PARQUET_ROWS
        rows = (row for batch in file.iter_batches(batch_size=size) for row in batch.to_pylist())
        yield from enumerate(rows, start=1)
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{path}: not a readable parquet file: {error}") from None


def parquet_count(path: Path) -> int:
    """The number of rows, from the end of the file: its columns, such as images, are not read."""
    import pyarrow

    try:
        return int(_parquet(path).metadata.num_rows)
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{path}: not a readable parquet file: {error}") from None


def _parquet(path: Path) -> Any:
    import pyarrow.parquet

    return pyarrow.parquet.ParquetFile(path)


def _holds_bytes(schema: Any) -> bool:
    import pyarrow.types as kinds

    types = [field.type for field in schema]
    types += [inner.type for kind in types if kinds.is_struct(kind) for inner in kind]
    return any(kinds.is_binary(kind) or kinds.is_large_binary(kind) for kind in types)


FORMATS: dict[str, Callable[[Path], Iterator[Numbered]]] = {
    ".jsonl": jsonl_rows,
    ".csv": csv_rows,
    ".tsv": tsv_rows,
    ".parquet": parquet_rows,
    ".json": json_rows,
}


def reader_of(path: Path) -> Callable[[Path], Iterator[Numbered]] | None:
    """What reads a file of this name, compressed or not; None for an unknown format."""
    if content_suffix(path) == ".parquet" and path.suffix.lower() != ".parquet":
        return None  # parquet compresses its columns itself
    return FORMATS.get(content_suffix(path))


def unit_of(path: Path) -> str:
    """What a row of the file is called in errors: a line in .txt and .jsonl, a row elsewhere."""
    return "line" if content_suffix(path) in (".txt", ".jsonl") else "row"


def _records(path: Path, lines: Iterable[str]) -> Iterator[tuple[int, list[str]]]:
    """Fields by the number of their record; a blank line has none."""
    csv.field_size_limit(_LONGEST)  # of the whole process, and 131,072 by default, which documents exceed
    records = csv.reader(lines, strict=True)
    for number in count(1):
        try:
            fields = next(records, None)
        except csv.Error as error:
            raise UserError(f"{path} row {number}: {error}") from None
        if fields is None:
            return
        yield number, fields


def _under_header(path: Path, numbered: Iterator[tuple[int, list[str]]]) -> Iterator[Numbered]:
    """Rows under the first record that is not blank."""
    first, header = next((record for record in numbered if record[1]), (1, []))
    _refuse_repeated(f"{path} row {first}", header)
    blank = [""] if len(header) == 1 else []
    for number, record in numbered:
        fields = record or blank
        if fields and len(fields) != len(header):
            raise UserError(f"{path} row {number}: {len(fields)} fields under {len(header)} column names")
        if fields:
            yield number, dict(zip(header, fields, strict=True))


def _refuse_repeated(where: str, names: list[str]) -> None:
    if len(set(names)) != len(names):
        raise UserError(f"{where}: a column name occurs twice: {listed(names)}")


class _RepeatedKeyError(Exception):
    """A key that occurs twice in an object of JSON, of which Python would keep the last."""


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        raise _RepeatedKeyError(next(key for key in keys if keys.count(key) > 1))
    return found


_decode = json.JSONDecoder(object_pairs_hook=_object).decode
"""`json.loads`, with a decoder that is made once: one for each line would double the time."""

"""Read the rows of a file by its format. `dec2vec.files.tables` checks the rows."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator
from itertools import count
from pathlib import Path

from dec2vec.errors import UserError

Row = dict[str, object]
Numbered = tuple[int, Row]
"""A row and its number in the file, from 1: the line in text formats, the row in others."""
PARQUET_ROWS = 8192
"""Number of rows of a parquet file that are in memory at a time."""


def text_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a UTF-8 file, numbered from 1, without their line ends.

    Lines are split at \\n only: str.splitlines would also split at U+2028, \\x0b and others that occur in texts. One
    line is in memory at a time.
    """
    for number, line in enumerate(_lines(path), start=1):
        try:
            yield number, line.removesuffix(b"\r").decode("utf-8")
        except UnicodeDecodeError as error:
            byte = f"byte 0x{error.object[error.start]:02x}"
            raise UserError(f"{path} line {number}: {byte} is not UTF-8; save the file as UTF-8") from None


def jsonl_rows(path: Path) -> Iterator[Numbered]:
    """Read one JSON object from each line; blank lines are skipped."""
    for number, line in text_lines(path):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"{path} line {number}: not JSON: {error.msg} at column {error.colno}") from None
        except (ValueError, RecursionError) as error:  # a number of thousands of digits, brackets in brackets
            raise UserError(f"{path} line {number}: not a row: {error}") from None
        if not isinstance(row, dict):
            raise UserError(f'{path} line {number}: a row must be an object {{"column": value}}, not {line[:40]}')
        yield number, row


def csv_rows(path: Path) -> Iterator[Numbered]:
    """Read CSV as in RFC 4180: a quoted text may contain line ends. The header is row 1."""
    lines = (part for _, line in text_lines(path) for part in io.StringIO(f"{line}\n", newline=""))
    yield from _under_header(path, _records(path, lines))


def tsv_rows(path: Path) -> Iterator[Numbered]:
    """Read fields separated by tabs. Quotation marks are part of the text, as in GLUE and SentEval."""
    numbered = ((number, line.split("\t")) for number, line in text_lines(path) if line)
    yield from _under_header(path, numbered)


def parquet_rows(path: Path) -> Iterator[Numbered]:
    """Read a parquet file block by block; rows are numbered from 1."""
    import pyarrow
    import pyarrow.parquet

    try:
        batches = pyarrow.parquet.ParquetFile(path).iter_batches(batch_size=PARQUET_ROWS)
        rows = (row for batch in batches for row in batch.to_pylist())
        yield from enumerate(rows, start=1)
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{path}: not a readable parquet file: {error}") from None


FORMATS: dict[str, Callable[[Path], Iterator[Numbered]]] = {
    ".jsonl": jsonl_rows,
    ".csv": csv_rows,
    ".tsv": tsv_rows,
    ".parquet": parquet_rows,
}


def _records(path: Path, lines: Iterable[str]) -> Iterator[tuple[int, list[str]]]:
    records = csv.reader(lines, strict=True)
    for number in count(1):
        try:
            fields = next(records, None)
        except csv.Error as error:
            raise UserError(f"{path} row {number}: {error}") from None
        if fields is None:
            return
        if fields:
            yield number, fields


def _under_header(path: Path, numbered: Iterator[tuple[int, list[str]]]) -> Iterator[Numbered]:
    _, header = next(numbered, (1, []))
    if len(set(header)) != len(header):
        raise UserError(f"{path} row 1: a column name occurs twice: {', '.join(header)}")
    for number, fields in numbered:
        if len(fields) != len(header):
            raise UserError(f"{path} row {number}: {len(fields)} fields under {len(header)} column names")
        yield number, dict(zip(header, fields, strict=True))


def _lines(path: Path) -> Iterator[bytes]:
    """The lines without their \\n, and without a byte order mark at the start."""
    try:
        with path.open("rb") as file:
            if file.read(3) != b"\xef\xbb\xbf":
                file.seek(0)
            for line in file:
                yield line.removesuffix(b"\n")
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None

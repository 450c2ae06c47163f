"""Vectors of one view on disk, found by the text's digest: two files that only grow.

`NAME.<dim>.f16` or `NAME.<dim>.f32` holds rows (see `rows`), and `NAME.keys16` or `NAME.keys` their digests, in the
same order. Rows are written first, and are on the disk (fsync) before their keys are written at all: whatever a killed
process or a power cut leaves half written is beyond the last whole key and is overwritten.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from eval.cache.rows import HalfRows, Rows, SingleRows, choose_rows

KEY_BYTES = 16
_REFERENCE_BYTES = 4
"""Of one dimension of the reference of rows in half precision."""


class VectorFile:
    """Rows by key. One process writes at a time (see `VectorCache`)."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._name = folder, name
        self._index: dict[bytes, int] = {}
        self._pending: list[bytes] = []
        self._rows = self._known_rows()
        if self._rows is not None:
            self._index = {key: row for row, key in enumerate(self._whole_keys(self._rows))}

    def __len__(self) -> int:
        return len(self._index)

    def __contains__(self, key: bytes) -> bool:
        return key in self._index

    def read(self, keys: Sequence[bytes]) -> Float32[np.ndarray, "texts dim"]:
        """Rows in the order of `keys`, each of which must be there."""
        rows = self._rows
        if rows is None:
            raise KeyError(f"{self._folder / self._name}: nothing was written")
        start, shape = len(rows.header), (len(self._index),)
        stored = np.memmap(self._path(rows), rows.row_type, "r", offset=start, shape=shape)
        return rows.decoded(np.asarray(stored[[self._index[key] for key in keys]]))

    def append(self, keys: Sequence[bytes], vectors: Float32[np.ndarray, "texts dim"]) -> None:
        """Add rows, which are kept from the next `commit` on; keys that are there already are passed over."""
        fresh = [index for index, key in enumerate(keys) if key not in self._index]
        if not fresh:
            return
        rows, count = self._rows, len(self._index)
        if rows is None:
            rows = self._rows = choose_rows(vectors)
            _write_at(self._path(rows), 0, rows.header)
        start = len(rows.header) + count * rows.row_type.itemsize
        _write_at(self._path(rows), start, rows.encoded(vectors[fresh]).tobytes())
        self._index.update({keys[index]: count + offset for offset, index in enumerate(fresh)})
        self._pending += [keys[index] for index in fresh]

    def commit(self) -> None:
        """Make what was appended last: rows to the disk, then their keys."""
        if not self._pending or self._rows is None:
            return
        with self._path(self._rows).open("r+b") as rows:
            os.fsync(rows.fileno())
        kept = len(self._index) - len(self._pending)
        _write_at(self._keys(self._rows), kept * KEY_BYTES, b"".join(self._pending))
        self._pending.clear()

    def _path(self, rows: Rows) -> Path:
        return self._folder / f"{self._name}.{rows.dimension}.{rows.suffix}"

    def _keys(self, rows: Rows) -> Path:
        return self._folder / f"{self._name}.{'keys' if rows.suffix == SingleRows.suffix else 'keys16'}"

    def _known_rows(self) -> Rows | None:
        """How the file was begun; None without one, or where it ends within its reference."""
        single, half = (self._known_file(kind.suffix) for kind in (SingleRows, HalfRows))
        if single is not None:
            return SingleRows(single[1])
        if half is None or half[0].stat().st_size < half[1] * _REFERENCE_BYTES:
            return None
        return HalfRows(np.fromfile(half[0], "<f4", half[1]))

    def _known_file(self, suffix: str) -> tuple[Path, int] | None:
        """With its dimension. `mean@0.5` is a view as well: only a number may stand between the name and the suffix."""
        for path in self._folder.glob(f"*.{suffix}"):
            width = path.name.removesuffix(f".{suffix}").removeprefix(f"{self._name}.")
            if width.isdecimal():
                return path, int(width)
        return None

    def _whole_keys(self, rows: Rows) -> list[bytes]:
        """Keys whose row is whole too."""
        path = self._keys(rows)
        content = path.read_bytes() if path.exists() else b""
        whole = (self._path(rows).stat().st_size - len(rows.header)) // rows.row_type.itemsize
        count = min(len(content) // KEY_BYTES, whole)
        return [content[start : start + KEY_BYTES] for start in range(0, count * KEY_BYTES, KEY_BYTES)]


def _write_at(path: Path, position: int, data: bytes) -> None:
    """After `position`, whatever was there before."""
    path.touch()
    with path.open("r+b") as file:
        file.truncate(position)
        file.seek(position)
        file.write(data)

"""Vectors of one view on disk, found by the text's digest: two files that only grow.

`NAME.<dim>.f32` holds rows, `NAME.keys` their digests, in the same order. Rows are written first, and are on the disk
(fsync) before their keys are written at all: whatever a killed process or a power cut leaves half written is beyond
the last whole key and is overwritten.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float32

KEY_BYTES = 16
_FLOAT_BYTES = 4


class VectorFile:
    """Rows by key. One process writes at a time (see `VectorCache`)."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._name = folder, name
        self._keys = folder / f"{name}.keys"
        self._rows: dict[bytes, int] = {}
        self._pending: list[bytes] = []
        self._dimension = self._known_dimension()
        if self._dimension is not None:
            self._rows = {key: row for row, key in enumerate(self._whole_keys(self._dimension))}

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, key: bytes) -> bool:
        return key in self._rows

    def read(self, keys: Sequence[bytes]) -> Float32[np.ndarray, "texts dim"]:
        """Rows in the order of `keys`, each of which must be there."""
        if self._dimension is None:
            raise KeyError(f"{self._keys}: nothing was written")
        stored = np.memmap(self._path(self._dimension), np.float32, "r", shape=(len(self._rows), self._dimension))
        return np.asarray(stored[[self._rows[key] for key in keys]])

    def append(self, keys: Sequence[bytes], vectors: Float32[np.ndarray, "texts dim"]) -> None:
        """Add rows, which are kept from the next `commit` on; keys that are there already are passed over."""
        fresh = [index for index, key in enumerate(keys) if key not in self._rows]
        if not fresh:
            return
        self._dimension = int(vectors.shape[1])
        count = len(self._rows)
        path = self._path(self._dimension)
        _write_at(path, count * self._dimension * _FLOAT_BYTES, np.ascontiguousarray(vectors[fresh]).tobytes())
        self._rows.update({keys[index]: count + offset for offset, index in enumerate(fresh)})
        self._pending += [keys[index] for index in fresh]

    def commit(self) -> None:
        """Make what was appended last: rows to the disk, then their keys."""
        if not self._pending or self._dimension is None:
            return
        with self._path(self._dimension).open("r+b") as rows:
            os.fsync(rows.fileno())
        kept = len(self._rows) - len(self._pending)
        _write_at(self._keys, kept * KEY_BYTES, b"".join(self._pending))
        self._pending.clear()

    def _path(self, dimension: int) -> Path:
        return self._folder / f"{self._name}.{dimension}.f32"

    def _known_dimension(self) -> int | None:
        """`mean@0.5` is a view as well: only a number may stand between the name and the suffix."""
        names = (path.name.removesuffix(".f32") for path in self._folder.glob("*.f32"))
        widths = [name.removeprefix(f"{self._name}.") for name in names]
        return next((int(width) for width in widths if width.isdecimal()), None)

    def _whole_keys(self, dimension: int) -> list[bytes]:
        """Keys whose row is whole too."""
        content = self._keys.read_bytes() if self._keys.exists() else b""
        rows = self._path(dimension).stat().st_size // (dimension * _FLOAT_BYTES)
        count = min(len(content) // KEY_BYTES, rows)
        return [content[start : start + KEY_BYTES] for start in range(0, count * KEY_BYTES, KEY_BYTES)]


def _write_at(path: Path, position: int, data: bytes) -> None:
    """After `position`, whatever was there before."""
    path.touch()
    with path.open("r+b") as file:
        file.truncate(position)
        file.seek(position)
        file.write(data)

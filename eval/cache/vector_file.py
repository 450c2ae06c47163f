"""Vectors of one view on disk, found by the text's digest: two files that only grow.

`NAME.<dim>.f32` holds rows, and `NAME.keys` their digests, in the same order. Rows are written first, and are on the
disk (fsync) before their keys are written at all: whatever a killed process or a power cut leaves half written is
beyond the last whole key and is overwritten.

Rows are in single precision, as they were computed: a figure is the same with a cache and without one, whatever was
kept before. Half precision needs a reference near the vectors (states have dimensions whose mean is a thousand times
their spread), and which vectors are near depends on the texts that come first; so files that earlier versions have
written in half precision (`f16`) are not read, and are removed when the view is begun anew.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float32

KEY_BYTES = 16


class VectorFile:
    """Rows by key. One process writes at a time (see `VectorCache`)."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._name = folder, name
        self._pending: list[bytes] = []
        self._dimension = self._known_dimension()
        self._index = {key: row for row, key in enumerate(self._whole_keys())}

    def __len__(self) -> int:
        return len(self._index)

    def __contains__(self, key: bytes) -> bool:
        return key in self._index

    def read(self, keys: Sequence[bytes]) -> Float32[np.ndarray, "texts dim"]:
        """Rows in the order of `keys`, each of which must be there."""
        if self._dimension is None:
            raise KeyError(f"{self._folder / self._name}: nothing was written")
        stored = np.memmap(self._rows, "<f4", "r", shape=(len(self._index), self._dimension))
        return np.asarray(stored[[self._index[key] for key in keys]], dtype=np.float32)

    def append(self, keys: Sequence[bytes], vectors: Float32[np.ndarray, "texts dim"]) -> None:
        """Add rows, which are kept from the next `commit` on; keys that are there already are passed over."""
        fresh = [index for index, key in enumerate(keys) if key not in self._index]
        if not fresh:
            return
        count = len(self._index)
        if self._dimension is None:
            self._dimension = vectors.shape[1]
            self._remove_half()
        _write_at(self._rows, count * self._row_bytes, vectors[fresh].astype("<f4").tobytes())
        self._index.update({keys[index]: count + offset for offset, index in enumerate(fresh)})
        self._pending += [keys[index] for index in fresh]

    def commit(self) -> None:
        """Make what was appended last: rows to the disk, then their keys."""
        if not self._pending:
            return
        with self._rows.open("r+b") as rows:
            os.fsync(rows.fileno())
        kept = len(self._index) - len(self._pending)
        _write_at(self._keys, kept * KEY_BYTES, b"".join(self._pending))
        self._pending.clear()

    @property
    def _rows(self) -> Path:
        return self._folder / f"{self._name}.{self._dimension}.f32"

    @property
    def _keys(self) -> Path:
        return self._folder / f"{self._name}.keys"

    @property
    def _row_bytes(self) -> int:
        return 4 * (self._dimension or 0)

    def _known_dimension(self) -> int | None:
        """That of the file, None without one."""
        widths = (self._width(path, ".f32") for path in self._folder.glob("*.f32"))
        return next((int(width) for width in widths if width.isdecimal()), None)

    def _width(self, path: Path, suffix: str) -> str:
        """`mean@0.5` is a view as well as `mean@0`: only of a file of this view a number is left."""
        return path.name.removesuffix(suffix).removeprefix(f"{self._name}.")

    def _whole_keys(self) -> list[bytes]:
        """Keys whose row is whole too."""
        if self._dimension is None:
            return []
        content = self._keys.read_bytes() if self._keys.exists() else b""
        count = min(len(content) // KEY_BYTES, self._rows.stat().st_size // self._row_bytes)
        return [content[start : start + KEY_BYTES] for start in range(0, count * KEY_BYTES, KEY_BYTES)]

    def _remove_half(self) -> None:
        for path in self._folder.glob("*.f16"):
            if self._width(path, ".f16").isdecimal():
                path.unlink()
        (self._folder / f"{self._name}.keys16").unlink(missing_ok=True)


def _write_at(path: Path, position: int, data: bytes) -> None:
    """After `position`, whatever was there before."""
    path.touch()
    with path.open("r+b") as file:
        file.truncate(position)
        file.seek(position)
        file.write(data)

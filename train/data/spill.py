"""Which rows have something in common, for more rows than fit into memory: records are grouped on the disk.

spill = Spill(2)
spill.add(np.stack([hashes, rows], axis=1))     # block by block
for part in spill.parts(): ...                  # all records of a hash are in one part, in ascending order

"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dec2vec.errors import UserError
from dec2vec.files.atomic import why_not_written

Records = NDArray[np.int64]
"""One record a row; the first columns are the key."""
PARTS = 64
"""In how many parts the records are read back: one at a time is in memory."""
WAITING = 1 << 18
"""Number of records that are written together."""


class Spill:
    """Records of whole numbers, `width` of them each, in temporary files, by the leading bits of the first number."""

    def __init__(self, width: int) -> None:
        self._width = width
        folder = tempfile.mkdtemp(prefix="dec2vec-")
        self._remove = weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self._files = [Path(folder, f"{part}.bin") for part in range(PARTS)]
        self._waiting: list[Records] = []
        self._size = 0

    def add(self, records: Records) -> None:
        """Append records; UserError if the temporary folder has no room for them."""
        self._waiting.append(records)
        self._size += len(records)
        if self._size >= WAITING:
            self._write()

    def parts(self) -> Iterator[Records]:
        """The records in ascending order, a part at a time; once only."""
        self._write()
        for path in self._files:
            if path.exists():
                records = np.frombuffer(path.read_bytes(), dtype=np.int64).reshape(-1, self._width)
                yield records[np.lexsort(records.T[::-1])]
        self._remove()

    def _write(self) -> None:
        if not self._waiting:
            return
        records = np.concatenate(self._waiting)
        self._waiting, self._size = [], 0
        part = (records[:, 0] >> 58) + PARTS // 2
        order = np.argsort(part, kind="stable")
        edges = np.searchsorted(part[order], np.arange(PARTS + 1)).tolist()
        try:
            for path, (start, stop) in zip(self._files, pairwise(edges), strict=True):
                with path.open("ab") as file:
                    file.write(records[order[start:stop]].tobytes())
        except OSError as error:
            place = tempfile.gettempdir()
            raise UserError(f"{place} cannot be written: {why_not_written(error, 'TMPDIR')}") from error

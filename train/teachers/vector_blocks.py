"""Vectors of many texts, block by block into a file that appears when it is complete.

    write_blocks(cache / "1f0c.npy", encode, [("a dog", "query"), ...], "bge-small")

Until then the blocks are in `NAME.part`, each flushed to the disk before the next one is computed. Whoever finds such a
file, which a killed process has left, goes on behind its last complete block: the texts of a block are always embedded
together, so that the vectors are those of an undisturbed call.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from dec2vec.files.atomic import fsync_directory
from dec2vec.prompts.prompt import Side
from train.data.batch import Asked

BLOCK = 1024
"""Number of texts that are embedded together; a kill costs the time of at most one block."""
SIDES: tuple[Side, ...] = ("text", "query", "document")
Encode = Callable[[list[str], Side], NDArray[np.float32]]
_DELAY = 3.0
"""Seconds before a progress bar is shown."""


def write_blocks(path: Path, encode: Encode, texts: Sequence[Asked], name: str) -> None:
    """Write a .npy file of float32 with a row for each text. The caller holds the lock of the folder."""
    part = path.with_suffix(".part")
    for other in set(path.parent.glob("*.part")) - {part}:
        other.unlink()  # of other texts, or of another teacher, that nobody asks for any more
    done = _finished_rows(part, len(texts))
    # a memory map would end the process where the disk is full (SIGBUS)
    with (
        part.open("r+b" if done else "wb") as file,
        tqdm(total=len(texts), initial=done, desc=f"teacher {name}", unit="text", delay=_DELAY, leave=False) as bar,
    ):
        file.seek(0, os.SEEK_END)
        for start in range(done, len(texts), BLOCK):
            block = _block(encode, texts[start : start + BLOCK])
            if start == 0:
                _write_header(file, (len(texts), block.shape[1]))
            file.write(np.ascontiguousarray(block, dtype="<f4").data)
            file.flush()
            os.fsync(file.fileno())
            bar.update(len(block))
    part.replace(path)
    fsync_directory(path.parent)


def _write_header(file: BinaryIO, shape: tuple[int, int]) -> None:
    np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})


def _finished_rows(part: Path, rows: int) -> int:
    """The rows of complete blocks in a file for so many rows, which is cut behind them; 0 if there is none to use."""
    try:
        with part.open("r+b") as file:
            if np.lib.format.read_magic(file) != (1, 0):
                return 0
            (count, width), _, _ = np.lib.format.read_array_header_1_0(file)
            start, size = file.tell(), file.seek(0, os.SEEK_END)
            written = (size - start) // (4 * width)
            done = rows if written >= rows else written // BLOCK * BLOCK
            if count != rows or not done:
                return 0
            file.truncate(start + 4 * width * done)
            return int(done)
    except (FileNotFoundError, ValueError):
        return 0


def _block(encode: Encode, texts: Sequence[Asked]) -> NDArray[np.float32]:
    """The vectors of a block. The texts of each side are embedded together."""
    of_side = {side: [row for row, (_, own) in enumerate(texts) if own == side] for side in SIDES}
    vectors = np.concatenate([encode([texts[row][0] for row in rows], side) for side, rows in of_side.items() if rows])
    found = np.empty_like(vectors)
    found[[row for rows in of_side.values() for row in rows]] = vectors
    return found

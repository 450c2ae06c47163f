"""Read and write vectors on disk: a .npy, a .parquet, or a folder of shards."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from jaxtyping import Float32, Int64
from numpy.typing import NDArray

from dec2vec.corpus.shards import INDEX, read_index
from dec2vec.errors import UserError
from dec2vec.files.atomic import atomic_path, written

BLOCK = 65_536
"""Number of rows in memory at a time."""


@dataclass(frozen=True)
class VectorFile:
    """One file of vectors, and the number of its first row in the corpus."""

    path: Path
    first: int
    rows: int

    def read(self) -> NDArray[Any]:
        """The vectors (rows, d). A .npy is mapped into memory."""
        if self.path.suffix == ".npy":
            return _open_npy(self.path)
        return _read_parquet(self.path)


@dataclass(frozen=True)
class StoredVectors:
    """All vectors of a corpus, in order."""

    name: str
    parts: tuple[VectorFile, ...]
    dimension: int

    def __len__(self) -> int:
        return sum(part.rows for part in self.parts)

    def blocks(self, size: int = BLOCK) -> Iterator[tuple[int, Float32[np.ndarray, "rows dim"]]]:
        """Yield (first row, vectors) of at most `size` rows. UserError for a file that differs from its index."""
        for part in self.parts:
            array = part.read()
            if array.shape != (part.rows, self.dimension):
                wanted = f"{part.rows} x {self.dimension}"
                raise UserError(f"{part.path}: {' x '.join(map(str, array.shape))} numbers, not {wanted}; encode again")
            for start in range(0, part.rows, size):
                yield part.first + start, np.ascontiguousarray(array[start : start + size], dtype=np.float32)

    def take(self, rows: Int64[np.ndarray, " rows"]) -> Float32[np.ndarray, "rows dim"]:
        """The given rows, in ascending order of their numbers."""
        rows = np.sort(rows)
        parts = [block[rows[(rows >= first) & (rows < first + len(block))] - first] for first, block in self.blocks()]
        return np.concatenate(parts)

    def everything(self) -> Float32[np.ndarray, "rows dim"]:
        """All rows, in memory."""
        return np.concatenate([block for _, block in self.blocks()])


def open_vectors(path: Path) -> StoredVectors:
    """Open a file or folder of vectors. UserError if it has none, or none that can be read."""
    if path.is_dir():
        index = read_index(path)
        parts = tuple(VectorFile(path / shard.file, shard.first, shard.rows) for shard in index.shards)
        return StoredVectors(str(path), parts, index.dimension)
    if not path.is_file():
        raise UserError(f"{path} does not exist")
    if path.suffix not in (".npy", ".parquet"):
        raise UserError(
            f"{path}: vectors must be a .npy file, a .parquet file or a folder with {INDEX}; write them with encode"
        )
    part = VectorFile(path, 0, 0)
    array = part.read()
    if not len(array):
        raise UserError(f"{path} is empty: it has no vectors")
    return StoredVectors(str(path), (VectorFile(path, 0, len(array)),), int(array.shape[1]))


def holds_vectors(path: Path) -> bool:
    """Whether a file or folder has vectors. A .parquet may have texts only."""
    if path.suffix == ".parquet" and path.is_file():
        import pyarrow
        import pyarrow.parquet

        try:
            return "embedding" in pyarrow.parquet.read_schema(path).names
        except (pyarrow.ArrowException, OSError) as error:
            raise UserError(f"{path}: not a readable parquet file: {error}") from None
    return path.suffix == ".npy" or (path / INDEX).is_file()


def _open_npy(path: Path) -> NDArray[Any]:
    """Map a .npy into memory. An array of objects is refused, because it would be read as a pickle."""
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not a readable .npy file of numbers ({error}); write it with encode") from None
    if array.ndim != 2 or array.dtype.kind != "f":
        raise UserError(f"{path}: {array.ndim}-dimensional {array.dtype}, not a matrix of floats; write it with encode")
    return array


def _read_parquet(path: Path) -> NDArray[Any]:
    """The lists of the column embedding as rows; pandas writes lists of any length, `encode` of a fixed one."""
    import pyarrow
    import pyarrow.compute
    import pyarrow.parquet

    try:
        column = pyarrow.parquet.read_table(path, columns=["embedding"])["embedding"]
        widths: NDArray[Any] = pyarrow.compute.list_value_length(column).to_numpy()  # nan where a row is null
        flat: NDArray[Any] = pyarrow.compute.list_flatten(column).to_numpy()
    except (pyarrow.ArrowException, OSError, KeyError) as error:
        raise UserError(f"{path}: there is no column embedding with vectors ({error}); write it with encode") from None
    if flat.dtype.kind != "f":
        raise UserError(f"{path}: embedding holds {flat.dtype}, not floats; write it with encode")
    odd = np.flatnonzero(widths != widths[:1])  # nan differs from itself
    if len(odd):
        row = int(odd[0])
        found = "is null" if np.isnan(widths[row]) else f"has {widths[row]:g} numbers, and row 1 has {widths[0]:g}"
        raise UserError(f"{path} row {row + 1}: embedding {found}; give each row a vector of the same length")
    return flat.reshape(len(widths), int(widths[0]) if len(widths) else 0)


def write_vectors(
    path: Path, texts: list[str], vectors: NDArray[np.float32], images: list[str | None] | None = None
) -> None:
    """Write a .npy, or a .parquet with the texts and images; after a crash the file is the old one or the new one."""
    with written(path), atomic_path(path) as temporary:
        if path.suffix == ".parquet":
            _write_parquet(temporary, texts, vectors, images)
        else:
            with temporary.open("wb") as file:
                write_npy(file, vectors)


def write_npy(file: IO[bytes], vectors: NDArray[np.float32]) -> None:
    """`np.save`, whose errors do not say why a write failed."""
    rows = np.ascontiguousarray(vectors)
    header = {"descr": np.lib.format.dtype_to_descr(rows.dtype), "fortran_order": False, "shape": rows.shape}
    np.lib.format.write_array_header_1_0(file, header)
    file.write(rows.data)


def _write_parquet(path: Path, texts: list[str], vectors: NDArray[np.float32], images: list[str | None] | None) -> None:
    import pyarrow
    import pyarrow.parquet

    from dec2vec.prompts.tokenizer import clean_surrogates

    texts = [clean_surrogates(text) for text in texts]
    flat = pyarrow.array(vectors.ravel(), type=pyarrow.float32())
    embedding = pyarrow.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
    named = {}
    if images is not None:  # names of files may be no UTF-8
        shown = [None if image is None else clean_surrogates(image) for image in images]
        named = {"image": pyarrow.array(shown, type=pyarrow.string())}
    pyarrow.parquet.write_table(pyarrow.table({"text": texts, **named, "embedding": embedding}), path)

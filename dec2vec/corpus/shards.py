"""A folder of vectors in shards such as `shard-00003.npy`, each with a note, and `index.json` when all are done.

A shard is done when its note exists and matches the file and the texts; the note is written last. Notes do not depend
on the process that wrote them, so any number of processes may work on a folder, also after a crash.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from dec2vec.errors import UserError
from dec2vec.files.atomic import atomic_write_text, sha256_file, written

INDEX = "index.json"
FORMAT = 1
_NAME = re.compile(r"shard-(\d{5,})\.(?:npy|parquet|json)")


@dataclass(frozen=True)
class Shard:
    """Rows `first` to `first + rows - 1` of the corpus. `reading` is a digest of the model and the options."""

    file: str
    first: int
    rows: int
    dimension: int
    sha256: str
    texts: str
    reading: str


@dataclass(frozen=True)
class Index:
    """All shards, in order."""

    format: int
    rows: int
    dimension: int
    shards: list[Shard]


def shard_path(folder: Path, number: int, suffix: str) -> Path:
    """The path of a shard, such as `shard-00003.npy`."""
    return folder / f"shard-{number:05d}{suffix}"


def texts_digest(texts: Sequence[str]) -> str:
    """sha256 of texts and their lengths, so that different lists of texts have different digests."""
    digest = hashlib.sha256()
    for text in texts:
        data = text.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()


def read_note(path: Path) -> Shard | None:
    """The note of a shard file; None if it is missing or damaged, for instance by a power cut."""
    try:
        return TypeAdapter(Shard).validate_json(path.with_suffix(".json").read_bytes())
    except (OSError, ValidationError, ValueError):
        return None


def write_note(path: Path, shard: Shard) -> None:
    """Write the note of a shard, after which the shard is done."""
    with written(path.with_suffix(".json")):
        atomic_write_text(path.with_suffix(".json"), json.dumps(asdict(shard)) + "\n")


def is_done(path: Path, wanted: Shard) -> bool:
    """Whether the shard on disk is complete and holds the vectors of these texts.

    `wanted` does not have the file's digest and dimension yet. UserError for the shard of another model or of other
    options, because they must not be mixed.
    """
    note = read_note(path)
    if note is None:
        return False
    if note.reading != wanted.reading:
        raise UserError(
            f"output {path.parent}: {path.name} was written by another model or with other options; use another "
            "folder, or remove this one"
        )
    return is_same(note, wanted) and path.is_file() and sha256_file(path) == note.sha256


def is_same(note: Shard, wanted: Shard) -> bool:
    """Whether a note is for the same rows, texts, model and options."""
    return replace(note, dimension=0, sha256="") == replace(wanted, dimension=0, sha256="")


def write_index(folder: Path, wanted: Sequence[Shard]) -> Index | None:
    """Write `index.json` if all shards are done, and remove shards that an earlier, longer input has left.

    The process that finishes last finds all shards; if two do, they write the same. Each process has compared the
    files of its own shards with their notes.
    """
    notes = [read_note(folder / shard.file) for shard in wanted]
    shards = [note for note, shard in zip(notes, wanted, strict=True) if note is not None and is_same(note, shard)]
    if len(shards) < len(wanted):
        return None
    for path in folder.iterdir():
        match = _NAME.fullmatch(path.name)
        if match is not None and int(match.group(1)) >= len(wanted):
            path.unlink(missing_ok=True)
    index = Index(FORMAT, sum(shard.rows for shard in shards), shards[0].dimension, shards)
    with written(folder / INDEX):
        atomic_write_text(folder / INDEX, json.dumps(asdict(index), indent=1) + "\n")
    return index


def read_index(folder: Path) -> Index:
    """Read `index.json`. UserError if the folder is not complete."""
    try:
        index = TypeAdapter(Index).validate_json((folder / INDEX).read_bytes())
    except OSError:
        raise UserError(f"{folder}: no {INDEX}; run the same `dec2vec encode` again to finish it") from None
    except (ValidationError, ValueError) as error:
        raise UserError(f"{folder / INDEX}: damaged ({type(error).__name__}); encode the corpus again") from None
    if index.format != FORMAT:
        raise UserError(f"{folder / INDEX}: format {index.format} is not {FORMAT}; update dec2vec")
    return index

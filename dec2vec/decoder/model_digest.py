"""A digest of a model folder: equal for equal files wherever they lie, and computed in seconds for any size."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

from dec2vec.config.model import ModelConfig
from dec2vec.decoder.model_folders import MARKER, find

WHOLE = 64 << 20
"""Bytes of a file up to which all of it is read."""
BLOCKS, BLOCK = 256, 64 << 10
"""Number and size of the evenly spaced blocks that are read of a larger file, the first and the last included."""
_SUFFIXES = frozenset({".safetensors", ".json", ".jinja", ".model", ".txt", ".py"})
_LOCATION = ("name_or_path", "revision", "device", "trust_remote_code", "max_pixels")


def model_digest(name: str) -> str | None:
    """sha256 of the files on which the vectors of the model in the folder `name` depend; None for a Hub id.

    For an adapter of dec2vec this includes its base. Of files above 64 MiB only the size and evenly spaced blocks are
    read: tuned weights differ in nearly all of them.
    """
    root = Path(name)
    if not root.is_dir():
        return None
    folders, digest = [root], hashlib.sha256()
    artifact = find(ModelConfig(name_or_path=name))
    if artifact is not None:
        reading = {key: value for key, value in dataclasses.asdict(artifact.config).items() if key not in _LOCATION}
        if artifact.published is not None:
            reading["published"] = artifact.published.reading.as_json()
        if artifact.head is not None:
            reading["head"] = [dataclasses.asdict(step) for step in artifact.head.steps]
        digest.update(json.dumps(reading, sort_keys=True).encode("utf-8", "surrogatepass"))
        folders = [path for path in (artifact.adapter, Path(artifact.base.name_or_path)) if path is not None]
    for folder in folders:
        if not folder.is_dir():  # a base on the Hub, pinned by its revision
            digest.update(f"{folder} {None if artifact is None else artifact.base.revision}\n".encode())
        for path in _files(folder):
            digest.update(f"{path.relative_to(folder)} {_file_digest(path)}\n".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def _files(folder: Path) -> list[Path]:
    """Files of the model and of its sentence-transformers modules, such as 1_Pooling."""
    paths = [*folder.glob("*"), *folder.glob("[0-9]*_*/*")]
    return sorted(path for path in paths if path.suffix in _SUFFIXES and path.name != MARKER and path.is_file())


def _file_digest(path: Path) -> str:
    size, digest = path.stat().st_size, hashlib.sha256()
    starts = range(0, size, BLOCK)
    if size > WHOLE:
        starts = range(0, size - BLOCK + 1, (size - BLOCK) // (BLOCKS - 1))
        digest.update(f"{size}".encode())
    with path.open("rb") as file:
        for start in starts:
            file.seek(start)
            digest.update(file.read(BLOCK))
    return digest.hexdigest()

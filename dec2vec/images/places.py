"""Images by their place: those of a folder, and the cells of a table. No place leads out of the folder that is read.

A table and a folder come from somewhere, and a path in them (`../../secret.png`, a link) could name any file of this
machine. So a path counts from the folder of the table, and has to stay in it or in the `root` that the user names.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dec2vec.errors import UserError
from dec2vec.images.items import Item
from dec2vec.images.opening import BYTES, a_kind, cell_content

SUFFIXES = frozenset(
    [
        ".jpg",
        ".jpeg",
        ".jfif",
        ".mpo",
        ".png",
        ".webp",
        ".gif",
        ".bmp",
        ".dib",
        ".tif",
        ".tiff",
        ".ppm",
        ".pgm",
        ".pbm",
        ".pnm",
        ".avif",
        ".jp2",
    ]
)
BLOCK = 1 << 20
SHOWN = 200
"""Number of characters of a path that an error shows. A cell may hold a whole image in base64."""


def is_image_folder(path: Path) -> bool:
    """Whether a folder, or one within it, has a file with the suffix of an image."""
    return path.is_dir() and any(Path(name).suffix.lower() in SUFFIXES for _, names in _places(path) for name in names)


def images_of_folder(folder: Path, root: Path | None) -> tuple[list[Item], list[str]]:
    """The images of a folder and of all folders within it, by path, and the names of the other files."""
    found: list[Item] = []
    others: list[str] = []
    for place, names in _places(folder):
        for name in sorted(names):
            path = place / name
            if path.suffix.lower() in SUFFIXES:
                found.append(Item("", _within(path, root or folder, str(path)), str(path)))
            else:
                others.append(str(path.relative_to(folder)))
    return found, others


def _places(folder: Path) -> Iterator[tuple[Path, list[str]]]:
    """The folder and all within it, with the names of their files. UserError for one that would be left out."""

    def refuse(error: OSError) -> None:
        raise UserError(f"{error.filename}: can't be read ({error.strerror}); make it readable, or move it away")

    for place, folders, names in os.walk(folder, onerror=refuse):
        folders.sort()
        for name in folders:
            if (Path(place) / name).is_symlink():
                raise UserError(
                    f"{place}/{name}: a link to a folder, which is not followed; put the folder itself there, or "
                    "remove the link"
                )
        yield Path(place), names


def cell_image(value: object, folder: Path, root: Path | None, where: str) -> object:
    """The image of a table's cell: bytes as they are, a path within the folder. UserError for null and for others."""
    if is_empty_cell(value):
        raise UserError(f"{where}: there is no image; fill it or remove the row")
    if isinstance(value, Mapping):
        value = cell_content(value, where)
    if isinstance(value, str):
        return _within(folder / value, root or folder, f"{where} ({value[:SHOWN]})")
    if isinstance(value, BYTES) or hasattr(value, "getexif"):
        return value
    raise UserError(f"{where}: {a_kind(value)} is no image; use a path, bytes or an Image column of datasets")


def is_empty_cell(value: object) -> bool:
    """Whether a cell holds no image: null, an empty text as in a csv, or an Image of `datasets` without content."""
    if isinstance(value, Mapping):
        return all(value.get(key) is None for key in ("bytes", "path")) and not set(value) - {"bytes", "path"}
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def shown_path(value: object) -> str | None:
    """The path of a cell as it stands there; None for bytes."""
    if isinstance(value, Mapping):
        value = value.get("path")
    return value if isinstance(value, str) else None


def content_hash(image: Any) -> str:
    """A digest of what is stored of an image: the bytes of its file, or the pixels of an image of Pillow."""
    digest = hashlib.blake2b(digest_size=16)
    if isinstance(image, Path):
        with image.open("rb") as file:
            while block := file.read(BLOCK):
                digest.update(block)
    else:
        digest.update(image if isinstance(image, BYTES) else image.tobytes())
    return digest.hexdigest()


def _within(path: Path, root: Path, where: str) -> Path:
    """The path with its links followed. UserError if it leads out of `root`."""
    try:
        real = path.resolve()
        inside = real.is_relative_to(root.resolve())
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"{where}: not a usable path ({error}); correct it") from None
    if not inside:
        raise UserError(
            f"{where}: leads out of {root} (to {real}); put the image into it, or name a folder that holds all images "
            "with --image_root"
        )
    return real

"""What `dec2vec encode` embeds: the texts of a file, the images of a folder, or a column of images with its texts."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path

from dec2vec.errors import UserError
from dec2vec.files.cells import is_absent
from dec2vec.files.sources import holds_rows
from dec2vec.files.tables import Table, block_texts, count_rows, iter_tables, read_table, read_texts
from dec2vec.images.items import Item
from dec2vec.images.opening import check_image
from dec2vec.images.places import (
    SHOWN,
    cell_image,
    content_hash,
    images_of_folder,
    is_empty_cell,
    is_image_folder,
    shown_path,
)

_MANY = "{} files have no suffix of an image and are"
DEFAULT_COLUMN = "text"
"""The column of texts that may be absent beside images. Another one has been named, so that it has to be there."""


@dataclass(frozen=True)
class Block:
    """Inputs in order, with what is written beside their vectors."""

    inputs: Sequence[object]
    texts: list[str]
    images: list[str | None] | None = None
    """Paths of the images as they were given, None for bytes; None if the inputs are texts alone."""

    def facts(self, *, with_paths: bool) -> list[str]:
        """What a vector depends on of each input, for a digest: its text, and a hash of its image.

        `with_paths` if the paths of the images are written beside the vectors: then another path is another file.
        """
        if self.images is None:
            return self.texts
        hashes = [
            content_hash(item.image) if isinstance(item, Item) and item.image is not None else ""
            for item in self.inputs
        ]
        paths = [f"\0{path or ''}" if with_paths else "" for path in self.images]
        return [f"{text}\0{found}{path}" for text, found, path in zip(self.texts, hashes, paths, strict=True)]


@dataclass(frozen=True)
class Source:
    """A file or a folder, the columns that are read, and the largest image."""

    path: Path
    column: str
    image_column: str | None
    image_root: Path | None
    max_pixels: int

    def everything(self) -> Block:
        """All inputs. The headers of images are checked; UserError for the first that can't be read."""
        if self._is_folder:
            return self._checked(self._folder)
        if self.image_column is None:
            texts = read_texts(self.path, self.column)
            return Block(texts, texts)
        return self._checked(self._of_table(read_table(self.path, [self.image_column])))

    def blocks(self, size: int) -> Iterator[Block]:
        """The same in blocks of `size`, each of which is read when it is reached."""
        if self._is_folder:
            items = iter(self._folder.inputs)
            while part := list(islice(items, size)):
                yield self._checked(_items_as_block([item for item in part if isinstance(item, Item)]))
            return
        for table in iter_tables(self.path, size):
            if self.image_column is None:
                texts = block_texts(self.path, table, self.column)
                yield Block(texts, texts)
            else:
                table.require([self.image_column])
                yield self._checked(self._of_table(table))

    def count(self) -> int:
        """The number of inputs; UserError if there is none."""
        return len(self._folder.inputs) if self._is_folder else count_rows(self.path)

    @property
    def has_images(self) -> bool:
        """Whether images are among the inputs."""
        return self.image_column is not None or self._is_folder

    @cached_property
    def _is_folder(self) -> bool:
        return self.image_column is None and _reads_as_images(self.path)

    @cached_property
    def _folder(self) -> Block:
        """The images of the folder; its other files are told once."""
        items, others = images_of_folder(self.path, self.image_root)
        if others:
            shown = ", ".join(others[:3]) + " ..." * (len(others) > 3)
            told = "1 file has no suffix of an image and is" if len(others) == 1 else _MANY.format(len(others))
            sys.stderr.write(f"{self.path}: {told} left out: {shown}\n")
        return _items_as_block(items)

    def _of_table(self, table: Table) -> Block:
        """The images of a column, each with the text that its row has in the column of texts."""
        assert self.image_column is not None
        if self.column not in ("", DEFAULT_COLUMN):
            table.require([self.column])
        items = [self._of_row(table, row) for row in range(len(table))]
        paths = [shown_path(row[self.image_column]) for row in table.rows]
        return Block(items, [item.text for item in items], paths)

    def _of_row(self, table: Table, row: int) -> Item:
        """An image, its text or both. Which of them a row has is its own matter. UserError if it has neither."""
        assert self.image_column is not None
        where = f"{table.where(row)}: {self.image_column}"
        has_text = self.column and not is_absent(table.rows[row].get(self.column))
        text = table.text(row, self.column, may_be_blank=True) if has_text else ""
        value = table.rows[row][self.image_column]
        if text and is_empty_cell(value):
            return Item(text, None, where)
        folder = self.path if self.path.is_dir() else self.path.parent
        image = cell_image(value, folder, self.image_root, where)
        path = shown_path(value)
        return Item(text, image, where if path is None else f"{where} ({path[:SHOWN]})")

    def _checked(self, block: Block) -> Block:
        for item in block.inputs:
            if isinstance(item, Item) and item.image is not None:
                check_image(item.image, item.where, self.max_pixels)
        return block


def _reads_as_images(path: Path) -> bool:
    """Whether a folder is one of images. One with a table in it is a table, whatever pictures are beside it."""
    return not holds_rows(path) and is_image_folder(path)


def _items_as_block(items: list[Item]) -> Block:
    return Block(items, [item.text for item in items], [item.where for item in items])


def check_image_options(path: Path, image_column: str | None, image_root: Path | None) -> None:
    """UserError for options of images that do not fit the input."""
    if image_root is not None and not image_root.is_dir():
        raise UserError(f"image_root {image_root}: there is no such folder; give the folder that holds all images")
    if image_root is not None and image_column is None and not _reads_as_images(path):
        raise UserError("image_root is for images; name their column with --image_column, or give a folder of images")
    if image_column is not None and path.suffix.lower() == ".txt":
        raise UserError(f"image_column {image_column}: {path} has lines and no columns; use .csv, .jsonl or .parquet")

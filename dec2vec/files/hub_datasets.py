"""Read the rows of data sets that were saved with `datasets` or are on the Hub."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from dec2vec.errors import UserError
from dec2vec.files.formats import Numbered

HUB_ID = re.compile(r"(\w[\w.-]*/)?\w[\w.-]*")
"""`owner/name`, or the bare `name` of a few old models."""


def saved_rows(path: Path, split: str) -> Iterator[Numbered]:
    import datasets

    try:
        saved = datasets.load_from_disk(str(path))
    except (OSError, ValueError) as error:
        raise UserError(f"folder {path} is not a data set written by datasets.save_to_disk: {error}") from None
    if isinstance(saved, datasets.DatasetDict):
        if split not in saved:
            raise UserError(f"{path} has no split {split!r}; it has {', '.join(map(str, saved))}")
        saved = saved[split]
    return enumerate(saved, start=1)


def hub_splits(name: str, subset: str | None = None) -> list[str]:
    """The splits of a subset of a Hub data set."""
    import datasets

    try:
        return list(map(str, datasets.get_dataset_split_names(name, subset)))
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise UserError(f"{name} is not a local file or folder, and cannot be read from the Hub: {error}") from None


def hub_rows(name: str, split: str, subset: str | None, streaming: bool) -> Iterator[Numbered]:
    """Read a Hub data set. When streaming, missing files and lost connections show only when they are reached."""
    import datasets

    try:
        yield from enumerate(datasets.load_dataset(name, subset, split=split, streaming=streaming), start=1)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise UserError(f"{name} is not a local file or folder, and cannot be read from the Hub: {error}") from None

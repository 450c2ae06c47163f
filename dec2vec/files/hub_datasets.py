"""Read the rows of data sets that were saved with `datasets` or are on the Hub."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dec2vec.errors import UserError
from dec2vec.files.formats import Numbered

HUB_ID = re.compile(r"(\w[\w.-]*/)?\w[\w.-]*")
"""`owner/name`, or the bare `name` of a few old models."""
PARTS = re.compile(r"(?P<name>[^:@]+)(:(?P<subset>[\w.-]+))?(@(?P<split>[\w.\[\]:%+-]+))?")
_SAVED = ("dataset_info.json", "dataset_dict.json", "state.json")
"""Files of which `datasets.save_to_disk` writes at least one."""


def hub_parts(source: str) -> dict[str, str | None] | None:
    """`name`, `subset` and `split` of a Hub id; None for anything else."""
    parts = PARTS.fullmatch(source)
    if parts is None or "/" not in parts["name"] or Path(parts["name"]).parent.exists():
        return None
    return parts.groupdict() if HUB_ID.fullmatch(parts["name"]) else None


def is_hub_id(source: str) -> bool:
    """Whether `source` is owner/name, perhaps with `:subset` and `@split`, and no folder `owner` is here."""
    return hub_parts(source) is not None


def is_saved(path: Path) -> bool:
    """Whether a folder was written by `datasets.save_to_disk`."""
    return any((path / name).exists() for name in _SAVED)


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
    return enumerate(_as_stored(saved), start=1)


def _as_stored(rows: Any) -> Any:
    """The data set with its images as {"bytes", "path"}. Decoded they would need Pillow, and no bound would apply."""
    import datasets

    for name, feature in (rows.features or {}).items():
        if isinstance(feature, datasets.Image):
            rows = rows.cast_column(name, datasets.Image(decode=False))
    return rows


def hub_splits(name: str, subset: str | None = None) -> list[str]:
    """The splits of a subset of a Hub data set."""
    import datasets

    try:
        return list(map(str, datasets.get_dataset_split_names(name, subset)))
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise UserError(f"{name} is not a local file or folder, and cannot be read from the Hub: {error}") from None


def hub_commit(name: str, revision: str | None = None) -> str | None:
    """The commit of a Hub data set that is read now; None if the Hub does not answer."""
    from huggingface_hub import HfApi

    if revision is not None and re.fullmatch("[0-9a-f]{40}", revision):
        return revision
    try:
        return HfApi().dataset_info(name, revision=revision).sha
    except Exception:  # those of the library's HTTP client, which differ between its versions
        return None


def hub_rows(
    name: str, split: str, subset: str | None, streaming: bool, revision: str | None = None
) -> Iterator[Numbered]:
    """Read a Hub data set. When streaming, missing files and lost connections show only when they are reached."""
    import datasets

    pinned = {} if revision is None else {"revision": revision}
    try:
        found = datasets.load_dataset(name, subset, split=split, streaming=streaming, **pinned)
        yield from enumerate(_as_stored(found), start=1)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise UserError(f"{name} is not a local file or folder, and cannot be read from the Hub: {error}") from None

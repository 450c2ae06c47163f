"""Collections laid out as NanoBEIR's: parts `corpus`, `queries` and `qrels`, in which a split is a whole collection.

On the Hub the parts are subsets (sentence-transformers/NanoBEIR-en@NanoMSMARCO). Here they are folders or splits that
`datasets` has saved, or folders of a cloned repository with parquet files. The judgements have no scores.
"""

from __future__ import annotations

import json
from pathlib import Path

from dec2vec.errors import UserError
from dec2vec.files.hub_datasets import PARTS, hub_splits, is_saved

NANO_PARTS = ("corpus", "queries", "qrels")
Places = tuple[str, str, str, str]
"""The name of a collection, then the sources of its corpus, queries and qrels."""


def nano_on_hub(name: str, split: str | None) -> Places | None:
    """The parts of a Hub id; None if it has no subset `qrels`."""
    try:
        splits = hub_splits(name, "qrels")
    except UserError:
        return None
    chosen = _chosen(name, split, splits)
    corpus, queries, qrels = (f"{name}:{part}@{chosen}" for part in NANO_PARTS)
    return Path(name).name if chosen in ("train", "test") else chosen, corpus, queries, qrels


def nano_folder(path: Path) -> Places | None:
    """The parts in a folder, whose name may end in `@split`; None if it is laid out in another way."""
    root, split = path, None
    parts = PARTS.fullmatch(str(path))
    if not path.exists() and parts is not None and parts["split"]:
        root, split = Path(parts["name"]), parts["split"]
    if is_saved(root):
        has_parts = set(NANO_PARTS) <= set(_saved_splits(root) or ())
        return (root.name, *(f"{root}@{part}" for part in NANO_PARTS)) if has_parts else None  # type: ignore[return-value]
    if not all((root / part).is_dir() for part in NANO_PARTS):
        return None
    if is_saved(root / "qrels"):
        splits = _saved_splits(root / "qrels")
        chosen = None if splits is None else _chosen(str(root), split, splits)
        corpus, queries, qrels = (f"{root / part}@{chosen}" if chosen else str(root / part) for part in NANO_PARTS)
    else:
        found = {file.name.rpartition("-of-")[0].rpartition("-")[0] for file in (root / "qrels").glob("*-of-*.parquet")}
        chosen = _chosen(str(root), split, sorted(found))
        corpus, queries, qrels = (f"{root / part}/{chosen}-*.parquet" for part in NANO_PARTS)
    return chosen or root.name, corpus, queries, qrels


def _saved_splits(folder: Path) -> list[str] | None:
    """Of a saved dictionary of data sets; None for a single data set."""
    listed = folder / "dataset_dict.json"
    return list(json.loads(listed.read_text(encoding="utf-8"))["splits"]) if listed.is_file() else None


def _chosen(name: str, split: str | None, splits: list[str]) -> str:
    if split is None and len(splits) == 1:
        return splits[0]
    if split is None or split not in splits:
        wanted = "" if split is None else f"no split {split!r}; "
        raise UserError(f"{name}: {wanted}each split is a collection; name one as {name}@NAME: {', '.join(splits)}")
    return split

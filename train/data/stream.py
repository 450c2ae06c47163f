"""Sources that are larger than memory (`data.N.streaming`): their rows are checked once, and kept on the disk.

    table, counts, told = open_stream(SourceConfig("pairs.jsonl", streaming=True))
    table.texts[9_999_999]                     # read from the disk

The rows are those that would be kept in memory, in the same order. They lie in the cache of `datasets`, in a folder
whose name is a hash of the content of the files and of the options that decide what is read, so that a resumed run, and
the next run, find them there. Processes on one machine wait for the first of them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import tempfile
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from dec2vec.errors import UserError
from dec2vec.files.atomic import atomic_folder, remove_leftovers, sha256_file, why_not_written
from dec2vec.files.hub_datasets import hub_commit
from dec2vec.files.layouts.read import FlatRows, open_layout
from dec2vec.files.lock import locked
from dec2vec.files.sources import Named, must_be_file
from dec2vec.prompts.prompt import NORMALIZERS, TextNormalization
from train.data.clean import Counts, clean
from train.data.plain_rows import NotPlainError, write_plain
from train.data.read import Told, pair_file, read_and_tell, told_of_columns
from train.data.row_extras import NOTHING, Extras
from train.data.shared_texts import shared_texts
from train.data.stored import RowWriter, StoredRows, StoredTexts, stored_table
from train.data.table import SourceTable
from train.options.data import Kind, SourceConfig

_log = logging.getLogger(__name__)
FORMAT = 3
"""Increase it when the same files may give other rows, or when the format of the files changes."""
_NOT_READING = frozenset(
    {"path", "query_prompt", "document_prompt", "losses", "weight", "texts_per_label", "streaming", "revision"}
)
"""Options of a source that do not decide which rows it has."""
_OF_KIND = {"graded": ("scores",), "labelled": ("labels",), "texts": ()}
_FACTS, _SHARED = "facts.json", "shared.npy"
Found = tuple[SourceTable, Counts, Told]


def open_stream(source: SourceConfig, normalization: TextNormalization = "none", extras: Extras = NOTHING) -> Found:
    """The rows of a source on the disk, counts as of `clean`, and what to tell; UserError as for rows in memory."""
    file = pair_file(source)
    flat = open_layout(file) if source.kind == "pairs" else None
    key = None if flat is not None and flat.reads_beside else _key(source, file.named.resolved(), normalization, extras)
    if key is None:
        with tempfile.TemporaryDirectory(prefix="dec2vec-") as name:
            _convert(source, flat, normalization, extras, Path(name))
            return _opened(source, extras, Path(name))
    folder = _cache() / key
    try:
        with locked(folder):
            if not (folder / "rows").is_dir():
                remove_leftovers(folder)
                with atomic_folder(folder / "rows") as temporary:
                    _convert(source, flat, normalization, extras, temporary)
            return _opened(source, extras, folder / "rows")
    except OSError as error:
        why = why_not_written(error, "place with HF_DATASETS_CACHE")
        raise UserError(f"data.N.streaming: rows cannot be kept in {folder}: {why}") from error


def _cache() -> Path:
    import datasets

    return Path(datasets.config.HF_DATASETS_CACHE) / "dec2vec-streams"


def _key(source: SourceConfig, named: Named, normalization: TextNormalization, extras: Extras) -> str | None:
    """A hash of everything on which the rows depend; None if it is not known which version of the data is read."""
    content = _content(named)
    if content is None:
        return None
    options = {name: value for name, value in dataclasses.asdict(source).items() if name not in _NOT_READING}
    facts = [FORMAT, named.split, named.subset, content, normalization, options, dataclasses.asdict(extras)]
    return hashlib.sha256(json.dumps(facts).encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _content(named: Named) -> list[str] | None:
    files = named.files()
    if files is None and not Path(named.source).is_dir():
        commit = hub_commit(named.source, named.revision)
        return None if commit is None else [named.source, commit]
    if files is None:
        files = sorted(path for path in Path(named.source).rglob("*") if path.is_file())
    for path in files:
        must_be_file(path)
    return [f"{path.name} {sha256_file(path)}" for path in files]


def _convert(
    source: SourceConfig, flat: FlatRows | None, normalization: TextNormalization, extras: Extras, folder: Path
) -> None:
    _log.info("%s: reading all rows once; they are kept in %s", source.path, folder.parent)
    with closing(RowWriter(folder)) as writer:
        left_out, told = _fill(source, extras, writer, folder, is_flat=flat is not None)
    named = _named(source, extras)
    rows, normalize = StoredRows(folder), NORMALIZERS[normalization]
    table = stored_table(source.kind, rows, named)
    if source.kind == "pairs":
        rows.note_shared(shared_texts([table], normalize))
    cleaned, counts = clean(table, left_out, source, normalize)
    if cleaned is not table:
        assert isinstance(cleaned.texts, StoredTexts)
        rows = cleaned.texts.rows
        with closing(RowWriter(folder)) as writer:
            writer.copy(rows)
    if (shared := rows.shared) is not None:
        np.save(folder / _SHARED, np.packbits(shared, axis=1))
    facts = {
        "sha256": writer.sha256,
        "with_further": writer.with_more_than(2 + len(named)),
        "counts": dataclasses.asdict(counts),
        "told": dataclasses.asdict(told),
    }
    (folder / _FACTS).write_text(json.dumps(facts, indent=2), encoding="utf-8")


def _fill(source: SourceConfig, extras: Extras, writer: RowWriter, folder: Path, *, is_flat: bool) -> tuple[int, Told]:
    """Write all rows; how many with an empty text were left out, and what to tell."""
    files = None if is_flat or source.kind != "pairs" else pair_file(source).named.resolved().files()
    if files is not None:
        try:
            found = write_plain(source, files, writer, extras)
            return found.left_out, told_of_columns(source, found.columns)
        except NotPlainError:
            writer.start_anew()
    _, left_out, told = read_and_tell(source, extras, _Written(source.kind, writer, folder, _named(source, extras)))
    return left_out, told


class _Written:
    """Writes rows that were read one by one."""

    def __init__(self, kind: Kind, writer: RowWriter, folder: Path, named: Sequence[str]) -> None:
        self._kind: Kind = kind
        self._writer, self._folder, self._named = writer, folder, named

    def add(self, part: SourceTable) -> None:
        self._writer.extend(part.contents())

    def done(self) -> SourceTable:
        self._writer.flush()
        return stored_table(self._kind, StoredRows(self._folder), self._named)

    def close(self) -> None:
        """The writer is closed by its owner."""


def _named(source: SourceConfig, extras: Extras) -> tuple[str, ...]:
    """The columns besides texts of these rows, in the order of `COLUMNS`."""
    if source.kind != "pairs":
        return _OF_KIND[source.kind]
    has_instructions = extras.query_instruction or extras.document_instruction
    wanted = {"ids": source.document_id, "document_scores": extras.scores, "instructions": has_instructions or None}
    return tuple(name for name, value in wanted.items() if value is not None)


def _opened(source: SourceConfig, extras: Extras, folder: Path) -> Found:
    try:
        facts: dict[str, Any] = json.loads((folder / _FACTS).read_text(encoding="utf-8"))
        rows = StoredRows(folder)
        if (folder / _SHARED).exists():
            rows.note_shared(np.unpackbits(np.load(folder / _SHARED), axis=1, count=len(rows)).astype(bool))
        rows.sha256, rows.with_further = facts["sha256"], facts["with_further"]
        told = Told(tuple(facts["told"]["layout"]), facts["told"]["unused"])
        return stored_table(source.kind, rows, _named(source, extras)), Counts(**facts["counts"]), told
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{folder} is damaged; delete it, and it will be created again") from error

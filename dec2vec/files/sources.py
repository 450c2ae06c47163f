"""What the name of a source stands for: a file, its shards, a saved data set or a Hub id; and the rows in it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dec2vec.errors import UserError
from dec2vec.files.compressed import COMPRESSIONS
from dec2vec.files.formats import FORMATS, Numbered, reader_of, unit_of
from dec2vec.files.hub_datasets import PARTS, hub_rows, is_hub_id, is_saved, saved_rows

DEFAULT_SPLIT = "train"
_GLOB = re.compile(r"[*?\[]")
_SPLIT = re.compile(r"(?<![a-z])(train|training|test|dev|valid|validation|val|eval)(?![a-z])")
"""The split that the name of a shard contains as a word, as in train-00000-of-00002.parquet or mine_train.jsonl."""
_NO_ROWS = ("merlin_metadata.json", "dataset_infos.json", "metadata.json", "config.json")
"""Files in a folder that describe the rows beside them."""
Reader = Callable[[Path], Iterator[Numbered]]
Readers = Callable[[Path], Reader] | None
"""What chooses the reader of a file; None for the usual choice, by the suffix."""


class InShard(int):
    """The number of a row in one of the files that make up a table."""

    where: str

    @classmethod
    def of(cls, number: int, path: Path) -> InShard:
        """Row `number` of the file."""
        found = cls(number)
        found.where = f"{path} {unit_of(path)} {number}"
        return found


def place_of(name: str, unit: str, number: int) -> str:
    """Where row `number` of the table called `name` is, such as `pairs.jsonl line 3`."""
    return number.where if isinstance(number, InShard) else f"{name} {unit} {number}"


@dataclass(frozen=True)
class Named:
    """What a user names as data."""

    source: str
    split: str = DEFAULT_SPLIT
    subset: str | None = None
    streaming: bool = False
    revision: str | None = None
    """Of a Hub data set."""

    def resolved(self) -> Named:
        """With the subset and split out of the name that may contain them, as in `folder@test`."""
        parts = PARTS.fullmatch(self.source)
        if parts is None or Path(self.source).exists() or not (parts["split"] or parts["subset"]):
            return self
        if not (Path(parts["name"]).is_dir() or is_hub_id(self.source)):
            return self
        if (parts["split"] and self.split != DEFAULT_SPLIT) or (parts["subset"] and self.subset is not None):
            raise UserError(f"{self.source}: split or subset is given both here and as an option; keep one of them")
        split, subset = parts["split"] or self.split, parts["subset"] or self.subset
        return Named(parts["name"], split, subset, self.streaming, self.revision)

    def files(self) -> list[Path] | None:
        """The files that hold the rows; None for a saved data set or a Hub id. UserError where there is no data."""
        if not self.source:
            raise UserError("no data file is given; give a path or a Hub id")
        path = Path(self.source)
        if path.is_dir():
            return None if is_saved(path) else _shards(path, self.split)
        if is_pattern(self.source):
            return matching(self.source)
        if path.exists() or reader_of(path) is not None:
            return [path]
        if is_hub_id(self.source):
            return None
        raise UserError(f"{self.source} does not exist (a Hub id is owner/name)")


def open_source(named: Named, readers: Readers = None) -> tuple[str, str, Iterator[Numbered]]:
    """The name of a table, what its rows are called, and the rows; `readers` replaces the usual reader of each file."""
    named = named.resolved()
    files = named.files()
    source = named.source
    if files is None and Path(source).is_dir():
        return source, "row", saved_rows(Path(source), named.split)
    if files is None:
        name = f"{source} [{named.split}]" if named.subset is None else f"{source} [{named.subset}, {named.split}]"
        return name, "row", hub_rows(source, named.split, named.subset, named.streaming, named.revision)
    for path in files:
        must_be_file(path)
        usual_reader(path)
    reader = readers or usual_reader
    if len(files) == 1 and files[0] == Path(source):
        return source, unit_of(files[0]), reader(files[0])(files[0])
    return source, "row", _of_shards(files, reader)


def usual_reader(path: Path) -> Reader:
    """What reads a file by its suffix; UserError for an unknown format."""
    reader = reader_of(path)
    if reader is None:
        found = path.suffix or "without a suffix"
        raise UserError(f"{path}: unknown format {found}; use {', '.join(FORMATS)}, or one of these as .gz or .zst")
    return reader


def holds_rows(folder: Path) -> bool:
    """Whether a folder is one of `datasets.save_to_disk`, or has files of rows: then it is a table."""
    return folder.is_dir() and (is_saved(folder) or bool(_tables(folder) or _tables(folder / "data")))


def must_be_file(path: Path) -> None:
    """Raise UserError for a path that is no file."""
    if not path.exists():
        raise UserError(f"{path} does not exist")
    if not path.is_file():
        raise UserError(f"{path} is not a file")


def is_pattern(source: str) -> bool:
    """Whether a source is a pattern of paths, such as `data/part-*.jsonl`, and not a path with such characters."""
    return _GLOB.search(source) is not None and not Path(source).exists()


def matching(pattern: str) -> list[Path]:
    """The files that a pattern such as `data/part-*.jsonl` matches, by name; UserError if there is none."""
    root = Path(pattern).anchor
    try:
        found = sorted(Path(root or ".").glob(pattern[len(root) :]))
    except ValueError as error:
        raise UserError(f"{pattern} is not a pattern of files: {error}; use * within a name") from None
    files = [path for path in found if path.is_file()]
    if not files:
        raise UserError(f"{pattern}: no file matches this pattern; check the folder and the suffix")
    _refuse_copies(files)
    return files


def _of_shards(files: Sequence[Path], reader: Callable[[Path], Reader]) -> Iterator[Numbered]:
    for path in files:
        for number, row in reader(path)(path):
            yield InShard.of(number, path), row


def _shards(folder: Path, split: str) -> list[Path]:
    """The tables in a folder, by name. If their names contain a split, those of the wanted one."""
    files = _tables(folder) or _tables(folder / "data")  # a cloned Hub repository has them in data
    if not files:
        formats = ", ".join(FORMATS)
        raise UserError(
            f"folder {folder} is not a data set written by datasets.save_to_disk, and has no file of rows ({formats})"
        )
    wanted = _documents(files) or _of_split(folder, files, split)
    _refuse_copies(wanted)
    return wanted


def _documents(files: Sequence[Path]) -> list[Path]:
    """The corpus of a folder laid out as BEIR's; nothing if there are not both `corpus` and `queries`."""
    corpus = [path for path in files if _stem(path) == "corpus"]
    return corpus if any(_stem(path) == "queries" for path in files) else []


def _tables(folder: Path) -> list[Path]:
    found = sorted(folder.iterdir()) if folder.is_dir() else []
    files = [path for path in found if path.is_file() and reader_of(path) is not None]
    return [path for path in files if not path.name.startswith((".", "_")) and path.name not in _NO_ROWS]


def _of_split(folder: Path, files: list[Path], split: str) -> list[Path]:
    splits = {path: match.group(1) if (match := _SPLIT.search(path.name.lower())) else None for path in files}
    if not any(splits.values()) and split == DEFAULT_SPLIT:
        return files
    wanted = [path for path in files if splits[path] == split]
    if not wanted:
        names = ", ".join(path.name for path in files[:5])
        raise UserError(f"folder {folder} has no file of split {split!r}; it has {names}; give the file or a pattern")
    if stray := next((path for path in files if splits[path] is None), None):
        raise UserError(
            f"folder {folder}: {wanted[0].name} names a split and {stray.name} none; give the files that you mean by a "
            "pattern, such as folder/train-*.jsonl"
        )
    return wanted


def _stem(path: Path) -> str:
    """The name without the suffix of its format and of its compression."""
    name = path.name[: -len(path.suffix)] if path.suffix.lower() in COMPRESSIONS else path.name
    return Path(name).stem


def _refuse_copies(files: Sequence[Path]) -> None:
    """Raise UserError for files of one name in two formats, whose rows would be read twice."""
    seen: dict[Path, Path] = {}
    for path in files:
        other = seen.setdefault(path.with_name(_stem(path)), path)
        if other != path:
            raise UserError(f"{other} and {path.name} look like one file in two formats; remove one, or name the file")

"""The corpus and the queries beside a file whose rows name them by id: MS MARCO, BEIR, Tevatron, NeMo."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from dec2vec.errors import UserError
from dec2vec.files.cells import as_name, listed
from dec2vec.files.compressed import COMPRESSIONS
from dec2vec.files.formats import FORMATS, Row
from dec2vec.files.hub_datasets import hub_parts
from dec2vec.files.layouts.query import MisshapenError, text_in
from dec2vec.files.layouts.raw import FIELDS, raw_reader
from dec2vec.files.sources import Named, open_source

IDS = ("_id", "id", "docid", "doc_id", "document_id", "pid", "corpus-id", "qid", "query_id", "query-id")
TEXTS = ("text", "document_text", "query_text", "contents", "content", "passage", "body", "query", "question")
_STEMS = {"corpus": ("corpus", "collection"), "queries": ("queries", "queries.train", "train.queries", "topics")}


@dataclass(frozen=True)
class Beside:
    """Where a source's documents and queries are: `corpus` and `queries` if given, or else beside the source."""

    source: str
    corpus: str | None = None
    queries: str | None = None
    min_grade: int = 1
    """Lowest grade of a judgement that makes its document a positive."""
    revision: str | None = None
    """Of the source's Hub data set, which also applies to the corpus and queries in it."""

    def documents(self, wanted: Collection[str]) -> dict[str, str]:
        """Text by id of the documents that are wanted and exist. A title comes first, as in BEIR and Tevatron."""
        return dict(_texts(self._named("corpus"), wanted))

    def query_texts(self, wanted: Collection[str]) -> dict[str, str]:
        """Text by id of the queries that are wanted and exist."""
        return dict(_texts(self._named("queries"), wanted))

    def _named(self, part: str) -> Named:
        place = self.place(part)
        ours, its = hub_parts(self.source), hub_parts(place)
        same = ours is not None and its is not None and ours["name"] == its["name"]
        return Named(place, revision=self.revision if same else None)

    def place(self, part: str) -> str:
        """The source of the corpus or the queries; UserError if there is none."""
        given = self.corpus if part == "corpus" else self.queries
        if given is not None:
            return given
        hub = hub_parts(self.source)
        if hub is not None:
            return f"{hub['name']}:{part}@{part}"
        folder = _folder(Path(self.source))
        found = next((path for path in _candidates(folder, part) if path.exists()), None)
        if found is None:
            names = " or ".join(f"{stem}.jsonl" for stem in _STEMS[part][:2])
            raise UserError(
                f"{self.source}: its rows name {part if part == 'queries' else 'documents'} by id, but there is no "
                f"{names} in {folder}; name the file with data.N.{part}"
            )
        return str(found)


def document(title: str, text: str) -> str:
    """A document with its title, as BEIR, mteb and Tevatron join them."""
    return f"{title} {text}".strip() if title else text


def _folder(path: Path) -> Path:
    folder = path if path.is_dir() else path.parent
    return folder.parent if folder.name == "qrels" else folder


def _candidates(folder: Path, part: str) -> Iterator[Path]:
    for stem in _STEMS[part]:
        yield from (folder / f"{stem}{suffix}{ending}" for suffix in FORMATS for ending in ("", *COMPRESSIONS))
        yield folder / stem


def _texts(source: Named, wanted: Collection[str]) -> Iterator[tuple[str, str]]:
    name, unit, rows = open_source(source, raw_reader)
    for number, row in rows:
        try:
            key, text = _entry(row)
        except MisshapenError as error:
            raise UserError(f"{name} {unit} {number}: {error}") from None
        if key in wanted:
            yield key, text


def _entry(row: Row) -> tuple[str, str]:
    """The id and the text of a row."""
    fields = row.get(FIELDS)
    if isinstance(fields, list):
        if len(fields) != 2:
            raise MisshapenError(
                f"{len(fields)} fields without column names, instead of an id and a text; add a header"
            )
        return str(fields[0]), str(fields[1])
    key = as_name(row.get(_column(row, IDS, "ids")))
    if key is None:
        raise MisshapenError(f"{_column(row, IDS, 'ids')} is empty")
    return key, document(text_in(row, "title"), text_in(row, _column(row, TEXTS, "texts")))


def _column(row: Row, names: Iterable[str], kind: str) -> str:
    found = next((name for name in names if name in row), None)
    if found is None:
        raise MisshapenError(f"no column of {kind} ({', '.join(names)}); this row has: {listed(row)}")
    return found

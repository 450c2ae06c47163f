"""Corpus, queries and relevance judgements from files, as in BEIR: every id is checked against the others.

corpus   id, title (may be missing), text
queries  id, text
qrels    query_id, doc_id, score (a whole number; above 0 is relevant)

BEIR's own names (_id, query-id, corpus-id) will do as well. In its collections a query may be a document of the corpus
too, under the same id (ArguAna, Quora): the query would find itself, so that this document is left out of its ranking.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from dec2vec.errors import UserError
from dec2vec.files.cells import is_absent
from dec2vec.files.formats import FORMATS, Row
from dec2vec.files.hub_datasets import hub_splits, is_hub_id
from dec2vec.files.tables import Table, read_table
from eval.tasks.columns import ColumnsRead, columns_read
from eval.tasks.nano_beir import Places, nano_folder, nano_on_hub
from eval.tasks.qrels import Qrels, read_judgements

NAMES = {"_id": "id", "query-id": "query_id", "corpus-id": "doc_id"}
"""Columns of BEIR, and what they are called here."""
SPLITS = {"qrels": "test", "dev_qrels": "dev"}
"""Files of BEIR's folder qrels."""
Place = str | Path
"""A file, or a part of a data set on the Hub."""


@dataclass(frozen=True)
class RetrievalFiles:
    """Where a test collection lies; dev queries are optional and share the corpus."""

    corpus: Place
    queries: Place
    qrels: Place
    dev_queries: Place | None = None
    dev_qrels: Place | None = None
    is_beir: bool = False
    """Laid out as BEIR's folders or mteb's data sets."""
    title: str = ""
    """Its name, where the place of the corpus does not say it."""

    @property
    def name(self) -> str:
        """The name of the folder, of the common prefix, of the Hub id or of one of its collections."""
        if self.title:
            return self.title
        if isinstance(self.corpus, str):
            return Path(self.corpus.partition(":")[0]).name
        before, is_prefix, _ = self.corpus.name.partition(".corpus.")
        return before if is_prefix else self.corpus.parent.name


@dataclass(frozen=True)
class Judged:
    """Queries that have a relevant document, in file order, with their grades; the others are counted."""

    ids: list[str]
    texts: list[str]
    qrels: Qrels
    left_out: int
    columns: tuple[ColumnsRead, ...] = field(default=(), compare=False)
    """Of queries and judgements."""
    own: frozenset[str] = frozenset()
    """Queries whose ranking leaves out the document with their own id."""
    notes: tuple[str, ...] = ()
    """What a reader of the figures must know of the judgements."""

    def at(self, rows: Int64[np.ndarray, " kept"]) -> Judged:
        """Some of the queries, in this order."""
        ids, texts = zip(*((self.ids[row], self.texts[row]) for row in rows), strict=True)
        return replace(self, ids=list(ids), texts=list(texts), qrels={name: self.qrels[name] for name in ids})


def find_files(path: str | Path) -> RetrievalFiles:
    """A folder with corpus.jsonl, queries.jsonl, qrels.jsonl (or csv, tsv, parquet), or their common prefix.

    `data/cranfield` finds data/cranfield.corpus.jsonl ...; dev_qrels and dev_queries are taken where they exist.
    Without dev_queries, dev_qrels judges the same queries file. A folder of BEIR has qrels/test.tsv and qrels/dev.tsv.
    A Hub id is laid out as mteb's are: subsets corpus and queries, judgements in default (`mteb/scifact@test`).
    NanoBEIR has a collection in each split (`eval.tasks.nano_beir`). Raises UserError naming what is missing.
    """
    if is_hub_id(str(path)):
        return _on_hub(str(path))
    root = Path(path)
    nano = nano_folder(root)
    if nano is not None:
        return _nano(nano)
    corpus, queries, qrels = (_required(root, part) for part in ("corpus", "queries", "qrels"))
    dev_qrels = _find(root, "dev_qrels")
    dev_queries = _find(root, "dev_queries")
    if dev_queries and not dev_qrels:
        raise UserError(f"{dev_queries}: there is no dev_qrels file next to it; add it or remove the dev queries")
    judged = dev_queries or (queries if dev_qrels else None)
    return RetrievalFiles(corpus, queries, qrels, judged, dev_qrels, is_beir=qrels.parent == root / "qrels")


def _on_hub(hub_id: str) -> RetrievalFiles:
    """The split that is named, or test, is reported on; a split called dev chooses."""
    name, _, split = hub_id.partition("@")
    try:
        judged = {part: f"{name}:default@{part}" for part in hub_splits(name, "default")}
    except UserError:
        nano = nano_on_hub(name, split or None)
        if nano is None:
            raise
        return _nano(nano)
    queries, wanted = f"{name}:queries@queries", split or "test"
    if wanted not in judged:
        raise UserError(f"{name}: default has no split {wanted!r}; it has {', '.join(judged) or 'none'}")
    dev = judged.get("dev") if wanted != "dev" else None
    return RetrievalFiles(f"{name}:corpus@corpus", queries, judged[wanted], queries if dev else None, dev, is_beir=True)


def _nano(places: Places) -> RetrievalFiles:
    title, *parts = places
    corpus, queries, qrels = (part if is_hub_id(part) or "@" in part else Path(part) for part in parts)
    return RetrievalFiles(corpus, queries, qrels, is_beir=True, title=title)


def read_corpus(path: Place) -> tuple[dict[str, str], ColumnsRead]:
    """Text by id. The title comes first, as in BEIR and mteb; a blank document is kept."""
    table, columns = _read(path, ["id", "text"], ["title"])
    texts = [_document(table, index) for index in range(len(table))]
    return _by_id(table, texts), columns


def read_judged(
    queries: Place, qrels: Place, corpus: Mapping[str, str], *, ignore_identical_ids: bool | None = False
) -> Judged:
    """Queries with grades. Judgements that cannot count are left out, with a note.

    `ignore_identical_ids` leaves the document with a query's own id out of its ranking, unless it is judged relevant,
    which only another text can be. None does so where the qrels have BEIR's column names.
    """
    table, of_queries = _read(queries, ["id", "text"])
    texts = _by_id(table, table.texts("text"))
    judgements, of_qrels, has_beir_names = _read_qrels(qrels)
    found = read_judgements(judgements, texts, corpus, str(queries))
    kept = [name for name in texts if found.is_answered(name)]
    if not kept:
        because = "".join(f"; {note}" for note in found.notes)
        raise UserError(f"{qrels}: no query has a relevant document (score above 0){because}")
    own = [name for name in kept if name in corpus and found.grades[name].get(name, 0) == 0]
    is_left_out = has_beir_names if ignore_identical_ids is None else ignore_identical_ids
    return Judged(
        ids=kept,
        texts=[texts[name] for name in kept],
        qrels={name: found.grades[name] for name in kept},
        left_out=len(texts) - len(kept),
        columns=(of_queries, of_qrels),
        own=frozenset(own if is_left_out else ()),
        notes=(
            *found.notes,
            *_unanswered_note(len(found.judged) - len(kept), len(found.judged)),
            *_own_note(own, texts, corpus, is_left_out=is_left_out),
        ),
    )


def _read_qrels(path: Place) -> tuple[Table, ColumnsRead, bool]:
    """The judgements, and whether their columns have BEIR's names. Without scores each row is a relevant document."""
    table = read_table(path)
    if {*table.columns}.isdisjoint(("query_id", "query-id", "doc_id", "corpus-id")):
        raise UserError(
            f"{path}: the first line must name the columns query-id, corpus-id and score (or query_id, doc_id and "
            f"score); it has: {', '.join(table.columns)}"
        )
    if set(table.columns) <= {"query_id", "doc_id", "query-id", "corpus-id"}:
        table = replace(table, rows=[{**row, "score": 1} for row in table.rows])
    return *_renamed(table, ["query_id", "doc_id", "score"]), "corpus-id" in table.rows[0]


def _unanswered_note(count: int, judged: int) -> list[str]:
    return [f"not measured: {count:,} of {judged:,} judged queries, which have no relevant document"] if count else []


def _own_note(
    own: Sequence[str], texts: Mapping[str, str], corpus: Mapping[str, str], *, is_left_out: bool
) -> list[str]:
    """How many queries are documents under the same id, and what is done about it."""
    same = sum(texts[name].strip() in corpus[name] for name in own)
    if not is_left_out:
        found = f"{same:,} of the queries are documents under the same id and find themselves"
        return [f"{found}; retrieval.N.ignore_identical_ids true leaves these documents out"] if same else []
    left_out = f"the document with the query's own id is left out of {len(own):,} of the rankings, as BEIR does"
    chance = f"; in {len(own) - same:,} of them the texts differ, so that ids may be equal by chance"
    return [f"{left_out} (ignore_identical_ids){chance if len(own) > same else ''}"] if own else []


def _read(source: Place, columns: Sequence[str], optional: Sequence[str] = ()) -> tuple[Table, ColumnsRead]:
    return _renamed(read_table(source), columns, optional)


def _renamed(table: Table, columns: Sequence[str], optional: Sequence[str] = ()) -> tuple[Table, ColumnsRead]:
    """With our names of the columns, all of which every row must have."""
    rows = [{_name(column, row): value for column, value in row.items()} for row in table.rows]
    found = replace(table, rows=rows)
    found.require(columns)
    return found, columns_read(found, [*columns, *(name for name in optional if name in found.columns)])


def _name(column: str, row: Row) -> str:
    """Of a column with both names the one that is ours is kept."""
    ours = NAMES.get(column, column)
    return column if ours in row else ours


def _required(root: Path, part: str) -> Path:
    found = _find(root, part)
    if found is None:
        where = root / f"{part}.jsonl" if root.is_dir() else root.parent / f"{root.name}.{part}.jsonl"
        raise UserError(f"{where} does not exist; retrieval needs corpus, queries and qrels ({', '.join(FORMATS)})")
    return found


def _find(root: Path, part: str) -> Path | None:
    stem = root / part if root.is_dir() else root.parent / f"{root.name}.{part}"
    paths = [stem.parent / f"{stem.name}{suffix}" for suffix in FORMATS]
    if root.is_dir() and part in SPLITS:
        paths.append(root / "qrels" / f"{SPLITS[part]}.tsv")
    return next((path for path in paths if path.is_file()), None)


def _document(table: Table, index: int) -> str:
    text = table.text(index, "text", may_be_blank=True)
    is_untitled = is_absent(table.rows[index].get("title"))
    title = "" if is_untitled else table.text(index, "title", may_be_blank=True)
    return f"{title} {text}".strip() if title else text


def _by_id(table: Table, texts: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for index, text in enumerate(texts):
        name = table.label(index, "id")
        if name in found:
            raise UserError(f"{table.where(index)}: id {name!r} occurs twice; give each row its own")
        found[name] = text
    return found

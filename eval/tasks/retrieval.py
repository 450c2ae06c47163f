"""Retrieval: queries find documents by cosine; ranking metrics by ir-measures (trec_eval's own definitions)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
from jaxtyping import Float32, Float64, Int64

from dec2vec.corpus.exact_search import Ranking, exact_top
from dec2vec.errors import UserError
from eval.metrics.resampling import resampled_means
from eval.tasks.columns import ColumnsRead
from eval.tasks.figure import FEWEST_UNLIKE, Figure, too_few, too_few_unlike
from eval.tasks.retrieval_files import Judged, Place, RetrievalFiles, find_files, read_corpus, read_judged
from eval.tasks.task import DescribedTexts, Evidence, Task, TaskVectors, Texts

METRICS = ("nDCG@10", "MRR@10", "recall@10", "recall@100", "MAP")
DEPTH = 1000
"""Ranks that MAP sees, as in TREC."""
DEV_DEPTH = 100
"""Ranks that the other metrics see at most."""
MANY_QUERIES, UNLIKE = 100, 0.3
"""Of fewer queries than many, this share must differ from the commonest value: the samples that have the fewest for an
interval by chance alone are no fair ones (docs/coverage.md)."""


@dataclass(frozen=True, eq=False)
class RetrievalEvidence(Evidence):
    """METRICS of each test query."""

    values: Float64[np.ndarray, "queries metrics"]

    def at(self, rows: Int64[np.ndarray, " kept"]) -> RetrievalEvidence | None:
        """Some of the queries in the whole corpus."""
        return replace(self, values=self.values[rows])


@dataclass(frozen=True, eq=False)
class RetrievalTask(Task[RetrievalEvidence]):
    """A corpus, test queries and perhaps dev queries. Queries without a relevant document are left out."""

    kind: ClassVar[str] = "retrieval"
    documents: dict[str, str]
    test_queries: Judged
    dev_queries: Judged | None = None
    corpus_columns: ColumnsRead | None = None
    has_corpus: ClassVar[bool] = True

    @property
    def columns(self) -> list[ColumnsRead]:
        """Of the corpus, then of queries and judgements."""
        corpus = [] if self.corpus_columns is None else [self.corpus_columns]
        judged = [self.test_queries, *([] if self.dev_queries is None else [self.dev_queries])]
        return list(dict.fromkeys([*corpus, *(columns for part in judged for columns in part.columns)]))

    @property
    def left_out(self) -> int:
        """Test queries that no document answers: no ranking of theirs is good or bad."""
        return self.test_queries.left_out

    @property
    def dev(self) -> Texts | None:
        """Dev queries and the whole corpus."""
        return None if self.dev_queries is None else self._texts(self.dev_queries)

    @property
    def test(self) -> Texts:
        """Test queries and the whole corpus."""
        return self._texts(self.test_queries)

    @property
    def notes(self) -> list[str]:
        """What was left out of the judgements and of the rankings."""
        dev = () if self.dev_queries is None else self.dev_queries.notes
        return [*self.test_queries.notes, *(f"dev: {note}" for note in dev)]

    def dev_score(self, vectors: TaskVectors) -> float:
        """Mean of the main metric over the dev queries; nan for vectors that hold inf or nan."""
        if self.dev_queries is None:
            raise UserError(f"{self.name} has no dev queries; add dev_qrels for the selection")
        return float(self._values(self.dev_queries, vectors)[:, METRICS.index(self.metric)].mean())

    def dev_scores(self, vectors: TaskVectors) -> dict[str, float]:
        """Means over the dev queries of every metric but MAP, which needs ranks that take longer to judge."""
        judged = self.dev_queries
        if judged is None:
            raise UserError(f"{self.name} has no dev queries; add dev_qrels for the selection")
        means = self._values(judged, vectors, DEV_DEPTH).mean(axis=0)
        return dict(zip(self.dev_metrics, means.tolist(), strict=False))

    @property
    def dev_metrics(self) -> tuple[str, ...]:
        return METRICS[:4]

    def evidence(self, dev: TaskVectors | None, test: TaskVectors) -> RetrievalEvidence:
        """Nothing is chosen on dev."""
        return RetrievalEvidence(self._values(self.test_queries, test))

    def evidence_from_ranking(self, ranking: Ranking) -> RetrievalEvidence:
        """The same from the documents that were found for the test queries, `depth` of each."""
        return RetrievalEvidence(ranking_metrics(ranking, self.test_queries, list(self.documents)))

    @property
    def depth(self) -> int:
        """Documents that a search must find for each query, of which its own one may be left out again."""
        return DEPTH + bool(self.test_queries.own)

    @property
    def own_text(self) -> DescribedTexts:
        """The documents, which are there before any query."""
        return DescribedTexts(list(self.documents.values()), f"{len(self.documents):,} documents of the corpus")

    def corpus(self, vectors: TaskVectors) -> Float32[np.ndarray, "texts dim"]:
        """Of the documents."""
        return vectors.documents

    def figures(self, evidence: RetrievalEvidence, resamples: int, seed: int) -> list[Figure]:
        """Means over test queries, which are what is resampled; that of the main metric first."""
        drawn = resampled_means(evidence.values, resamples, self.seed_of(seed))
        columns = zip(METRICS, evidence.values.T, drawn.T, strict=True)
        figures = [_figure(metric, values, resampled) for metric, values, resampled in columns]
        return sorted(figures, key=lambda figure: figure.metric != self.metric)

    @property
    def items(self) -> list[tuple[str, ...]]:
        """Test queries: a document that was read in training says nothing of what it answers."""
        return [(text,) for text in self.test_queries.texts]

    def _texts(self, judged: Judged) -> Texts:
        return Texts(judged.texts, list(self.documents.values()))

    def _values(
        self, judged: Judged, vectors: TaskVectors, depth: int = DEPTH
    ) -> Float64[np.ndarray, "queries metrics"]:
        if not (np.isfinite(vectors.queries).all() and np.isfinite(vectors.documents).all()):
            return np.full((len(judged.ids), len(METRICS)), np.nan)
        ranking = exact_top(vectors.queries, vectors.documents, depth + bool(judged.own))
        return ranking_metrics(ranking, judged, list(self.documents))


def load_retrieval(
    source: str | Path | RetrievalFiles, ignore_identical_ids: bool | None = None, *, is_dev: bool = False
) -> RetrievalTask:
    """From a folder, a common prefix, a Hub id, or named files. Raises UserError for ids that do not fit together.

    `ignore_identical_ids` leaves the document with a query's own id out of its ranking; None does in BEIR's layouts.
    With `is_dev` only dev queries are read, or the test queries where there are no others: they are both then.
    """
    files = source if isinstance(source, RetrievalFiles) else find_files(source)
    corpus, columns = read_corpus(files.corpus)
    ignored = True if ignore_identical_ids is None and files.is_beir else ignore_identical_ids
    dev = None
    if files.dev_queries is not None and files.dev_qrels is not None:
        dev = read_judged(files.dev_queries, files.dev_qrels, corpus, ignore_identical_ids=ignored)
    if dev is not None and is_dev:
        return RetrievalTask(files.name, METRICS[0], corpus, dev, dev, columns)
    test = read_judged(files.queries, files.qrels, corpus, ignore_identical_ids=ignored)
    if dev is not None and files.dev_qrels is not None:
        _must_differ(dev, test, files.dev_qrels)
    return RetrievalTask(files.name, METRICS[0], corpus, test, test if is_dev else dev, columns)


def ranking_metrics(
    ranking: Ranking, judged: Judged, document_ids: list[str]
) -> Float64[np.ndarray, "queries metrics"]:
    """METRICS of each query in turn.

    The library is given ranks as scores, not cosines: it would order ties by document id instead of as we did.
    """
    import ir_measures
    from ir_measures import AP, RR, R, nDCG

    whole, first = _run(ranking, judged, document_ids, DEPTH), _run(ranking, judged, document_ids, 10)
    rows = {name: row for row, name in enumerate(judged.ids)}
    values = np.zeros((len(judged.ids), len(METRICS)))
    columns = {nDCG @ 10: 0, RR: 1, R @ 10: 2, R @ 100: 3, AP: 4}
    for run, measures in ((first, [RR]), (whole, [nDCG @ 10, R @ 10, R @ 100, AP])):  # trec_eval's RR has no cut-off
        for found in ir_measures.pytrec_eval.iter_calc(measures, judged.qrels, run):
            values[rows[found.query_id], columns[found.measure]] = found.value
    return values


def _figure(
    metric: str, values: Float64[np.ndarray, " queries"], resampled: Float64[np.ndarray, " resamples"]
) -> Figure:
    """The mean over queries. Where nearly all of them are perfect, or nearly all are lost, it gets no interval."""
    n = len(values)
    figure = Figure(metric, float(values.mean()), resampled, n, scale="share", units=values)
    few = too_few(n, "queries")
    fewest = max(FEWEST_UNLIKE, math.ceil(UNLIKE * n) if n < MANY_QUERIES else 0)
    alike = too_few_unlike(values, "queries", fewest)
    return figure.without_interval(few) if few else replace(figure, no_interval=alike)


def _run(ranking: Ranking, judged: Judged, document_ids: list[str], depth: int) -> dict[str, dict[str, float]]:
    """-1, which an approximate search gives where it found nothing, is no document; nor is the query's own."""
    ranked: dict[str, dict[str, float]] = {}
    for name, row in zip(judged.ids, ranking.positions.tolist(), strict=True):
        found = [document_ids[position] for position in row if position >= 0]
        kept = [document for document in found if document != name or name not in judged.own]
        ranked[name] = {document: -float(rank) for rank, document in enumerate(kept[:depth])}
    return ranked


def _must_differ(dev: Judged, test: Judged, path: Place) -> None:
    shared = set(dev.texts) & set(test.texts)
    if shared:
        raise UserError(f"{path}: {len(shared)} dev queries are test queries too, such as {min(shared)[:60]!r}")

"""Fewer queries, pairs, texts or documents of a dev task, chosen by a hash of the text.

Dev is measured again and again, so it is bounded by counts: a bound by the clock would give another score on a slower
machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from dec2vec.errors import UserError
from dec2vec.files.held_out import sample
from eval.tasks.clustering import ClusteringTask
from eval.tasks.pair_files import LabelledPairs, index_texts
from eval.tasks.qrels import Qrels
from eval.tasks.retrieval import RetrievalTask
from eval.tasks.retrieval_files import Judged
from eval.tasks.sts import GradedPairs


def fewer_graded(pairs: GradedPairs, limit: int | None) -> GradedPairs:
    """At most `limit` of the pairs."""
    rows = sample(_joined(pairs.items), limit)
    if len(rows) == len(pairs):
        return pairs
    if np.ptp(pairs.gold[rows]) == 0:
        raise UserError(f"{pairs.name}: all scores of the {len(rows)} pairs that limit keeps are equal; raise it")
    texts, left, right = index_texts(*_sides(pairs.items, rows), two_sided=pairs.is_two_sided)
    return replace(pairs, texts=texts, left=left, right=right, gold=pairs.gold[rows], subsets=pairs.subsets[rows])


def fewer_labelled(pairs: LabelledPairs, limit: int | None) -> LabelledPairs:
    """At most `limit` of the pairs. UserError where these have one label."""
    rows = sample(_joined(pairs.items), limit)
    if len(rows) == len(pairs):
        return pairs
    labels = pairs.labels[rows].tolist()
    return LabelledPairs.from_texts(pairs.name, *_sides(pairs.items, rows), labels, two_sided=pairs.is_two_sided)


def fewer_texts(task: ClusteringTask, limit: int | None) -> ClusteringTask:
    """At most `limit` of the texts to be clustered."""
    data = task.dev_data
    if data is None or limit is None or limit >= len(data):
        return task
    kept = data.at(sample(data.texts, limit))
    if not 1 < len(kept.classes) < len(kept):
        raise UserError(f"{data.name}: the {limit} texts that limit keeps have too few classes or too many; raise it")
    return replace(task, test_data=kept, dev_data=kept)


def fewer_queries(task: RetrievalTask, limit: int | None, documents: int | None) -> RetrievalTask:
    """At most `limit` dev queries among at most `documents` documents, all relevant ones of these queries included."""
    judged = task.dev_queries
    assert judged is not None
    judged = judged.at(sample(judged.texts, limit))
    corpus = _fewer_documents(task.documents, judged.qrels, documents)
    if len(corpus) < len(task.documents):
        qrels = {name: {d: grade for d, grade in of.items() if d in corpus} for name, of in judged.qrels.items()}
        judged = replace(judged, qrels=qrels, own=frozenset(name for name in judged.own if name in corpus))
    return _on_dev(task, judged, corpus)


def _on_dev(task: RetrievalTask, judged: Judged, corpus: dict[str, str]) -> RetrievalTask:
    return replace(task, documents=corpus, test_queries=judged, dev_queries=judged)


def _fewer_documents(corpus: Mapping[str, str], qrels: Qrels, limit: int | None) -> dict[str, str]:
    """In their order. The relevant ones stay, even if they alone are more than `limit`."""
    if limit is None or limit >= len(corpus):
        return dict(corpus)
    needed = {name for of_query in qrels.values() for name, grade in of_query.items() if grade > 0}
    others = [name for name in corpus if name not in needed]
    further = sample([f"{name}\0{corpus[name]}" for name in others], max(0, limit - len(needed)))
    kept = needed | {others[row] for row in further.tolist()}
    return {name: text for name, text in corpus.items() if name in kept}


def _joined(items: list[tuple[str, ...]]) -> list[str]:
    return ["\0".join(item) for item in items]


def _sides(items: list[tuple[str, ...]], rows: np.ndarray) -> tuple[list[str], list[str]]:
    return [items[row][0] for row in rows], [items[row][1] for row in rows]

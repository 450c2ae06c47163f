"""What a fitted baseline decides on a task's test items."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64
from scipy.sparse import csr_matrix, vstack

from dec2vec.prompts.prompt import Side
from eval.baselines.baseline import Baseline, PairBaseline, SearchBaseline, VectorBaseline, Vectors
from eval.baselines.cosines import cosines, dense, is_too_wide
from eval.baselines.ranking import by_text, sparse_ranking
from eval.tasks.pair_files import Pairs
from eval.tasks.pair_task import PairTask
from eval.tasks.retrieval import RetrievalTask
from eval.tasks.task import Evidence, Task, TaskVectors, Texts


@dataclass(frozen=True, eq=False)
class Found:
    """The evidence, and whether it comes from vectors that were projected to fit into memory."""

    evidence: Evidence
    is_projected: bool = False


def served(baseline: Baseline, tasks: Sequence[Task[Any]]) -> list[Task[Any]]:
    """Similarities serve pairs, rankings retrieval, and vectors everything."""
    if isinstance(baseline, PairBaseline):
        return [task for task in tasks if isinstance(task, PairTask)]
    if isinstance(baseline, SearchBaseline):
        return [task for task in tasks if isinstance(task, RetrievalTask)]
    return list(tasks)


def find_evidence(baseline: Baseline, task: Task[Any]) -> Found:
    """Of a task that the baseline serves. Sparse vectors are spread out where classes or clusters need it alone."""
    if isinstance(task, PairTask):
        pairs = task.dev_pairs if task.has_threshold else None
        dev = None if pairs is None else _pair_scores(baseline, pairs)
        return Found(task.evidence_from_scores(dev, _pair_scores(baseline, task.test_pairs)))
    if isinstance(task, RetrievalTask):
        return Found(_searched(baseline, task))
    assert isinstance(baseline, VectorBaseline)
    dev_vectors, test_vectors, is_projected = task_vectors(baseline, task)
    return Found(task.evidence(dev_vectors, test_vectors), is_projected)


def _searched(baseline: Baseline, task: RetrievalTask) -> Evidence:
    """Dense vectors are ranked by the task, as those of every system."""
    texts = task.test
    if isinstance(baseline, SearchBaseline):
        return task.evidence_from_ranking(baseline.rank(texts.queries, task.depth))
    assert isinstance(baseline, VectorBaseline)
    queries, documents = baseline.encode(texts.queries, "query"), baseline.encode(texts.documents, "document")
    if isinstance(queries, csr_matrix) and isinstance(documents, csr_matrix):
        return task.evidence_from_ranking(sparse_ranking(queries, documents, by_text(texts.documents), task.depth))
    return task.evidence(None, TaskVectors(np.asarray(queries), np.asarray(documents)))


def _pair_scores(baseline: Baseline, pairs: Pairs) -> Float64[np.ndarray, " pairs"]:
    """The similarity of each pair; each text is read once."""
    if isinstance(baseline, PairBaseline):
        return baseline.similarities(pairs.first, pairs.second)
    assert isinstance(baseline, VectorBaseline)
    if not pairs.is_two_sided:
        vectors = baseline.encode(pairs.texts.queries)
        return cosines(vectors[pairs.left], vectors[pairs.right])
    queries, documents = (
        baseline.encode(pairs.texts.queries, "query"),
        baseline.encode(pairs.texts.documents, "document"),
    )
    return cosines(queries[pairs.left], documents[pairs.right])


def task_vectors(baseline: VectorBaseline, task: Task[Any]) -> tuple[TaskVectors | None, TaskVectors, bool]:
    """Dev and test are spread out together: what is learnt on dev must meet the same columns on test."""
    splits = [split for split in (task.dev, task.test) if split is not None]
    queries = [baseline.encode(split.queries, _query_side(split)) for split in splits]
    documents = [baseline.encode(split.documents, "document") for split in splits]
    stacked = _stacked(queries), _stacked(documents)
    wide, deep = map(_at_least_one, dense(*stacked))
    parts = zip(_cut(wide, queries), _cut(deep, documents), strict=True)
    vectors = [TaskVectors(np.asarray(one, np.float32), np.asarray(other, np.float32)) for one, other in parts]
    return (None if len(vectors) == 1 else vectors[0]), vectors[-1], is_too_wide(*stacked)


def _query_side(texts: Texts) -> Side | None:
    return "query" if texts.documents else None


def _at_least_one(vectors: np.ndarray) -> np.ndarray:
    """Where no text has a known word all vectors are zero, and still have a dimension."""
    return vectors if vectors.shape[1] else np.zeros((len(vectors), 1), dtype=np.float32)


def _stacked(parts: Sequence[Vectors]) -> Vectors:
    sparse: list[Any] = [part for part in parts if isinstance(part, csr_matrix)]
    if len(sparse) == len(parts):
        return csr_matrix(vstack(sparse, format="csr"))
    width = max(part.shape[1] for part in parts)
    return np.concatenate([np.asarray(part).reshape(-1, width) for part in parts])


def _cut(whole: np.ndarray, parts: Sequence[Vectors]) -> list[np.ndarray]:
    edges = np.cumsum([part.shape[0] for part in parts])[:-1]
    return np.split(whole, edges)

"""Held-out training pairs as a search: each query looks for its positives among those of all others and distractors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32

from dec2vec.config.model import EncodeOptions
from dec2vec.config.tasks import HELD_OUT
from dec2vec.corpus.exact_search import searchable_rows
from dec2vec.files.held_out import HeldOut, Reading
from dec2vec.prompts.prompt import Side
from eval.systems.system import TextEncoder
from eval.tasks.retrieval import METRICS, RetrievalTask
from eval.tasks.retrieval_files import Judged
from eval.tasks.task import TaskVectors

BLOCK = 256
"""Queries whose cosines with all documents are in memory together."""


def retrieval_task(held: HeldOut) -> RetrievalTask:
    """The search as a task, on which nothing but dev is measured."""
    documents = {f"d{number}": text for number, text in enumerate(held.documents)}
    ids = [f"q{number}" for number in range(len(held.queries))]
    qrels = {name: {f"d{number}": 1 for number in found} for name, found in zip(ids, held.relevant, strict=True)}
    judged = Judged(ids, held.queries, qrels, left_out=0)
    return RetrievalTask(HELD_OUT, METRICS[0], documents, judged, judged)


def measure(held: HeldOut, task: RetrievalTask, encoder: TextEncoder, temperature: float) -> dict[str, float]:
    """The metrics of the search, and `loss`: plain InfoNCE of each pair against all documents.

    It has the temperature with which training starts, and none of the further terms of the run's loss.
    """
    vectors = read(held, encoder)
    return {**task.dev_scores(vectors), "loss": contrastive_loss(vectors, held.relevant, temperature)}


def read(held: HeldOut, encoder: TextEncoder, batch_tokens: int = 16_384) -> TaskVectors:
    """Vectors of queries and documents, each in the prompt that it is trained in."""
    queries = _encoded(encoder, held.queries, held.query_prompts, "query", batch_tokens)
    return TaskVectors(queries, _encoded(encoder, held.documents, held.document_prompts, "document", batch_tokens))


def contrastive_loss(vectors: TaskVectors, relevant: Sequence[Sequence[int]], temperature: float) -> float:
    """Mean over pairs of -log softmax of the positive's cosine / temperature among it and all other documents.

    The other positives of a query are not among these.
    """
    if not (np.isfinite(vectors.queries).all() and np.isfinite(vectors.documents).all()):
        return float("nan")
    queries, documents = searchable_rows(vectors.queries), searchable_rows(vectors.documents)
    losses: list[float] = []
    for start in range(0, len(queries), BLOCK):
        scores = (queries[start : start + BLOCK] @ documents.T).astype(np.float64) / temperature
        for row, found in zip(scores, relevant[start : start + BLOCK], strict=True):
            own = row[list(found)]
            row[list(found)] = -np.inf
            top = max(row.max(), own.max())
            others = np.exp(row - top).sum()
            losses += (np.log(np.exp(own - top) + others) + top - own).tolist()
    return float(np.mean(losses))


def _encoded(
    encoder: TextEncoder, texts: Sequence[str], prompts: Sequence[Reading], side: Side, batch_tokens: int
) -> Float32[np.ndarray, "texts dim"]:
    """In the order of the texts; those of a prompt and an instruction are embedded together."""
    found: np.ndarray | None = None
    for prompt in dict.fromkeys(prompts):
        rows = [row for row, of_text in enumerate(prompts) if of_text == prompt]
        options = EncodeOptions(prompt[0], side, batch_tokens, progress=False, task=prompt[1])
        vectors = encoder.encode_views([texts[row] for row in rows], [encoder.view], options)[encoder.view]
        found = np.empty((len(texts), vectors.shape[1]), dtype=np.float32) if found is None else found
        found[rows] = vectors
    assert found is not None
    return found

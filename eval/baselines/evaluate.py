"""Baselines besides the decoder: fitted on training-side text, measured on the same tasks.

They are shown, but no part of the headline, which compares the tuned encoder with the untuned decoder alone.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
from jaxtyping import Float64
from scipy.sparse import csr_matrix, vstack

from dec2vec.errors import UserError
from eval.baselines import PACKAGES, make_baseline
from eval.baselines.baseline import Baseline, PairBaseline, VectorBaseline, Vectors
from eval.baselines.cosines import cosines, dense
from eval.config import EvalConfig
from eval.leakage.training_text import without
from eval.results.findings import Findings
from eval.selection.judge import Measured
from eval.systems.subject import Subject
from eval.tasks.pair_files import Pairs
from eval.tasks.pair_task import PairTask
from eval.tasks.task import E, Task, TaskVectors, Texts

logger = logging.getLogger(__name__)


def not_installed(names: Sequence[str]) -> dict[str, str]:
    """By baseline a line that says how to get the package that it needs; those that can be computed are left out."""
    absent = [name for name in names if name in PACKAGES and find_spec(PACKAGES[name]) is None]
    return {name: f"{name}: not computed; pip install 'dec2vec[eval]'" for name in absent}


@dataclass(frozen=True, eq=False)
class Baselines:
    """Fitted baselines. Those that compare texts directly serve tasks on pairs alone."""

    baselines: Sequence[Baseline]
    resamples: int
    seed: int
    notes: Sequence[str] = ()
    """A line for each baseline whose package is not installed."""

    @classmethod
    def from_config(
        cls, config: EvalConfig, sources: Mapping[str, Sequence[str]], evaluated: Sequence[str]
    ) -> Baselines:
        """Fitted on all text of `sources` that is not among the evaluated texts.

        A baseline whose package is not installed is left out, with a line in the log. Raises UserError for an unknown
        name.
        """
        absent = not_installed(config.baselines)
        for line in absent.values():
            logger.warning("%s", line)
        baselines = [make_baseline(name, config.model) for name in config.baselines if name not in absent]
        names = [baseline.name for baseline in baselines]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise UserError(f"baselines: two have the name {twice}; give each once, or rename a folder")
        text = without(sources, evaluated) if baselines else []
        for baseline in baselines:
            if isinstance(baseline, VectorBaseline):
                baseline.fit(text)
        return cls(baselines, config.bootstrap, config.seed, list(absent.values()))

    def measure(self, findings: Findings) -> None:
        """On every task; those without vectors on the tasks on pairs."""
        for baseline in self.baselines:
            for task in findings.tasks:
                evidence = _evidence(baseline, task)
                if evidence is not None:
                    figures = task.figures(evidence, self.resamples, self.seed)
                    findings.add(task.name, [Measured(Subject.from_baseline(baseline.name), figures)])


def _evidence(baseline: Baseline, task: Task[E]) -> E | None:
    """None where the task needs vectors, and the baseline has none."""
    if isinstance(task, PairTask):  # sparse vectors of tens of thousands of texts stay sparse
        pairs = task.dev_pairs if task.has_threshold else None
        dev = None if pairs is None else _pair_scores(baseline, pairs)
        evidence: E = task.evidence_from_scores(dev, _pair_scores(baseline, task.test_pairs))
        return evidence
    return None if isinstance(baseline, PairBaseline) else task.evidence(*_task_vectors(baseline, task))


def _pair_scores(baseline: Baseline, pairs: Pairs) -> Float64[np.ndarray, " pairs"]:
    """The similarity of each pair; each text is read once."""
    if isinstance(baseline, PairBaseline):
        return baseline.similarities(pairs.first, pairs.second)
    queries = baseline.encode(pairs.texts.queries, "query")
    seconds = baseline.encode(pairs.texts.documents, "document") if pairs.is_two_sided else queries
    return cosines(queries[pairs.left], seconds[pairs.right])


def _task_vectors(baseline: VectorBaseline, task: Task[E]) -> tuple[TaskVectors | None, TaskVectors]:
    """Dev and test are spread out together: what is learnt on dev must meet the same columns on test."""
    splits = [split for split in (task.dev, task.test) if split is not None]
    queries = [_encoded(baseline, split, "query") for split in splits]
    documents = [_encoded(baseline, split, "document") for split in splits]
    wide, deep = map(_at_least_one, dense(_stacked(queries), _stacked(documents)))
    parts = zip(_cut(wide, queries), _cut(deep, documents), strict=True)
    vectors = [TaskVectors(np.asarray(one, np.float32), np.asarray(other, np.float32)) for one, other in parts]
    return (None, vectors[0]) if len(vectors) == 1 else (vectors[0], vectors[1])


def _at_least_one(vectors: np.ndarray) -> np.ndarray:
    """Where no text has a known word all vectors are zero, and still have a dimension."""
    return vectors if vectors.shape[1] else np.zeros((len(vectors), 1), dtype=np.float32)


def _encoded(baseline: VectorBaseline, texts: Texts, side: str) -> Vectors:
    return baseline.encode(texts.queries, "query") if side == "query" else baseline.encode(texts.documents, "document")


def _stacked(parts: Sequence[Vectors]) -> Vectors:
    sparse: list[Any] = [part for part in parts if isinstance(part, csr_matrix)]
    if len(sparse) == len(parts):
        return csr_matrix(vstack(sparse, format="csr"))
    width = max(part.shape[1] for part in parts)
    return np.concatenate([np.asarray(part).reshape(-1, width) for part in parts])


def _cut(whole: np.ndarray, parts: Sequence[Vectors]) -> list[np.ndarray]:
    edges = np.cumsum([part.shape[0] for part in parts])[:-1]
    return np.split(whole, edges)

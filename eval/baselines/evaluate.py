"""Outside baselines beside the decoder's rows: fitted on training-side text, judged on the same tasks.

They are shown and named `baseline/...`; the headline compares the tuned encoder with the untuned decoder alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64
from scipy.sparse import csr_matrix, vstack

from dec2vec.errors import UserError
from eval.baselines import make_baseline, table_name
from eval.baselines.baseline import Baseline, PairBaseline, VectorBaseline, Vectors
from eval.baselines.cosines import cosines, dense
from eval.config import EvalConfig
from eval.leakage.training_text import held_out_texts, without
from eval.metrics.correlation import AGGREGATIONS, spearman_over_subsets
from eval.metrics.statistics import Bootstrap
from eval.results.results import AVERAGE, Figure, Result, to_result
from eval.results.task_results import Findings
from eval.selection.judge import Measured
from eval.tasks.pair_files import LabelledPairs
from eval.tasks.pair_task import PairTask
from eval.tasks.sts import StsTask
from eval.tasks.task import Figure as TaskFigure
from eval.tasks.task import Task, TaskVectors, Texts


@dataclass(frozen=True, eq=False)
class Outside:
    """Fitted baselines. Those that compare texts directly serve similarity, pair matching and the relevance gap."""

    baselines: list[Baseline]
    resamples: int
    seed: int

    @classmethod
    def of(
        cls,
        config: EvalConfig,
        sources: Mapping[str, Sequence[str]],
        tasks: Sequence[StsTask],
        further: Sequence[Task],
    ) -> Outside:
        """Fitted on all training-side text that is in no evaluation set. UserError for an unknown name."""
        baselines = [make_baseline(name, config.model) for name in config.baselines]
        names = [baseline.name for baseline in baselines]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise UserError(f"baselines: two have the name {twice}; give each once, or rename a folder")
        text = without(sources, held_out_texts(tasks, further)) if baselines else []
        for baseline in baselines:
            if isinstance(baseline, VectorBaseline):
                baseline.fit(text)
        return cls(baselines, config.bootstrap, config.seed)

    def similarity(self, dev: StsTask | None, tests: Sequence[StsTask]) -> list[Result]:
        """As the decoder's rows: dev, every test and their average; nothing without similarity tasks."""
        if dev is None:
            return []
        figures: dict[tuple[str, str, str], Figure] = {}
        for task in (dev, *tests) if self.baselines else ():
            bootstrap = Bootstrap(task.gold, task.subsets, resamples=self.resamples, seed=self.seed)
            for baseline in self.baselines:
                scores = _similarities(baseline, task)
                resampled = bootstrap.aggregations(scores)
                for kind in AGGREGATIONS:
                    value = spearman_over_subsets(scores, task.gold, task.subsets, kind)
                    figures[table_name(baseline), task.name, kind] = Figure(value, resampled[kind], len(task))
        for baseline in self.baselines:
            for kind in AGGREGATIONS:
                name = table_name(baseline)
                figures[name, AVERAGE, kind] = Figure.mean([figures[name, task.name, kind] for task in tests])
        return [to_result(name, task, f"spearman_{kind}", found, None) for (name, task, kind), found in figures.items()]

    def judge(self, findings: Findings, further: Sequence[Task]) -> None:
        """On the tasks beside similarity; those without vectors on those that judge pairs."""
        for baseline in self.baselines:
            for task in further:
                figures = self._figures(baseline, task)
                if figures:
                    findings.add(task, [Measured(table_name(baseline), False, None, "", figures, is_baseline=True)])

    def _figures(self, baseline: Baseline, task: Task) -> list[TaskFigure]:
        if isinstance(task, PairTask):  # sparse vectors of tens of thousands of texts are never spread out
            dev = None if task.dev_pairs is None else _pair_scores(baseline, task.dev_pairs)
            return task.measure_scores(dev, _pair_scores(baseline, task.test_pairs), self.resamples, self.seed)
        if isinstance(baseline, PairBaseline):
            return []
        return task.measure(*_task_vectors(baseline, task), self.resamples, self.seed)


def _similarities(baseline: Baseline, task: StsTask) -> Float64[np.ndarray, " pairs"]:
    if isinstance(baseline, PairBaseline):
        left = [task.texts[index] for index in task.left]
        return baseline.similarities(left, [task.texts[index] for index in task.right])
    vectors = baseline.encode(task.texts)
    return cosines(vectors[task.left], vectors[task.right])


def _pair_scores(baseline: Baseline, pairs: LabelledPairs) -> Float64[np.ndarray, " pairs"]:
    """Of labelled pairs; each text is read once."""
    if isinstance(baseline, PairBaseline):
        return baseline.similarities(pairs.first, pairs.second)
    queries = baseline.encode(pairs.texts.queries, "query")
    seconds = baseline.encode(pairs.texts.documents, "document") if pairs.two_sided else queries
    return cosines(queries[pairs.left], seconds[pairs.right])


def _task_vectors(baseline: VectorBaseline, task: Task) -> tuple[TaskVectors | None, TaskVectors]:
    """Dev and test are spread out together: what is learnt on dev must meet the same columns on test."""
    splits = [split for split in (task.dev, task.test) if split is not None]
    queries = [_encoded(baseline, split, "query") for split in splits]
    documents = [_encoded(baseline, split, "document") for split in splits]
    wide, deep = map(_at_least_one, dense(_stacked(queries), _stacked(documents)))
    parts = zip(_cut(wide, queries), _cut(deep, documents), strict=True)
    found = [TaskVectors(np.asarray(one, np.float32), np.asarray(other, np.float32)) for one, other in parts]
    return (None, found[0]) if len(found) == 1 else (found[0], found[1])


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

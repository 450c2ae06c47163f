"""Semantic textual similarity: graded sentence pairs -> cosines -> Spearman, without any regressor on top."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
from jaxtyping import Float64, Int64
from numpy.typing import NDArray

from dec2vec.errors import UserError
from dec2vec.files.cells import is_number
from dec2vec.files.tables import Table, read_table
from dec2vec.vectors.quantization import Ranges
from eval.metrics.correlation import AGGREGATIONS, spearman, spearman_over_subsets
from eval.metrics.intervals import MANY
from eval.metrics.resampling import multiplicities
from eval.metrics.similarities import pearson, pearsons, similarities
from eval.metrics.statistics import Bootstrap
from eval.systems.system import TextEncoder
from eval.tasks.columns import ColumnsRead, columns_read
from eval.tasks.figure import Figure, too_few, too_few_unlike
from eval.tasks.pair_files import Pairs, index_texts
from eval.tasks.pair_task import PairTask
from eval.tasks.task import Evidence, TaskVectors

METRIC = "spearman_all"
"""One correlation over the concatenated sub-sets."""


@dataclass(frozen=True, eq=False)
class GradedPairs(Pairs):
    """Pairs with a graded score; each belongs to a sub-set of its file."""

    gold: Float64[np.ndarray, " pairs"]
    subsets: Int64[np.ndarray, " pairs"]
    subset_names: list[str]
    _bootstraps: dict[tuple[int, int], Bootstrap] = field(init=False, repr=False, default_factory=dict)

    @classmethod
    def from_data(cls, data: SimilarityData) -> GradedPairs:
        """Raises UserError where all gold scores are equal: no ranking agrees or disagrees with them."""
        if np.ptp(data.scores) == 0:
            raise UserError(f"{data.name}: every score is {data.scores[0]:g}; a correlation needs different scores")
        texts, left, right = index_texts(data.sentences1, data.sentences2, two_sided=False)
        code = {name: index for index, name in enumerate(dict.fromkeys(data.subsets))}
        subsets = np.array([code[name] for name in data.subsets], dtype=np.int64)
        return cls(data.name, texts, left, right, data.scores, subsets, list(code), columns=data.columns)

    def bootstrap(self, resamples: int, seed: int) -> Bootstrap:
        """One for every system: the ranks of the gold scores are computed once."""
        key = (resamples, seed)
        if key not in self._bootstraps:
            self._bootstraps[key] = Bootstrap(self.gold, self.subsets, resamples=resamples, seed=seed)
        return self._bootstraps[key]

    @property
    def too_few(self) -> str:
        """Why a correlation over these pairs has no interval."""
        return too_few(len(self), "pairs") or too_few_unlike(self.gold, "gold scores")

    @property
    def too_few_in_subsets(self) -> dict[str, str]:
        """The same by aggregation: the mean over sub-sets is as good as the smallest of them."""
        reason = too_few(int(np.bincount(self.subsets).min()), "pairs in the smallest sub-set")
        return {"spearman_all": "", "spearman_mean": reason, "spearman_wmean": reason}

    def at(self, rows: Int64[np.ndarray, " kept"]) -> GradedPairs:
        """Some of the pairs, as one sub-set, over the same list of texts."""
        subsets = np.zeros(len(rows), dtype=np.int64)
        return replace(self, left=self.left[rows], right=self.right[rows], gold=self.gold[rows], subsets=subsets)

    def _values(self) -> Iterable[str]:
        return (repr(float(score)) for score in self.gold)


@dataclass(frozen=True, eq=False)
class SimilarityEvidence(Evidence):
    """Scores of the test pairs by similarity: `cosine` decides; the others are for comparison."""

    pairs: GradedPairs
    scores: Mapping[str, Float64[np.ndarray, " pairs"]]

    @property
    def cosines(self) -> Float64[np.ndarray, " pairs"]:
        return self.scores["cosine"]

    def at(self, rows: Int64[np.ndarray, " kept"]) -> SimilarityEvidence | None:
        """The cosines of some pairs; None where their gold scores are all equal."""
        if np.ptp(self.pairs.gold[rows]) == 0:
            return None
        return replace(self, pairs=self.pairs.at(rows), scores={"cosine": self.cosines[rows]})


@dataclass(frozen=True, eq=False)
class StsTask(PairTask[GradedPairs, SimilarityEvidence]):
    """A file of graded pairs. Several of them share the dev file on which layer and post-processing are chosen."""

    kind: ClassVar[str] = "similarity"

    def __post_init__(self) -> None:
        """Dev and test may be equal, as the dev file is reported too; `eval.inputs.load_tasks` checks the tests."""

    @property
    def chosen_on(self) -> str:
        return self.known_dev_pairs.name

    def dev_score(self, vectors: TaskVectors) -> float:
        """Spearman over all dev pairs."""
        pairs = self.known_dev_pairs
        return spearman(pairs.cosines(vectors), pairs.gold)

    def evidence(self, dev: TaskVectors | None, test: TaskVectors) -> SimilarityEvidence:
        """Every similarity; cosines alone without dev vectors, whose ranges the rounding to bytes needs."""
        if dev is None:
            return super().evidence(dev, test)
        pairs = self.test_pairs
        scores = similarities(test.queries, pairs.left, pairs.right, Ranges.from_vectors(dev.queries))
        return SimilarityEvidence(pairs, scores)

    def evidence_from_scores(
        self, dev: Float64[np.ndarray, " dev_pairs"] | None, test: Float64[np.ndarray, " test_pairs"]
    ) -> SimilarityEvidence:
        """Nothing is chosen on dev."""
        return SimilarityEvidence(self.test_pairs, {"cosine": test})

    def figures(self, evidence: SimilarityEvidence, resamples: int, seed: int) -> list[Figure]:
        """Spearman over all pairs, then its plain and its weighted mean over the sub-sets.

        Plain percentiles: those of correlations cover at 20 pairs already.
        """
        pairs, cosines = evidence.pairs, evidence.cosines
        drawn = pairs.bootstrap(resamples, self.seed_of(seed)).aggregations(cosines)
        values = {kind: spearman_over_subsets(cosines, pairs.gold, pairs.subsets, kind) for kind in AGGREGATIONS}
        figures = [
            Figure(f"spearman_{kind}", value, drawn[kind], len(pairs), size=MANY) for kind, value in values.items()
        ]
        reason, in_subsets = pairs.too_few, pairs.too_few_in_subsets
        return [figure.without_interval(reason or in_subsets[figure.metric]) for figure in figures]

    def similarity_figures(self, evidence: SimilarityEvidence, resamples: int, seed: int) -> list[Figure]:
        """`pearson_cosine`, `spearman_dot`, `pearson_dot` ...; Spearman of cosines is the main figure."""
        gold, n = evidence.pairs.gold, len(evidence.pairs)
        seed = self.seed_of(seed)
        bootstrap = evidence.pairs.bootstrap(resamples, seed)
        figures: list[Figure] = []
        for name, scores in evidence.scores.items():
            if name != "cosine":
                drawn = bootstrap.correlations(scores)
                figures.append(Figure(f"spearman_{name}", spearman(scores, gold), drawn, n, size=MANY))
            parts = [pearsons(scores, gold, counts) for counts in multiplicities(n, resamples, seed)]
            figures.append(Figure(f"pearson_{name}", pearson(scores, gold), np.concatenate(parts), n, size=MANY))
        return [figure.without_interval(evidence.pairs.too_few) for figure in figures]


def load_task(path: str | Path) -> StsTask:
    """A file with sentence1, sentence2, score and perhaps subset, as its own dev data until it is given others."""
    pairs = GradedPairs.from_data(read_similarity(path))
    return StsTask(pairs.name, METRIC, pairs, pairs)


def dev_score(encoder: TextEncoder, task: StsTask, *, batch_tokens: int = 16_384) -> float:
    """Spearman over all dev pairs with the encoder as it is: the figure by which training keeps the best weights."""
    texts = task.known_dev_pairs.texts.queries
    vectors = encoder.encode(texts, batch_tokens=batch_tokens, normalize=False, progress=False)
    return task.dev_score(TaskVectors.from_queries(vectors))


@dataclass(frozen=True)
class SimilarityData:
    """Graded sentence pairs; `subsets` names the part of the file each pair belongs to ("" for none)."""

    name: str
    sentences1: list[str]
    sentences2: list[str]
    scores: NDArray[np.float64]
    subsets: list[str]
    columns: ColumnsRead | None = None

    def __len__(self) -> int:
        return len(self.sentences1)


def read_similarity(path: str | Path) -> SimilarityData:
    """Columns sentence1, sentence2, score, perhaps subset; pairs without a score are dropped (SentEval)."""
    table = read_table(path, ["sentence1", "sentence2", "score"])
    graded = [i for i, row in enumerate(table.rows) if row["score"] not in (None, "")]
    if len(graded) < 2:
        raise UserError(f"{table.name}: {len(graded)} pairs have a score; a correlation needs at least two")
    used = ["sentence1", "sentence2", "score", *(["subset"] if "subset" in table.columns else [])]
    ungraded = len(table) - len(graded)
    note = f"{ungraded:,} of {len(table):,} pairs have no score and are left out" if ungraded else ""
    return SimilarityData(
        columns=columns_read(table, used, note),
        name=Path(table.name).stem,
        sentences1=[table.text(i, "sentence1") for i in graded],
        sentences2=[table.text(i, "sentence2") for i in graded],
        scores=np.array([_score(table, i) for i in graded], dtype=np.float64),
        subsets=[str(table.rows[i].get("subset") or "") for i in graded],
    )


def _score(table: Table, index: int) -> float:
    value = table.rows[index]["score"]
    if isinstance(value, bool) or not isinstance(value, (int, float, str)) or not is_number(value):
        raise UserError(f"{table.where(index)}: score {value!r} is not a finite number; correct it or leave it empty")
    return float(value)

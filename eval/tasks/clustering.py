"""Clustering: k-means with as many clusters as classes; V-measure (Rosenberg & Hirschberg 2007) over several seeds.

Vectors are scaled to unit length first, as cosine is what every other task compares by.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from jaxtyping import Float32, Float64, Int64

from dec2vec.corpus.exact_search import searchable_rows
from dec2vec.errors import UserError
from eval.config import ClusteringConfig
from eval.tasks.columns import ColumnsRead
from eval.tasks.figure import Figure, too_few
from eval.tasks.labelled import LabelledTexts, read_labelled
from eval.tasks.pair_files import named_test
from eval.tasks.task import DescribedTexts, Evidence, Task, TaskVectors, Texts

METRIC = "V-measure"
SEEDS = 5
HALVINGS = 8
"""Times that the texts are halved for an interval."""
FEWEST_TEXTS = 100
"""Texts below which no interval is shown."""
LARGE = 20_000
"""Texts beyond which k-means learns from mini-batches."""
BATCH = 4096


@dataclass(frozen=True, eq=False)
class ClusterEvidence(Evidence):
    """Labelled texts with their vectors. They are clustered anew whenever some are left out."""

    data: LabelledTexts
    vectors: Float32[np.ndarray, "texts dim"]

    def at(self, rows: Int64[np.ndarray, " kept"]) -> ClusterEvidence | None:
        """None where these texts are of one class."""
        kept = self.data.at(rows)
        return replace(self, data=kept, vectors=self.vectors[rows]) if len(kept.classes) > 1 else None


@dataclass(frozen=True, eq=False)
class ClusteringTask(Task[ClusterEvidence]):
    """Labelled texts to report on, and perhaps others to choose on."""

    kind: ClassVar[str] = "clustering"
    test_data: LabelledTexts
    dev_data: LabelledTexts | None = None
    seeds: int = SEEDS
    has_corpus: ClassVar[bool] = True

    @property
    def dev(self) -> Texts | None:
        """Dev texts, on the query side."""
        return None if self.dev_data is None else Texts(self.dev_data.texts, [])

    @property
    def test(self) -> Texts:
        """Test texts, on the query side."""
        return Texts(self.test_data.texts, [])

    @property
    def own_text(self) -> DescribedTexts:
        """The texts to be clustered: their labels are not read, and clusters are never asked for of other texts."""
        return DescribedTexts(self.test_data.texts, f"{len(self.test_data):,} texts that are clustered")

    def corpus(self, vectors: TaskVectors) -> Float32[np.ndarray, "texts dim"]:
        """Of the texts to be clustered."""
        return vectors.queries

    def dev_score(self, vectors: TaskVectors) -> float:
        """Mean V-measure over the seeds; nan for vectors that hold inf or nan."""
        if self.dev_data is None:
            raise UserError(f"{self.name} has no dev texts; give a dev file for the selection")
        if not np.isfinite(vectors.queries).all():
            return float("nan")
        labels = self.dev_data.codes(self.dev_data.classes)
        found = cluster(vectors.queries, len(self.dev_data.classes), self.seeds)
        return float(np.mean([v_measure(labels, clusters) for clusters in found]))

    @property
    def columns(self) -> list[ColumnsRead]:
        """Of the test file, then of the dev file."""
        return [
            data.columns for data in (self.test_data, self.dev_data) if data is not None and data.columns is not None
        ]

    @property
    def items(self) -> list[tuple[str, ...]]:
        """Each test text on its own."""
        return self.test_data.items

    def evidence(self, dev: TaskVectors | None, test: TaskVectors) -> ClusterEvidence:
        """Nothing is chosen on dev."""
        return ClusterEvidence(self.test_data, test.queries)

    def figures(self, evidence: ClusterEvidence, resamples: int, seed: int) -> list[Figure]:
        """Mean and standard deviation over the k-means seeds; see `half_differences` for the interval of the mean."""
        classes, n = evidence.data.classes, len(evidence.data)
        spread = Figure(f"{self.metric} spread", float("nan"), np.full(resamples, np.nan), n)
        if not np.isfinite(evidence.vectors).all():
            return [replace(spread, metric=self.metric), spread]
        labels, draws = evidence.data.codes(classes), self.seed_of(seed)
        rows = searchable_rows(evidence.vectors)
        found = [_cluster_once(rows, len(classes), run) for run in range(self.seeds)]
        scores = np.array([v_measure(labels, clusters) for clusters in found])
        mean = Figure(self.metric, float(scores.mean()), np.full(resamples, scores.mean()), n, scale="share")
        reason = too_few(n, "texts", max(FEWEST_TEXTS, 4 * len(classes)))
        if not reason:
            moved = half_differences(rows, labels, draws, starts=max(1, self.seeds // 2))
            signs = np.random.default_rng((draws, HALVINGS)).standard_normal((resamples, HALVINGS))
            mean = replace(mean, resampled=mean.value + signs @ moved / np.sqrt(HALVINGS), size=HALVINGS + 1)
            reason = "" if moved.any() else "every half of the texts has the same figure"
        spread = replace(spread, value=float(scores.std()), resampled=np.full(resamples, scores.std()))
        return [mean.without_interval(reason), spread.without_interval(f"a spread over {self.seeds} runs of k-means")]


def load_clustering(config: ClusteringConfig, *, is_dev: bool = False) -> ClusteringTask:
    """The files of `config`, read and checked. UserError where each text is a class of its own: all clusters are right.

    UserError as well where all texts are of one class, and where dev holds the very texts of test. With `is_dev`, only
    the texts of dev are read, or those of test where there are none.
    """
    dev = _read(config.dev, config) if config.dev else None
    test = dev if is_dev and dev is not None else _read(named_test("clustering", config.test), config)
    if is_dev:
        dev = test
    elif dev is not None and dev.content_hash == test.content_hash:
        raise UserError(
            f"{test.name} contains the texts of {dev.name}; use different files, because selection on test data is "
            "leakage"
        )
    return ClusteringTask(config.name or f"{test.name}/clusters", METRIC, test, dev, config.seeds)


def _read(path: str, config: ClusteringConfig) -> LabelledTexts:
    data = read_labelled(path, config.text, config.label, limit=config.limit)
    if len(data.classes) < 2:
        raise UserError(f"{data.name}: every {config.label} is {data.classes[0]!r}; at least two classes are needed")
    if len(data.classes) == len(data):
        raise UserError(
            f"{data.name}: each of the {len(data)} texts has a different {config.label}; clustering needs texts with "
            "equal labels"
        )
    return data


def cluster(vectors: Float32[np.ndarray, "texts dim"], k: int, seeds: int) -> list[Int64[np.ndarray, " texts"]]:
    """One clustering of the unit vectors for each seed 0, 1, ..."""
    rows = searchable_rows(vectors)
    return [_cluster_once(rows, k, seed) for seed in range(seeds)]


def v_measure(labels: Int64[np.ndarray, " texts"], clusters: Int64[np.ndarray, " texts"]) -> float:
    """Harmonic mean of homogeneity and completeness, by scikit-learn."""
    from sklearn.metrics import v_measure_score

    return float(v_measure_score(labels, clusters))


def _cluster_once(vectors: Float32[np.ndarray, "texts dim"], k: int, seed: int) -> Int64[np.ndarray, " texts"]:
    """One start a seed, so that the spread over seeds is what one run of k-means would vary by."""
    from sklearn.cluster import KMeans, MiniBatchKMeans
    from sklearn.exceptions import ConvergenceWarning

    if len(vectors) > LARGE:
        model = MiniBatchKMeans(k, n_init=1, random_state=seed, batch_size=BATCH)
    else:
        model = KMeans(k, n_init=1, random_state=seed)
    with warnings.catch_warnings():  # fewer distinct vectors than clusters: some clusters stay empty
        warnings.simplefilter("ignore", ConvergenceWarning)
        return np.asarray(model.fit_predict(vectors), dtype=np.int64)


def half_differences(
    rows: Float32[np.ndarray, "texts dim"], labels: Int64[np.ndarray, " texts"], seed: int, starts: int = SEEDS // 2
) -> Float64[np.ndarray, " halvings"]:
    """Half the difference between the V-measures of two halves of the texts, each clustered anew, at random.

    Other texts would give other clusters: resampled with the clusters as found, the figure varies by a fifth to a third
    too little (its 95 % intervals covered 81 to 93 %). Half a difference of halves varies by the texts as the figure of
    all texts does, and by the starts of k-means as one over twice as many `starts`: half as many as the figure has.
    (With one where the figure has five, the intervals covered 97.5 %, those of differences 99 %.)
    """
    k = int(labels.max()) + 1
    return np.array([_half_difference(rows, labels, k, (seed, halving), starts) for halving in range(HALVINGS)])


def _half_difference(
    rows: Float32[np.ndarray, "texts dim"],
    labels: Int64[np.ndarray, " texts"],
    k: int,
    seed: tuple[int, int],
    starts: int,
) -> float:
    order = np.random.default_rng(seed).permutation(len(rows))
    halves = order[: len(rows) // 2], order[len(rows) // 2 :]
    runs = range(starts * seed[1], starts * (seed[1] + 1))
    one, other = (
        np.mean([v_measure(labels[half], _cluster_once(rows[half], k, run)) for run in runs]) for half in halves
    )
    return float(one - other) / 2

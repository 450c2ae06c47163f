"""Clustering: k-means with as many clusters as classes; V-measure (Rosenberg & Hirschberg 2007) over several seeds.

Vectors are scaled to unit length first, as cosine is what every other task compares by.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float32, Float64, Int64
from scipy.sparse import csr_matrix

from dec2vec.corpus.exact_search import searchable_rows
from dec2vec.errors import UserError
from eval.config import ClusteringConfig
from eval.metrics.resampling import multiplicities
from eval.tasks.labelled import LabelledTexts, read_labelled
from eval.tasks.task import Evidence, Figure, Task, TaskVectors, Texts

METRIC = "V-measure"
SEEDS = 5
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

    test_data: LabelledTexts
    dev_data: LabelledTexts | None = None
    seeds: int = SEEDS

    @property
    def dev(self) -> Texts | None:
        """Dev texts, on the query side."""
        return None if self.dev_data is None else Texts(self.dev_data.texts, [])

    @property
    def test(self) -> Texts:
        """Test texts, on the query side."""
        return Texts(self.test_data.texts, [])

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
    def items(self) -> list[tuple[str, ...]]:
        """Each test text on its own."""
        return self.test_data.items

    def evidence(self, dev: TaskVectors | None, test: TaskVectors) -> ClusterEvidence:
        """Nothing is chosen on dev."""
        return ClusterEvidence(self.test_data, test.queries)

    def figures(self, evidence: ClusterEvidence, resamples: int, seed: int) -> list[Figure]:
        """Mean and standard deviation over the k-means seeds.

        A resample draws texts with replacement, their clusters as found, and k-means seeds with replacement: the
        interval covers both. Repeated texts alone raise any V-measure (a class repeats with its cluster), by about as
        much for every system, so the resampled values are moved to have the figure as their mean.
        """
        classes, n = evidence.data.classes, len(evidence.data)
        labels = evidence.data.codes(classes)
        if not np.isfinite(evidence.vectors).all():
            nothing = np.full(resamples, np.nan)
            return [Figure(metric, float("nan"), nothing, n) for metric in (self.metric, f"{self.metric} spread")]
        found = cluster(evidence.vectors, len(classes), self.seeds)
        scores = np.array([v_measure(labels, clusters) for clusters in found])
        drawn = np.stack([_resampled(labels, clusters, resamples, seed) for clusters in found], axis=1)
        columns = np.random.default_rng((seed, self.seeds)).integers(0, self.seeds, (resamples, self.seeds))
        mixed = np.take_along_axis(drawn, columns, axis=1)
        means, spreads = mixed.mean(axis=1), mixed.std(axis=1)
        return [
            Figure(self.metric, float(scores.mean()), means - means.mean() + scores.mean(), n),
            Figure(f"{self.metric} spread", float(scores.std()), spreads, n),
        ]


def load_clustering(config: ClusteringConfig) -> ClusteringTask:
    """The files of `config`, read and checked. UserError where each text is a class of its own: all clusters are right.

    UserError as well where all texts are of one class, and where dev holds the very texts of test.
    """
    test = _read(config.test, config)
    dev = _read(config.dev, config) if config.dev else None
    if dev is not None and dev.content_hash == test.content_hash:
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


def _resampled(
    labels: Int64[np.ndarray, " texts"], clusters: Int64[np.ndarray, " texts"], resamples: int, seed: int
) -> Float64[np.ndarray, " resamples"]:
    """V-measure of each resample of texts, from the weights of the occupied (class, cluster) cells."""
    cells = np.unique(np.stack([labels, clusters]), axis=1, return_inverse=True)[1].ravel()
    joint, by_class, by_cluster = (_indicator(codes) for codes in (cells, labels, clusters))
    values = []
    for counts in multiplicities(len(labels), resamples, seed):
        entropies = [_entropy(counts @ indicator / len(labels)) for indicator in (joint, by_class, by_cluster)]
        values.append(_harmonic(*entropies))
    return np.concatenate(values)


def _indicator(codes: Int64[np.ndarray, " texts"]) -> csr_matrix:
    shape = (len(codes), int(codes.max()) + 1)
    return csr_matrix((np.ones(len(codes)), (np.arange(len(codes)), codes)), shape=shape)


def _entropy(shares: Float64[np.ndarray, "chunk cells"]) -> Float64[np.ndarray, " chunk"]:
    logarithms = np.log(shares, out=np.zeros_like(shares), where=shares > 0)
    return np.asarray(-(shares * logarithms).sum(axis=1))


def _harmonic(
    joint: Float64[np.ndarray, " chunk"],
    classes: Float64[np.ndarray, " chunk"],
    clusters: Float64[np.ndarray, " chunk"],
) -> Float64[np.ndarray, " chunk"]:
    """2 I(class; cluster) / (H(class) + H(cluster)); one class in one cluster is perfect, as in scikit-learn."""
    total = classes + clusters
    return np.asarray(np.divide(2 * (total - joint), total, out=np.ones_like(total), where=total > 1e-12))

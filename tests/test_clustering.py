"""k-means on clusters that are there and on noise; V-measures of resamples against scikit-learn."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.metrics import v_measure_score

from dec2vec.errors import UserError
from eval.config import ClusteringConfig, EvalConfig, PairsConfig, TopicsConfig
from eval.report.origins import origins
from eval.tasks import clustering
from eval.tasks.clustering import ClusteringTask, cluster, load_clustering
from eval.tasks.labelled import LabelledTexts
from eval.tasks.task import Task, TaskVectors

CLASSES, EACH = 4, 15


def write(path: Path, rows: list[tuple[str, object]]) -> Path:
    path.write_text("".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in rows))
    return path


def task(folder: Path) -> ClusteringTask:
    rows: list[tuple[str, object]] = [(f"text {i}", f"class {i % CLASSES}") for i in range(CLASSES * EACH)]
    test, dev = write(folder / "toy.test.jsonl", rows), write(folder / "toy.dev.jsonl", rows[:30])
    return load_clustering(ClusteringConfig(str(test), str(dev)))


def vectors(rows: int, noise: float, seed: int = 0) -> TaskVectors:
    generator = np.random.default_rng(seed)
    centres = generator.normal(size=(CLASSES, 6))
    points = centres[np.arange(rows) % CLASSES] + noise * generator.normal(size=(rows, 6))
    return TaskVectors(points.astype(np.float32), np.empty((0, 6), dtype=np.float32))


def test_clusters_that_are_there_are_found_and_noise_is_not(tmp_path: Path) -> None:
    toy = task(tmp_path)
    assert isinstance(toy, Task)
    assert toy.dev is not None
    assert (toy.name, len(toy.dev.queries), len(toy.test.queries), toy.test.documents) == (
        "toy.test/clusters",
        30,
        60,
        [],
    )
    clear, noise = toy.measure(None, vectors(60, 0.01), 100, 0), toy.measure(None, vectors(60, 50.0), 100, 0)
    assert clear[0].value > 0.8
    assert noise[0].value < 0.4
    assert toy.dev_score(vectors(30, 0.01)) > toy.dev_score(vectors(30, 50.0))


def test_length_is_no_signal(tmp_path: Path) -> None:
    toy, sample = task(tmp_path), vectors(60, 0.3)
    lengths = np.random.default_rng(1).uniform(0.1, 10, (60, 1)).astype(np.float32)
    longer = TaskVectors(sample.queries * lengths, sample.documents)
    assert toy.measure(None, longer, 100, 0)[0].value == pytest.approx(toy.measure(None, sample, 100, 0)[0].value)


def test_mean_and_spread_over_seeds_and_their_resamples(tmp_path: Path) -> None:
    toy, sample = task(tmp_path), vectors(60, 1.0)
    found = cluster(sample.queries, CLASSES, toy.seeds)
    scores = [v_measure_score(toy.test_data.labels, clusters) for clusters in found]
    mean, spread = toy.measure(None, sample, 30, 7)
    assert (mean.metric, mean.n, spread.metric) == ("V-measure", 60, "V-measure spread")
    assert (mean.value, spread.value) == (pytest.approx(np.mean(scores)), pytest.approx(np.std(scores)))
    assert mean.interval is None and mean.no_interval == "fewer than 100 texts (60)"
    assert spread.interval is None and spread.no_interval == f"a spread over {toy.seeds} runs of k-means"


def test_the_interval_comes_from_halves_that_are_clustered_anew() -> None:
    """Differences between halves of the texts, each a mean of two clusterings; two systems share the draws."""
    labels = np.arange(120) % CLASSES
    data = LabelledTexts("toy", [f"text {row}" for row in range(120)], [f"class {label}" for label in labels])
    toy, sample = ClusteringTask("toy", clustering.METRIC, data), vectors(120, 1.0)
    one = toy.measure(None, sample, 2000, 7)[0]
    moved = clustering.half_differences(sample.queries / np.linalg.norm(sample.queries, axis=1)[:, None], labels, 0)
    assert moved.shape == (clustering.HALVINGS,) and np.abs(moved).max() < 0.5
    rows = np.random.default_rng((0, 3)).permutation(120)
    unit = sample.queries / np.linalg.norm(sample.queries, axis=1)[:, None]
    halves = [
        v_measure_score(labels[half], KMeans(CLASSES, n_init=1, random_state=seed).fit_predict(unit[half]))
        for half in (rows[:60], rows[60:])
        for seed in (6, 7)
    ]
    assert moved[3] == pytest.approx((np.mean(halves[:2]) - np.mean(halves[2:])) / 2)
    expected = clustering.half_differences(unit, labels, toy.seed_of(7))
    assert one.resampled.std() == pytest.approx(np.sqrt((expected**2).mean()), rel=0.06)
    assert one.interval is not None and one.interval.low < one.value < one.interval.high
    same = one.minus(toy.measure(None, sample, 2000, 7)[0])
    assert same.interval is not None and same.interval.low == same.interval.high == 0


def test_many_texts_go_by_mini_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clustering, "LARGE", 50)
    assert task(tmp_path).measure(None, vectors(60, 0.01), 100, 0)[0].value > 0.8


def test_equal_vectors_and_inf(tmp_path: Path) -> None:
    toy = task(tmp_path)
    same = TaskVectors(np.ones((60, 3), dtype=np.float32), np.empty((0, 3), dtype=np.float32))
    assert toy.measure(None, same, 100, 0)[0].value == 0
    same.queries[5] = np.inf
    assert np.isnan([figure.value for figure in toy.measure(None, same, 100, 0)]).all()


def test_files_that_cannot_be_clustered(tmp_path: Path) -> None:
    def load(rows: list[tuple[str, object]]) -> ClusteringTask:
        return load_clustering(ClusteringConfig(str(write(tmp_path / "t.jsonl", rows))))

    with pytest.raises(UserError, match="every label is 'a'; at least two classes are needed"):
        load([("x", "a"), ("y", "a")])
    with pytest.raises(UserError, match="each of the 2 texts has a different label"):
        load([("x", "a"), ("y", "b")])
    with pytest.raises(UserError, match=r"t.jsonl line 2: label is 0.5; use text or a whole number"):
        load([("x", 1), ("y", 0.5)])
    toy = load([("x", 1), ("y", 2), ("z", 2)])
    with pytest.raises(UserError, match="t/clusters has no dev texts; give a dev file for the selection"):
        toy.dev_score(vectors(3, 1.0))


def test_columns_limit_and_leakage(tmp_path: Path) -> None:
    rows = [{"t": f"text {index}", "topic": index % 3, "label": "same"} for index in range(30)]
    path = tmp_path / "t.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = load_clustering(ClusteringConfig(str(path), text="t", label="topic", limit=10, name="mine"))
    assert (found.name, len(found.test_data), found.test_data.classes) == ("mine", 10, ["0", "1", "2"])
    assert found.test_data.codes(found.test_data.classes).tolist() == [index % 3 for index in range(10)]
    with pytest.raises(UserError, match="every label is 'same'"):
        load_clustering(ClusteringConfig(str(path), text="t"))
    with pytest.raises(
        UserError, match="t contains the texts of t; use different files, because selection on test data is leakage"
    ):
        load_clustering(ClusteringConfig(str(path), str(path), text="t", label="topic"))


def test_a_part_of_a_data_set_is_not_that_data_set(tmp_path: Path) -> None:
    """A card names a data set on the Hub only if all of it was measured: no limit, no chosen classes, no slice."""
    whole, hub = replace(task(tmp_path), name="all"), {"dataset": "owner/news", "split": "test"}
    config = EvalConfig(
        topics=(TopicsConfig("owner/news@test", classes=("a", "b")), TopicsConfig("owner/news@test", dev="x")),
        clustering=(ClusteringConfig("owner/news@test", limit=100), ClusteringConfig("owner/news@test")),
    )
    names = ("two classes", "all classes", "some rows", "all rows")
    found = origins(config, [], [replace(whole, name=name) for name in names])
    assert found == {"all classes": hub, "all rows": hub}
    sliced = EvalConfig(
        tests=("owner/news@test[:100]", "owner/news@test"), pairs=(PairsConfig("owner/news@test[5%:]"),)
    )
    found = origins(sliced, [replace(whole, name="slice"), whole], [replace(whole, name="pairs")])
    assert found == {"all": hub}

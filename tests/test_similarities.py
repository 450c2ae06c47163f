"""Dot products, distances and Pearson's correlation against scipy, and their rows in a report; MTEB rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import faiss
import numpy as np
import pytest
from scipy import stats
from scipy.spatial import distance

from dec2vec.config.load import validate
from dec2vec.errors import UserError
from dec2vec.vectors.quantization import Ranges
from eval.config import EvalConfig
from eval.metrics.similarities import pearson, similarities
from eval.mteb_tasks import rows as mteb_rows
from eval.mteb_tasks.encoder import MtebEncoder
from eval.mteb_tasks.run import Scored
from eval.report.markdown import to_markdown
from eval.report.report import hundred
from eval.run import evaluate
from eval.tasks.sts import load_task
from tests.eval_data import write_similarity
from tests.fake_encoder import FakeEncoder

DISTANCES = {"euclid": distance.euclidean, "manhattan": distance.cityblock, "dot": lambda a, b: -np.dot(a, b)}


@pytest.fixture
def config(tmp_path: Path) -> EvalConfig:
    return validate(
        EvalConfig,
        {
            "dev": str(write_similarity(tmp_path / "dev.jsonl", 60, 1)),
            "tests": [str(write_similarity(tmp_path / f"t{seed}.jsonl", 60, seed)) for seed in (3, 4)],
            "systems": {"prompts": ["bare"], "poolings": ["last"], "post": ["raw"]},
            "bootstrap": 100,
        },
    )


def test_rows_against_scipy(config: EvalConfig) -> None:
    report = evaluate(config, base=FakeEncoder(), tuned={"a": FakeEncoder()}, progress=False)
    task, tuned = load_task(config.tests[0]).test_pairs, FakeEncoder()
    vectors = tuned.encode(task.texts.queries, normalize=False).astype(np.float64)
    pairs = list(zip(vectors[task.left], vectors[task.right], strict=True))
    for name, far in DISTANCES.items():
        scores = [-far(one, other) for one, other in pairs]
        row = report.result("tuned/a", "t3", f"spearman_{name}")
        assert row.value == pytest.approx(stats.spearmanr(scores, task.gold)[0])
        assert row.low is not None and row.high is not None and row.low < row.value < row.high
        row = report.result("tuned/a", "t3", f"pearson_{name}")
        assert row.value == pytest.approx(stats.pearsonr(scores, task.gold)[0])
        assert row.low is not None and row.high is not None and row.low < row.value < row.high
    dev = tuned.encode(load_task(config.dev).test.queries, normalize=False)
    bytes_of = faiss.ScalarQuantizer(dev.shape[1], faiss.ScalarQuantizer.QT_8bit)
    bytes_of.train(dev)
    left, right = (
        bytes_of.decode(bytes_of.compute_codes(vectors[side].astype(np.float32))) for side in (task.left, task.right)
    )
    rounded = [1 - distance.cosine(one, other) for one, other in zip(left, right, strict=True)]
    assert report.result("tuned/a", "t3", "spearman_int8").value == pytest.approx(
        stats.spearmanr(rounded, task.gold)[0], abs=1e-3
    )
    agreeing = [1 - distance.hamming(one > 0, other > 0) for one, other in pairs]
    assert report.result("tuned/a", "t3", "spearman_binary").value == pytest.approx(
        stats.spearmanr(np.round(agreeing, 9), task.gold)[0]
    )
    cosines = [1 - distance.cosine(one, other) for one, other in pairs]
    assert report.result("tuned/a", "t3", "pearson_cosine").value == pytest.approx(
        stats.pearsonr(cosines, task.gold)[0]
    )
    mean = np.mean([report.result("tuned/a", name, "pearson_dot").value for name in ("t3", "t4")])
    assert report.result("tuned/a", "average", "pearson_dot").value == pytest.approx(mean)
    assert report.best_untuned is not None
    assert report.has(report.best_untuned, "average", "spearman_manhattan")


def test_constant_and_broken_scores() -> None:
    gold = np.arange(5.0)
    assert pearson(np.ones(5), gold) == 0.0
    assert np.isnan(pearson(np.array([1.0, np.nan, 2.0, 3.0, 4.0]), gold))
    assert pearson(1e8 + gold, gold) == pytest.approx(1.0)


def test_equal_vectors_are_nearest(tmp_path: Path) -> None:
    pairs = load_task(write_similarity(tmp_path / "t.jsonl", 20, 1)).test_pairs
    ones = np.ones((len(pairs.texts.queries), 4), dtype=np.float32)
    found = similarities(ones, pairs.left, pairs.right, Ranges.from_vectors(ones))
    assert {name: set(scores.tolist()) for name, scores in found.items()} == {
        "cosine": {1.0},
        "dot": {4.0},
        "euclid": {0.0},
        "manhattan": {0.0},
        "int8": {1.0},
        "binary": {0.0},
    }


def test_mteb_names_become_tables(config: EvalConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[str] = []

    def run(encoder: MtebEncoder, tasks: Sequence[str], output: Path) -> list[Scored]:
        asked.append(encoder.model_name)
        assert output == tmp_path / "out" / "mteb"
        return [Scored(name, 0.5 + len(asked) / 10, 8, 1) for name in tasks]

    monkeypatch.setattr(mteb_rows, "run_tasks", run)
    both = validate(EvalConfig, {**vars(config), "mteb": ["STS12"], "output_dir": str(tmp_path / "out")})
    report = evaluate(both, base=FakeEncoder(), tuned={"a": FakeEncoder()}, progress=False)
    [table] = report.tasks
    assert (table.name, table.metric) == ("mteb/STS12", "main_score")
    assert asked[0] == "tuned/a" and asked[1].startswith("untuned/bare/last@")
    assert [(row.system, row.value) for row in table.rows] == [(asked[0], 0.6), (asked[1], 0.7)]
    without_dev = replace(both, dev="", tests=())
    [table] = evaluate(without_dev, base=FakeEncoder(), tuned={"a": FakeEncoder()}, progress=False).tasks
    assert [row.system for row in table.rows] == ["tuned/a", "untuned/bare/last@2"], "read as the tuned run"


def test_misspelt_mteb_names_are_refused_before_anything_is_embedded(config: EvalConfig) -> None:
    base = FakeEncoder()
    with pytest.raises(UserError, match="MTEB 'STS99': no task and no benchmark has this name"):
        evaluate(replace(config, mteb=("STS99",)), base=base, tuned={}, progress=False)
    assert base.calls == []


def test_the_page_shows_every_similarity(config: EvalConfig) -> None:
    report = evaluate(config, base=FakeEncoder(), tuned={"a": FakeEncoder()}, progress=False)
    text = to_markdown(report)
    titles = ["Spearman cosine", "95 % interval", "Pearson cosine", "Spearman dot", "Pearson dot"]
    titles += ["Spearman euclid", "Pearson euclid", "Spearman manhattan", "Pearson manhattan"]
    assert "| " + " | ".join(["system", *titles]) + " |" in text
    section = text.partition("## Other similarities")[2].partition("\n## ")[0]
    [line] = [row for row in section.splitlines() if row.startswith("| tuned/a |")]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[1] == hundred(report.result("tuned/a", "average").value)
    for title, metric in (("Pearson cosine", "pearson_cosine"), ("Spearman manhattan", "spearman_manhattan")):
        assert cells[1 + titles.index(title)] == hundred(report.result("tuned/a", "average", metric).value)

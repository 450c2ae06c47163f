"""Outside baselines on pair matching and the relevance gap: from sparse cosines, equal to those of dense vectors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dec2vec.config.model import ModelConfig
from eval.baselines import evidence as outside
from eval.baselines import make_baseline
from eval.baselines.baseline import PairBaseline, VectorBaseline
from eval.baselines.evaluate import Baselines
from eval.baselines.evidence import task_vectors
from eval.baselines.fit_text import training_text
from eval.config import GapConfig, PairsConfig, TopicsConfig
from eval.results.findings import Findings
from eval.tasks.gap import load_gap
from eval.tasks.pair_task import PairTask
from eval.tasks.pairs import load_pairs
from eval.tasks.task import Figure, Task
from eval.tasks.topic_files import load_topics
from tests.eval_data import sentences
from tests.helpers import write_jsonl

RESAMPLES, SEED = 7, 3


def pair_file(path: Path, seed: int) -> str:
    """Matches share four words, the others one; some texts are equal, some have no known word."""
    generator = np.random.default_rng(seed)
    rows: list[dict[str, object]] = []
    for index, first in enumerate(sentences(generator, 60)):
        label = index % 2
        words = first.split()[: 4 if label else 1] + [f"w{word}" for word in generator.integers(0, 60, 2)]
        rows.append({"sentence1": first, "sentence2": first if index < 3 else " ".join(words), "label": label})
    rows += [{"sentence1": "?!", "sentence2": "unheard", "label": 0}]
    return str(write_jsonl(path, rows))


@pytest.fixture
def tasks(tmp_path: Path) -> list[Task]:
    files = {"test": pair_file(tmp_path / "test.jsonl", 1), "dev": pair_file(tmp_path / "dev.jsonl", 2)}
    return [load_pairs(PairsConfig(**files)), load_gap(GapConfig(**files))]


def found_by(name: str, tasks: list[Task]) -> dict[str, list[Figure]]:
    training = training_text({"words": sentences(np.random.default_rng(0), 100)}, [])
    findings = Findings(None, [], tasks)
    Baselines([make_baseline(name, ModelConfig())], training, RESAMPLES, SEED).measure(findings)
    return {name: rows[0].figures for name, rows in findings.rows.items()}


@pytest.mark.parametrize("name", ["tfidf", "char-ngrams", "bag-of-words"])
def test_sparse_cosines_give_the_figures_of_dense_vectors(name: str, tasks: list[Task]) -> None:
    baseline = make_baseline(name, ModelConfig())
    assert isinstance(baseline, VectorBaseline)
    baseline.fit(sentences(np.random.default_rng(0), 100))
    found = found_by(name, tasks)
    for task in tasks:
        dev, test, is_projected = task_vectors(baseline, task)
        assert not is_projected
        expected = task.measure(dev, test, RESAMPLES, SEED)
        assert [figure.metric for figure in found[task.name]] == [figure.metric for figure in expected]
        for ours, dense in zip(found[task.name], expected, strict=True):
            assert ours.value == pytest.approx(dense.value, abs=1e-9)
            np.testing.assert_allclose(ours.resampled, dense.resampled, atol=1e-9)


def test_pairs_are_judged_without_spreading_out(tasks: list[Task], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("spread out")

    monkeypatch.setattr(outside, "dense", refuse)
    assert found_by("tfidf", tasks)["test"][0].value > 0.8


@pytest.mark.parametrize("name", ["jaccard", "dice", "bleu", "chrf", "rouge-l"])
def test_similarities_without_vectors_judge_pairs(name: str, tasks: list[Task], tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [{"text": f"t {index}", "label": f"{index % 2}"} for index in range(8)]
    topics = load_topics(TopicsConfig(test=str(write_jsonl(tmp_path / "topics.jsonl", rows))))
    found = found_by(name, [*tasks, topics])
    assert list(found) == ["test", "test/gap"], "topics need vectors"
    values = {figure.metric: figure.value for figure in found["test"]}
    assert values["accuracy"] > 0.8 and values["auc"] > 0.8

    baseline = make_baseline(name, ModelConfig())
    assert isinstance(baseline, PairBaseline)
    [pairs, _] = tasks
    assert isinstance(pairs, PairTask) and pairs.dev_pairs is not None
    dev, test = (baseline.similarities(part.first, part.second) for part in (pairs.dev_pairs, pairs.test_pairs))
    levels = np.unique(dev)
    right = [float(((dev >= level) == pairs.dev_pairs.labels).mean()) for level in levels]
    place = max(range(1, len(levels)), key=lambda index: (right[index], levels[index]))
    threshold = (levels[place] + levels[place - 1]) / 2
    assert values["accuracy"] == pytest.approx(((test >= threshold) == pairs.test_pairs.labels).mean())

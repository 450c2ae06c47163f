"""Choices of layer and k: the best on dev, and deaf to everything about the tests."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dec2vec.config.load import validate
from dec2vec.config.model import EncodeOptions, ModelConfig
from dec2vec.decoder.pooling import View
from dec2vec.errors import UserError
from dec2vec.vectors.whitening import Moments, fit_whitening
from eval.config import EvalConfig, SystemsConfig
from eval.leakage.training_text import TextSource, read_training_texts
from eval.postprocess import moments as moments_file
from eval.postprocess.moments import Material
from eval.run import evaluate
from eval.selection.given import Given, with_given
from eval.selection.judge import EvaluationOptions, Reader, judge_similarity
from eval.systems.system import Post, System, candidate_dimensions, candidate_layers, candidate_views, run_name
from eval.tasks.sts import StsTask, load_task
from eval.tasks.task import BothSides, TaskVectors
from tests.eval_data import choose_on, write_pairs, write_similarity
from tests.fake_encoder import FakeEncoder

VIEWS = [View(pooling, layer) for pooling in ("last", "mean") for layer in (0, 1, 2)]


@pytest.fixture
def dev(tmp_path: Path) -> StsTask:
    return load_task(write_similarity(tmp_path / "dev.jsonl", 80, 1))


@pytest.fixture
def material(tmp_path: Path) -> Material:
    fit = read_training_texts(TextSource(str(write_pairs(tmp_path / "fit.jsonl", 150, 2))))
    return Material(fit, "hash", dimensions=(16, 8, 4), progress=False)


def dev_vectors(encoder: FakeEncoder, dev: StsTask, views: Sequence[View]) -> Mapping[View, TaskVectors]:
    return BothSides(encoder.encode_views(dev.test.queries, views, EncodeOptions("bare")))


def test_raw_takes_the_layer_that_is_best_on_dev(dev: StsTask, material: Material) -> None:
    encoder = FakeEncoder()
    found = choose_on(encoder, dev, VIEWS, material)
    assert [choice.system.view.pooling for choice in found] == ["last", "last", "mean", "mean"]
    for choice, pooling in ((found[0], "last"), (found[2], "mean")):
        scores = {}
        for layer in (0, 1, 2):
            view = View("last" if pooling == "last" else "mean", layer)
            scores[layer] = dev.dev_score(dev_vectors(encoder, dev, [view])[view])
        assert choice.system.post is None
        assert choice.chosen_on == "dev"
        assert choice.system.view.layer == max(scores, key=lambda layer: scores[layer]) == 1
        assert choice.dev_score == pytest.approx(scores[1])


def test_whitened_takes_the_best_pair_of_layer_and_k(dev: StsTask, material: Material) -> None:
    encoder = FakeEncoder()
    found = choose_on(encoder, dev, VIEWS, material)[1]
    scores = {}
    for layer in (0, 1, 2):
        view = View("last", layer)
        moments = Moments(16)
        moments.update(encoder.encode_views(material.text, [view], EncodeOptions("bare"))[view])
        raw = dev_vectors(encoder, dev, [view])[view].queries
        for k in (16, 8, 4):
            vectors = fit_whitening(moments, k=k).apply(raw)
            scores[layer, k] = dev.dev_score(TaskVectors.from_queries(vectors))
    winner = max(scores, key=lambda key: scores[key])
    assert (found.system.view.layer, found.k) == winner
    assert found.system.post == Post("whiten", f"whiten-{found.k}", found.k)
    assert found.dev_score == pytest.approx(scores[winner], abs=1e-9)
    assert found.post is not None
    assert {
        "prompt": "bare",
        "pooling": "last",
        "fit_sha256": "hash",
        "model": "fake",
        "n": 300,
    }.items() <= set(found.post.provenance.items())


def test_one_pass_over_fit_text_and_one_over_each_task(tmp_path: Path, dev: StsTask, material: Material) -> None:
    encoder = FakeEncoder()
    tests = [
        replace(load_task(write_similarity(tmp_path / f"t{seed}.jsonl", 60, seed)), dev_pairs=dev.test_pairs)
        for seed in (3, 4)
    ]
    reader = Reader.from_encoder(encoder, "bare", VIEWS, EvaluationOptions(material, resamples=100, seed=0))
    found = judge_similarity(reader, dev, tests)
    together = {text for task in tests for text in task.test.queries}
    assert sum(texts for _, texts, _ in encoder.calls) == len(material.text) + len(dev.test.queries) + len(together)
    assert [[row.name for row in rows] for rows in found.values()] == [[row.name for row in found["dev"]]] * 3


def test_without_fit_text_nothing_is_whitened(dev: StsTask, material: Material) -> None:
    found = choose_on(FakeEncoder(), dev, VIEWS, replace(material, text=[]))
    assert [choice.system.post for choice in found] == [None, None]


def test_a_tuned_encoder_has_one_view_and_only_k_is_chosen(dev: StsTask, material: Material) -> None:
    raw, whitened = choose_on(FakeEncoder(), dev, [View("mean", 2)], material, run="mine")
    assert (raw.system.name, raw.chosen_on) == ("tuned/mine", None)
    assert whitened.system.name == f"tuned/mine+whiten-{whitened.k}"
    assert whitened.chosen_on == "dev"


def test_constant_and_broken_views_are_passed_over(
    dev: StsTask, material: Material, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(FakeEncoder):
        def _vector(self, text: str, view: View, prompt: str) -> np.ndarray:
            vector = super()._vector(text, view, prompt)
            return {0: np.ones(16), 1: vector, 2: np.full(16, np.nan)}[int(view.layer)]

    with caplog.at_level(logging.WARNING):
        raw, whitened = choose_on(Broken(), dev, VIEWS[:3], material)
    assert raw.system.view.layer == whitened.system.view.layer == 1
    assert "no post-processing is fitted for untuned/bare/last@2: 50 of 50 vectors contain inf or nan" in caplog.text
    [alone] = with_given([], [Given(System("bare", View("last", 0)))], dev_vectors(Broken(), dev, VIEWS[:1]), dev)
    assert (alone.dev_score, alone.selection, alone.dev_data) == (0.0, "fixed", "dev")


def test_memory_is_warned_of(
    dev: StsTask, material: Material, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moments_file, "MEMORY_WARNING", 6 * 8 * 16**2 - 1)
    choose_on(FakeEncoder(), dev, VIEWS, material)
    assert "use fewer systems.poolings or systems.layers" in caplog.text
    caplog.clear()
    choose_on(FakeEncoder(), dev, VIEWS[:5], material)
    assert not caplog.text


def permuted(task: StsTask) -> StsTask:
    pairs = task.test_pairs
    return replace(task, test_pairs=replace(pairs, gold=np.random.default_rng(0).permutation(pairs.gold)))


def test_test_labels_change_no_choice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = EvalConfig(
        dev=str(write_similarity(tmp_path / "dev.jsonl", 80, 1)),
        tests=(str(write_similarity(tmp_path / "test.jsonl", 80, 3)),),
        fit=(str(write_pairs(tmp_path / "fit.jsonl", 150, 2)),),
        systems=SystemsConfig(prompts=("bare", "prompteol"), poolings=("last", "mean"), dimensions=(16, 4)),
        bootstrap=100,
    )
    encoders = {"base": FakeEncoder(), "tuned": {"run": FakeEncoder(noise=(0.1, 0.1, 0.1))}}
    honest = evaluate(config, base=encoders["base"], tuned=encoders["tuned"], progress=False)
    monkeypatch.setattr(
        "eval.inputs.load_task", lambda path: load_task(path) if "dev" in path else permuted(load_task(path))
    )
    shuffled = evaluate(config, base=encoders["base"], tuned=encoders["tuned"], progress=False)
    assert honest.provenance["choices"] == shuffled.provenance["choices"]
    assert honest.comparison is not None and honest.comparison.tuned and honest.comparison.untuned
    assert shuffled.comparison is not None and shuffled.comparison.tuned and shuffled.comparison.untuned
    assert honest.comparison.tuned.name == shuffled.comparison.tuned.name == "tuned/run"
    assert honest.comparison.untuned.name == shuffled.comparison.untuned.name
    assert honest.comparison.tuned.value > 0.5 > abs(shuffled.comparison.tuned.value)


def test_candidate_layers() -> None:
    assert candidate_layers((), 8) == list(range(9))
    assert candidate_layers((), 11) == list(range(12))
    for depth in (12, 22, 32, 80):
        found = candidate_layers((), depth)
        assert len(found) == len(set(found)) == 12
        assert found[0] == 0
        assert found[-2:] == [depth - 1, depth]
    assert candidate_layers((-1, 4, 0.5, -5), 8) == [4, 8]
    assert len(candidate_views(SystemsConfig(), 8)) == 5 * 9


def test_candidate_dimensions() -> None:
    assert candidate_dimensions((), 256) == [256, 192, 128, 85, 64, 32]
    assert candidate_dimensions((8, 512, 16), 256) == [16, 8]
    with pytest.raises(UserError, match=r"systems.dimensions \[512\]: none is in 2..256"):
        candidate_dimensions((512,), 256)


def test_names(tmp_path: Path) -> None:
    assert System("bare", View("mean", 8)).name == "untuned/bare/mean@8"
    post = Post("whiten", "whiten-64", 64)
    assert System("bare", View("mean", 8), post=post).name == "untuned/bare/mean@8+whiten-64"
    assert System("bare", View("mean", 8), "a", post).name == "tuned/a+whiten-64"
    (tmp_path / "mine" / "adapter").mkdir(parents=True)
    assert run_name(str(tmp_path / "mine")) == run_name(str(tmp_path / "mine" / "adapter")) == "mine"
    assert run_name("somebody/model") == "somebody/model"


def test_leaking_and_missing_files_are_refused(tmp_path: Path) -> None:
    dev = str(write_similarity(tmp_path / "dev.jsonl", 20, 1))
    test = str(write_similarity(tmp_path / "test.jsonl", 20, 2))
    copy = str(write_similarity(tmp_path / "copy.jsonl", 20, 1))
    (tmp_path / "other").mkdir()
    same_name = str(write_similarity(tmp_path / "other" / "test.jsonl", 20, 3))
    cases: list[tuple[dict[str, object], str]] = [
        ({}, "there is nothing to evaluate on; give similarity files"),
        ({"dev": dev}, "there is nothing to evaluate on; give similarity files"),
        ({"dev": dev, "tests": [copy]}, "selection on test data is leakage"),
        ({"dev": dev, "tests": [test, same_name]}, "another file has the name test too"),
        ({"dev": dev, "tests": [test], "systems": {"post": ["raw", "pca"]}}, "fit: pca needs a file of training text"),
        (
            {"dev": dev, "tests": [test], "fit": [dev], "systems": {"post": ["whiten"]}},
            "only 0 sentences remain to fit",
        ),
    ]
    for raw, message in cases:
        with pytest.raises(UserError, match=message):
            evaluate(validate(EvalConfig, raw), base=FakeEncoder(), tuned={}, progress=False)


def test_where_every_training_text_is_evaluated_nothing_is_fitted_and_the_report_says_so(tmp_path: Path) -> None:
    dev = str(write_similarity(tmp_path / "dev.jsonl", 30, 1))
    test = str(write_similarity(tmp_path / "test.jsonl", 30, 2))
    config = EvalConfig(dev=dev, tests=(test,), fit=(dev,))
    report = evaluate(config, base=FakeEncoder(), tuned={}, progress=False)
    assert report.provenance["whitening_fit"] is None
    assert report.results and not any("whiten" in row.subject.name for row in report.results)
    assert [note for note in report.notes if note.startswith("Warning: there are no rows with whiten, because")]


def test_a_tuned_prompt_and_reading_join_the_untuned_rows(tmp_path: Path) -> None:
    config = EvalConfig(
        dev=str(write_similarity(tmp_path / "dev.jsonl", 60, 1)),
        tests=(str(write_similarity(tmp_path / "test.jsonl", 60, 3)),),
        systems=SystemsConfig(prompts=("bare",), poolings=("last",), post=("raw",)),
        bootstrap=100,
    )
    tuned = FakeEncoder(ModelConfig(prompt="prompteol", pooling="max", layer=-1))
    report = evaluate(config, base=FakeEncoder(), tuned={"run": tuned}, progress=False)
    assert report.reference == "untuned/prompteol/max@2"
    assert set(report.systems) == {
        "tuned/run",
        "untuned/bare/last@1",
        "untuned/prompteol/last@1",
        "untuned/prompteol/max@2",
    }
    assert report.result("untuned/prompteol/max@2", "test").chosen_on is None

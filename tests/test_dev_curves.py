"""Several post-processings in one evaluation: one row each, dev curves kept, transductive rows shown but never best."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file

from dec2vec.config.load import validate
from dec2vec.config.model import EncodeOptions, ModelConfig
from dec2vec.decoder.pooling import View
from dec2vec.encoder import Encoder
from dec2vec.errors import UserError
from eval.config import EvalConfig, PairsConfig, PostName, SystemsConfig
from eval.leakage.training_text import TextSource, read_training_texts
from eval.postprocess.families import FITTED
from eval.postprocess.moments import Material
from eval.postprocess.text_statistics import whitened_by_itself
from eval.report.report import format_table, headline
from eval.report.report_json import to_json
from eval.results.task_results import leader
from eval.run import evaluate
from eval.selection.choose import Contender, best
from eval.selection.judge import EvaluationOptions, Reader, judge, judge_similarity
from eval.systems.system import Post, System
from eval.tasks.pairs import load_pairs
from eval.tasks.sts import StsTask, load_task
from eval.tasks.task import Task, TaskVectors
from tests.eval_data import choose_on, write_pairs, write_similarity
from tests.fake_encoder import WIDTH, FakeEncoder
from tests.helpers import tiny_model_folder, write_jsonl

VIEWS = [View(pooling, layer) for pooling in ("last", "mean") for layer in (0, 1, 2)]
EVERY: tuple[PostName, ...] = get_args(PostName)


class Decoder(FakeEncoder):
    """With an LM head."""

    def output_embeddings(self) -> NDArray[np.float32]:
        return np.random.default_rng(0).standard_normal((40, WIDTH)).astype(np.float32)


@pytest.fixture
def dev(tmp_path: Path) -> StsTask:
    return load_task(write_similarity(tmp_path / "dev.jsonl", 80, 1))


@pytest.fixture
def material(tmp_path: Path) -> Material:
    fit = read_training_texts(TextSource(str(write_pairs(tmp_path / "fit.jsonl", 150, 2))))
    return Material(fit, "hash", EVERY, (16, 8, 4), progress=False)


def test_one_choice_a_pooling_and_post_with_all_its_candidates(dev: StsTask, material: Material) -> None:
    encoder = Decoder()
    found = choose_on(encoder, dev, VIEWS, material)
    assert sum(texts for _, texts, _ in encoder.calls) == len(material.text) + len(dev.test.queries)
    assert [choice.system.family for choice in found] == [*EVERY, *EVERY]
    for choice in found:
        assert {point.system.view.layer for point in choice.dev_curve} == {0, 1, 2}
        assert choice.system == max(choice.dev_curve, key=lambda point: point.rank).system
        assert choice.dev_score == pytest.approx(max(point.dev_score for point in choice.dev_curve), abs=2e-3)
        raw = encoder.encode_views(dev.test.queries, [choice.system.view], EncodeOptions("bare"))[choice.system.view]
        assert choice.dev_score == dev.dev_score(choice.applied(TaskVectors.from_queries(raw)))
        assert choice.k == (WIDTH if choice.post is None else choice.post.dimension)
    whitened = next(choice for choice in found if choice.system.family == "whiten")
    assert {point.k for point in whitened.dev_curve} == {16, 8, 4} and len(whitened.dev_curve) == 9


def test_the_families_do_not_depend_on_each_other(dev: StsTask, material: Material) -> None:
    together = {choice.system.name: choice.dev_score for choice in choose_on(Decoder(), dev, VIEWS[:3], material)}
    apart = {
        choice.system.name: choice.dev_score
        for post in EVERY
        for choice in choose_on(Decoder(), dev, VIEWS[:3], replace(material, posts=(post,)))
    }
    assert together == apart


def test_without_text_the_families_without_data_remain(dev: StsTask, material: Material) -> None:
    found = choose_on(Decoder(), dev, VIEWS[:3], replace(material, text=[]))
    assert [choice.system.family for choice in found] == [post for post in EVERY if post not in FITTED]


def test_embfilter_needs_an_lm_head(dev: StsTask, material: Material) -> None:
    encoder = FakeEncoder()
    with pytest.raises(UserError, match=r"LM head is not tied .* leave embfilter out"):
        choose_on(encoder, dev, VIEWS, material)
    assert encoder.calls == []


def test_ties_go_to_the_deeper_layer_then_the_larger_k() -> None:
    points = [
        Contender(System("bare", View("mean", layer), post=Post("pca", f"pca-{k}", k)), k, score)
        for layer, k, score in ((1, 8, 0.5), (2, 4, 0.5), (2, 6, 0.5), (3, 8, 0.4), (4, 8, float("nan")))
    ]
    assert best(points) == points[2]


@pytest.mark.parametrize("kind", ["similarity", "pairs"])
def test_the_tie_rule_is_the_same_for_every_task(
    kind: str, dev: StsTask, material: Material, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where every candidate scores the same, the deepest layer and the largest k are chosen, and then lead."""
    rows = [{"sentence1": f"w{i} w1", "sentence2": f"w{i} w2", "label": i % 2} for i in range(12)]
    files = {name: str(write_jsonl(tmp_path / f"{name}.jsonl", rows[start:])) for start, name in enumerate(("a", "b"))}
    task: Task[Any] = dev if kind == "similarity" else load_pairs(PairsConfig(test=files["a"], dev=files["b"]))
    monkeypatch.setattr("eval.selection.choose.dev_scores", lambda task, candidates, vectors: [0.5] * len(candidates))
    monkeypatch.setattr(type(task), "dev_score", lambda self, vectors: 0.5)
    options = EvaluationOptions(replace(material, posts=("raw", "truncate")), resamples=100, seed=0)
    reader = Reader.from_encoder(Decoder(), "bare", VIEWS, options)
    rows_of = judge_similarity(reader, dev, [dev]) if kind == "similarity" else {}
    found = rows_of.get("dev") or judge(reader, task, [])
    assert {(row.choice.system.view.layer, row.choice.k) for row in found if row.choice} == {(2, 16), (2, 8)}
    first = leader(found, is_tuned=False, has_dev=True)
    assert first is not None and first.choice is not None and (first.choice.k, first.subject.post) == (16, None)


def evaluation(tmp_path: Path, **systems: object) -> EvalConfig:
    return validate(
        EvalConfig,
        {
            "dev": str(write_similarity(tmp_path / "dev.jsonl", 60, 1)),
            "tests": [str(write_similarity(tmp_path / f"t{seed}.jsonl", 60, seed)) for seed in (3, 4)],
            "fit": [str(write_pairs(tmp_path / "fit.jsonl", 150, 2))],
            "systems": {"prompts": ["bare"], "poolings": ["last"], "dimensions": [16, 8], **systems},
            "bootstrap": 100,
        },
    )


def test_the_report_keeps_the_dev_curves(tmp_path: Path) -> None:
    config = evaluation(tmp_path, post=["raw", "pca", "whiten"])
    tree = json.loads(to_json(evaluate(config, base=FakeEncoder(), tuned={"a": FakeEncoder()}, progress=False)))
    columns = tree["sweep"]
    assert list(columns) == ["prompt", "pooling", "layer", "post", "k", "dev_score", "family"]
    assert set(zip(columns["post"], columns["family"], strict=True)) >= {("raw", "raw"), ("pca-16", "pca")}
    labels = ("raw", "pca-16", "pca-8", "whiten-16", "whiten-8")
    untuned = set(zip(columns["layer"], columns["post"], strict=True))
    assert untuned == {(layer, label) for layer in (0, 1, 2) for label in labels}
    assert len(columns["post"]) == len(untuned), "the tuned encoder's are not among them"
    widths = dict(zip(columns["post"], columns["k"], strict=True))
    assert widths == {"raw": None, "pca-16": 16, "pca-8": 8, "whiten-16": 16, "whiten-8": 8}
    assert all(-1 <= score <= 1 for score in columns["dev_score"])
    chosen = {choice["system"]: choice for choice in tree["provenance"]["choices"]}
    name = next(name for name in chosen if "+pca-" in name)
    assert chosen[name]["fit"]["n"] == 300 and chosen[name]["k"] == int(name.rpartition("-")[2])


def test_tuned_rows_always_have_a_raw_one(tmp_path: Path) -> None:
    """Before and after tuning are compared raw, whatever is asked for."""
    config = evaluation(tmp_path, post=["truncate"])
    report = evaluate(config, base=FakeEncoder(), tuned={"a": FakeEncoder()}, progress=False)
    assert {"tuned/a", "tuned/a+truncate-8", report.reference} <= set(report.systems)
    assert report.provenance["whitening_fit"] is None


def test_transductive_rows_are_fitted_on_each_file_and_never_best(tmp_path: Path) -> None:
    config = evaluation(tmp_path, transductive=True)
    base = FakeEncoder()
    report = evaluate(config, base=base, tuned={"a": FakeEncoder(noise=(0.1, 0.1, 0.1))}, progress=False)
    honest = next(name for name, found in report.subjects.items() if found.is_rival and found.post == "whiten")
    view, k = View("last", int(honest.partition("@")[2].partition("+")[0])), report.subjects[honest].k
    assert k is not None
    for path in (config.dev, *config.tests):
        task = load_task(path)
        raw = base.encode_views(task.test.queries, [view], EncodeOptions("bare"))[view]
        vectors = whitened_by_itself(raw, k)
        found = report.result(f"{honest}(transductive)", task.name).value
        assert found == pytest.approx(task.dev_score(TaskVectors.from_queries(vectors)))
        assert found != report.result(honest, task.name).value
    assert not any(
        "transductive" in name for name in [*report.highlights[1:], *headline(report)] if "tuned/a" not in name
    )
    plain = evaluate(
        replace(config, systems=replace(config.systems, transductive=False)), base=base, tuned={}, progress=False
    )
    assert not any("transductive" in name for name in plain.systems)


def test_a_transductive_row_that_is_far_ahead_is_not_best(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: fits that have seen the gold scores. Neither headline nor choice may take them."""
    config = evaluation(tmp_path, transductive=True)
    golds = {len(load_task(p).test.queries): load_task(p).test_pairs for p in (config.dev, *config.tests)}

    def cheat(vectors: np.ndarray, k: int) -> np.ndarray:
        task = golds[len(vectors)]
        angles = np.zeros(len(vectors))
        angles[task.right] = (5.0 - task.gold) / 4
        found: np.ndarray = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
        return found

    monkeypatch.setattr("eval.selection.choose.whitened_by_itself", cheat)
    report = evaluate(config, base=FakeEncoder(), tuned={"a": FakeEncoder()}, progress=False)
    ahead = next(name for name, found in report.subjects.items() if found.run is None and found.transductive)
    assert report.result(ahead, "average").value > 0.9
    assert report.comparison is not None and report.comparison.highest_untuned is not None
    assert "transductive" not in f"{report.best_untuned} {report.comparison.highest_untuned.name}"
    alone = evaluate(config, base=FakeEncoder(), tuned={}, progress=False)
    assert "transductive" not in headline(alone)[0] and ahead not in format_table(alone)
    material = Material(["a b", "c d", "w1 w2"], progress=False)
    choices = choose_on(FakeEncoder(), load_task(config.dev), VIEWS[:3], material, transductive=True)
    assert choices[-1].system.is_transductive and not best(choices).system.is_transductive


def test_a_transductive_fit_of_nothing_is_nan() -> None:
    for value in (1.0, np.nan):
        assert np.isnan(whitened_by_itself(np.full((9, 4), value, dtype=np.float32), 2)).all()


def test_the_old_option_and_an_empty_list_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"systems\.whiten: unknown option"):
        evaluation(tmp_path, whiten=False)
    with pytest.raises(UserError, match=r"systems\.post"):
        evaluation(tmp_path, post=[])
    with pytest.raises(UserError, match=r"systems\.post.*whitening"):
        evaluation(tmp_path, post=["whitening"])
    assert SystemsConfig().post == ("raw", "whiten")


def test_the_lm_head_is_shown_where_it_is_the_input_embeddings(tmp_path: Path) -> None:
    tied = Encoder.load(ModelConfig(name_or_path=str(tiny_model_folder(tmp_path / "gpt2", "gpt2")), max_length=64))
    head = tied.output_embeddings()
    assert head.shape[1] == 16
    np.testing.assert_array_equal(head, load_file(tmp_path / "gpt2" / "model.safetensors")["wte.weight"])
    own = Encoder.load(ModelConfig(name_or_path=str(tiny_model_folder(tmp_path / "llama", "llama")), max_length=64))
    with pytest.raises(UserError, match=r"its LM head is not tied .* remove embfilter from systems.post"):
        own.output_embeddings()

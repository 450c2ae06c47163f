"""Evaluations without dev data: nothing is asked for that is not needed, and nothing is called best."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from dec2vec.config.model import ModelConfig
from dec2vec.errors import UserError
from eval.config import ClusteringConfig, EvalConfig, RetrievalConfig, SystemsConfig
from eval.report.markdown import to_markdown
from eval.report.report import Report, format_table, task_text
from eval.report.report_json import to_json
from eval.run import evaluate
from eval.selection.asked import with_base
from tests.eval_data import write_pairs, write_similarity
from tests.fake_encoder import FakeEncoder
from tests.task_data import collection, topics


@pytest.fixture
def folder(tmp_path: Path) -> EvalConfig:
    """A collection, and nothing else: no dev data, no training text, no word of systems."""
    return EvalConfig(retrieval=(RetrievalConfig(str(collection(tmp_path / "found"))),), bootstrap=100)


@pytest.fixture
def similarity(tmp_path: Path) -> EvalConfig:
    return EvalConfig(tests=(str(write_similarity(tmp_path / "sts.jsonl", 60, 3)),), bootstrap=100)


def evaluated(config: EvalConfig) -> Report:
    return evaluate(config, base=FakeEncoder(), tuned={"a": FakeEncoder(noise=(4.0, 0.1, 0.1))}, progress=False)


def test_a_folder_and_a_run_are_an_evaluation(folder: EvalConfig) -> None:
    """The run's own reading, and the same of the untuned decoder: nothing is chosen, and nothing asked for."""
    report = evaluated(folder)
    [table] = report.tasks
    systems = [row for row in table.rows if row.subject.kind == "system"]
    assert {row.system for row in systems} == {"tuned/a", "untuned/bare/last@2"}
    assert {row.selection for row in systems} == {"fixed"} and not any(row.chosen_on for row in systems)
    found = table.headline
    assert found is not None and found.tuned is not None and found.untuned is not None and found.to_untuned is not None
    assert (found.tuned.selection, found.untuned.selection) == ("fixed", "fixed")
    assert found.outside is not None and found.outside.name in ("baseline/tfidf", "baseline/bm25")
    assert not any(row.dev is not None for row in table.rows) and "dev" not in " ".join(task_text(table))
    assert report.notes[0].startswith(
        "Note: no row with whiten: no dev data select its strength; systems.post whiten raw adds"
    )
    assert "| selected on |" in to_markdown(report) and "dev:" not in to_markdown(report)


def test_training_text_adds_no_rows_that_nothing_can_choose(folder: EvalConfig, tmp_path: Path) -> None:
    fit = str(write_pairs(tmp_path / "fit.jsonl", 150, 2))
    [table] = evaluated(replace(folder, fit=(fit,))).tasks
    systems = {row.system for row in table.rows if row.subject.kind == "system"}
    assert systems == {"tuned/a", "untuned/bare/last@2"}, "neither has a row for each strength of whitening"


def test_one_reading_stands_for_choice(folder: EvalConfig) -> None:
    one = SystemsConfig(prompts=("prompteol",), poolings=("last",), layers=(-1,), post=("raw",))
    report = evaluate(replace(folder, systems=one), base=FakeEncoder(), tuned={}, progress=False)
    [found] = [table.headline for table in report.tasks]
    assert found is not None and found.untuned is not None and found.tuned is None
    assert (found.untuned.name, found.untuned.selection) == ("untuned/prompteol/last@2", "fixed")
    both = evaluated(replace(folder, systems=one)).tasks[0].headline
    assert both is not None and both.untuned is not None and both.highest_untuned is not None
    assert both.untuned.name == "untuned/bare/last@2" and both.highest_untuned.candidates == 2


def test_several_readings_without_dev_data_are_rows_and_none_is_best(folder: EvalConfig) -> None:
    several = SystemsConfig(prompts=("bare", "prompteol"), poolings=("last", "mean"), post=("raw",))
    report = evaluated(replace(folder, systems=several))
    [table] = report.tasks
    main = {row.system: row for row in table.rows if row.metric == table.metric}
    wanted = {f"untuned/{prompt}/{pooling}@2" for prompt in ("bare", "prompteol") for pooling in ("last", "mean")}
    assert {name for name, row in main.items() if row.selection == "none"} == wanted - {"untuned/bare/last@2"}
    found = table.headline
    assert found is not None and found.untuned is not None and found.highest_untuned is not None
    assert (found.untuned.name, found.untuned.selection) == ("untuned/bare/last@2", "fixed"), "read as the tuned run"
    assert found.highest_untuned.candidates == 4
    assert "each reading is a row of its own, and none of them was selected" in table.note
    assert "best untuned" not in " ".join(task_text(table)) and "not selected" in to_markdown(report)
    lone = evaluate(replace(folder, systems=several), base=FakeEncoder(), tuned={}, progress=False)
    assert lone.tasks[0].headline is not None and lone.tasks[0].headline.untuned is None
    assert "100: no system was selected, " in format_table(lone) and "best outside row" in format_table(lone)


def test_strengths_that_nothing_chose_are_rows(folder: EvalConfig, tmp_path: Path) -> None:
    systems = SystemsConfig(prompts=("bare",), poolings=("last",), layers=(-1,), post=("raw", "pca"), dimensions=(8, 4))
    fit = (str(write_pairs(tmp_path / "fit.jsonl", 150, 2)),)
    tuned = {f"a-seed{seed}": FakeEncoder(noise=(4.0, 0.1 * seed, 0.1 * seed)) for seed in (1, 2)}
    report = evaluate(replace(folder, systems=systems, fit=fit), base=FakeEncoder(), tuned=tuned, progress=False)
    [table] = report.tasks
    of_pca = {row.system: row.selection for row in table.rows if row.subject.post == "pca"}
    on_corpus = [name for name in of_pca if name.endswith("(corpus)")]
    assert set(of_pca.values()) == {"none"} and len(of_pca) == 12 and len(on_corpus) == 6
    found = table.headline
    assert found is not None and found.tuned is not None and found.seeds is not None
    assert (found.tuned.name, found.tuned.selection, found.seeds.runs) == ("tuned/a-seed1", "none", 2)
    assert "the first of 2 runs, as no dev data select one" in " ".join(task_text(table))
    means = [row.system for row in table.rows if row.subject.kind == "mean" and row.metric == table.metric]
    assert means == ["mean of tuned/a (n = 2)"], "no strength of pca is that of the recipe"


def test_similarity_tests_without_dev_data(similarity: EvalConfig) -> None:
    report = evaluated(similarity)
    assert (report.dev, set(report.systems)) == ("", {"tuned/a", "untuned/bare/last@2"})
    assert report.comparison is not None and report.comparison.untuned is not None
    assert "read as the tuned run" in format_table(report) and "(dev)" not in format_table(report)
    assert json.loads(to_json(report))["comparison"]["untuned"] == "untuned/bare/last@2"
    page = to_markdown(report)
    assert "| Pearson cosine |" in page and "Spearman dot" not in page, "dot needs the ranges of dev vectors"


def test_a_dev_file_without_similarity_tests_chooses_for_the_other_tasks(folder: EvalConfig, tmp_path: Path) -> None:
    report = evaluated(replace(folder, dev=str(write_similarity(tmp_path / "sts-dev.jsonl", 60, 1))))
    [table] = report.tasks
    devs = {(row.dev_data, row.dev_metric) for row in table.rows if row.dev is not None}
    assert devs == {("sts-dev", "spearman_all")}, "no nDCG, and the table says so"
    assert "dev: spearman_all x 100 on sts-dev" in to_markdown(report)
    assert any(row.selection == "other dev" and row.chosen_on == "sts-dev" for row in table.rows)
    assert report.results == [] and report.tests == []


def test_tasks_with_and_without_dev_data_together(folder: EvalConfig, tmp_path: Path) -> None:
    """Each chooses by its own means: the defaults for the one with dev data, the run's reading for the other."""
    files = [str(topics(tmp_path / f"{name}.jsonl", 12, seed)) for name, seed in (("test", 1), ("dev", 2))]
    with_dev = ClusteringConfig(files[0], files[1], seeds=2)
    systems = SystemsConfig(prompts=("bare", "prompteol"))
    first, second = evaluated(replace(folder, clustering=(with_dev,), systems=systems)).tasks
    assert (first.name, second.name) == ("test/clusters", "found")
    assert first.headline is not None and first.headline.untuned is not None
    assert (first.headline.untuned.selection, first.headline.untuned.selected_on) == ("dev", "test/clusters dev")
    rivals = {row.system for row in second.rows if row.subject.is_rival}
    assert rivals == {"untuned/bare/last@2", "untuned/prompteol/last@2"}, "prompts were asked for, poolings were not"


def test_nothing_to_evaluate_on_is_one_line(folder: EvalConfig, similarity: EvalConfig) -> None:
    with pytest.raises(UserError, match="config error: there is nothing to evaluate on; give similarity files"):
        evaluated(replace(folder, retrieval=()))
    with pytest.raises(UserError, match=r"fit: pca needs a file of training text; give one, or"):
        evaluated(replace(similarity, systems=SystemsConfig(post=("raw", "pca"))))


def test_the_base_is_the_one_the_run_was_made_from(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    config = EvalConfig(tuned=(str(run),))
    with pytest.raises(UserError, match=r"model.name_or_path: name the untuned decoder; .*run has no config.yaml"):
        with_base(config)
    (run / "config.yaml").write_text("model: {name_or_path: some/base, revision: abc, max_length: 96, depth: 3}\n")
    whole = ModelConfig("some/base", revision="abc", max_length=96, tokenization="joint")
    assert with_base(config).model == whole
    asked = replace(config, model=ModelConfig(max_length=40))
    assert with_base(asked).model == ModelConfig("some/base", revision="abc", max_length=40)
    named = replace(config, model=ModelConfig("other"))
    assert with_base(named) is named

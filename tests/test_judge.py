"""Tasks beside similarity in a whole evaluation: readings chosen on each task's dev, measured on its test."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dec2vec.config.load import validate
from dec2vec.config.model import EncodeOptions
from dec2vec.decoder.pooling import View
from dec2vec.errors import UserError
from eval.config import EvalConfig
from eval.report.markdown import to_markdown
from eval.report.numbers import hundred
from eval.report.report import Report, format_table, table_rows, task_text
from eval.report.report_json import to_json
from eval.report.write import write_report
from eval.run import evaluate
from eval.tasks.pairs import load_pairs
from eval.tasks.task import TaskVectors
from tests.eval_data import write_pairs, write_similarity
from tests.fake_encoder import FakeEncoder
from tests.helpers import write_jsonl
from tests.task_data import collection, labelled_pairs, topics


def every_task(folder: Path) -> EvalConfig:
    return validate(
        EvalConfig,
        {
            "dev": str(write_similarity(folder / "dev.jsonl", 60, 1)),
            "tests": [str(write_similarity(folder / "sts.jsonl", 60, 3))],
            "fit": [str(write_pairs(folder / "fit.jsonl", 150, 2))],
            "systems": {"prompts": ["bare"], "poolings": ["last", "mean"], "dimensions": [16, 8]},
            "pairs": [
                {
                    "test": str(labelled_pairs(folder / "p.test.jsonl", 5)),
                    "dev": str(labelled_pairs(folder / "p.dev.jsonl", 6)),
                }
            ],
            "topics": [
                {
                    "test": str(topics(folder / "t.test.jsonl", 12, 1)),
                    "dev": str(topics(folder / "t.dev.jsonl", 9, 2)),
                },
                {
                    "test": str(folder / "t.test.jsonl"),
                    "train": str(topics(folder / "t.train.jsonl", 15, 3)),
                    "method": "knn",
                    "neighbours": [1, 3],
                },
            ],
            "gap": [{"test": str(folder / "p.test.jsonl"), "name": "answers"}],
            "clustering": [{"test": str(folder / "t.test.jsonl"), "seeds": 2}],
            "retrieval": [{"path": str(collection(folder / "found"))}],
            "isotropy": [{"path": str(folder / "t.test.jsonl")}],
            "baselines": ["tfidf", "jaccard"],
            "bootstrap": 100,
        },
    )


@pytest.fixture
def config(tmp_path: Path) -> EvalConfig:
    return every_task(tmp_path)


def evaluated(config: EvalConfig) -> Report:
    return evaluate(config, base=FakeEncoder(), tuned={"a": FakeEncoder(noise=(4.0, 0.1, 0.1))}, progress=False)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """Of `config` in another folder; only read."""
    return evaluated(every_task(tmp_path_factory.mktemp("whole")))


def test_every_task_has_a_table(whole: Report) -> None:
    names = [table.name for table in whole.tasks]
    assert names == ["p.test", "answers", "t.test/word", "t.test/knn", "t.test/clusters", "found", "t.test/isotropy"]
    for table in whole.tasks:
        systems = {row.system for row in table.rows}
        assert {"tuned/a", "baseline/tfidf"} <= systems
        assert any(name.startswith("untuned/bare/") and "+whiten-" in name for name in systems)
        assert any(row.subject.kind == "difference" for row in table.rows), table.name
        assert table.columns[0] == (table.metric, False) and table.headline is not None
        assert f"{hundred(table.headline.tuned.value)} tuned (tuned/a" in task_text(table)[0]  # type: ignore[union-attr]
        outside = table.headline.outside
        assert (outside is None) == (table.kind == "isotropy"), "a description has no best row"
        assert outside is None or outside.name.startswith("baseline/")
        chosen = {row.chosen.split()[0] for row in table.rows if row.chosen}
        assert chosen == {"p.test": {"threshold"}, "t.test/knn": {"k"}, "t.test/probe": {"C"}}.get(table.name, set())
    assert whole.has("baseline/jaccard", "sts") and whole.has("baseline/tfidf", "average")
    assert [panel.title.split(":")[0] for panel in whole.curves] == ["p.test", "p.test"]
    assert len(whole.confusions) == len(whole.scatter) == 4
    tree = json.loads(to_json(whole))
    assert {table["name"] for table in tree["tasks"]} == set(names)
    with_dev = {f"{name} dev" for name in ("p.test", "t.test/word", "t.test/knn")}
    assert {row["evaluation"] for row in tree["overlap"]} == {"dev", "sts", *names, *with_dev, "found corpus"}


def test_the_reading_is_the_best_on_the_tasks_own_dev(config: EvalConfig) -> None:
    """Found again by hand: every view's dev accuracy, then the test accuracy at dev's threshold."""
    raw = replace(config, systems=replace(config.systems, post=("raw",)), topics=(), gap=(), clustering=(), isotropy=())
    [table] = [table for table in evaluated(raw).tasks if table.name == "p.test"]
    [shown] = {row.system for row in table.rows if row.subject.is_rival}
    task, encoder = load_pairs(config.pairs[0]), FakeEncoder()
    assert task.dev is not None
    views = [View(pooling, layer) for pooling in ("last", "mean") for layer in range(3)]  # type: ignore[arg-type]

    def vectors(texts: list[str], view: View) -> TaskVectors:
        found = encoder.encode_views(texts, [view], EncodeOptions("bare"))[view]
        return TaskVectors.from_queries(found)

    dev = {view: vectors(task.dev.queries, view) for view in views}
    best = max(views, key=lambda view: (task.dev_score(dev[view]), view.layer))
    assert shown == f"untuned/bare/{best}"
    expected = task.measure(dev[best], vectors(task.test.queries, best), 100, 0)[0]
    [value] = [row.value for row in table.rows if row.system == shown and row.metric == "accuracy"]
    assert value == pytest.approx(expected.value)


def test_permuted_test_labels_change_no_choice(config: EvalConfig, whole: Report, tmp_path: Path) -> None:
    labelled_pairs(tmp_path / "p.test.jsonl", 5, permuted=True)
    rows = [json.loads(line) for line in (tmp_path / "t.test.jsonl").read_text().splitlines()]
    labels = np.random.default_rng(0).permutation([row["label"] for row in rows])
    write_jsonl(tmp_path / "t.test.jsonl", [{**row, "label": str(x)} for row, x in zip(rows, labels, strict=True)])
    permuted = evaluated(config)

    def systems(report: Report) -> dict[str, set[str]]:
        rows = [(table.name, row) for table in report.tasks for row in table.rows]
        systems: dict[str, set[str]] = {}
        for name, row in rows:
            if row.subject.kind == "system":
                systems.setdefault(name, set()).add(row.system)
        return systems

    def accuracy(report: Report) -> float:
        rows = [row for table in report.tasks if table.name == "p.test" for row in table.rows]
        return next(row.value for row in rows if row.system == "tuned/a" and row.metric == "accuracy")

    assert systems(whole) == systems(permuted)
    assert accuracy(whole) > accuracy(permuted) + 0.1, "the labels did reach the figures"


def test_dev_scores_mistakes_and_edges(config: EvalConfig) -> None:
    report = evaluated(replace(config, clustering=(), isotropy=(), retrieval=(), baselines=("tfidf",)))
    for table in report.tasks:
        main = [row for row in table.rows if row.metric == table.metric]
        for row in table.rows:
            is_chosen = row.metric == table.metric and row.subject.kind == "system"
            assert (row.dev is not None) == is_chosen, row
        found = table.headline
        assert found is not None and found.tuned is not None and found.untuned is not None
        assert found.tuned.name == "tuned/a", "as it is exported, whatever dev says of its whitening"
        rivals = [row for row in main if row.subject.is_rival]
        if found.untuned.selection == "dev":
            assert found.untuned.name == max(rivals, key=lambda row: row.dev or 0.0).system, "dev put it first"
        else:
            [gap] = [table for table in report.tasks if table.name == "answers"]
            assert table is gap and found.untuned.name == "untuned/bare/last@2", "read as the tuned run"
    [word, knn] = report.mistakes
    assert (word.task, knn.task) == ("t.test/word", "t.test/knn") and word.system.startswith("tuned/a")
    [panel] = [panel for panel in report.confusions if panel.title == f"t.test/word: {word.system}"]
    assert word.total == panel.counts.sum() - np.trace(panel.counts) and len(word.shown) == min(10, word.total)
    assert [wrong.lead for wrong in word.shown] == sorted((wrong.lead for wrong in word.shown), reverse=True)
    tree = json.loads(to_json(report))
    assert tree["mistakes"][0]["total"] == word.total
    text = to_markdown(report)
    for wrong in word.shown:
        assert f"{wrong.gold} | {wrong.predicted} | {wrong.lead:.4f}" in text
    assert "| system | accuracy x 100 | 95 % interval | selected on | dev: accuracy x 100 on p.test dev |" in text
    assert "| selected on | dev: spearman_all x 100 on dev |" in text, "the gap has no dev data of its own"
    ks = [row.system.rpartition("-")[2] for row in report.tasks[0].rows if "+whiten-" in row.system]
    assert set(ks) <= {"16", "8"}
    if report.best_untuned is not None and "whiten-8" in report.best_untuned:
        assert any("k = 8 is the smallest that was tried (systems.dimensions)" in line for line in report.notes)


def test_without_similarity(config: EvalConfig, whole: Report, tmp_path: Path) -> None:
    alone = replace(config, dev="", tests=(), retrieval=(), isotropy=(), gap=(), clustering=())
    report = evaluated(alone)
    assert (report.results, report.dev, list(report.tests), report.comparison) == ([], "", [], None)
    for table in report.tasks:
        [same] = [other for other in whole.tasks if other.name == table.name]
        assert repr(table) == repr(same), "each task chooses on its own dev data, similarity or not"
    assert format_table(report).startswith("p.test: accuracy x 100: ")
    paths = write_report(report, tmp_path / "report")
    assert json.loads(paths.json.read_text())["tests"] == []
    assert "Systems and tests" not in paths.markdown.read_text() and "Task: p.test" in paths.html.read_text()


def test_seeds_have_a_mean_and_a_spread(config: EvalConfig) -> None:
    small = replace(config, topics=(), gap=(), clustering=(), isotropy=(), retrieval=(), baselines=())
    tuned = {f"a-seed{seed}": FakeEncoder(noise=(4.0, 0.1 * seed, 0.1 * seed)) for seed in (1, 2, 3)}
    report = evaluate(small, base=FakeEncoder(), tuned=tuned, progress=False)
    values = [report.result(f"tuned/{name}", "sts").value for name in tuned]
    rows = {row[0]: row for row in table_rows(report, report.systems)}
    assert rows["mean of tuned/a (n = 3)"][1] == hundred(float(np.mean(values)))
    assert rows["sd of tuned/a (n = 3)"][1] == hundred(float(np.std(values, ddof=1)))
    assert "mean of tuned/a+whiten (n = 3)" in rows
    [found] = [
        row for row in json.loads(to_json(report))["seeds"] if (row["recipe"], row["task"]) == ("tuned/a", "sts")
    ]
    assert (found["mean"], found["sd"]) == (pytest.approx(np.mean(values)), pytest.approx(np.std(values, ddof=1)))
    [table] = report.tasks
    accuracies = {row.system: row.value for row in table.rows if row.metric == "accuracy"}
    ours = [accuracies[f"tuned/{name}"] for name in tuned]
    assert accuracies["mean of tuned/a (n = 3)"] == pytest.approx(np.mean(ours))
    assert accuracies["sd of tuned/a (n = 3)"] == pytest.approx(np.std(ours, ddof=1))
    text = to_markdown(report)
    assert "| mean of tuned/a (n = 3) |" in text and not any("mean of" in name for name in report.systems)


def test_equal_names_are_refused(config: EvalConfig) -> None:
    twice = replace(config, pairs=(config.pairs[0], config.pairs[0]))
    with pytest.raises(UserError, match=r"two tasks have the name p\.test; rename one of them"):
        evaluated(twice)


def test_misspelt_and_equal_runs_are_refused_before_any_work(config: EvalConfig, tmp_path: Path) -> None:
    for part in ("a", "b"):
        (tmp_path / part / "run").mkdir(parents=True)
    with pytest.raises(UserError, match="two tuned runs have the name run"):
        evaluate(replace(config, tuned=(str(tmp_path / "a" / "run"), str(tmp_path / "b" / "run"))), progress=False)
    with pytest.raises(UserError, match=r"tuned run /gone/run: no such folder"):
        evaluate(replace(config, tuned=("/gone/run",)), progress=False)
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    for name in ("config.yaml", "metrics.jsonl"):
        (unfinished / name).touch()
    with pytest.raises(UserError, match=r"unfinished: this run has not finished training; repeat its command"):
        evaluate(replace(config, tuned=(str(unfinished),)), progress=False)


def test_a_baseline_whose_package_is_absent_is_one_line(
    config: EvalConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Said before anything is embedded; everything else is measured and reported."""
    absent = {"bleu": "sacrebleu", "chrf": "sacrebleu", "rouge-l": "rouge_score", "word2vec-sif": "gensim"}
    for package in absent.values():
        monkeypatch.setitem(sys.modules, package, None)
    base = FakeEncoder()
    monkeypatch.setattr(base, "encode_views", lambda *args, **options: pytest.fail("embedded"))
    small = replace(config, topics=(), gap=(), clustering=(), isotropy=(), retrieval=())
    with pytest.raises(pytest.fail.Exception, match="embedded"):
        evaluate(replace(small, baselines=("bleu",)), base=base, tuned={}, progress=False)
    line = "bleu: not computed; pip install 'dec2vec[eval]'"
    assert caplog.messages == [line]
    report = evaluated(replace(small, baselines=("tfidf", *absent, "jaccard")))
    assert [note for note in report.notes if "not computed" in note] == [
        f"{name}: not computed; pip install 'dec2vec[eval]'" for name in absent
    ]
    assert {name for name in report.systems if name.startswith("baseline/")} == {"baseline/tfidf", "baseline/jaccard"}
    assert line in to_markdown(report)


def test_unknown_baseline(config: EvalConfig) -> None:
    with pytest.raises(UserError, match="baseline 'tfdif' is neither"):
        evaluated(replace(config, baselines=("tfdif",)))

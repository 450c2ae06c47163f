"""What baselines are fitted on: the corpus that is searched, the task's own train file, or training-side text."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dec2vec.config.load import validate
from dec2vec.errors import UserError
from eval.baselines import PACKAGES
from eval.baselines import evaluate as evaluate_module
from eval.config import EvalConfig
from eval.report.markdown import to_markdown
from eval.report.report import Report
from eval.report.report_json import to_json
from eval.run import NO_OUTSIDE, evaluate
from tests.eval_data import write_similarity
from tests.fake_encoder import FakeEncoder
from tests.helpers import write_jsonl
from tests.lexical_collection import collection, ndcg_at_10, training, write_collection

LEXICAL = ("tfidf", "char-ngrams", "bag-of-words", "bm25")


@pytest.fixture
def config(tmp_path: Path) -> EvalConfig:
    """Retrieval with a similarity file to choose on; `fit` is captions, which have few words of the collection."""
    captions: list[dict[str, object]] = [{"text": text} for text in training()]
    similar = str(write_similarity(tmp_path / "dev.jsonl", 40, 1))
    return validate(
        EvalConfig,
        {
            "dev": similar,
            "tests": [str(write_similarity(tmp_path / "sts.jsonl", 40, 3))],
            "fit": [str(write_jsonl(tmp_path / "fit.jsonl", captions))],
            "systems": {"prompts": ["bare"], "poolings": ["mean"], "post": ["raw"], "layers": [1]},
            "retrieval": [{"path": str(write_collection(tmp_path / "found"))}],
            "baselines": list(LEXICAL),
            "bootstrap": 100,
        },
    )


def report_of(config: EvalConfig) -> Report:
    return evaluate(config, base=FakeEncoder(), tuned={}, progress=False)


def main_figures(report: Report, task: str) -> dict[str, float]:
    """By baseline its main figure on one task."""
    table = next(table for table in report.tasks if table.name == task)
    rows = [row for row in table.rows if row.subject.kind == "baseline" and row.metric == table.metric]
    return {row.system.removeprefix("baseline/"): row.value for row in rows}


def right_values() -> dict[str, float]:
    """By scikit-learn and bm25s alone."""
    import bm25s
    from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
    from sklearn.metrics.pairwise import cosine_similarity
    from Stemmer import Stemmer

    documents, queries, _ = collection()
    makers: dict[str, Callable[[], Any]] = {"tfidf": TfidfVectorizer, "bag-of-words": CountVectorizer}
    found = {}
    for name, make in makers.items():
        vectorizer = make().fit(documents)
        scores = cosine_similarity(vectorizer.transform(queries), vectorizer.transform(documents)).round(12)
        found[name] = ndcg_at_10(scores)
    options = {"stopwords": "en", "stemmer": Stemmer("english"), "show_progress": False}
    index = bm25s.BM25()
    index.index(bm25s.tokenize(documents, **options), show_progress=False)
    asked = bm25s.tokenize(queries, return_ids=False, **options)
    found["bm25"] = ndcg_at_10(np.stack([index.get_scores(list(terms)) for terms in asked]))
    return found


def test_a_search_is_fitted_on_its_corpus_whatever_the_training_text_is(config: EvalConfig) -> None:
    figures = main_figures(report_of(config), "found")
    assert list(figures) == sorted(LEXICAL, key=lambda name: -figures[name])
    for name, value in right_values().items():
        assert figures[name] == pytest.approx(value, abs=1e-9), name
    from sklearn.feature_extraction.text import TfidfVectorizer

    documents, queries, _ = collection()
    captions = TfidfVectorizer().fit(training())  # the negative control: what was published before
    former = ndcg_at_10((captions.transform(queries) @ captions.transform(documents).T).toarray())
    assert former < figures["tfidf"] / 2


def test_more_training_pairs_or_another_order_of_the_corpus_change_no_figure(
    config: EvalConfig, tmp_path: Path
) -> None:
    figures = main_figures(report_of(config), "found")
    more: list[dict[str, object]] = [{"text": text} for text in [*training(), *collection()[1], "wholly other words"]]
    other_fit = (str(write_jsonl(tmp_path / "more.jsonl", more)),)
    order = np.random.default_rng(1).permutation(len(collection()[0])).tolist()
    permuted = write_collection(tmp_path / "permuted" / "found", order)
    changed = replace(config, fit=other_fit, retrieval=(replace(config.retrieval[0], path=str(permuted)),))
    assert main_figures(report_of(changed), "found") == pytest.approx(figures, abs=1e-9)


def test_the_report_says_on_what(config: EvalConfig) -> None:
    report = report_of(config)
    table = next(table for table in report.tasks if table.name == "found")
    text = "120 documents of the corpus"
    assert f"Fitted on {text}: baseline/tfidf, baseline/char-ngrams, baseline/bag-of-words." in table.note
    assert f"Fitted on {text}, with English stop words and stems: baseline/bm25." in table.note
    rows = {row["system"]: row for row in json.loads(to_json(report))["tasks"][0]["rows"]}
    assert rows["baseline/tfidf"]["fitted_on"] == text
    assert rows["untuned/bare/mean@1"]["fitted_on"] is None
    similar = {row.system: row.subject.fitted_on for row in report.results if row.subject.kind == "baseline"}
    assert set(similar) == {"baseline/tfidf", "baseline/char-ngrams", "baseline/bag-of-words"}
    assert set(similar.values()) == {f"{len(set(training())):,} training-side texts"}
    assert f"tfidf: fitted on {similar['baseline/tfidf']}." in to_markdown(report)


def test_no_training_text_is_asked_for_where_the_corpus_serves(config: EvalConfig) -> None:
    figures = main_figures(report_of(config), "found")
    report = report_of(replace(config, fit=()))
    assert main_figures(report, "found") == pytest.approx(figures)
    assert not [row for row in report.results if row.subject.kind == "baseline"]
    assert "tfidf: not computed for dev, sts; give training text as fit" in report.notes
    with pytest.raises(UserError, match=r"tfidf has no text to be fitted on; give training text as fit"):
        report_of(replace(config, fit=(), retrieval=()))


def test_training_text_that_is_all_evaluated_is_not_called_absent(config: EvalConfig) -> None:
    said = r"all training-side texts are evaluated texts too; give others as fit"
    alone = replace(config, fit=(config.dev,), retrieval=())
    with pytest.raises(UserError, match=f"tfidf has no text to be fitted on; {said}"):
        report_of(alone)
    notes = report_of(replace(alone, baselines=None)).notes
    assert [note for note in notes if re.fullmatch(f"tfidf: not computed for dev, sts; {said}", note)]


def test_bm25_ranks_documents_and_nothing_else(config: EvalConfig) -> None:
    report = report_of(replace(config, baselines=("bm25", "jaccard")))
    assert list(main_figures(report, "found")) == ["bm25"]
    assert {row.system for row in report.results if row.subject.kind == "baseline"} == {"baseline/jaccard"}
    alone = report_of(replace(config, retrieval=(), baselines=("bm25", "tfidf")))
    assert "bm25: not computed, because it serves searches alone" in alone.notes


def test_topics_are_fitted_on_their_own_train_file_and_clusters_on_their_texts(
    config: EvalConfig, tmp_path: Path
) -> None:
    documents = collection()[0]
    rows: list[dict[str, object]] = [
        {"text": text, "label": f"topic {index // 10}"} for index, text in enumerate(documents)
    ]
    train, test = rows[::2], rows[1::2]
    files = {
        "train": str(write_jsonl(tmp_path / "a.train.jsonl", train)),
        "test": str(write_jsonl(tmp_path / "a.test.jsonl", test)),
    }
    topics = [{**files, "method": "knn", "neighbours": [3]}, {**files, "name": "labels"}]
    whole = validate(
        EvalConfig,
        {
            "dev": config.dev,
            "tests": list(config.tests),
            "fit": list(config.fit),
            "systems": {"prompts": ["bare"], "poolings": ["mean"], "post": ["raw"], "layers": [1]},
            "topics": topics,
            "clustering": [{"test": files["test"], "seeds": 2}],
            "baselines": ["tfidf"],
            "bootstrap": 100,
        },
    )
    report = report_of(whole)
    fitted_on = {
        table.name: {row.subject.fitted_on for row in table.rows if row.subject.kind == "baseline"}
        for table in report.tasks
    }
    assert fitted_on == {
        "a.test/knn": {"60 training texts of the task"},
        "labels": {"60 training texts and 12 label texts of the task"},
        "a.test/clusters": {"60 texts that are clustered"},
    }
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer().fit([str(row["text"]) for row in train])
    known, asked = (vectorizer.transform([str(row["text"]) for row in part]) for part in (train, test))
    cosines = (asked @ known.T).toarray()
    right = 0
    for row, found in zip(test, cosines, strict=True):
        nearest = np.argsort(-found, kind="stable")[:3]
        labels = [train[index]["label"] for index in nearest]
        votes = {
            label: (labels.count(label), sum(found[i] for i in nearest if train[i]["label"] == label))
            for label in labels
        }
        right += max(votes, key=lambda label: votes[label]) == row["label"]
    assert main_figures(report, "a.test/knn")["tfidf"] == pytest.approx(right / len(test))


def test_text_that_cannot_be_fitted_costs_one_line(config: EvalConfig, tmp_path: Path) -> None:
    folder = tmp_path / "blank"
    folder.mkdir()
    write_jsonl(folder / "corpus.jsonl", [{"id": "d0", "text": "?!"}, {"id": "d1", "text": "..."}])
    write_jsonl(folder / "queries.jsonl", [{"id": "q0", "text": "what"}])
    write_jsonl(folder / "qrels.jsonl", [{"query_id": "q0", "doc_id": "d0", "score": 1}])
    report = report_of(replace(config, retrieval=(replace(config.retrieval[0], path=str(folder)),)))
    assert "tfidf: not computed for blank: tfidf cannot be fitted on 2 texts" in " ".join(report.notes)
    assert "bm25: not computed for blank: bm25: none of the 2 documents has a word" in report.notes
    assert [row for row in report.results if row.system == "baseline/tfidf"]


def test_an_evaluation_that_names_no_baselines_has_the_usual_ones(config: EvalConfig) -> None:
    """With the figures that they have where they are named; an empty list is obeyed, and the report says so."""
    usual, named = (report_of(replace(config, baselines=names)) for names in (None, ("tfidf", "bm25")))
    assert main_figures(usual, "found") == main_figures(named, "found") and len(main_figures(usual, "found")) == 2
    assert [row.value for row in usual.results] == [row.value for row in named.results]
    alone = report_of(replace(config, baselines=None, retrieval=()))
    assert {row.system for row in alone.results if row.subject.kind == "baseline"} == {"baseline/tfidf"}
    assert alone.comparison is not None and alone.comparison.outside is not None
    none = report_of(replace(config, baselines=()))
    assert not main_figures(none, "found") and NO_OUTSIDE in none.notes and NO_OUTSIDE not in usual.notes


def test_usual_baselines_that_cannot_be_measured_cost_a_line(
    config: EvalConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Those that are named are refused instead: see `test_no_training_text_is_asked_for_where_the_corpus_serves`."""
    line = "tfidf: not computed for dev, sts; give training text as fit"
    report = report_of(replace(config, baselines=None, fit=(), retrieval=()))
    assert line in report.notes and line in caplog.messages
    assert not [row for row in report.results if row.subject.kind == "baseline"]
    monkeypatch.setitem(PACKAGES, "bm25", ("no_such_package",))
    assert list(main_figures(report_of(replace(config, baselines=None)), "found")) == ["tfidf"]


def test_usual_baselines_are_fitted_on_a_sample_of_much_text(
    config: EvalConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate_module, "MOST", 50)
    total = len(set(training()))
    for names, said in (
        (None, f"a sample of 50 of {total:,} training-side texts"),
        (("tfidf",), f"{total:,} training"),
    ):
        report = report_of(replace(config, baselines=names, retrieval=()))
        assert any(line.startswith(f"tfidf: fitted on {said}") for line in report.notes)

"""Post-processings fitted on the corpus of a search, or on the texts to be clustered: rows of their own."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dec2vec.config.load import validate
from dec2vec.config.model import EncodeOptions
from dec2vec.decoder.pooling import View
from dec2vec.errors import UserError
from eval.config import EvalConfig
from eval.report.report import Report
from eval.report.report_json import to_json
from eval.results.results import Result
from eval.run import evaluate
from eval.systems.seeds import find_seeds
from eval.systems.subject import Subject
from eval.tasks.clustering import cluster, v_measure
from tests.eval_data import write_pairs, write_similarity
from tests.fake_encoder import WIDTH, FakeEncoder
from tests.helpers import write_jsonl
from tests.lexical_collection import QUERIES, TOPICS, collection, ndcg_at_10, write_collection

VIEW = View("mean", 1)
ON_CORPUS = "120 documents of the corpus"


def with_dev(folder: Path) -> Path:
    """Every second query judges dev instead."""
    write_collection(folder)
    _, queries, grades = collection()
    write_jsonl(folder / "queries.jsonl", [{"id": f"q{i}", "text": text} for i, text in enumerate(queries)])
    for name, first in (("qrels", 0), ("dev_qrels", 1)):
        rows: list[dict[str, object]] = [
            {"query_id": query, "doc_id": document, "score": grade}
            for query, found in grades.items()
            for document, grade in found.items()
            if int(query[1:]) % 2 == first
        ]
        write_jsonl(folder / f"{name}.jsonl", rows)
    return folder


def evaluation(**sections: Any) -> EvalConfig:
    systems = {"prompts": ["bare"], "poolings": ["mean"], "post": ["raw", "whiten", "centre"], "layers": [1]}
    return validate(
        EvalConfig, {"systems": {**systems, "dimensions": [16, 8]}, "baselines": [], "bootstrap": 100} | sections
    )


def report_of(config: EvalConfig, **tuned: FakeEncoder) -> Report:
    return evaluate(config, base=FakeEncoder(), tuned=tuned, progress=False)


def main_rows(report: Report, task: str) -> dict[str, Result]:
    table = next(table for table in report.tasks if table.name == task)
    return {row.system: row for row in table.rows if row.metric == table.metric}


def whitened(vectors: np.ndarray, fitted: np.ndarray, k: int) -> np.ndarray:
    """Centred, along the first k directions of scikit-learn's shrunk covariance, over their standard deviations."""
    from sklearn.covariance import OAS

    found = OAS().fit(fitted.astype(np.float64))
    variances, directions = np.linalg.eigh(found.covariance_)
    return np.asarray((vectors - found.location_) @ directions[:, ::-1][:, :k] / np.sqrt(variances[::-1][:k]))


def encoded(texts: list[str]) -> np.ndarray:
    return FakeEncoder().encode_views(texts, [VIEW], EncodeOptions("bare"))[VIEW]


def right_value(k: int | None) -> float:
    """nDCG@10 of the test queries, whitened on the documents; centred for k None."""
    documents, queries, _ = collection()
    corpus, asked = encoded(documents), encoded(queries)
    mean = corpus.mean(axis=0, dtype=np.float64)
    one, other = (v - mean if k is None else whitened(v, corpus, k) for v in (asked, corpus))
    unit = [side / np.linalg.norm(side, axis=1, keepdims=True) for side in (one, other)]
    scores = unit[0] @ unit[1].T + 2  # all documents are found
    values = [_one(scores, query) for query in range(0, TOPICS * QUERIES, 2)]
    return float(np.mean(values))


def _one(scores: np.ndarray, query: int) -> float:
    """`ndcg_at_10` of one query."""
    alone = np.zeros_like(scores)
    alone[query] = scores[query]
    return ndcg_at_10(alone) * len(scores)


def test_a_search_alone_needs_no_training_text_and_has_the_right_values(tmp_path: Path) -> None:
    report = report_of(evaluation(retrieval=[{"path": str(with_dev(tmp_path / "found"))}]))
    rows = main_rows(report, "found")
    assert set(rows) == {"untuned/bare/mean@1", "untuned/bare/mean@1+centre(corpus)", whitened_name(rows)}
    row = rows[whitened_name(rows)]
    assert row.subject.k is not None
    assert row.value == pytest.approx(right_value(row.subject.k), abs=1e-6)
    assert rows["untuned/bare/mean@1+centre(corpus)"].value == pytest.approx(right_value(None), abs=1e-6)
    assert rows["untuned/bare/mean@1"].value != pytest.approx(row.value, abs=1e-3)
    assert row.subject.fitted_on == ON_CORPUS and row.subject.is_rival and not row.subject.transductive
    assert row.chosen_on == "found dev"
    table = next(table for table in report.tasks if table.name == "found")
    assert f"Rows marked (corpus) were fitted on the {ON_CORPUS}, not on `fit`." in table.note
    written = {item["system"]: item for item in json.loads(to_json(report))["tasks"][0]["rows"]}
    assert written[row.system]["fitted_on"] == ON_CORPUS


def whitened_name(rows: dict[str, Result]) -> str:
    [name] = [name for name, row in rows.items() if row.subject.post == "whiten" and row.subject.fitted_on]
    return name


def test_queries_and_training_text_change_no_fit(tmp_path: Path) -> None:
    """Rows for both fits stand side by side; the one on the corpus stays when `fit` is another."""
    section = [{"path": str(with_dev(tmp_path / "found"))}]
    figures = {}
    for seed in (2, 7):
        config = evaluation(retrieval=section, fit=[str(write_pairs(tmp_path / f"fit{seed}.jsonl", 60, seed))])
        rows = main_rows(report_of(config), "found")
        assert len(rows) == 5
        figures[seed] = {name: row.value for name, row in rows.items()}
    changed = {name for name in figures[2] if figures[2][name] != figures[7].get(name)}
    assert changed and not any("(corpus)" in name for name in changed)
    assert whitened_name(rows) in figures[2]


def test_without_dev_data_the_similarity_choice_is_shown_both_ways(tmp_path: Path) -> None:
    """Of a tuned run too, and the headline keeps the fit that the dev score is of."""
    config = evaluation(
        dev=str(write_similarity(tmp_path / "dev.jsonl", 60, 1)),
        tests=[str(write_similarity(tmp_path / "sts.jsonl", 40, 3))],
        fit=[str(write_pairs(tmp_path / "fit.jsonl", 60, 2))],
        retrieval=[{"path": str(write_collection(tmp_path / "found"))}],
    )
    report = report_of(config, a=FakeEncoder(noise=(4.0, 0.1, 0.1)))
    rows = main_rows(report, "found")
    marked = [name for name in rows if name.endswith("(corpus)")]
    assert len(marked) == 4 and all(name.removesuffix("(corpus)") in rows for name in marked)
    assert {rows[name].subject.run for name in marked} == {None, "a"}
    assert all(rows[name].dev is None for name in marked)  # the score of the other task is of another fit
    chosen = {name: rows[name].selection for name in marked}
    assert all(chosen[name] == ("fixed" if "centre" in name else "other dev") for name in marked), chosen
    found = report.tasks[0].headline
    assert found is not None and found.tuned is not None and found.untuned is not None
    assert "(corpus)" not in found.tuned.name and "(corpus)" not in found.untuned.name
    assert not any("(corpus)" in row.system for row in report.results)


def test_clusters_are_found_in_texts_whitened_by_themselves(tmp_path: Path) -> None:
    documents = collection()[0]
    rows: list[dict[str, object]] = [{"text": text, "label": f"t{i // 10}"} for i, text in enumerate(documents)]
    files = {"test": str(write_jsonl(tmp_path / "c.test.jsonl", rows[::2]))}
    files["dev"] = str(write_jsonl(tmp_path / "c.dev.jsonl", rows[1::2]))
    found = main_rows(report_of(evaluation(clustering=[{**files, "seeds": 2}])), "c.test/clusters")
    row = found[whitened_name(found)]
    assert row.subject.fitted_on == "60 texts that are clustered" and row.subject.k is not None
    vectors = encoded(documents[::2])
    labels = np.arange(len(documents))[::2] // 10
    clusters = cluster(whitened(vectors, vectors, row.subject.k).astype(np.float32), TOPICS, 2)
    expected = np.mean([v_measure(labels, clustering) for clustering in clusters])
    assert row.value == pytest.approx(expected, abs=0.05)  # k-means of almost equal vectors


def test_fewer_documents_than_dimensions_take_the_largest_k_that_they_allow(tmp_path: Path) -> None:
    folder = tmp_path / "few"
    folder.mkdir()
    texts = collection()[0][:12]
    write_jsonl(folder / "corpus.jsonl", [{"id": f"d{i}", "text": text} for i, text in enumerate(texts)])
    write_jsonl(folder / "queries.jsonl", [{"id": "q0", "text": texts[0]}, {"id": "q1", "text": texts[5]}])
    judged: list[dict[str, object]] = [{"query_id": f"q{i}", "doc_id": f"d{i}", "score": 1} for i in (0, 1)]
    write_jsonl(folder / "qrels.jsonl", judged)
    config = evaluation(
        dev=str(write_similarity(tmp_path / "dev.jsonl", 60, 1)),
        tests=[str(write_similarity(tmp_path / "sts.jsonl", 40, 3))],
        fit=[str(write_pairs(tmp_path / "fit.jsonl", 60, 2))],
        retrieval=[{"path": str(folder)}],
        systems={"prompts": ["bare"], "poolings": ["mean"], "post": ["pca"], "layers": [1], "dimensions": [12, 4]},
    )
    rows = {name: row for name, row in main_rows(report_of(config), "few").items() if row.subject.post}
    assert list(rows) == ["untuned/bare/mean@1+pca-12", "untuned/bare/mean@1+pca-4(corpus)"]


def test_other_tasks_still_need_training_text(tmp_path: Path) -> None:
    similar = {"dev": str(write_similarity(tmp_path / "dev.jsonl", 40, 1)), "tests": [str(tmp_path / "sts.jsonl")]}
    write_similarity(tmp_path / "sts.jsonl", 40, 3)
    config = evaluation(**similar, retrieval=[{"path": str(write_collection(tmp_path / "found"))}])
    with pytest.raises(UserError, match="fit: whiten needs a file of training text"):
        report_of(config)


def test_seeds_of_a_recipe_are_grouped_by_what_they_were_fitted_on() -> None:
    plain = [Subject(f"tuned/a-seed{n}+whiten-8", "system", run=f"a-seed{n}", post="whiten", k=8) for n in (0, 1)]
    marked = [replace(one, name=f"{one.name}(corpus)", fitted_on=ON_CORPUS) for one in plain]
    first, second = find_seeds([*plain, *marked])
    assert first.members == tuple(plain) and second.members == tuple(marked)
    assert (first.label, second.label) == ("tuned/a+whiten", "tuned/a+whiten(corpus)")
    assert second.mean.fitted_on == ON_CORPUS and WIDTH == 16

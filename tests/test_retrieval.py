"""Ranking metrics against their definitions written out; files with mistakes; the bootstrap's units."""

from __future__ import annotations

import json
from math import log2
from pathlib import Path

import ir_measures
import numpy as np
import pytest
from ir_measures import AP, RR, R, nDCG

from dec2vec.errors import UserError
from eval.metrics.resampling import resampled_means
from eval.tasks.retrieval import METRICS, RetrievalTask, load_retrieval
from eval.tasks.task import Task, TaskVectors

CRANFIELD = Path(__file__).parents[2] / "shared" / "data" / "retrieval" / "cranfield"


def write(path: Path, rows: list[dict[str, object]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def collection(folder: Path, documents: int = 30, queries: int = 8, seed: int = 0) -> Path:
    """Graded judgements; query 1 has none above 0."""
    generator = np.random.default_rng(seed)
    write(folder / "corpus.jsonl", [{"id": f"d{i}", "title": "", "text": f"text {i}"} for i in range(documents)])
    write(folder / "queries.jsonl", [{"id": i, "text": f"query {i}"} for i in range(queries)])
    rows: list[dict[str, object]] = []
    for query in range(queries):
        for document in generator.choice(documents, 6, replace=False).tolist():
            grade = 0 if query == 1 else int(generator.integers(0, 4))
            rows.append({"query_id": str(query), "doc_id": f"d{document}", "score": grade})
    write(folder / "qrels.jsonl", rows)
    return folder


def random_vectors(task: RetrievalTask, seed: int = 0, dimension: int = 5) -> TaskVectors:
    generator = np.random.default_rng(seed)
    sides = (len(task.test.queries), len(task.test.documents))
    left, right = (generator.normal(size=(rows, dimension)).astype(np.float32) for rows in sides)
    return TaskVectors(left, right)


def by_definition(grades: dict[str, int], ranked: list[str]) -> list[float]:
    """nDCG@10 with linear gains, reciprocal rank within 10, recall at 10 and 100, average precision."""
    relevant = {name for name, grade in grades.items() if grade > 0}
    gain = sum(grades.get(name, 0) / log2(rank + 2) for rank, name in enumerate(ranked[:10]))
    ideal = sum(grade / log2(rank + 2) for rank, grade in enumerate(sorted(grades.values(), reverse=True)[:10]))
    hits = [rank for rank, name in enumerate(ranked) if name in relevant]
    first = 1 / (hits[0] + 1) if hits and hits[0] < 10 else 0
    precision = sum((count + 1) / (rank + 1) for count, rank in enumerate(hits)) / len(relevant)
    recalls = [sum(rank < k for rank in hits) / len(relevant) for k in (10, 100)]
    return [gain / ideal, first, *recalls, precision]


def test_figures_are_those_of_the_definitions(tmp_path: Path) -> None:
    task = load_retrieval(collection(tmp_path))
    vectors = random_vectors(task)
    assert isinstance(task, Task)
    assert (task.left_out, len(task.test.queries), task.dev) == (1, 7, None)
    cosines = vectors.queries @ (vectors.documents / np.linalg.norm(vectors.documents, axis=1, keepdims=True)).T
    names = list(task.documents)
    expected = np.array(
        [
            by_definition(task.test_queries.qrels[query], [names[i] for i in np.argsort(-row)])
            for query, row in zip(task.test_queries.ids, cosines, strict=True)
        ]
    )
    figures = task.measure(None, vectors, 50, 3)
    assert [figure.metric for figure in figures] == list(METRICS)
    scores = {
        query: {name: float(cosine) for name, cosine in zip(names, row, strict=True)}
        for query, row in zip(task.test_queries.ids, cosines, strict=True)
    }
    measures = [nDCG @ 10, R @ 10, R @ 100, AP]
    library = ir_measures.pytrec_eval.calc_aggregate(measures, task.test_queries.qrels, scores)
    ten = {query: dict(sorted(found.items(), key=lambda item: -item[1])[:10]) for query, found in scores.items()}
    library |= ir_measures.pytrec_eval.calc_aggregate([RR], task.test_queries.qrels, ten)  # which has no cut-off
    wanted = [library[measure] for measure in (nDCG @ 10, RR, R @ 10, R @ 100, AP)]
    np.testing.assert_allclose([figure.value for figure in figures], wanted, atol=1e-6)
    np.testing.assert_allclose([figure.value for figure in figures], expected.mean(axis=0), atol=1e-6)
    assert {figure.n for figure in figures} == {7}
    np.testing.assert_allclose(figures[0].resampled, resampled_means(expected, 50, task.seed_of(3))[:, 0], atol=1e-6)


def test_ties_are_ranked_in_our_order(tmp_path: Path) -> None:
    """The library alone would put d9 before d0."""
    write(tmp_path / "corpus.jsonl", [{"id": "d0", "text": "a"}, {"id": "d9", "text": "b"}])
    write(tmp_path / "queries.jsonl", [{"id": "q", "text": "c"}])
    write(tmp_path / "qrels.jsonl", [{"query_id": "q", "doc_id": "d0", "score": 1}])
    ones = np.ones((2, 2), dtype=np.float32)
    figures = load_retrieval(tmp_path).measure(None, TaskVectors(ones[:1], ones), 100, 0)
    assert figures[1].value == 1


def test_the_bootstrap_resamples_queries() -> None:
    values = np.random.default_rng(0).normal(size=(9, 2))
    drawn = resampled_means(values, 130, 5)
    for index in (0, 64, 129):
        rows = np.random.default_rng((5, 9, index)).integers(0, 9, 9)
        np.testing.assert_allclose(drawn[index], values[rows].mean(axis=0))


def test_inf_gives_nan_and_not_a_figure(tmp_path: Path) -> None:
    task = load_retrieval(collection(tmp_path))
    vectors = random_vectors(task)
    vectors.documents[3, 0] = np.inf
    assert np.isnan([figure.value for figure in task.measure(None, vectors, 100, 0)]).all()


def test_dev_queries_choose_and_test_judgements_do_not(tmp_path: Path) -> None:
    collection(tmp_path)
    write(tmp_path / "dev_queries.jsonl", [{"id": "x", "text": "another query"}])
    write(tmp_path / "dev_qrels.jsonl", [{"query_id": "x", "doc_id": "d4", "score": 1}])
    task = load_retrieval(tmp_path)
    assert task.dev is not None
    assert (task.dev.queries, task.dev.documents) == (["another query"], task.test.documents)
    documents = np.eye(30, dtype=np.float32)
    assert task.dev_score(TaskVectors(documents[4:5], documents)) == 1
    assert task.dev_score(TaskVectors(documents[20:21], documents)) < 1


def test_dev_needs_dev_and_test_queries_stay_out_of_it(tmp_path: Path) -> None:
    collection(tmp_path)
    with pytest.raises(UserError, match="has no dev queries; add dev_qrels"):
        task = load_retrieval(tmp_path)
        task.dev_score(random_vectors(task))
    (tmp_path / "dev_qrels.jsonl").write_text((tmp_path / "qrels.jsonl").read_text())
    with pytest.raises(UserError, match=r"dev_qrels.jsonl: 7 dev queries are test queries too, such as 'query 0'"):
        load_retrieval(tmp_path)


BROKEN: list[tuple[str, dict[str, object], str]] = [
    ("corpus", {"id": "d0", "text": "again"}, "corpus.jsonl line 31: id 'd0' occurs twice"),
    ("queries", {"id": None, "text": "who"}, "queries.jsonl line 9: id is null"),
    ("queries", {"id": 77, "text": " "}, "queries.jsonl line 9: text is blank"),
    ("qrels", {"query_id": None, "doc_id": "d1", "score": 1}, "line 49: query_id is null"),
    ("qrels", {"query_id": "7", "doc_id": "d29", "score": "high"}, "line 49: score 'high' is not a whole number"),
    ("qrels", {"query_id": "7", "doc_id": "d29", "score": float("nan")}, "line 49: score nan is not a whole number"),
    ("qrels", {"query_id": "7", "doc_id": "d29", "score": 0.5}, "line 49: score 0.5 is not a whole number"),
]


@pytest.mark.parametrize(("part", "row", "message"), BROKEN)
def test_broken_files_are_named(tmp_path: Path, part: str, row: dict[str, object], message: str) -> None:
    path = collection(tmp_path) / f"{part}.jsonl"
    path.write_text(path.read_text() + json.dumps(row) + "\n")
    with pytest.raises(UserError, match=message):
        load_retrieval(tmp_path)


def test_a_pair_judged_twice_and_no_judgements(tmp_path: Path) -> None:
    qrels = collection(tmp_path) / "qrels.jsonl"
    first = qrels.read_text().splitlines()[0]
    other = json.dumps({**json.loads(first), "score": 9})
    qrels.write_text(f"{first}\n{other}\n")
    with pytest.raises(UserError, match=r"line 2: query '0' and document .* have score 9 here and . above; keep one"):
        load_retrieval(tmp_path)
    write(qrels, [{"query_id": "0", "doc_id": "d1", "score": 0}])
    with pytest.raises(UserError, match="no query has a relevant document"):
        load_retrieval(tmp_path)
    write(qrels, [{"q0": "q1", "d0": "d1", "1": 1}])
    with pytest.raises(UserError, match=r"the first line must name the columns .*; it has: q0, d0, 1"):
        load_retrieval(tmp_path)
    qrels.unlink()
    with pytest.raises(UserError, match=r"qrels.jsonl does not exist; retrieval needs corpus, queries and qrels"):
        load_retrieval(tmp_path)


def test_cranfield_as_published() -> None:
    if not CRANFIELD.with_name("cranfield.corpus.jsonl").is_file():
        pytest.skip(f"{CRANFIELD} is not here")
    task = load_retrieval(CRANFIELD)
    assert (task.name, len(task.documents), len(task.test.queries), task.left_out) == ("cranfield", 1400, 225, 0)
    assert task.test.documents[0].startswith(  # title and text are joined as in BEIR and mteb, whatever the text says
        "experimental investigation of the aerodynamics of a wing in a slipstream . experimental investigation"
    )


def test_beir_folders_and_hub_data_sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same collection as files of ours, as a folder of BEIR and as a data set of mteb."""
    import datasets

    ours = load_retrieval(collection(tmp_path))
    corpus = [{"_id": name, "title": "", "text": text} for name, text in ours.documents.items()]
    queries = [{"_id": str(index), "text": f"query {index}"} for index in range(8)]
    rows = [json.loads(line) for line in (tmp_path / "qrels.jsonl").read_text().splitlines()]
    judged = [{"query-id": row["query_id"], "corpus-id": row["doc_id"], "score": float(row["score"])} for row in rows]
    beir = tmp_path / "beir"
    (beir / "qrels").mkdir(parents=True)
    write(beir / "corpus.jsonl", list(corpus))
    write(beir / "queries.jsonl", list(queries))
    lines = ["\t".join(("query-id", "corpus-id", "score"))]
    lines += ["\t".join((row["query_id"], row["doc_id"], str(row["score"]))) for row in rows]
    (beir / "qrels" / "test.tsv").write_text("\n".join(lines) + "\n")

    def load_dataset(name: str, subset: str, *, split: str, streaming: bool) -> datasets.Dataset:
        assert name == "someone/set"
        parts = {("corpus", "corpus"): corpus, ("queries", "queries"): queries, ("default", "test"): judged}
        return datasets.Dataset.from_list(parts[subset, split])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(datasets, "get_dataset_split_names", lambda name, subset: ["train", "test"])
    for place, name in ((beir, "beir"), ("someone/set", "set"), ("someone/set@test", "set")):
        found = load_retrieval(place)
        assert (found.name, found.documents, found.test_queries) == (name, ours.documents, ours.test_queries)
        assert found.dev_queries is None
    with pytest.raises(UserError, match="someone/set: default has no split 'dev'; it has train, test"):
        load_retrieval("someone/set@dev")
    monkeypatch.setattr(datasets, "get_dataset_split_names", lambda name, subset: ["dev", "test"])
    with pytest.raises(KeyError, match="dev"):  # a split called dev is what choices are made on
        load_retrieval("someone/set")

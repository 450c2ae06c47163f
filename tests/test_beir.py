"""BEIR's and mteb's collections as they are: queries that are documents, and judgements of what does not exist.

pytrec_eval itself is asked for the right values, with the vectors' scores and the rows of the qrels that count.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import pytrec_eval

from dec2vec.corpus.exact_search import Ranking
from dec2vec.errors import UserError
from eval.config import RetrievalConfig
from eval.inputs import _make_retrieval
from eval.report.notes import data_notes
from eval.tasks.retrieval import RetrievalTask, load_retrieval
from eval.tasks.task import TaskVectors
from tests.helpers import write_jsonl

TOPICS = ["cats", "dogs", "trains", "taxes", "schools", "books", "rain", "music", "farms", "coffee", "ships", "bread"]
DOCUMENTS = {
    f"{topic}-{side}": f"{topic} are {word}" for topic in TOPICS for side, word in (("pro", "good"), ("con", "bad"))
}
QUERIES = {name: text for name, text in DOCUMENTS.items() if name.endswith("pro")}
GRADES = {name: {name.replace("pro", "con"): 1} for name in QUERIES}


def arguana(folder: Path, *rows: str, grade: str = "1") -> Path:
    """Each argument is a query, and the counter-argument is relevant; `rows` are added to the qrels."""
    (folder / "qrels").mkdir(parents=True)
    for part, texts in (("corpus", DOCUMENTS), ("queries", QUERIES)):
        write_jsonl(folder / f"{part}.jsonl", [{"_id": name, "text": text} for name, text in texts.items()])
    judged = [f"{query}\t{document}\t{grade}" for query, found in GRADES.items() for document in found]
    lines = ["query-id\tcorpus-id\tscore", *judged, *(row.replace(" ", "\t") for row in rows)]
    (folder / "qrels" / "test.tsv").write_text("".join(f"{line}\n" for line in lines))
    return folder


def vectors_of(task: RetrievalTask) -> TaskVectors:
    """A query has the vector of its own document, and both are near the counter-argument."""
    generator = np.random.default_rng(0)
    topics = np.repeat(generator.normal(size=(len(TOPICS), 8)), 2, axis=0)
    documents = topics + 0.7 * generator.normal(size=topics.shape)
    documents = (documents / np.linalg.norm(documents, axis=1, keepdims=True)).astype(np.float32)
    names = list(task.documents)
    return TaskVectors(documents[[names.index(query) for query in QUERIES]], documents)


def ndcg(task: RetrievalTask, grades: dict[str, dict[str, int]], *, own: bool) -> float:
    """By pytrec_eval, with or without the query's own document in the run."""
    vectors = vectors_of(task)
    scores = vectors.queries @ vectors.documents.T
    run = {
        query: {name: float(score) for name, score in zip(DOCUMENTS, row, strict=True) if own or name != query}
        for query, row in zip(QUERIES, scores, strict=True)
    }
    found = pytrec_eval.RelevanceEvaluator(grades, {"ndcg_cut_10"}).evaluate(run)
    return float(np.mean([values["ndcg_cut_10"] for values in found.values()]))


def ours(task: RetrievalTask) -> float:
    return task.measure(None, vectors_of(task), 100, 0)[0].value


def test_the_own_document_is_left_out_of_a_ranking(tmp_path: Path) -> None:
    """Which the report says; the option keeps it, and then it is as if nobody had looked."""
    folder = arguana(tmp_path / "arguana")
    task = load_retrieval(folder)
    assert ours(task) == pytest.approx(ndcg(task, GRADES, own=False), abs=1e-7)
    assert data_notes([task]) == [
        "Note: arguana: the document with the query's own id is left out of 12 of the rankings, as BEIR does "
        "(ignore_identical_ids)."
    ]
    kept = _make_retrieval(RetrievalConfig(str(folder), ignore_identical_ids=False))
    assert ours(kept) == pytest.approx(ndcg(task, GRADES, own=True), abs=1e-7)
    assert ours(task) - ours(kept) > 0.2
    assert kept.notes == [
        "12 of the queries are documents under the same id and find themselves; "
        "retrieval.N.ignore_identical_ids true leaves these documents out"
    ]


def test_all_metrics_and_depths_are_without_the_own_document(tmp_path: Path) -> None:
    task = load_retrieval(arguana(tmp_path / "arguana"))
    kept = load_retrieval(tmp_path / "arguana", ignore_identical_ids=False)
    documents = np.eye(24, dtype=np.float32)
    near = 0.9 * documents[1::2] + 0.1 * documents[::2]  # the counter-argument comes first, the own document second
    last = documents[::2] - 0.5 * documents[1::2]  # the counter-argument comes last
    found = task.measure(None, TaskVectors(near, documents), 100, 0)
    assert [figure.value for figure in found] == [1, 1, 1, 1, 1]
    means = [float(t.measure(None, TaskVectors(last, documents), 100, 0)[4].value) for t in (task, kept)]
    assert means == pytest.approx([1 / 23, 1 / 24])


def test_a_search_by_other_means_leaves_it_out_too(tmp_path: Path) -> None:
    """As lexical baselines rank: they are asked for one more document."""
    tasks = [load_retrieval(arguana(tmp_path / "arguana")), load_retrieval(tmp_path / "arguana", False)]
    assert [task.depth for task in tasks] == [1001, 1000]
    positions = np.array([[own, own + 1, -1] for own in range(0, 24, 2)])  # the query itself, then the answer
    ranking = Ranking(positions, np.zeros(positions.shape, dtype=np.float32))
    reciprocal = [task.figures(task.evidence_from_ranking(ranking), 100, 0)[1].value for task in tasks]
    assert reciprocal == [1, 0.5]


@pytest.mark.parametrize("title", ["", " ", None, float("nan")])
def test_documents_without_a_title(tmp_path: Path, title: object) -> None:
    folder = arguana(tmp_path / "arguana")
    rows = [{"_id": name, "title": title, "text": text} for name, text in DOCUMENTS.items()]
    write_jsonl(folder / "corpus.jsonl", [*rows, {"_id": "titled", "title": "cats", "text": "purr"}])
    documents = load_retrieval(folder).documents
    assert {name: text.strip() for name, text in documents.items()} == {**DOCUMENTS, "titled": "cats purr"}


@pytest.mark.parametrize(
    ("names", "is_left_out"),
    [(("query-id", "corpus-id"), True), (("query_id", "doc_id"), False), (("query_id", "corpus-id"), True)],
)
def test_files_side_by_side_are_beirs_by_the_names_of_their_columns(
    tmp_path: Path, names: tuple[str, str], is_left_out: bool
) -> None:
    for part, texts in (("corpus", DOCUMENTS), ("queries", QUERIES)):
        write_jsonl(tmp_path / f"{part}.jsonl", [{"id": name, "text": text} for name, text in texts.items()])
    rows = [{names[0]: query, names[1]: next(iter(found)), "score": 1} for query, found in GRADES.items()]
    write_jsonl(tmp_path / "qrels.jsonl", rows)
    write_jsonl(tmp_path / "dev_qrels.jsonl", rows)
    write_jsonl(tmp_path / "dev_queries.jsonl", [{"id": name, "text": f"why {name}"} for name in QUERIES])
    task = load_retrieval(tmp_path)
    assert ours(task) == pytest.approx(ndcg(task, GRADES, own=not is_left_out), abs=1e-7)
    assert task.dev_score(vectors_of(task)) == pytest.approx(ndcg(task, GRADES, own=not is_left_out), abs=1e-7)
    assert sum(note.startswith("dev: ") for note in task.notes) == is_left_out
    for wanted in (True, False):
        asked = load_retrieval(tmp_path, ignore_identical_ids=wanted)
        assert ours(asked) == pytest.approx(ndcg(task, GRADES, own=not wanted), abs=1e-7)


def test_ids_that_are_equal_by_chance(tmp_path: Path) -> None:
    """Query 3 is answered by document 3: it is judged, so it is not the query itself and stays."""
    (tmp_path / "qrels").mkdir()
    write_jsonl(tmp_path / "corpus.jsonl", [{"_id": str(i), "text": f"answer {i}"} for i in range(9)])
    write_jsonl(tmp_path / "queries.jsonl", [{"_id": str(i), "text": f"question {i}"} for i in range(5)])
    (tmp_path / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n3\t3\t1\n4\t8\t1\n4\t4\t0\n")
    task = load_retrieval(tmp_path)
    eye = np.eye(9, dtype=np.float32)
    assert [figure.value for figure in task.measure(None, TaskVectors(eye[[3, 8]], eye), 100, 0)] == [1, 1, 1, 1, 1]
    assert task.notes == [
        "the document with the query's own id is left out of 1 of the rankings, as BEIR does "
        "(ignore_identical_ids); in 1 of them the texts differ, so that ids may be equal by chance"
    ]


LEFT_OUT = {
    "cats-pro gone-con 1": "the document is not in the corpus (first: 'gone-con' in row 14)",
    "gone-pro cats-con 1": "the query is not in .*queries.jsonl (first: 'gone-pro' in row 14)",
    "cats-pro dogs-con -1": "the score is below 0 (first: -1 in row 14)",
    "cats-pro dogs-con -2.0": "the score is below 0 (first: -2 in row 14)",
    "cats-pro cats-con 1": "an earlier row says the same (first: 'cats-pro' and 'cats-con' in row 14)",
}


@pytest.mark.parametrize(("row", "reason"), LEFT_OUT.items())
def test_judgements_that_cannot_count_are_left_out_and_told(tmp_path: Path, row: str, reason: str) -> None:
    task = load_retrieval(arguana(tmp_path / "arguana", row, row, grade="1.0"))
    first, *_ = task.notes
    wanted = f"left out 2 of 14 judgements in .*test.tsv: {reason}"
    assert re.fullmatch(wanted.replace("(", r"\(").replace(")", r"\)"), first)
    assert len(task.test_queries.ids) == 12 and task.left_out == 0
    assert ours(task) == pytest.approx(ndcg(task, GRADES, own=False), abs=1e-7)


def test_negative_grades_are_what_trec_eval_makes_of_them(tmp_path: Path) -> None:
    task = load_retrieval(arguana(tmp_path / "arguana", "cats-pro dogs-con -1"))
    grades = {**GRADES, "cats-pro": {"cats-con": 1, "dogs-con": -1}}
    assert ours(task) == pytest.approx(ndcg(task, grades, own=False), abs=1e-7)


def test_whole_numbers_may_be_floats_and_fractions_are_refused(tmp_path: Path) -> None:
    task = load_retrieval(arguana(tmp_path / "whole", "cats-pro dogs-con 2.0"))
    assert task.test_queries.qrels["cats-pro"] == {"cats-con": 1, "dogs-con": 2}
    with pytest.raises(UserError, match=r"row 14: score '0.5' is not a whole number"):
        load_retrieval(arguana(tmp_path / "fraction", "cats-pro dogs-con 0.5"))


def test_a_query_whose_only_answer_is_absent_is_not_measured(tmp_path: Path) -> None:
    """A ranking of the corpus can't be good or bad at it; that it was judged is told."""
    folder = arguana(tmp_path / "arguana", "extra gone-con 1")
    with (folder / "queries.jsonl").open("a") as file:
        file.write('{"_id": "extra", "text": "a further question"}\n')
    task = load_retrieval(folder)
    assert "extra" not in task.test_queries.ids and task.left_out == 1
    assert task.notes[1] == "not measured: 1 of 13 judged queries, which have no relevant document"
    assert ours(task) == pytest.approx(ndcg(task, GRADES, own=False), abs=1e-7)

"""Exact search against a sort of all cosines; FAISS against exact search."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from dec2vec import cli
from dec2vec.corpus.exact_search import Ranking, exact_top, recall_against, searchable_rows
from dec2vec.corpus.faiss_index import RECALL, build_index, faiss_top, index_array, search_array, search_index
from dec2vec.corpus.index_note import IndexNote, read_index_note, write_index_note
from dec2vec.corpus.vector_files import open_vectors
from dec2vec.errors import UserError


def vectors(rows: int, dimension: int, seed: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(rows, dimension)).astype(np.float32)


def clustered(rows: int, dimension: int, seed: int) -> NDArray[np.float32]:
    """Texts come in topics: unlike a ball of noise, which no approximate index serves well."""
    centres = vectors(20, dimension, 99)
    return (centres[np.arange(rows) % 20] + 0.6 * vectors(rows, dimension, seed)).astype(np.float32)


@given(
    queries=st.integers(1, 7),
    documents=st.integers(1, 30),
    k=st.integers(1, 12),
    block=st.integers(1, 5),
    step=st.integers(1, 11),
    seed=st.integers(0, 99),
)
def test_exact_search_is_a_sort_of_all_cosines(
    queries: int, documents: int, k: int, block: int, step: int, seed: int
) -> None:
    left = np.random.default_rng(seed).integers(-1, 2, (queries, 3)).astype(np.float32)  # few values: many ties
    right = np.random.default_rng(seed + 1).integers(-1, 2, (documents, 3)).astype(np.float32)
    found = exact_top(left, right, k, block=block, document_block=step)
    cosines = searchable_rows(left) @ searchable_rows(right).T
    for row, line in enumerate(cosines):
        expected = sorted(range(documents), key=lambda j: (-line[j], j))[:k]
        np.testing.assert_allclose(found.scores[row], line[expected], atol=1e-6)
        np.testing.assert_allclose(line[found.positions[row]], line[expected], atol=1e-6)
        assert len(set(found.positions[row].tolist())) == min(k, documents)


def test_of_equals_the_earlier_document_comes_first() -> None:
    same = np.ones((9, 2), dtype=np.float32)
    assert exact_top(same[:1], same, 4, document_block=2).positions.tolist() == [[0, 1, 2, 3]]


@pytest.mark.parametrize("kind", RECALL)
def test_faiss_finds_what_exact_search_finds(kind: str) -> None:
    queries, documents = clustered(50, 16, 0), clustered(1500, 16, 1)
    exact = exact_top(queries, documents, 10)
    found = faiss_top(queries, documents, 10, kind)  # type: ignore[arg-type]
    assert recall_against(found, exact) >= RECALL[kind]  # type: ignore[index]
    np.testing.assert_allclose(found.scores[:, 0], exact.scores[:, 0], atol=0.05)


def test_flat_search_needs_no_faiss(monkeypatch: pytest.MonkeyPatch) -> None:
    queries, documents = searchable_rows(vectors(50, 16, 0)), searchable_rows(vectors(1500, 16, 1))
    scores, positions = search_array(index_array(documents, "flat"), queries, 10)
    monkeypatch.setitem(sys.modules, "faiss", None)
    exact_scores, exact_positions = search_array(index_array(documents, "flat"), queries, 10)
    np.testing.assert_array_equal(exact_positions, positions)
    np.testing.assert_allclose(exact_scores, scores, atol=1e-6)


@pytest.mark.parametrize(
    "argv",
    [
        ["index", "vectors.npy", "--output", "index"],
        ["search", "index", "--model", "m", "--queries", "texts.txt", "--output", "hits.jsonl"],
        ["dedup", "vectors.npy", "--method", "hnsw", "--output", "groups.jsonl"],
        ["outliers", "vectors.npy", "--method", "hnsw", "--output", "rows.jsonl"],
        ["mine", "pairs.jsonl", "--model", "m", "--index", "ivf", "--output", "mined.jsonl"],
    ],
    ids=lambda argv: argv[0],
)
def test_one_line_where_faiss_is_missing(
    argv: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("vectors.npy", vectors(30, 4, 0))
    monkeypatch.setitem(sys.modules, "faiss", None)
    assert cli.main(argv) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and error.rstrip().endswith("pip install 'dec2vec[search]'")


def test_exact_methods_need_no_faiss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("vectors.npy", vectors(30, 4, 0))
    monkeypatch.setitem(sys.modules, "faiss", None)
    assert cli.main(["dedup", "vectors.npy", "--output", "groups.jsonl"]) == 0
    assert cli.main(["outliers", "vectors.npy", "--output", "rows.jsonl"]) == 0


def test_recall_sees_what_is_missed() -> None:
    exact = Ranking(np.array([[0, 1], [2, 3]]), np.zeros((2, 2), dtype=np.float32))
    found = Ranking(np.array([[1, 7], [-1, -1]]), np.zeros((2, 2), dtype=np.float32))
    assert recall_against(exact, exact) == 1
    assert recall_against(found, exact) == 0.25


def test_few_documents_and_zero_vectors() -> None:
    documents = np.array([[0, 0], [1, 0]], dtype=np.float32)
    found = exact_top(documents[1:], documents, 10)
    assert found.positions.tolist() == [[1, 0]]
    assert found.scores.tolist() == [[1, 0]]
    assert faiss_top(documents[1:], documents, 10, "ivf").positions.tolist() == [[1, 0]]


def test_bad_searches_are_refused() -> None:
    good = vectors(3, 2, 0)
    with pytest.raises(UserError, match="k 0: a search needs k of at least 1"):
        exact_top(good, good, 0)
    with pytest.raises(UserError, match="no documents to search"):
        exact_top(good, good[:0], 1)
    with pytest.raises(UserError, match="vectors contain inf or nan"):
        faiss_top(good, np.full_like(good, np.inf), 1)


def test_cosines_of_codes_are_cosines(tmp_path: Path) -> None:
    """Products with the codes of ivf-pq can exceed 1. Divided by the length of the decoded vector they cannot."""
    np.save(tmp_path / "v.npy", searchable_rows(clustered(700, 16, 2)))
    stored = open_vectors(tmp_path / "v.npy")
    index = build_index(stored, "ivf-pq", code_bytes=1)
    queries = stored.everything()[:50]
    products, positions = index.search(queries, 10)
    found = search_index(index, queries, 10)
    assert [set(row) for row in found.positions.tolist()] == [set(row) for row in positions.tolist()]
    _, _, decoded = index.search_and_reconstruct(queries, 10)
    expected = np.sort(products / np.linalg.norm(decoded, axis=2), axis=1)[:, ::-1]
    np.testing.assert_allclose(found.scores, expected, atol=1e-5)
    assert products.max() / found.scores.max() != pytest.approx(1.0, abs=1e-3) and np.abs(found.scores).max() <= 1


def test_exact_cosines_are_at_most_1(tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", searchable_rows(clustered(300, 48, 3)))
    stored = open_vectors(tmp_path / "v.npy")
    found = search_index(build_index(stored, "flat"), stored.everything(), 3)
    assert found.scores.max() <= 1 and found.positions[:, 0].tolist() == list(range(300))


def test_the_note_of_an_index(tmp_path: Path) -> None:
    note = IndexNote("ivf-pq", 700, 16, 0.25)
    write_index_note(note, tmp_path / "i.faiss")
    assert read_index_note(tmp_path / "i.faiss", 700, 16) == note
    assert read_index_note(tmp_path / "i.faiss", 701, 16) is None, "that of another index"
    assert read_index_note(tmp_path / "other.faiss", 700, 16) is None
    (tmp_path / "i.faiss.json").write_text("[]")
    assert read_index_note(tmp_path / "i.faiss", 700, 16) is None

"""Indexes, duplicates and outliers against exact search, scikit-learn and naive loops."""

from __future__ import annotations

import importlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.cluster import AgglomerativeClustering
from sklearn.neighbors import NearestNeighbors

from dec2vec import cli
from dec2vec.corpus import inputs
from dec2vec.corpus.duplicates import BLOCK, group_duplicates, near_pairs
from dec2vec.corpus.exact_search import exact_top, searchable_rows
from dec2vec.corpus.faiss_index import (
    build_index,
    exact_over_blocks,
    read_index,
    sample_recall,
    search_index,
    write_index,
)
from dec2vec.corpus.neighbours import mean_distances, nearest_others
from dec2vec.corpus.shards import Index, Shard
from dec2vec.corpus.vector_files import StoredVectors, VectorFile, open_vectors
from dec2vec.errors import UserError

LEAST = {"flat": 1.0, "hnsw": 0.95, "ivf-pq": 0.4}


def clustered(rows: int, dimension: int = 16, seed: int = 0) -> NDArray[np.float32]:
    draw = np.random.default_rng(seed)
    centres = draw.normal(size=(20, dimension))
    return (centres[np.arange(rows) % 20] + 0.5 * draw.normal(size=(rows, dimension))).astype(np.float32)


def in_parts(folder: Path, vectors: NDArray[np.float32], size: int) -> StoredVectors:
    folder.mkdir()
    parts = []
    for number, first in enumerate(range(0, len(vectors), size)):
        part = vectors[first : first + size]
        np.save(folder / f"{number}.npy", part)
        parts.append(VectorFile(folder / f"{number}.npy", first, len(part)))
    return StoredVectors(str(folder), tuple(parts), vectors.shape[1])


def test_vectors_in_parts_are_the_vectors(tmp_path: Path) -> None:
    matrix = clustered(100)
    found = in_parts(tmp_path / "v", matrix, 33)
    assert len(found) == 100
    np.testing.assert_array_equal(found.everything(), matrix)
    rows = np.array([99, 0, 40, 33, 32], dtype=np.int64)
    np.testing.assert_array_equal(found.take(rows), matrix[np.sort(rows)])
    blocks = list(found.blocks(10))
    assert [first for first, _ in blocks][:5] == [0, 10, 20, 30, 33] and max(len(block) for _, block in blocks) == 10


@pytest.mark.parametrize("kind", LEAST)
def test_an_index_finds_the_exact_neighbours(tmp_path: Path, kind: Any) -> None:
    matrix = clustered(1500)
    vectors = in_parts(tmp_path / "v", matrix, 400)
    index = build_index(vectors, kind)
    recall = sample_recall(index, vectors)
    assert recall >= LEAST[kind]
    write_index(index, tmp_path / "i")
    again = search_index(read_index(tmp_path / "i"), matrix[:20], 5)
    np.testing.assert_array_equal(again.positions, search_index(index, matrix[:20], 5).positions)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["i", "v"]


def test_recall_against_a_naive_count(tmp_path: Path) -> None:
    """An index that lacks half of the corpus finds half of the neighbours."""
    matrix = clustered(400)
    vectors = in_parts(tmp_path / "v", matrix, 150)
    half = build_index(StoredVectors("half", vectors.parts[:2], 16), "flat")
    cosines = searchable_rows(matrix) @ searchable_rows(matrix).T
    np.fill_diagonal(cosines, -2)
    nearest = np.argsort(-cosines, axis=1)[:, :10]
    assert sample_recall(half, vectors, sample=400) == pytest.approx((nearest < 300).mean(), abs=0.01)
    assert sample_recall(build_index(vectors, "flat"), vectors, sample=400) == 1


def test_search_over_blocks_is_search_at_once(tmp_path: Path) -> None:
    matrix = clustered(300)
    found = exact_over_blocks(matrix[:30], in_parts(tmp_path / "v", matrix, 70), 12)
    expected = exact_top(matrix[:30], matrix, 12)
    np.testing.assert_array_equal(found.positions, expected.positions)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-6)


@pytest.mark.parametrize("threshold", [0.8, 0.9, 0.97])
def test_groups_are_those_of_single_linkage(threshold: float) -> None:
    matrix = clustered(300, 8)
    linkage = AgglomerativeClustering(
        n_clusters=None, metric="cosine", linkage="single", distance_threshold=1 - threshold
    )
    labels = linkage.fit_predict(matrix)
    expected = sorted(
        members.tolist() for label in set(labels.tolist()) if len(members := np.flatnonzero(labels == label)) > 1
    )
    groups = group_duplicates(matrix, threshold)
    assert sorted(group.members for group in groups) == expected
    assert [group.kept for group in groups] == [group.members[0] for group in groups] == sorted(g.kept for g in groups)
    assert all(abs(group.cosines[0] - 1) < 1e-6 for group in groups)


def test_pairs_across_blocks() -> None:
    matrix = clustered(BLOCK + 50)
    matrix[BLOCK + 7] = 3 * matrix[5]
    matrix[BLOCK + 9] = matrix[BLOCK + 3]
    cosines = searchable_rows(matrix) @ searchable_rows(matrix).T
    expected = np.argwhere(np.triu(cosines >= 0.9999, 1)).tolist()
    assert sorted(near_pairs(matrix, 0.9999).tolist()) == expected
    assert [5, BLOCK + 7] in expected and [BLOCK + 3, BLOCK + 9] in expected


def test_a_graph_finds_the_duplicates_too() -> None:
    matrix = np.random.default_rng(0).normal(size=(500, 16)).astype(np.float32)
    matrix[250:260] = matrix[:10] * 1.001
    exact, graph = (group_duplicates(matrix, 0.99, method) for method in ("exact", "hnsw"))
    assert [group.members for group in exact] == [[row, row + 250] for row in range(10)]
    assert [group.members for group in graph] == [group.members for group in exact]
    assert group_duplicates(matrix[:100], 0.99) == []


def test_outliers_are_scikit_learns() -> None:
    matrix = clustered(200)
    ranking = nearest_others(matrix, 7)
    distances, positions = NearestNeighbors(n_neighbors=8, metric="cosine").fit(matrix).kneighbors(matrix)
    np.testing.assert_array_equal(ranking.positions, positions[:, 1:])
    np.testing.assert_allclose(mean_distances(matrix, ranking), distances[:, 1:].mean(axis=1), atol=1e-5)


def test_equal_rows_and_few_rows() -> None:
    same = np.ones((20, 3), dtype=np.float32)
    ranking = nearest_others(same, 5)
    assert ranking.positions.shape == (20, 5) and not (ranking.positions == np.arange(20)[:, None]).any()
    np.testing.assert_allclose(mean_distances(same, ranking), 0, atol=1e-6)
    assert nearest_others(same[:3], 5).positions.shape == (3, 2)


class WordEncoder:
    """Sums of random words: texts with the same words are alike."""

    def encode(self, texts: Sequence[str], **options: Any) -> NDArray[np.float32]:
        rows = [np.sum([self.word(word) for word in text.split()], axis=0) for text in texts]
        return searchable_rows(np.array(rows, dtype=np.float32))

    def word(self, word: str) -> NDArray[np.float64]:
        return np.random.default_rng(list(word.encode())).normal(size=12)


@pytest.fixture
def texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(inputs, "load_encoder", lambda config, max_length: WordEncoder())
    lines = ["a red dog runs", "the old man", "dog a runs red", "a red dog", "xyzzy plugh", "the old man"]
    (tmp_path / "t.txt").write_text("\n".join(lines))
    return tmp_path / "t.txt"


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_verbs(texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "v.npy", WordEncoder().encode(texts.read_text().splitlines()))
    assert cli.main(["index", str(tmp_path / "v.npy"), "--output", str(tmp_path / "i")]) == 0
    header, values = capsys.readouterr().out.splitlines()
    assert header.split() == ["kind", "rows", "dimensions", "MB", "recall@10", "file"]
    assert values.split()[:3] == ["flat", "6", "12"] and values.split()[4] == "1.0000"
    (tmp_path / "q.txt").write_text("xyzzy\nold man the\n")
    options = ["--model", "m", "--queries", str(tmp_path / "q.txt"), "--output", str(tmp_path / "h.jsonl"), "--k", "2"]
    assert cli.main(["search", str(tmp_path / "i"), *options, "--texts", str(texts)]) == 0
    hits = rows_of(tmp_path / "h.jsonl")
    assert [(hit["query"], hit["rank"]) for hit in hits] == [(0, 1), (0, 2), (1, 1), (1, 2)]
    assert hits[0]["hit"] == "xyzzy plugh" and {hits[2]["row"], hits[3]["row"]} == {1, 5}
    assert hits[2]["cosine"] == pytest.approx(1, abs=1e-5)
    assert "xyzzy plugh" in capsys.readouterr().out


def test_duplicates_and_outliers_of_texts(texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["dedup", str(texts), "--model", "m", "--output", str(tmp_path / "g.jsonl")]) == 0
    groups = rows_of(tmp_path / "g.jsonl")
    assert [group["members"] for group in groups] == [[0, 2], [1, 5]] and groups[1]["texts"] == ["the old man"] * 2
    assert "2 groups; 2 rows repeat an earlier one" in capsys.readouterr().err
    assert cli.main(["outliers", str(texts), "--model", "m", "--k", "1", "--output", str(tmp_path / "o.jsonl")]) == 0
    rows = rows_of(tmp_path / "o.jsonl")
    assert rows[0]["text"] == "xyzzy plugh" and sorted(row["row"] for row in rows) == list(range(6))
    assert [row["distance"] for row in rows] == sorted((row["distance"] for row in rows), reverse=True)


def test_mistakes(texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(*argv: str) -> str:
        assert cli.main(argv) == 2
        return capsys.readouterr().err

    np.save(tmp_path / "v.npy", clustered(30))
    np.save(tmp_path / "o.npy", np.array([["a"]], dtype=object), allow_pickle=True)
    vectors, output = str(tmp_path / "v.npy"), ["--output", str(tmp_path / "x.jsonl")]
    assert "contains texts; add --model" in refused("dedup", str(texts), *output)
    assert "already contains vectors" in refused("dedup", vectors, "--model", "m", *output)
    assert "unknown format .csv; use .jsonl" in refused("outliers", vectors, "--output", str(tmp_path / "x.csv"))
    assert "not a readable .npy file of numbers" in refused("outliers", str(tmp_path / "o.npy"), *output)
    assert "ivf-pq needs at least 624 vectors" in refused("index", vectors, "--kind", "ivf-pq", *output)
    (tmp_path / "i").write_bytes(b"no index")
    query = ["--model", "m", "--queries", str(texts)]
    assert "not a readable FAISS index" in refused("search", str(tmp_path / "i"), *query, *output)
    assert cli.main(["index", vectors, "--output", str(tmp_path / "i")]) == 0
    assert "vectors of 16 dimensions, but model m gives 12" in refused("search", str(tmp_path / "i"), *query, *output)
    assert "input: must be given" in refused("dedup", *output)


def test_a_shard_that_is_not_as_its_index_says(tmp_path: Path) -> None:
    import dataclasses

    shard = Shard("0.npy", 0, 10, 16, "", "", "")
    np.save(tmp_path / "0.npy", clustered(9))
    index = Index(1, 10, 16, [shard])
    (tmp_path / "index.json").write_text(json.dumps(dataclasses.asdict(index)))
    with pytest.raises(UserError, match=r"0.npy: 9 x 16 numbers, not 10 x 16; encode again"):
        open_vectors(tmp_path).everything()
    (tmp_path / "index.json").write_text("{")
    with pytest.raises(UserError, match=r"index.json: damaged"):
        open_vectors(tmp_path)


def test_the_table_of_recalls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "scripts/checks")
    np.save(tmp_path / "v.npy", clustered(1500))
    assert importlib.import_module("check_recall").main([str(tmp_path / "v.npy"), "--sample", "50"]) == 0
    header, *rows = capsys.readouterr().out.splitlines()
    assert header.split()[-1] == "recall@10" and [row.split()[0] for row in rows] == list(LEAST)
    assert all(float(row.split()[-1]) >= LEAST[row.split()[0]] for row in rows)

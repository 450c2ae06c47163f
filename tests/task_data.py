"""Small files for every kind of task: texts of three topics, which share most words within a topic."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.helpers import write_jsonl


def texts_of(topic: int, count: int, seed: int) -> list[str]:
    """Words of one topic each, with some noise."""
    rng = np.random.default_rng((topic, seed))
    return [
        " ".join(f"t{topic}w{word}" for word in rng.integers(0, 12, 6)) + f" n{rng.integers(9)}" for _ in range(count)
    ]


def labelled_pairs(path: Path, seed: int, *, permuted: bool = False) -> Path:
    rng = np.random.default_rng(seed)
    rows: list[dict[str, object]] = []
    for index in range(60):
        one, other = texts_of(index % 3, 2, seed * 100 + index)
        stranger = texts_of((index + 1) % 3, 1, seed * 100 + index)[0]
        rows += [
            {"sentence1": one, "sentence2": other, "label": 1},
            {"sentence1": one, "sentence2": stranger, "label": 0},
        ]
    if permuted:
        labels = rng.permutation([row["label"] for row in rows])
        rows = [{**row, "label": int(label)} for row, label in zip(rows, labels, strict=True)]
    return write_jsonl(path, rows)


def topics(path: Path, count: int, seed: int) -> Path:
    rows: list[dict[str, object]] = [
        {"text": text, "label": f"t{topic}w1"} for topic in range(3) for text in texts_of(topic, count, seed)
    ]
    return write_jsonl(path, rows)


def collection(folder: Path) -> Path:
    folder.mkdir()
    documents = [text for topic in range(3) for text in texts_of(topic, 8, 7)]
    write_jsonl(folder / "corpus.jsonl", [{"id": f"d{i}", "text": text} for i, text in enumerate(documents)])
    queries = [text for topic in range(3) for text in texts_of(topic, 2, 8)]
    write_jsonl(folder / "queries.jsonl", [{"id": f"q{i}", "text": text} for i, text in enumerate(queries)])
    judged = [
        {"query_id": f"q{i}", "doc_id": f"d{j}", "score": int(i // 2 == j // 8)} for i in range(6) for j in range(24)
    ]
    write_jsonl(folder / "qrels.jsonl", judged)
    return folder

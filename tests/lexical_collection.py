"""A small test collection in the manner of Cranfield, with words that the training text lacks, and its right values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np

from tests.helpers import write_jsonl

TOPICS, DOCUMENTS, QUERIES = 12, 10, 4
COMMON = [
    "the",
    "of",
    "a",
    "in",
    "and",
    "is",
    "to",
    "for",
    "with",
    "at",
    "by",
    "on",
    "flow",
    "wing",
    "body",
    "pressure",
    "layer",
    "shock",
    "plate",
    "heat",
]
"""In every document; the training text knows the first half of them and hardly any word of a topic."""


def technical(topic: int, word: int, ending: str = "") -> str:
    """An English-looking word of one topic, such as `panelab`; endings are what a stemmer takes off."""
    stem = "".join(
        "bcdfghklmnprstvz"[(topic * 7 + word * 3 + place) % 16] + "aeiou"[(word + place) % 5] for place in (0, 5)
    )
    return f"{stem}{'abcdefghijkl'[topic]}t{ending}"


@cache
def collection() -> tuple[list[str], list[str], dict[str, dict[str, int]]]:
    """Documents, queries and grades."""
    rng = np.random.default_rng(5)
    documents = [_text(rng, topic, 14, 40) for topic in range(TOPICS) for _ in range(DOCUMENTS)]
    queries = [_text(rng, topic, 3, 8) for topic in range(TOPICS) for _ in range(QUERIES)]
    grades: dict[str, dict[str, int]] = {}
    for query in range(len(queries)):
        for document in range(len(documents)):
            if query // QUERIES == document // DOCUMENTS:
                grades.setdefault(f"q{query}", {})[f"d{document}"] = 1 + document % 3
    return documents, queries, grades


def training() -> list[str]:
    """Captions: common words, and a rare guest from the collection."""
    rng = np.random.default_rng(6)
    known = [*COMMON[:12], "man", "dog", "guitar", "street", "red", "ball", technical(0, 0), technical(1, 0)]
    return [" ".join(rng.choice(known, 9)) for _ in range(200)]


def write_collection(folder: Path, documents: Sequence[int] | None = None) -> Path:
    """In the layout of BEIR, the documents in the given order."""
    texts, queries, grades = collection()
    folder.mkdir(parents=True)
    order = range(len(texts)) if documents is None else documents
    write_jsonl(folder / "corpus.jsonl", [{"id": f"d{index}", "text": texts[index]} for index in order])
    write_jsonl(folder / "queries.jsonl", [{"id": f"q{index}", "text": text} for index, text in enumerate(queries)])
    rows: list[dict[str, object]] = [
        {"query_id": query, "doc_id": document, "score": grade}
        for query, found in grades.items()
        for document, grade in found.items()
    ]
    write_jsonl(folder / "qrels.jsonl", rows)
    return folder


def ndcg_at_10(scores: np.ndarray) -> float:
    """Mean over the queries, by the formula of trec_eval; documents without a score above 0 are not found.

    Of equal scores the first text is the better."""
    documents, _, grades = collection()
    values = []
    for query, row in enumerate(scores):
        mine = grades[f"q{query}"]
        ranked = sorted(np.flatnonzero(row > 0).tolist(), key=lambda index: (-row[index], documents[index]))[:10]
        gain = sum(mine.get(f"d{index}", 0) / math.log2(rank + 2) for rank, index in enumerate(ranked))
        ideal = sorted(mine.values(), reverse=True)[:10]
        values.append(gain / sum(grade / math.log2(rank + 2) for rank, grade in enumerate(ideal)))
    return float(np.mean(values))


def _text(rng: np.random.Generator, topic: int, own: int, common: int) -> str:
    endings = ["", "s", "ing", "ed"]
    topics = [topic if rng.random() < 0.45 else int(rng.integers(TOPICS)) for _ in range(own)]
    mine = [technical(other, int(rng.integers(6)), endings[rng.integers(4)]) for other in topics]
    found = [*mine, *rng.choice(COMMON, int(rng.integers(common // 2, common)))]
    return " ".join(rng.permutation(found))

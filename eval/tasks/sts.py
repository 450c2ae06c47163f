"""Semantic textual similarity: graded sentence pairs -> cosines -> Spearman, without any regressor on top."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float64, Int64
from numpy.typing import NDArray

from dec2vec.errors import UserError
from dec2vec.files.tables import Table, _is_number, read_table
from eval.metrics.correlation import cosine_pairs, spearman
from eval.systems.system import TextEncoder


@dataclass(frozen=True, eq=False)
class StsTask:
    """Pairs as positions in a list of distinct texts, so that each text is embedded once."""

    name: str
    texts: list[str]
    left: Int64[np.ndarray, " pairs"]
    right: Int64[np.ndarray, " pairs"]
    gold: Float64[np.ndarray, " pairs"]
    subsets: Int64[np.ndarray, " pairs"]
    subset_names: list[str]

    @classmethod
    def of(cls, data: SimilarityData) -> StsTask:
        """Refuses gold scores that are all equal: no ranking agrees or disagrees with them."""
        if np.ptp(data.scores) == 0:
            raise UserError(f"{data.name}: every score is {data.scores[0]:g}; a correlation needs different scores")
        place = {text: index for index, text in enumerate(dict.fromkeys(data.sentences1 + data.sentences2))}
        code = {name: index for index, name in enumerate(dict.fromkeys(data.subsets))}
        return cls(
            name=data.name,
            texts=list(place),
            left=np.array([place[text] for text in data.sentences1], dtype=np.int64),
            right=np.array([place[text] for text in data.sentences2], dtype=np.int64),
            gold=data.scores,
            subsets=np.array([code[name] for name in data.subsets], dtype=np.int64),
            subset_names=list(code),
        )

    def __len__(self) -> int:
        return len(self.gold)

    @cached_property
    def content_hash(self) -> str:
        """sha256 of pairs and scores in order, wherever they were read from."""
        digest = hashlib.sha256()
        for left, right, gold in zip(self.left, self.right, self.gold, strict=True):
            line = "\0".join((self.texts[left], self.texts[right], repr(float(gold))))
            digest.update(line.encode("utf-8", "surrogatepass") + b"\n")
        return digest.hexdigest()

    def cosines(self, vectors: Float[np.ndarray, "texts dim"]) -> Float64[np.ndarray, " pairs"]:
        """Of vectors in the order of `texts`."""
        return cosine_pairs(vectors[self.left], vectors[self.right])


def load_task(path: str | Path) -> StsTask:
    """A file with sentence1, sentence2, score and perhaps subset."""
    return StsTask.of(read_similarity(path))


def dev_score(encoder: TextEncoder, data: StsTask, *, batch_tokens: int = 16_384) -> float:
    """Spearman over all pairs of the encoder as it is: the figure a training run is steered by."""
    vectors = encoder.encode(data.texts, batch_tokens=batch_tokens, normalize=False, progress=False)
    return spearman(data.cosines(vectors), data.gold)


@dataclass(frozen=True)
class SimilarityData:
    """Graded sentence pairs; `subsets` names the part of the file each pair belongs to ("" for none)."""

    name: str
    sentences1: list[str]
    sentences2: list[str]
    scores: NDArray[np.float64]
    subsets: list[str]

    def __len__(self) -> int:
        return len(self.sentences1)


def read_similarity(path: str | Path) -> SimilarityData:
    """Columns sentence1, sentence2, score, perhaps subset; pairs without a score are dropped (SentEval)."""
    table = read_table(path, ["sentence1", "sentence2", "score"])
    graded = [i for i, row in enumerate(table.rows) if row["score"] not in (None, "")]
    if len(graded) < 2:
        raise UserError(f"{table.name}: {len(graded)} pairs have a score; a correlation needs at least two")
    return SimilarityData(
        name=Path(table.name).stem,
        sentences1=[table.text(i, "sentence1") for i in graded],
        sentences2=[table.text(i, "sentence2") for i in graded],
        scores=np.array([_score(table, i) for i in graded], dtype=np.float64),
        subsets=[str(table.rows[i].get("subset") or "") for i in graded],
    )


def _score(table: Table, index: int) -> float:
    value = table.rows[index]["score"]
    if isinstance(value, bool) or not isinstance(value, (int, float, str)) or not _is_number(value):
        raise UserError(f"{table.where(index)}: score {value!r} is not a finite number; fix it or leave it empty")
    return float(value)

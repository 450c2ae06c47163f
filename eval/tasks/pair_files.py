"""Pairs of texts, and files of them with a yes/no label."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64

from dec2vec.errors import UserError
from dec2vec.files.tables import Table, read_table
from eval.metrics.correlation import cosine_pairs
from eval.tasks.columns import ColumnsRead, columns_read
from eval.tasks.task import TaskVectors, Texts

Indices = Int64[np.ndarray, " pairs"]
Vectors = Float32[np.ndarray, "pairs dim"]
_TRUTH = {"true": 1.0, "false": 0.0}


@dataclass(frozen=True, eq=False)
class Pairs(ABC):
    """Pairs as indices into lists of distinct texts, so that each text is embedded once.

    Pairs of two sentences of a kind keep all their texts among the queries; pairs of question and answer have the
    second texts among the documents.
    """

    name: str
    texts: Texts
    left: Int64[np.ndarray, " pairs"]
    right: Int64[np.ndarray, " pairs"]
    columns: ColumnsRead | None = field(default=None, kw_only=True)
    """Of the file that they were read from."""

    def __len__(self) -> int:
        return len(self.left)

    @cached_property
    def content_hash(self) -> str:
        """sha256 of pairs and values in order, wherever they were read from."""
        digest = hashlib.sha256()
        for first, second, value in zip(self.first, self.second, self._values(), strict=True):
            digest.update("\0".join((first, second, value)).encode("utf-8", "surrogatepass") + b"\n")
        return digest.hexdigest()

    @abstractmethod
    def _values(self) -> Iterable[str]:
        """The label or score of each pair."""

    @property
    def is_two_sided(self) -> bool:
        return bool(self.texts.documents)

    @property
    def first(self) -> list[str]:
        """The first text of each pair."""
        return [self.texts.queries[index] for index in self.left]

    @property
    def second(self) -> list[str]:
        """The second text of each pair."""
        texts = self.texts.documents if self.is_two_sided else self.texts.queries
        return [texts[index] for index in self.right]

    @property
    def items(self) -> list[tuple[str, ...]]:
        """Both texts of each pair."""
        return list(zip(self.first, self.second, strict=True))

    def sides(self, vectors: TaskVectors) -> tuple[Vectors, Vectors]:
        """The vectors of the first and of the second texts, from vectors in the order of `texts`."""
        seconds = vectors.documents if self.is_two_sided else vectors.queries
        return vectors.queries[self.left], seconds[self.right]

    def cosines(self, vectors: TaskVectors) -> Float64[np.ndarray, " pairs"]:
        """The cosine of each pair, from vectors in the order of `texts`."""
        return cosine_pairs(*self.sides(vectors))


def index_texts(first: Sequence[str], second: Sequence[str], *, two_sided: bool) -> tuple[Texts, Indices, Indices]:
    """Distinct texts, and for each pair where its two texts are."""
    queries = list(dict.fromkeys(first if two_sided else [*first, *second]))
    documents = list(dict.fromkeys(second)) if two_sided else []
    index = {text: number for number, text in enumerate(queries)}
    other_index = {text: number for number, text in enumerate(documents)} if two_sided else index
    left = np.array([index[text] for text in first], dtype=np.int64)
    return Texts(queries, documents), left, np.array([other_index[text] for text in second], dtype=np.int64)


@dataclass(frozen=True, eq=False)
class LabelledPairs(Pairs):
    """Pairs with a yes/no label."""

    labels: Bool[np.ndarray, " pairs"]

    @classmethod
    def from_texts(
        cls, name: str, first: Sequence[str], second: Sequence[str], labels: Sequence[bool], *, two_sided: bool = False
    ) -> LabelledPairs:
        """Raises UserError where all labels are equal: there would be nothing to tell apart."""
        if len(set(labels)) < 2:
            only, other = (1, 0) if labels[0] else (0, 1)
            raise UserError(f"{name}: every label is {only}; add pairs with label {other}")
        texts, left, right = index_texts(first, second, two_sided=two_sided)
        return cls(name, texts, left, right, np.array(labels, dtype=np.bool_))

    def _values(self) -> Iterable[str]:
        return (str(int(label)) for label in self.labels)


@dataclass(frozen=True)
class PairColumns:
    """Names of the columns. With `positive_from` the label is a graded score: that much or more is a match."""

    first: str = "sentence1"
    second: str = "sentence2"
    label: str = "label"
    positive_from: float | None = None


def named_test(section: str, path: str) -> str:
    """The path of the test file; UserError where none is named."""
    if not path:
        raise UserError(f"config error: {section}: test: must be given; name the file of test data")
    return path


def read_pairs(
    path: str | Path,
    columns: PairColumns,
    *,
    two_sided: bool = False,
    only: Sequence[str] = (),
    limit: int | None = None,
    fix: str = "correct it or remove the row",
) -> LabelledPairs:
    """The pairs of a table. UserError for a missing column, a blank text, a label that is not 0 or 1 (with the fix)."""
    table = read_table(path, [columns.first, columns.second, columns.label], only=only, limit=limit)
    labels = [_label(table, row, columns, fix) for row in range(len(table))]
    first, second = table.texts(columns.first), table.texts(columns.second)
    pairs = LabelledPairs.from_texts(Path(table.name).stem, first, second, labels, two_sided=two_sided)
    return replace(pairs, columns=columns_read(table, [columns.first, columns.second, columns.label]))


def _label(table: Table, row: int, columns: PairColumns, fix: str) -> bool:
    value = table.rows[row][columns.label]
    number = finite_number(value)
    if columns.positive_from is not None:
        if number is None:
            raise UserError(
                f"{table.where(row)}: {columns.label} {value!r} is not a number; correct it or drop the row"
            )
        return number >= columns.positive_from
    if number not in (0.0, 1.0):
        raise UserError(f"{table.where(row)}: {columns.label} {value!r} is not 0 or 1; {fix}")
    return number == 1.0


def finite_number(value: object) -> float | None:
    """true and false are 1 and 0, also as the texts that a csv has; None for what is no finite number."""
    if isinstance(value, str) and value.lower() in _TRUTH:
        return _TRUTH[value.lower()]
    if not isinstance(value, (bool, int, float, str)):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if np.isfinite(number) else None

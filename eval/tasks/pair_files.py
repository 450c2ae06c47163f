"""Files of text pairs with a yes/no label, for every task that judges pairs."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float64, Int64

from dec2vec.errors import UserError
from dec2vec.files.tables import Table, read_table
from eval.metrics.correlation import cosine_pairs
from eval.tasks.task import TaskVectors, Texts


@dataclass(frozen=True, eq=False)
class LabelledPairs:
    """Pairs as positions in lists of distinct texts, so that each text is embedded once.

    One-sided pairs (two sentences of a kind) keep all their texts among the queries; two-sided ones (question and
    answer) have the second texts among the documents.
    """

    name: str
    texts: Texts
    left: Int64[np.ndarray, " pairs"]
    right: Int64[np.ndarray, " pairs"]
    labels: Bool[np.ndarray, " pairs"]
    two_sided: bool

    @classmethod
    def of(
        cls, name: str, first: Sequence[str], second: Sequence[str], labels: Sequence[bool], *, two_sided: bool = False
    ) -> LabelledPairs:
        """Refuses labels that are all equal: there would be nothing to tell apart."""
        if len(set(labels)) < 2:
            only, other = (1, 0) if labels[0] else (0, 1)
            raise UserError(f"{name}: every label is {only}; add pairs with label {other}")
        queries = list(dict.fromkeys(first if two_sided else [*first, *second]))
        documents = list(dict.fromkeys(second)) if two_sided else []
        place = {text: index for index, text in enumerate(queries)}
        other_place = {text: index for index, text in enumerate(documents)} if two_sided else place
        return cls(
            name=name,
            texts=Texts(queries, documents),
            left=np.array([place[text] for text in first], dtype=np.int64),
            right=np.array([other_place[text] for text in second], dtype=np.int64),
            labels=np.array(labels, dtype=np.bool_),
            two_sided=two_sided,
        )

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def content_hash(self) -> str:
        """sha256 of pairs and labels in order, wherever they were read from."""
        digest = hashlib.sha256()
        for first, second, label in zip(self.first, self.second, self.labels, strict=True):
            line = "\0".join((first, second, str(int(label))))
            digest.update(line.encode("utf-8", "surrogatepass") + b"\n")
        return digest.hexdigest()

    @property
    def first(self) -> list[str]:
        """The first text of each pair."""
        return [self.texts.queries[index] for index in self.left]

    @property
    def second(self) -> list[str]:
        """The second text of each pair."""
        texts = self.texts.documents if self.two_sided else self.texts.queries
        return [texts[index] for index in self.right]

    @property
    def items(self) -> list[tuple[str, ...]]:
        """Both texts of each pair."""
        return list(zip(self.first, self.second, strict=True))

    def at(self, rows: Int64[np.ndarray, " kept"]) -> LabelledPairs:
        """Some of the pairs, over the same lists of texts: vectors of all serve them too."""
        return replace(self, left=self.left[rows], right=self.right[rows], labels=self.labels[rows])

    @property
    def is_of_both_kinds(self) -> bool:
        """Whether there is something to tell apart."""
        return bool(self.labels.any() and not self.labels.all())

    def cosines(self, vectors: TaskVectors) -> Float64[np.ndarray, " pairs"]:
        """Of vectors in the order of `texts`."""
        seconds = vectors.documents if self.two_sided else vectors.queries
        return cosine_pairs(vectors.queries[self.left], seconds[self.right])


@dataclass(frozen=True)
class PairColumns:
    """Names of the columns. With `positive_from` the label is a graded score: that much or more is a match."""

    first: str = "sentence1"
    second: str = "sentence2"
    label: str = "label"
    positive_from: float | None = None


def read_pairs(
    path: str | Path,
    columns: PairColumns,
    *,
    two_sided: bool = False,
    only: Sequence[str] = (),
    limit: int | None = None,
) -> LabelledPairs:
    """The pairs of a table. UserError for a missing column, a blank text, a label that is not 0 or 1."""
    table = read_table(path, [columns.first, columns.second, columns.label], only=only, limit=limit)
    labels = [_label(table, row, columns) for row in range(len(table))]
    first, second = table.texts(columns.first), table.texts(columns.second)
    return LabelledPairs.of(Path(table.name).stem, first, second, labels, two_sided=two_sided)


def refuse_dev_as_test(dev: LabelledPairs | None, test: LabelledPairs) -> None:
    """Choices on a test set are leakage."""
    if dev is not None and dev.content_hash == test.content_hash:
        raise UserError(
            f"{test.name} contains the pairs of {dev.name}; use different files, because selection on test data is "
            "leakage"
        )


def _label(table: Table, row: int, columns: PairColumns) -> bool:
    value = table.rows[row][columns.label]
    number = finite_number(value)
    if columns.positive_from is not None:
        if number is None:
            raise UserError(f"{table.where(row)}: {columns.label} {value!r} is not a number; fix it or remove the row")
        return number >= columns.positive_from
    if number not in (0.0, 1.0):
        raise UserError(
            f"{table.where(row)}: {columns.label} {value!r} is not 0 or 1; fix it, or define with positive_from which "
            "scores are matches"
        )
    return number == 1.0


def finite_number(value: object) -> float | None:
    """true and false are 1 and 0; None for what is no finite number."""
    if not isinstance(value, (bool, int, float, str)):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if np.isfinite(number) else None

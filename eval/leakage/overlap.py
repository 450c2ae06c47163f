"""How many evaluation texts were seen in training: every report says it, so that a gain is not memory.

Three degrees, each of which includes the one before: exact, normalised (`normalized`) and near (`eval.leakage.near`).
An item of an evaluation set (a pair; a text with its label) is clean when none of its texts is even a
near-duplicate of a text of any training-side file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Int64

from eval.leakage.near import IDEOGRAPHS, LETTERS, SHINGLE, THRESHOLD, NearIndex
from eval.leakage.normal_form import normalized
from eval.leakage.streamed_texts import blocks_of
from eval.tasks.pair_files import Pairs
from eval.tasks.retrieval import RetrievalTask
from eval.tasks.sts import StsTask
from eval.tasks.task import Task
from eval.tasks.topics import TopicTask, TrainedTask

RULE = (
    "normalised: equal except for case, punctuation, symbols, spacing and Unicode form (combining marks count); near: "
    f"a fraction of at least {THRESHOLD:g} of the {SHINGLE}-word shingles is shared (Jaccard; candidates from MinHash; "
    f"in scripts without spaces a shingle has {IDEOGRAPHS} characters of Han or kana, or {LETTERS} of Thai, Lao, Khmer "
    "or Burmese), including copies; clean: no text of the item is near a text of a training file or of the dev file on "
    "which settings are selected"
)
"""Stands below the counts wherever they are shown."""


Part = Literal["test", "dev", "corpus"]
"""What the texts of a set are used for."""


@dataclass(frozen=True)
class Overlap:
    """Counts for one training-side file and one evaluation set.

    `exact`, `normalized` and `near` count distinct evaluation texts, each including the one before;
    `pairs` counts scored items, `pairs_with_both` those whose texts are all in the training file once
    normalised, `pairs_clean` those of which none is even near.
    """

    training: str
    evaluation: str
    texts: int
    exact: int
    normalized: int
    near: int
    pairs: int
    pairs_with_both: int
    pairs_clean: int
    part: Part = "test"


@dataclass(frozen=True, eq=False)
class EvaluationSet:
    """Distinct texts, and for each scored item the indices of its texts (two of a pair, one of a labelled text)."""

    name: str
    texts: Sequence[str]
    items: Int64[np.ndarray, "items width"]
    part: Part = "test"

    @classmethod
    def from_pairs(cls, pairs: Pairs) -> EvaluationSet:
        return cls(pairs.name, pairs.texts.queries, np.stack([pairs.left, pairs.right], axis=1))

    @classmethod
    def from_items(cls, name: str, items: Sequence[tuple[str, ...]], part: Part = "test") -> EvaluationSet:
        """Items of equally many texts each."""
        index = {text: number for number, text in enumerate(dict.fromkeys(text for item in items for text in item))}
        rows = [[index[text] for text in item] for item in items]
        return cls(name, list(index), np.array(rows, dtype=np.int64).reshape(len(items), -1), part)

    @classmethod
    def from_texts(cls, name: str, texts: Sequence[str], part: Part = "test") -> EvaluationSet:
        """One item a text, equal ones included."""
        return cls.from_items(name, [(text,) for text in texts], part)


def evaluation_sets(similarity: Sequence[StsTask], further: Sequence[Task[Any]] = ()) -> list[EvaluationSet]:
    """The scored items of every task; texts of dev data and the documents of a search as items of their own.

    The similarity dev file counts as scored: reports have its figures too.
    """
    sets = [EvaluationSet.from_pairs(task.test_pairs) for task in similarity]
    for task in further:
        texts, dev, items = task.test, task.dev, task.items
        if items is None:
            sets.append(EvaluationSet.from_texts(task.name, texts.both))
        else:
            sets.append(EvaluationSet.from_items(task.name, items))
        if isinstance(task, RetrievalTask):
            sets.append(EvaluationSet.from_texts(f"{task.name} corpus", texts.documents, "corpus"))
        if dev is not None:
            sets.append(EvaluationSet.from_texts(f"{task.name} dev", dev.both, "dev"))
    return sets


def clean_rows(
    clean: Mapping[str, Bool[np.ndarray, " _"]], further: Sequence[Task[Any]]
) -> dict[str, Int64[np.ndarray, " _"]]:
    """The indices of the items that no training text touches, for the tasks that lose some."""
    kept = {task.name: clean[task.name] for task in further if task.items is not None}
    return {name: np.flatnonzero(rows) for name, rows in kept.items() if not rows.all()}


@dataclass(frozen=True, eq=False)
class Source:
    """Texts that something was learnt or chosen from, and by name the evaluation sets that they are looked for in."""

    name: str
    texts: Sequence[str]
    sets: Sequence[str]


@dataclass(frozen=True, eq=False)
class Seen:
    """Counts by training file and evaluation set, and each set's items that no training file touches."""

    counts: list[Overlap]
    clean: dict[str, Bool[np.ndarray, " items"]]


def measure(
    sources: Mapping[str, Sequence[str]], sets: Sequence[EvaluationSet], narrower: Sequence[Source] = ()
) -> Seen:
    """Every training-side source against every evaluation set, then those that concern some of the sets.

    217,000 distinct training texts (163,000 pairs) against 26,000 take 12 s on one core, 9 s of them the index:
    one serves every source.
    """
    searched = [*(Source(name, texts, [item.name for item in sets]) for name, texts in sources.items()), *narrower]
    clean = {item.name: np.ones(len(item.items), dtype=bool) for item in sets}
    if not searched:
        return Seen([], clean)
    wanted = {name for source in searched for name in source.sets}
    keys = {item.name: [normalized(text) for text in item.texts] for item in sets if item.name in wanted}
    index = NearIndex(key for some in keys.values() for key in some)
    known = {text for item in sets if item.name in wanted for text in item.texts}
    forms = set[str]().union(*keys.values())
    counts: list[Overlap] = []
    for source in searched:
        exact, loose, near = _looked_up(source.texts, known, forms, index)
        for item in (item for item in sets if item.name in source.sets):
            seen = _Degrees.from_texts(item.texts, keys[item.name], exact, loose, near)
            clean[item.name] &= ~seen.near[item.items].any(axis=1)
            counts.append(_count(source.name, item, seen))
    return Seen(counts, clean)


def _looked_up(
    texts: Sequence[str], known: set[str], forms: set[str], index: NearIndex
) -> tuple[set[str], set[str], set[str]]:
    """Which of the known texts occur in `texts`, which of their normal forms do, and which forms are near a text."""
    exact, loose, near = set[str](), set[str](), set[str]()
    for block in blocks_of(texts):  # of streamed texts one after the other, however many there are
        present = {normalized(text) for text in block}
        exact |= known.intersection(block)
        loose |= forms & present
        near |= index.found(present)
    return exact, loose, near


def dev_source(dev: StsTask | None, tests: Sequence[StsTask]) -> list[Source]:
    """The similarity dev file, on which layers and checkpoints are chosen: STS-B's is made of STS12 to 16."""
    if dev is None:
        return []
    return [Source(f"{dev.name} (choices)", dev.test.queries, [task.name for task in tests])]


def train_splits(further: Sequence[Task[Any]]) -> list[Source]:
    """What a task's own classifier learns from, against that task's test texts."""
    return [
        Source(f"{task.name} train", task.data.train.texts, [task.name])
        for task in further
        if isinstance(task, TrainedTask) and task.data.train is not None
    ]


def dev_splits(further: Sequence[Task[Any]]) -> list[Source]:
    """What a task's own choices are made on, against that task's test texts."""
    return [Source(f"{task.name} dev (choices)", texts, [task.name]) for task in further if (texts := _dev_texts(task))]


def _dev_texts(task: Task[Any]) -> list[str]:
    """Without what dev shares with test by design: the documents of a search, and the texts of labels."""
    if isinstance(task, TopicTask):
        return [] if task.data.dev is None else task.data.dev.texts
    if isinstance(task, RetrievalTask):
        return [] if task.dev_queries is None else task.dev_queries.texts
    return [] if task.dev is None else task.dev.both


@dataclass(frozen=True, eq=False)
class _Degrees:
    """Of one evaluation set's texts: which are in one training file."""

    exact: Bool[np.ndarray, " texts"]
    normalized: Bool[np.ndarray, " texts"]
    near: Bool[np.ndarray, " texts"]

    @classmethod
    def from_texts(
        cls, texts: Sequence[str], keys: Sequence[str], exact: set[str], loose: set[str], near: set[str]
    ) -> _Degrees:
        """A text without any word (`!?`) has an empty key: only its own copy is one."""
        copied = np.array([text in exact for text in texts], dtype=bool)
        same = copied | np.array([bool(key) and key in loose for key in keys], dtype=bool)
        return cls(copied, same, same | np.array([key in near for key in keys], dtype=bool))


def _count(training: str, item: EvaluationSet, seen: _Degrees) -> Overlap:
    return Overlap(
        training=training,
        evaluation=item.name,
        texts=len(item.texts),
        exact=int(seen.exact.sum()),
        normalized=int(seen.normalized.sum()),
        near=int(seen.near.sum()),
        pairs=len(item.items),
        pairs_with_both=int(seen.normalized[item.items].all(axis=1).sum()),
        pairs_clean=int((~seen.near[item.items].any(axis=1)).sum()),
        part=item.part,
    )

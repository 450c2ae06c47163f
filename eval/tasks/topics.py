"""Topic classification: the nearest label text without training, or a classifier on the vectors of a train split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

import numpy as np
from jaxtyping import Float32, Float64, Int64

from dec2vec.errors import UserError
from eval.metrics.classification import class_metrics, whole
from eval.metrics.grid_edge import edge
from eval.tasks.columns import ColumnsRead
from eval.tasks.labelled import LabelledTexts
from eval.tasks.task import DescribedTexts, Figure, Task, TaskVectors, Texts
from eval.tasks.topic_classifiers import TrainedClassifier, label_cosines
from eval.tasks.topic_evidence import TopicEvidence, topic_figures

METRICS = ("accuracy", "macro_f1")
DEV_EVERY = 5
"""Without a dev split, every fifth train text of a class is its dev text."""


@dataclass(frozen=True, eq=False)
class TopicData:
    """The splits of one data set; rows of train and dev are for choices and training, those of test for figures."""

    name: str
    classes: list[str]
    test: LabelledTexts
    train: LabelledTexts | None = None
    dev: LabelledTexts | None = None

    def __post_init__(self) -> None:
        if len(self.classes) < 2:
            raise UserError(
                f"{self.name}: there is only the class {self.classes[0]!r}; classification needs at least two"
            )
        for split in (self.train, self.dev):
            if split is None or split is self.test:  # one object for both: nothing is reported
                continue
            if split.content_hash == self.test.content_hash:
                raise UserError(
                    f"{self.test.name} contains the texts of {split.name}; use different files, because selection on "
                    "test data is leakage"
                )
        if self.train is not None and len(set(self.train.labels)) < 2:
            raise UserError(f"{self.train.name}: every label is {self.train.labels[0]!r}; training needs two classes")


@dataclass(frozen=True, eq=False)
class TopicTask(Task[TopicEvidence]):
    """What every method of classification has in common."""

    kind: ClassVar[str] = "topics"
    data: TopicData

    @cached_property
    def test(self) -> Texts:
        return _texts(self.data.test.texts)

    @property
    def content_hash(self) -> str:
        """sha256 of the test texts and labels."""
        return self.data.test.content_hash

    @property
    def items(self) -> list[tuple[str, ...]]:
        """Each test text on its own."""
        return self.data.test.items

    @property
    def columns(self) -> list[ColumnsRead]:
        """Of the test file, then of those for training and choices."""
        splits = (self.data.test, self.data.train, self.data.dev)
        return [split.columns for split in splits if split is not None and split.columns is not None]

    def led_by(self, metric: str) -> Task[TopicEvidence]:
        """Either of the two metrics of classification may be the main one."""
        return replace(self, metric=metric) if metric in METRICS else self

    def figures(self, evidence: TopicEvidence, resamples: int, seed: int) -> list[Figure]:
        """The main metric, then the other of accuracy and macro_f1, then chance and majority."""
        return topic_figures(evidence, self.metric, resamples, self.seed_of(seed))


@dataclass(frozen=True, eq=False)
class ZeroShotTask(TopicTask):
    """Each text gets the class of the label text with the highest cosine; both go through one and the same prompt.

    `calibrated` subtracts from the cosines with a label text their mean over the dev texts (whose labels it does
    not read): some label texts are near to everything.
    """

    label_texts: list[str]
    calibrated: bool = False

    def __post_init__(self) -> None:
        if self.calibrated and self.data.dev is None:
            raise UserError(f"{self.name}: calibration needs dev texts; give a dev file, or remove calibrated")

    @cached_property
    def dev(self) -> Texts | None:
        return None if self.data.dev is None else _texts(self.data.dev.texts, self.label_texts)

    @cached_property
    def test(self) -> Texts:
        return _texts(self.data.test.texts, self.label_texts)

    @property
    def own_text(self) -> DescribedTexts | None:
        """Texts of the train file, or else of the dev file, without their labels, and the label texts.

        Nothing is chosen on dev for a baseline. None without either file.
        """
        rows, kind = (self.data.train, "training") if self.data.train is not None else (self.data.dev, "dev")
        if rows is None:
            return None
        described = f"{len(rows):,} {kind} texts and {len(self.label_texts):,} label texts of the task"
        return DescribedTexts([*rows.texts, *self.label_texts], described)

    def dev_score(self, vectors: TaskVectors) -> float:
        """The main metric on dev."""
        dev = self.data.dev
        if dev is None:
            raise UserError(f"{self.name} has no dev texts; give a dev file")
        return _score(self._scores(dev, self.dev, vectors, vectors), dev.codes(self.data.classes), self.metric)

    def evidence(self, dev: TaskVectors | None, test: TaskVectors) -> TopicEvidence:
        """The decisions on the test texts."""
        rows = self.data.test
        vectors = Picker(self.test, test)(rows.texts)
        return TopicEvidence.from_rows(self.data.classes, rows, self._scores(rows, self.test, test, dev), vectors)

    def _scores(
        self, rows: LabelledTexts, texts: Texts | None, vectors: TaskVectors, dev: TaskVectors | None
    ) -> Float64[np.ndarray, "texts classes"]:
        scores = self._cosines(rows, texts, vectors)
        if not self.calibrated:
            return scores
        if dev is None or self.data.dev is None:
            raise UserError(f"{self.name}: calibration needs the vectors of the dev texts")
        return np.asarray(scores - self._cosines(self.data.dev, self.dev, dev).mean(axis=0))

    def _cosines(
        self, rows: LabelledTexts, texts: Texts | None, vectors: TaskVectors
    ) -> Float64[np.ndarray, "texts classes"]:
        pick = Picker(texts, vectors)
        return label_cosines(pick(rows.texts), pick(self.label_texts))


@dataclass(frozen=True, eq=False)
class TrainedTask(TopicTask):
    """A classifier trained on the train split. Its k or C is chosen on dev, or on every fifth train text of a class.

    The train texts are embedded with the dev texts, so that all that is learnt or chosen comes from `dev` vectors.
    """

    classifier: TrainedClassifier
    seed: int = 0

    def __post_init__(self) -> None:
        if self.data.train is None:
            raise UserError(f"{self.name} has no training texts; give a train file, or use method zero_shot")

    @cached_property
    def dev(self) -> Texts | None:
        return _texts(self._train.texts, [] if self.data.dev is None else self.data.dev.texts)

    @property
    def own_text(self) -> DescribedTexts:
        """The texts that the classifier is trained on."""
        return DescribedTexts(self._train.texts, f"{len(self._train):,} training texts of the task")

    @property
    def chosen_on(self) -> str:
        return super().chosen_on if self.data.dev is not None else f"a fifth of the training texts of {self.name}"

    def dev_score(self, vectors: TaskVectors) -> float:
        """The main metric on dev, with the best setting."""
        return max(self._setting_scores(vectors).values())

    def choose(self, dev: TaskVectors) -> int | float:
        """The setting (k or C) with the best main metric on dev; of equals the first candidate."""
        scores = self._setting_scores(dev)
        return max(scores, key=lambda setting: np.nan_to_num(scores[setting], nan=-np.inf))

    def remarks(self, evidence: TopicEvidence) -> list[str]:
        """Where the chosen k or C lies at the edge of what was tried, in words."""
        rows, classifier = len(self._choice_splits[0]), self.classifier
        low, high = classifier.limits(rows)
        settings = classifier.settings(rows)
        edges = [edge(classifier.setting, value, settings, low=low, high=high) for value in evidence.setting.values()]
        return [f"{line} ({classifier.option})" for line in edges if line is not None]

    def evidence(self, dev: TaskVectors | None, test: TaskVectors) -> TopicEvidence:
        """The decisions on the test texts, after training on the whole train split with the chosen setting."""
        if dev is None:
            raise UserError(f"{self.name}: needs the vectors of the train texts")
        setting, classes = self.choose(dev), self.data.classes
        train, vectors = Picker(self.dev, dev)(self._train.texts), Picker(self.test, test)(self.data.test.texts)
        [scores] = self.classifier.scores(train, self._train.codes(classes), vectors, len(classes), [setting])
        return TopicEvidence.from_rows(classes, self.data.test, scores, vectors, {self.classifier.setting: setting})

    def _setting_scores(self, vectors: TaskVectors) -> dict[int | float, float]:
        """Main metric on dev by setting."""
        learn, judge = self._choice_splits
        pick, classes = Picker(self.dev, vectors), self.data.classes
        settings = self.classifier.settings(len(learn))
        every_scores = self.classifier.scores(
            pick(learn.texts), learn.codes(classes), pick(judge.texts), len(classes), settings
        )
        gold = judge.codes(classes)
        return {
            setting: _score(scores, gold, self.metric) for setting, scores in zip(settings, every_scores, strict=True)
        }

    @cached_property
    def _choice_splits(self) -> tuple[LabelledTexts, LabelledTexts]:
        """What is learnt from and what is judged on while k or C is chosen."""
        if self.data.dev is not None:
            return self._train, self.data.dev
        return split(self._train, self.seed)

    @property
    def _train(self) -> LabelledTexts:
        if self.data.train is None:
            raise UserError(f"{self.name}: nothing to train on")
        return self.data.train


class Picker:
    """Vectors of texts by the texts themselves."""

    def __init__(self, texts: Texts | None, vectors: TaskVectors) -> None:
        self._index = {text: index for index, text in enumerate(texts.queries if texts is not None else [])}
        self._vectors = vectors.queries

    def __call__(self, texts: Sequence[str]) -> Float32[np.ndarray, "texts dim"]:
        return self._vectors[np.array([self._index[text] for text in texts], dtype=np.int64)]


def split(rows: LabelledTexts, seed: int) -> tuple[LabelledTexts, LabelledTexts]:
    """Four fifths and one fifth, each class shared out alike. UserError when four fifths hold a single class."""
    order = np.random.default_rng(seed).permutation(len(rows))
    by_class = order[np.argsort(np.array(rows.labels)[order], kind="stable")]
    chosen = np.zeros(len(rows), dtype=np.bool_)
    chosen[by_class[DEV_EVERY - 1 :: DEV_EVERY]] = True
    if not chosen.any():
        raise UserError(f"{rows.name}: {len(rows)} texts are too few for the selection; add texts, or give a dev file")
    learn, judge = (rows.at(np.flatnonzero(part)) for part in (~chosen, chosen))
    if len(set(learn.labels)) < 2:
        raise UserError(
            f"{rows.name}: there are too few training texts of a second class; add some, or give a dev file"
        )
    return learn, judge


def _texts(*groups: Sequence[str]) -> Texts:
    return Texts(list(dict.fromkeys(text for group in groups for text in group)), [])


def _score(scores: Float64[np.ndarray, "texts classes"], gold: Int64[np.ndarray, " texts"], metric: str) -> float:
    """nan when a score is nan."""
    if np.isnan(scores).any():
        return float("nan")
    found = class_metrics(gold, scores.argmax(axis=1), whole(len(gold)), scores.shape[1])
    return float(found[metric][0])

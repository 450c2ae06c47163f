"""Options of a topic task, and the task they describe."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge, Gt, Len
from pydantic.dataclasses import dataclass as options

from dec2vec.config import STRICT
from dec2vec.errors import UserError
from eval.tasks.topic_classifiers import LogisticProbe, NearestNeighbours
from eval.tasks.topic_files import Form, label_examples, label_texts, read_topics
from eval.tasks.topics import TopicData, TrainedTask, ZeroShotTask


@options(frozen=True, config=STRICT)
class TopicsConfig:
    """Texts with the name of their class."""

    test: str
    """File of texts that is reported on: jsonl, csv, tsv, parquet, a saved data set or a Hub id."""
    train: str = ""
    """File of texts that knn and probe learn from."""
    dev: str = ""
    """File of texts that chooses k, C and readings; without it a fifth of train chooses k and C."""
    name: str = ""
    """Name in the report; empty takes the test file's and the method."""
    text: str = "text"
    """Column of the texts."""
    label: str = "label"
    """Column of the class names, such as label_des of IFLYTEK."""
    classes: tuple[str, ...] = ()
    """Keep the rows of these classes alone; empty keeps all."""
    method: Literal["zero_shot", "knn", "probe"] = "zero_shot"
    """Nearest label text, k nearest train texts, or logistic regression on train vectors."""
    form: Form = "word"
    """Label texts of zero_shot: the class name, its definition, or its definition with examples."""
    labels: str = ""
    """YAML or JSON file: class name -> definition, or -> {definition, examples}."""
    calibrated: bool = False
    """Subtract each label text's mean similarity to the dev texts."""
    neighbours: Annotated[tuple[Annotated[int, Ge(1)], ...], Len(1)] = (1, 3, 5, 10, 20, 50)
    """Candidate k of knn."""
    strengths: Annotated[tuple[Annotated[float, Gt(0)], ...], Len(1)] = (0.001, 0.01, 0.1, 1.0, 10.0)
    """Candidate C of probe: inverse strengths of its regularisation."""
    metric: Literal["accuracy", "macro_f1"] = "accuracy"
    """The main figure, by which k, C and readings are chosen on dev."""


def load_topics(config: TopicsConfig) -> ZeroShotTask | TrainedTask:
    """The files of `config`, read and checked."""
    data = _data(config)
    if config.method == "zero_shot":
        texts = label_texts(data.classes, config.form, config.labels or None)
        if config.form == "examples":
            _refuse_test_texts(config.labels, data)
        name = config.name or f"{data.name}/{config.form}{'-calibrated' if config.calibrated else ''}"
        return ZeroShotTask(name, config.metric, data, texts, config.calibrated)
    classifier = NearestNeighbours(config.neighbours) if config.method == "knn" else LogisticProbe(config.strengths)
    return TrainedTask(config.name or f"{data.name}/{config.method}", config.metric, data, classifier)


def _data(config: TopicsConfig) -> TopicData:
    test, train, dev = (
        read_topics(path, config.text, config.label, classes=config.classes) if path else None
        for path in (config.test, config.train, config.dev)
    )
    if test is None:
        raise UserError("config error: test: name the file of texts to report on")
    splits = [split for split in (test, train, dev) if split is not None]
    classes = list(config.classes) or sorted({label for split in splits for label in split.labels})
    return TopicData(test.name, classes, test, train, dev)


def _refuse_test_texts(path: str, data: TopicData) -> None:
    known = set(data.test.texts)
    seen = next((text for text in label_examples(path) if text in known), None)
    if seen is not None:
        raise UserError(f"{path}: the example {seen[:40]!r} is a test text; take examples from elsewhere")

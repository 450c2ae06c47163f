"""From the options of a topic task to the task."""

from __future__ import annotations

from dec2vec.errors import UserError
from eval.task_config import TopicsConfig
from eval.tasks.labelled import read_labelled
from eval.tasks.topic_classifiers import LogisticProbe, NearestNeighbours
from eval.tasks.topic_files import label_examples, label_texts
from eval.tasks.topics import TopicData, TrainedTask, ZeroShotTask


def load_topics(config: TopicsConfig) -> ZeroShotTask | TrainedTask:
    """The files of `config`, read and checked."""
    _refuse_unread(config)
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
        read_labelled(path, config.text, config.label, classes=config.classes) if path else None
        for path in (config.test, config.train, config.dev)
    )
    if test is None:
        raise UserError("config error: test: name the file of texts to report on")
    splits = [split for split in (test, train, dev) if split is not None]
    classes = list(config.classes) or sorted({label for split in splits for label in split.labels})
    return TopicData(test.name, classes, test, train, dev)


def _refuse_unread(config: TopicsConfig) -> None:
    """An option that the method does not read was meant for another one, or for a form that was not named."""
    is_zero_shot = config.method == "zero_shot"
    given = {
        "form": config.form != "word" and not is_zero_shot,
        "labels": bool(config.labels) and not (is_zero_shot and config.form != "word"),
        "calibrated": config.calibrated and not is_zero_shot,
    }
    unread = next((option for option, is_unread in given.items() if is_unread), None)
    if unread is not None:
        found = f"method {config.method}" + (f" with form {config.form}" if is_zero_shot else "")
        raise UserError(f"config error: topics: {unread} is not read by {found}; remove it, or name what reads it")


def _refuse_test_texts(path: str, data: TopicData) -> None:
    known = set(data.test.texts)
    seen = next((text for text in label_examples(path) if text in known), None)
    if seen is not None:
        raise UserError(f"{path}: the example {seen[:40]!r} is a test text; take examples from elsewhere")

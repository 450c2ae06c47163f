"""The texts that stand for the classes: their names, or definitions from a file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from dec2vec.config.yaml_file import read_mapping
from dec2vec.errors import UserError
from dec2vec.files.held_out import sample
from eval.config import Form, TopicsConfig
from eval.tasks.labelled import LabelledTexts, read_labelled
from eval.tasks.pair_files import named_test
from eval.tasks.topic_classifiers import LogisticProbe, NearestNeighbours
from eval.tasks.topics import TopicData, TrainedTask, ZeroShotTask


def label_texts(classes: Sequence[str], form: Form, path: str | Path | None = None) -> list[str]:
    """One text for each class, in their order.

    word: the name itself, underscores read as spaces. definition and examples come from a YAML or JSON file that
    gives each class a text, or a `definition` with a list of `examples`.
    """
    if form == "word":
        texts = [name.replace("_", " ") for name in classes]
    elif path is None:
        raise UserError(f"labels: form {form} needs a file that defines the classes; give it, or use form word")
    else:
        entries = _entries(Path(path))
        absent = [name for name in classes if name not in entries]
        if absent:
            raise UserError(f"{path}: no entry for the class {absent[0]!r} ({len(absent)} are missing); add it")
        texts = [_text(path, name, entries[name], form) for name in classes]
    first: dict[str, str] = {}
    for name, text in zip(classes, texts, strict=True):
        if first.setdefault(text, name) != name:
            raise UserError(
                f"labels: {first[text]!r} and {name!r} have the same text {text[:40]!r}; use different texts"
            )
    return texts


def label_examples(path: str | Path) -> list[str]:
    """Every example of a file of definitions, to be kept out of the test texts."""
    return [text for name, entry in _entries(Path(path)).items() for text in _parts(path, name, entry)[1]]


def _entries(path: Path) -> dict[str, object]:
    if path.suffix != ".json":
        return read_mapping(path)
    try:
        entries = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"{path}: not JSON: {error}") from None
    if not isinstance(entries, dict):
        raise UserError(f'{path} contains a {type(entries).__name__} instead of an object {{"class": "definition"}}')
    return entries


def _text(path: str | Path, name: str, entry: object, form: Form) -> str:
    definition, examples = _parts(path, name, entry)
    if form == "definition":
        return definition
    if not examples:
        raise UserError(f"{path}: {name!r} has no examples; add a list of them, or use form definition")
    return f"{definition}: {'; '.join(examples)}"


def _parts(path: str | Path, name: str, entry: object) -> tuple[str, list[str]]:
    """Definition and examples of an entry."""
    if isinstance(entry, str):
        entry = {"definition": entry}
    if not isinstance(entry, dict) or not entry.keys() <= {"definition", "examples"}:
        raise UserError(f"{path}: {name!r} must be a text, or a definition and examples")
    definition, examples = entry.get("definition"), entry.get("examples", [])
    if not isinstance(definition, str) or not definition.strip():
        raise UserError(f"{path}: {name!r} has no definition; write one as text")
    if not isinstance(examples, list) or not all(isinstance(text, str) and text.strip() for text in examples):
        raise UserError(f"{path}: the examples of {name!r} must be a list of texts")
    return definition, examples


def load_topics(
    config: TopicsConfig, *, is_dev: bool = False, limit: int | None = None, train_limit: int | None = None
) -> ZeroShotTask | TrainedTask:
    """The files of `config`, read and checked. With `is_dev` the dev texts, or those of test where there are none.

    Of these, and of the training texts, at most `limit` and `train_limit` are used then.
    """
    _refuse_unread(config)
    data = _dev_data(config, limit, train_limit) if is_dev else _data(config)
    if config.method == "zero_shot":
        texts = label_texts(data.classes, config.form, config.labels or None)
        if config.form == "examples":
            _refuse_test_texts(config.labels, data)
        name = config.name or f"{data.name}/{config.form}{'-calibrated' if config.calibrated else ''}"
        return ZeroShotTask(name, config.metric, data, texts, config.calibrated)
    classifier = NearestNeighbours(config.neighbours) if config.method == "knn" else LogisticProbe(config.strengths)
    return TrainedTask(config.name or f"{data.name}/{config.method}", config.metric, data, classifier)


def _data(config: TopicsConfig) -> TopicData:
    test = _read(config, named_test("topics", config.test))
    train, dev = (_read(config, path) if path else None for path in (config.train, config.dev))
    return TopicData(test.name, _classes(config, test, train, dev), test, train, dev)


def _dev_data(config: TopicsConfig, limit: int | None, train_limit: int | None) -> TopicData:
    whole = _read(config, config.dev or named_test("topics", config.test))
    all_train = _read(config, config.train) if config.train else None
    classes = _classes(config, whole, all_train)
    dev = whole.at(sample(whole.texts, limit))
    train = None if all_train is None else all_train.at(sample(all_train.texts, train_limit))
    return TopicData(dev.name, classes, dev, train, dev)


def _read(config: TopicsConfig, path: str) -> LabelledTexts:
    return read_labelled(path, config.text, config.label, classes=config.classes)


def _classes(config: TopicsConfig, *splits: LabelledTexts | None) -> list[str]:
    return list(config.classes) or sorted({label for split in splits if split is not None for label in split.labels})


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
        raise UserError(
            f"config error: topics: {unread} is not used by {found}; remove it, or use a method that needs it"
        )


def _refuse_test_texts(path: str, data: TopicData) -> None:
    known = set(data.test.texts)
    seen = next((text for text in label_examples(path) if text in known), None)
    if seen is not None:
        raise UserError(f"{path}: the example {seen[:40]!r} is a test text; use other examples")

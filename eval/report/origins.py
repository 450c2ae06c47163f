"""Where on the Hub the data of the tasks come from, as far as they do: a local file has no name that others know."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dec2vec.files.hub_datasets import hub_parts
from dec2vec.files.sources import DEFAULT_SPLIT
from eval.config import EvalConfig
from eval.mteb_tasks.names import find_tasks
from eval.tasks.task import Task

Origin = dict[str, str]


def origins(config: EvalConfig, similarity: Sequence[Task[Any]], further: Sequence[Task[Any]]) -> dict[str, Origin]:
    """By task: data set, and subset, split and revision where they are known."""
    names = [task.name for task in (*similarity, *further)]
    found = {name: _origin(path, split) for name, (path, split) in zip(names, _tests(config), strict=False)}
    of_mteb = {f"mteb/{task.metadata.name}": _of_mteb(task.metadata) for task in find_tasks(config.mteb)}
    return {name: origin for name, origin in found.items() if origin is not None} | of_mteb


def _tests(config: EvalConfig) -> list[tuple[str, str]]:
    """The test files in the order of the tasks, each with the split that is read if none is named.

    A part of a data set (`limit`, some of its `classes`) is none that others know: its path is left blank.
    """
    similarity = [*([config.dev] if config.dev else []), *config.tests]
    matched = [*(task.test for task in config.pairs), *(task.test for task in config.gap)]
    clustered = ("" if task.limit is not None else task.test for task in config.clustering)
    topics = ("" if task.classes else task.test for task in config.topics)
    labelled = [*topics, *clustered]
    read = [(path, DEFAULT_SPLIT) for path in (*similarity, *matched, *labelled)]
    collections = [(task.path, "test") for task in config.retrieval]
    return [*read, *collections, *((task.path, DEFAULT_SPLIT) for task in config.isotropy)]


def _origin(path: str, split: str) -> Origin | None:
    parts = hub_parts(path)
    if parts is None or "[" in (parts["split"] or ""):  # a slice of a split, such as test[:100]
        return None
    named = {"dataset": parts["name"], "config": parts["subset"], "split": parts["split"] or split}
    return {key: value for key, value in named.items() if value is not None}


def _of_mteb(metadata: Any) -> Origin:
    """Subset and split only where there is one of each."""
    data, splits = metadata.dataset, list(metadata.eval_splits)
    origin = {"dataset": str(data["path"])} | ({"split": splits[0]} if len(splits) == 1 else {})
    if data.get("revision"):
        origin["revision"] = str(data["revision"])
    return origin | ({"config": str(data["name"])} if data.get("name") else {})

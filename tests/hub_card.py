"""What the Hub finds wrong with a model card: the checks of its `/api/validate-yaml`, as far as they are public.

The pattern of a data set's type is the one that the Hub itself quotes (mteb issue 1111). Written without a look at
the lists of train/export, so that a mistake there is seen.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml

LICENCES = frozenset(
    [
        "apache-2.0",
        "mit",
        "openrail",
        "bigscience-openrail-m",
        "creativeml-openrail-m",
        "afl-3.0",
        "bsl-1.0",
        "bsd",
        "bsd-2-clause",
        "bsd-3-clause",
        "cc",
        "cc0-1.0",
        "cc-by-2.0",
        "cc-by-3.0",
        "cc-by-4.0",
        "cc-by-sa-3.0",
        "cc-by-sa-4.0",
        "cc-by-nc-2.0",
        "cc-by-nc-4.0",
        "cc-by-nc-sa-4.0",
        "cc-by-nd-4.0",
        "epl-2.0",
        "eupl-1.2",
        "agpl-3.0",
        "gfdl",
        "gpl",
        "gpl-2.0",
        "gpl-3.0",
        "lgpl",
        "lgpl-2.1",
        "lgpl-3.0",
        "isc",
        "mpl-2.0",
        "odc-by",
        "odbl",
        "ofl-1.1",
        "unlicense",
        "zlib",
        "llama2",
        "llama3",
        "llama3.1",
        "llama3.2",
        "llama3.3",
        "llama4",
        "gemma",
        "unknown",
        "other",
    ]
)
LIBRARIES = frozenset({"sentence-transformers", "transformers", "peft", "mteb"})
PIPELINES = frozenset({"sentence-similarity", "feature-extraction", "text-generation", "text-classification"})
RELATIONS = frozenset({"adapter", "merge", "quantized", "finetune"})
_FRONT = re.compile(r"\A---\r?\n(.*?)\r?\n---\r?\n", re.DOTALL)
_REPOSITORY = re.compile(r"(?:[A-Za-z0-9][\w-]*/)?[A-Za-z0-9][\w.-]*", re.ASCII)
_DATASET_TYPE = re.compile(r"(?:[\w-]+/)?[\w\-.]+", re.ASCII)
_LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]{2,8})*|multilingual|code")


def card_errors(content: str) -> list[str]:
    """One message for each thing that is refused; empty for a good card."""
    found = _FRONT.match(content)
    if found is None:
        return []  # the Hub warns of a missing front matter
    try:
        front = yaml.safe_load(found[1])
    except yaml.YAMLError as error:
        return [f"front matter is no YAML: {error}"]
    if not isinstance(front, dict):
        return ["front matter must be a mapping"]
    return [*_names(front), *_lists(front), *_licence(front), *_base(front), *_index(front.get("model-index"))]


def _names(front: dict[str, Any]) -> Iterator[str]:
    for field, known in (("library_name", LIBRARIES), ("pipeline_tag", PIPELINES)):
        if field in front and front[field] not in known:
            yield f'"{field}" {front[field]!r} is unknown'


def _lists(front: dict[str, Any]) -> Iterator[str]:
    patterns = {"language": _LANGUAGE, "datasets": _REPOSITORY, "tags": re.compile(r".+"), "metrics": re.compile(".+")}
    for field, pattern in patterns.items():
        values = front.get(field, [])
        for value in values if isinstance(values, list) else [values]:
            if not isinstance(value, str) or not pattern.fullmatch(value):
                yield f'"{field}" with value {value!r} fails to match the required pattern'


def _licence(front: dict[str, Any]) -> Iterator[str]:
    if "license" in front and front["license"] not in LICENCES:
        yield f'"license" {front["license"]!r} must be one of the known identifiers'
    for field in ("license_name", "license_link"):
        if field in front and front.get("license") != "other":
            yield f'"{field}" is only allowed with license other'
    name, link = front.get("license_name"), front.get("license_link")
    if name is not None and not re.fullmatch(r"[a-z0-9.-]+", str(name)):
        yield f'"license_name" {name!r} must be lower case, without spaces'
    if link is not None and not re.fullmatch(r"https?://\S+|LICENSE(\.md|\.txt)?", str(link)):
        yield f'"license_link" {link!r} must be an address or LICENSE'


def _base(front: dict[str, Any]) -> Iterator[str]:
    bases = front.get("base_model", [])
    for base in bases if isinstance(bases, list) else [bases]:
        if not isinstance(base, str) or not _REPOSITORY.fullmatch(base):
            yield f'"base_model" with value {base!r} is no repository'
    if "base_model_relation" in front and front["base_model_relation"] not in RELATIONS:
        yield f'"base_model_relation" {front["base_model_relation"]!r} is unknown'


def _index(index: Any) -> Iterator[str]:
    if index is None:
        return
    if not isinstance(index, list) or not index:
        yield '"model-index" must be a list of at least one model'
        return
    for number, model in enumerate(index):
        place = f"model-index[{number}]"
        if not isinstance(model, dict) or not isinstance(model.get("name"), str) or not model["name"]:
            yield f'"{place}.name" is required'
            continue
        results = model.get("results")
        if not isinstance(results, list) or not results:
            yield f'"{place}.results" must hold at least one result'
            continue
        for count, result in enumerate(results):
            yield from _result(result, f"{place}.results[{count}]")


def _result(result: dict[str, Any], place: str) -> Iterator[str]:
    task, dataset, metrics = result.get("task", {}), result.get("dataset", {}), result.get("metrics", [])
    for field, value in (("task.type", task.get("type")), ("dataset.name", dataset.get("name"))):
        if not isinstance(value, str) or not value:
            yield f'"{place}.{field}" is required'
    if not isinstance(dataset.get("type"), str) or not _DATASET_TYPE.fullmatch(dataset["type"]):
        yield f'"{place}.dataset.type" with value {dataset.get("type")!r} fails to match the required pattern'
    if not metrics:
        yield f'"{place}.metrics" is required'
    for metric in metrics:
        if not isinstance(metric.get("type"), str):
            yield f'"{place}.metrics.type" is required'
        value = metric.get("value")
        if isinstance(value, bool) or not isinstance(value, (int, float, str)) or value != value:
            yield f'"{place}.metrics.value" {value!r} must be a number'

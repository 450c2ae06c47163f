"""The front matter's `model-index`: figures with their task, data and metric, in the names that MTEB uses."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from train.export.card_report import SIMILARITY, CardTask, Score

Entry = dict[str, Any]
_TYPES = {
    SIMILARITY: "STS",
    "pairs": "PairClassification",
    "topics": "Classification",
    "clustering": "Clustering",
    "retrieval": "Retrieval",
}
"""The Hub's task by the report's. Gap and isotropy have none: they are in the text of the card alone."""
_METRICS = {
    (SIMILARITY, "spearman_all"): ("cosine_spearman", "Spearman of cosines x 100"),
    ("pairs", "accuracy"): ("cosine_accuracy", "accuracy x 100, with a threshold from dev"),
    ("pairs", "f1"): ("cosine_f1", "F1 x 100, with a threshold from dev"),
    ("pairs", "precision"): ("cosine_precision", "precision x 100, with a threshold from dev"),
    ("pairs", "recall"): ("cosine_recall", "recall x 100, with a threshold from dev"),
    ("pairs", "ap"): ("cosine_ap", "average precision of cosines x 100"),
    ("pairs", "auc"): ("roc_auc", "area under the ROC curve of cosines x 100"),
    ("topics", "accuracy"): ("accuracy", "accuracy x 100"),
    ("topics", "macro_f1"): ("f1", "macro-F1 x 100"),
    ("clustering", "V-measure"): ("v_measure", "V-measure x 100"),
    ("retrieval", "nDCG@10"): ("ndcg_at_10", "nDCG@10 x 100"),
    ("retrieval", "MRR@10"): ("mrr_at_10", "MRR@10 x 100"),
    ("retrieval", "recall@10"): ("recall_at_10", "recall@10 x 100"),
    ("retrieval", "recall@100"): ("recall_at_100", "recall@100 x 100"),
}
"""Type and name of a main metric."""
_MTEB = "mteb/"
_DATASET = re.compile(r"([A-Za-z0-9_-]+/)?[A-Za-z0-9_.-]+")
"""What the Hub takes as the type of a data set."""


def model_index(name: str, tests: Sequence[CardTask], scores: Mapping[str, Score]) -> list[Entry]:
    """One model with a result for each test that has a figure and a place on the Hub; empty without any."""
    blocks: dict[tuple[object, ...], list[Entry]] = {}
    for task in tests:
        entry = _entry(task, scores[task.name]) if task.name in scores else None
        if entry is not None:
            blocks.setdefault(_key(entry), []).append(entry)
    return [{"name": name, "results": list(map(_together, blocks.values()))}] if blocks else []


def _key(entry: Entry) -> tuple[object, ...]:
    """What huggingface_hub tells results apart by: of two with one key it keeps the first one's name and arguments."""
    data = entry["dataset"]
    return entry["task"]["type"], *(data.get(part) for part in ("type", "config", "split", "revision"))


def _together(entries: Sequence[Entry]) -> Entry:
    """One result of several tests on the same data, such as two classifiers: each metric says which it is of."""
    if len(entries) == 1:
        return entries[0]
    metrics = [
        {**metric, "name": f"{metric['name']} ({entry['dataset']['name']})"}
        for entry in entries
        for metric in entry["metrics"]
    ]
    return {
        **entries[0],
        "dataset": {**entries[0]["dataset"], "name": entries[0]["dataset"]["type"]},
        "metrics": metrics,
    }


def metric_types(index: Sequence[Entry]) -> list[str]:
    """The metrics that occur, for the front matter's `metrics`."""
    metrics = (metric for model in index for result in model["results"] for metric in result["metrics"])
    return list(dict.fromkeys(metric["type"] for metric in metrics))


def _entry(task: CardTask, score: Score) -> Entry | None:
    kind, metric = _kind(task), _metric(task)
    if kind is None or metric is None or score.value is None:
        return None
    return {
        "task": {"type": kind},
        "dataset": _dataset(task, score.n),
        "metrics": [{"type": metric[0], "name": metric[1], "value": round(100 * score.value, 2)}],
    }


def _kind(task: CardTask) -> str | None:
    kind = task.kind.removeprefix(_MTEB) if task.kind.startswith(_MTEB) else _TYPES.get(task.kind)
    return None if kind == "benchmark" else kind  # its tasks are in the index, each with its data


def _metric(task: CardTask) -> tuple[str, str] | None:
    if task.kind.startswith(_MTEB):
        return "main_score", "main score of mteb x 100"
    return _METRICS.get((task.kind, task.metric))


def _dataset(task: CardTask, n: int) -> Entry:
    """A local file has no id on the Hub: its type is unknown, and a hash says which data it was.

    The Hub and huggingface_hub tell results apart by type, configuration and split, so that the configuration of a
    local file is its name.
    """
    origin = task.origin
    if _DATASET.fullmatch(origin.get("dataset", "")):
        parts = {"config": origin.get("config", "default"), **{k: v for k, v in origin.items() if k != "dataset"}}
        return {"name": task.name, "type": origin["dataset"], **parts}
    facts: Entry = {"items": n} | ({"sha256": task.sha256} if task.sha256 else {})
    return {"name": task.name, "type": "unknown", "config": task.name, "split": "test", "args": facts}

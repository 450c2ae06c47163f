"""A report of two tuned runs with every kind of row that a card might take by mistake, and the cards made from it."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard

from dec2vec.config.model import ModelConfig
from dec2vec.identity import Identity
from eval.report.report import Report
from eval.report.report_json import to_json
from eval.results.results import AVERAGE, Result, TaskTable
from eval.systems.subject import Subject
from train.config import EvalSection, ExportConfig, TrainConfig
from train.export.card_data import DataFact
from train.export.card_report import read_report
from train.export.card_scores import Exported
from train.export.model_card import Card, build_card
from train.options.data import SourceConfig

Tree = dict[str, Any]
DEV, TESTS = "dev", ("sts12", "sts 13 (v2)")
FACTS: dict[str, str | int | float] = {"k": 64, "fit_sha256": "text"}
RUNS = ("a", "b")
FURTHER = {
    "covid": ("pairs", "accuracy", ("ap", "auc")),
    "duplicates": ("pairs", "ap", ("auc",)),
    "news/knn": ("topics", "accuracy", ("macro_f1",)),
    "iflytek": ("topics", "macro_f1", ("accuracy",)),
    "news/clusters": ("clustering", "V-measure", ("V-measure spread",)),
    "cranfield": ("retrieval", "nDCG@10", ("MRR@10", "MAP")),
    "answers/gap": ("gap", "gap", ("auc",)),
    "news/isotropy": ("isotropy", "mean cosine", ("IsoScore",)),
    "mteb/TinySts": ("mteb/STS", "main_score", ()),
}
"""Kind, main metric and further metrics by task."""


def subjects(runs: tuple[str, ...] = RUNS) -> list[Subject]:
    """Runs as they are, whitened in two strengths and on the tests themselves; untuned rows, baselines, summaries."""
    rival = Subject("untuned/bare/last@-1", "system")
    found = [Subject.from_baseline("tfidf"), Subject.from_baseline("/home/somebody/models/bge"), rival]
    found.append(Subject("untuned/bare/mean@8+whiten-256", "system", (), None, "whiten", 256))
    for run in runs:
        name = f"tuned/{run}"
        found.append(Subject(name, "system", run=run))
        found += [Subject(f"{name}+whiten-{k}", "system", (), run, "whiten", k) for k in (64, 32)]
        found.append(Subject(f"{name}+truncate-64", "system", (), run, "truncate", 64))
        found.append(Subject(f"{name}+whiten-64(transductive)", "system", (), run, "whiten", 64, True))
        found.append(Subject(f"{name}+whiten-64(corpus)", "system", (), run, "whiten", 64, fitted_on="1,400 documents"))
        found.append(Subject.from_difference(found[-6], rival))
    of = tuple(f"tuned/{run}" for run in runs)
    return [*found, *(Subject(f"{kind} of {runs[0]}", kind, of, runs[0]) for kind in ("mean", "sd"))]


def report_tree(runs: tuple[str, ...] = RUNS) -> Tree:
    """report.json as eval writes it. No two of its figures are equal, so that each is known by its value."""
    numbers = count(1)

    def row(subject: Subject, task: str, metric: str, *, clean: bool = False) -> Result:
        value = next(numbers) / 10_000
        chosen_on = DEV if subject.post or subject.run is None else None
        return Result(subject, task, metric, value, value - 0.00003, value + 0.00004, 100, clean, chosen_on)

    def clean(subject: Subject, task: str, metric: str) -> Result:
        return replace(row(subject, task, metric, clean=True), n=80)

    results = [
        row(subject, task, metric)
        for metric in ("spearman_all", "spearman_mean", "pearson_cosine")
        for subject in subjects(runs)
        for task in (DEV, *TESTS, AVERAGE)
    ]
    results += [clean(subject, TESTS[0], "spearman_all") for subject in subjects(runs)]
    tables = [
        TaskTable(
            name,
            main,
            [
                *(row(subject, name, metric) for subject in subjects(runs) for metric in (main, *others)),
                *(clean(subject, name, main) for subject in subjects(runs)),
            ],
            kind=kind,
        )
        for name, (kind, main, others) in FURTHER.items()
    ]
    tuned = {run: {"weights": f"weights of {run}", "whitening": None, "chosen_on": []} for run in runs}
    provenance = {
        "tuned": tuned,
        "data": {name: {"pairs": 100, "sha256": f"hash of {name}"} for name in (DEV, *TESTS)},
        "whitening_fit": {"sha256": "text"},
        "origins": {
            "duplicates": {"dataset": "somebody/duplicates", "config": "en", "split": "validation"},
            "mteb/TinySts": {"dataset": "mteb/tiny", "revision": "abc"},
        },
    }
    report = Report(provenance, results, [], None, None, DEV, TESTS, tasks=tables)
    tree: Tree = json.loads(to_json(report))
    return tree


SOURCES = (SourceConfig(path="/data/pairs.jsonl"), SourceConfig(path="someone/pairs"))
CONFIG = TrainConfig(
    model=ModelConfig(name_or_path="someone/decoder-8m", revision="abc123", prompt="instruct"),
    data=SOURCES,
    eval=EvalSection(dev="/data/dev.jsonl"),
    export=ExportConfig(license="apache-2.0", language="en"),
)
DATA = (
    DataFact("pairs.jsonl", False, 1234567, "f00d", "", 0),
    DataFact("someone/pairs", True),
)


def make_card(tmp_path: Path, tree: Tree | None = None, *, whitened: bool = False, **changes: Any) -> Card:
    """The card of run a, whose folder has this report."""
    report = None
    if tree is not None:
        path = tmp_path / "report.json"
        path.write_text(json.dumps(tree), encoding="utf-8")
        report = read_report(path)
    exported = Exported("a", Identity("weights of a", None), FACTS if whitened else None, ("dev",))
    card = Card(CONFIG, "demo", "alice/demo", 256, False, None, exported, data=DATA, report=report)
    return replace(card, **changes)


def read_back(card: Card) -> list[EvalResult]:
    """The model-index as huggingface_hub reads it; empty without one."""
    return ModelCard(build_card(card)).data.eval_results or []


def figures(card: Card) -> dict[tuple[str, str], float]:
    """Value by data set and metric; every one of them once."""
    found = read_back(card)
    by_name = {(item.dataset_name, item.metric_type): item.metric_value for item in found}
    assert len(by_name) == len(found)
    return by_name


def expected(tree: Tree, run: str = "a", *, post: str | None = None, k: int | None = None) -> dict[str, float]:
    """By task the main figure of that system x 100, looked up in report.json by other means than the card's."""
    mains = dict.fromkeys(tree["tests"], "spearman_all") | {table["name"]: table["metric"] for table in tree["tasks"]}
    rows = [*tree["results"], *({**row, "task": table["name"]} for table in tree["tasks"] for row in table["rows"])]
    wanted = f"tuned/{run}" + (f"+{post}-{k}" if post else "")
    return {
        row["task"]: round(100 * row["value"], 2)
        for row in rows
        if row["system"] == wanted and mains.get(row["task"]) == row["metric"]
    }

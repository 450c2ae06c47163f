"""report.json as a model card reads it: typed rows, and which weights they are of. train does not import eval."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from dec2vec.errors import UserError

SIMILARITY = "similarity"
METRIC = "spearman_all"
AVERAGE = "average"
_UNSHOWN = (None, "", "isotropy")
"""Kinds of tasks that are left out: those of older reports, which have none, and one that measures no quality."""
_POST = re.compile(
    r"\+(centre|standardise|abtt|pca|whiten|shrunk_whiten|soft_whiten|embfilter|random|truncate)(-[^+/]*)?$"
)
"""Post-processings as older reports write them into the name of a row."""


@dataclass(frozen=True)
class Score:
    """One figure of report.json, as a fraction of 1; None if there is none."""

    system: str
    task: str
    metric: str
    value: float | None
    ci_low: float | None
    ci_high: float | None
    n: int
    chosen_on: str | None = None
    kind: str | None = None
    """system, baseline, difference, mean or sd."""
    run: str | None = None
    """The tuned run; None for the untuned decoder and for baselines."""
    post: str | None = None
    k: int | None = None
    transductive: bool = False
    """Fitted on the test sentences: no part of a card."""
    clean: bool = False
    """Of a part of the test alone: no part of the model-index."""
    exported: bool = False
    """The tuned run as it was exported when it was evaluated."""
    fitted_on: str | None = None
    """Of a system: the task's own texts, where its post-processing was fitted on them and not on training text."""
    no_interval: str = ""
    """Why the report shows no interval."""

    def __post_init__(self) -> None:
        """Older reports say what a row is about in its name alone."""
        if self.kind is None:
            for name, value in _fields_of_name(self.system).items():
                object.__setattr__(self, name, value)


def _fields_of_name(system: str) -> dict[str, object]:
    label = "(transductive)"
    post = _POST.search(system.removesuffix(label))
    strength = "" if post is None else (post[2] or "").removeprefix("-")
    tuned = system.startswith("tuned")
    kinds = {"baseline/": "baseline", "mean of ": "mean", "sd of ": "sd"}
    named = next((kind for start, kind in kinds.items() if system.startswith(start)), "system")
    return {
        "kind": "difference" if " minus " in system else named,
        "run": system.removeprefix("tuned/").removesuffix(post[0] if post else "") if tuned else None,
        "post": post[1] if post else None,
        "k": int(strength) if strength.isdecimal() else None,
        "transductive": system.endswith(label),
    }


@dataclass(frozen=True)
class Tuned:
    """What a report says of a tuned run that it measured."""

    weights: str
    whitening: str | None
    chosen_on: tuple[str, ...] = ()
    """Tasks on whose data the run's checkpoint was chosen."""


@dataclass(frozen=True)
class CardTask:
    """A test of the report, and its main metric."""

    name: str
    metric: str = METRIC
    kind: str = SIMILARITY
    sha256: str | None = None
    """Of its pairs."""
    origin: Mapping[str, str] = field(default_factory=dict)
    """Data set, subset and split on the Hub; empty for a local file."""


@dataclass(frozen=True)
class CardReport:
    """A report. What older ones don't say is None or empty."""

    scores: tuple[Score, ...]
    tests: tuple[CardTask, ...]
    dev: str | None = None
    """The similarity file on which layer and post-processing were chosen."""
    tuned: Mapping[str, Tuned] | None = None
    """By name of the run."""
    leading: str = ""
    """The kind of the task that chose the checkpoint, whose tests come first; empty leaves similarity first."""
    fit_sha256: str | None = None
    """Of the text on which post-processings were fitted, and"""
    fits: Mapping[str, str] = field(default_factory=dict)
    """by system, of the text of its own, where that is recorded."""


def read_report(path: Path) -> CardReport | None:
    """A run's report; None if there is none."""
    if not path.is_file():
        return None
    try:
        return _report(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, KeyError, TypeError, AttributeError, ValidationError) as error:
        raise UserError(
            f"{path}: not a report of dec2vec ({type(error).__name__}); run the evaluation again"
        ) from error


def _report(tree: Any) -> CardReport:
    facts = tree.get("provenance") or {}
    scores = TypeAdapter(list[Score]).validate_python(tree["results"])
    tables = [table for table in tree.get("tasks") or [] if table.get("kind") not in _UNSHOWN]
    rows = [_task_row(table["name"], row) for table in tables for row in table["rows"]]
    first = next(iter(facts.get("data") or {}), None)  # dev, in reports that don't say so
    dev = tree.get("dev", next((score.chosen_on for score in scores if score.chosen_on), first)) or None
    tests = tree.get("tests") or _older_tests(scores, dev)
    tasks = [CardTask(name) for name in tests] + [CardTask(*_main(table)) for table in tables]
    tuned = facts.get("tuned")
    return CardReport(
        scores=(*scores, *TypeAdapter(list[Score]).validate_python(rows)),
        tests=tuple(_with_source(task, facts) for task in tasks),
        dev=dev,
        tuned=None if tuned is None else TypeAdapter(dict[str, Tuned]).validate_python(tuned),
        leading=tree.get("leading", ""),
        fit_sha256=(facts.get("whitening_fit") or {}).get("sha256"),
        fits={choice["system"]: sha for choice in facts.get("choices") or [] if (sha := _fitted_on(choice))},
    )


def _fitted_on(choice: Mapping[str, Any]) -> str | None:
    return (choice.get("fit") or {}).get("fit_sha256")


def _older_tests(scores: Sequence[Score], dev: str | None) -> list[str]:
    """All tasks but dev; none if it isn't known which one that is."""
    found = dict.fromkeys(score.task for score in scores if score.task not in (AVERAGE, dev))
    return list(found) if dev is not None else []


def _main(table: Mapping[str, Any]) -> tuple[str, str, str]:
    return table["name"], table["metric"], table["kind"]


def _task_row(task: str, row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of a further task with the names of a similarity row."""
    return {**row, "task": task, "ci_low": row["low"], "ci_high": row["high"]}


def _with_source(task: CardTask, facts: Mapping[str, Any]) -> CardTask:
    data = (facts.get("data") or {}).get(task.name) or {}
    origin = (facts.get("origins") or {}).get(task.name) or {}
    return CardTask(task.name, task.metric, task.kind, data.get("sha256"), origin)

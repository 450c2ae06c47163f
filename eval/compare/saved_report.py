"""The parts of report.json that a comparison of runs needs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dec2vec.errors import UserError
from eval.report.report import is_rival
from eval.results.results import AVERAGE
from eval.systems.recipes import Recipe
from eval.systems.seeds import split_name

METRIC = "spearman_all"
DIFFERENCE = "spearman_all_difference"


@dataclass(frozen=True)
class Score:
    """A figure with its 95 % interval; nan if the report has null."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class SavedReport:
    """`tests` maps each test set to the sha256 of its pairs; `tuned` and `untuned` are the two compared systems."""

    name: str
    path: Path
    tests: Mapping[str, str]
    scores: Mapping[tuple[str, str], Score]
    tuned: str | None
    untuned: str | None
    gain: Score | None
    """Tuned minus untuned, averaged over the tests."""
    p_value: float | None
    recipe: Recipe | None = None
    """The options of the tuned run except its seed; None in older reports."""

    @property
    def best(self) -> str:
        """The tuned system, or the best untuned one if nothing was tuned."""
        name = self.tuned or self.untuned
        assert name is not None
        return name

    def score(self, system: str, task: str) -> Score:
        return self.scores[system, task]


def read_report(run: str) -> SavedReport:
    """The report of a run folder, a report folder or a report.json file. UserError if there is none."""
    path = _find(run)
    try:
        return _parsed(json.loads(path.read_text(encoding="utf-8")), path)
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        reason = f"not a report of dec2vec ({type(error).__name__})"
        raise UserError(f"{path}: {reason}; run the evaluation again") from error


def _find(run: str) -> Path:
    folder = Path(run)
    candidates = (folder, folder / "report.json", folder / "report" / "report.json")
    path = next((path for path in candidates if path.is_file()), None)
    if path is None:
        where = "there is no such folder" if not folder.exists() else "there is no report/report.json in it"
        raise UserError(f"{run}: {where}; evaluate the run first: dec2vec eval CONFIG.yaml --tuned {run}")
    return path


def _name(path: Path) -> str:
    """The name of the run: `a` for `runs/a/report/report.json`."""
    folder = path.resolve().parent
    return folder.parent.name if folder.name == "report" else folder.name


def _parsed(tree: dict[str, Any], path: Path) -> SavedReport:
    """Reports of the first version do not name dev and tests: dev is their first data set, the others are tests."""
    data = {name: str(facts["sha256"]) for name, facts in tree["provenance"]["data"].items()}
    if not data:
        raise UserError(f"{path}: has no similarity tests, which are what compare sets side by side")
    dev, tests = tree.get("dev", next(iter(data))), tree.get("tests", list(data)[1:])
    rows = tree["results"]
    scores = {(row["system"], row["task"]): _score(row) for row in rows if row["metric"] == METRIC}
    gaps = [row for row in rows if row["metric"] == DIFFERENCE and row["task"] == AVERAGE]
    tuned, untuned, gain = None, None, None
    if gaps:
        tuned, _, rest = str(gaps[0]["system"]).partition(" minus untuned/")
        untuned, gain = f"untuned/{rest}", _score(gaps[0])
    else:
        untuned = max(
            (name for name, task in scores if task == dev and is_rival(name)), key=lambda n: scores[n, dev].value
        )
    return SavedReport(
        name=_name(path),
        path=path,
        tests={name: data[name] for name in tests},
        scores=scores,
        tuned=tuned,
        untuned=untuned,
        gain=gain,
        p_value=(tree.get("comparison") or {}).get("p_value"),
        recipe=_recipe(tree, tuned),
    )


def _recipe(tree: Mapping[str, Any], tuned: str | None) -> Recipe | None:
    recipes: Mapping[str, Recipe] = tree["provenance"].get("recipes") or {}
    return None if tuned is None else recipes.get(split_name(tuned)[0])


def _score(row: Mapping[str, Any]) -> Score:
    value, low, high = (float("nan") if row[key] is None else float(row[key]) for key in ("value", "ci_low", "ci_high"))
    return Score(value, low, high)

"""The parts of report.json that a comparison of runs needs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from dec2vec.errors import UserError
from eval.config import PostName
from eval.results.results import AVERAGE
from eval.systems.recipes import Recipe
from eval.systems.system import TRANSDUCTIVE

METRIC = "spearman_all"
DIFFERENCE = "spearman_all_difference"
"""The metric of the headline, and its name in the row of a difference."""


@dataclass(frozen=True)
class Score:
    """A figure with its 95 % interval; nan if the report has null."""

    value: float
    low: float
    high: float
    no_interval: str = ""
    """Why the report has none."""


@dataclass(frozen=True)
class Outside:
    """The best outside row on the tests, and tuned minus it."""

    name: str
    score: Score
    gap: Score


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
    outside: Outside | None = None
    is_older: bool = False
    """Of a version whose headline was the post-processing of the run that dev preferred, not the run as exported."""

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


def _parsed(tree: Any, path: Path) -> SavedReport:
    """Reports of the first version do not name dev and tests: dev is their first data set, the others are tests."""
    data = {name: str(facts["sha256"]) for name, facts in tree["provenance"]["data"].items()}
    if not data:
        raise UserError(
            f"{path} has no similarity tests, and compare reads no other tests; evaluate the run with one "
            "(eval.tests.0.similarity FILE)"
        )
    dev, tests = tree.get("dev", next(iter(data))), tree.get("tests", list(data)[1:])
    rows = [row if "kind" in row else _with_fields(row) for row in tree["results"]]
    full = [row for row in rows if row["metric"] in (METRIC, DIFFERENCE) and not row["clean"]]
    scores = {(row["system"], row["task"]): _score(row) for row in full if row["kind"] == "system"}
    gap = next((row for row in full if row["task"] == AVERAGE and _is_gain(row)), None)
    tuned, untuned = (None, _best_on(dev or AVERAGE, full)) if gap is None else gap["of"]
    headline: Mapping[str, Any] = next((item for item in tree.get("headlines", []) if item["task"] == AVERAGE), {})
    return SavedReport(
        name=_name(path),
        path=path,
        tests={name: data[name] for name in tests},
        scores=scores,
        tuned=tuned,
        untuned=untuned,
        gain=None if gap is None else _score(gap),
        p_value=(tree.get("comparison") or {}).get("p_value"),
        outside=_outside(headline),
        is_older="headlines" not in tree,
        recipe=None if gap is None else (tree["provenance"].get("recipes") or {}).get(gap["run"]),
    )


def _is_gain(row: Mapping[str, Any]) -> bool:
    """The difference from an untuned system, not that from an outside row."""
    return row["kind"] == "difference" and not str(row["of"][1]).startswith("baseline/")


def _outside(headline: Mapping[str, Any]) -> Outside | None:
    party, gap = headline.get("outside"), headline.get("to_outside")
    if party is None or gap is None:
        return None
    return Outside(str(party["name"]), _headline_score(party), _headline_score(gap))


def _best_on(dev: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """The untuned system that a tuned one would have been compared with."""
    rivals = [row for row in rows if row["task"] == dev and row["kind"] == "system" and not row["transductive"]]
    return str(max((row for row in rivals if row["run"] is None), key=lambda row: _score(row).value)["system"])


def _with_fields(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of a report that was written before rows said what they are: the fields are read from its names."""
    name, metric = str(row["system"]), str(row["metric"])
    tuned, is_difference, rest = name.partition(" minus untuned/")
    run, _, post = tuned.removeprefix("tuned/").rpartition("+")
    family = post.partition("-")[0]
    if not (run and family in get_args(PostName)):
        run = tuned.removeprefix("tuned/")
    return {
        **row,
        "kind": "difference" if is_difference else "baseline" if name.startswith("baseline/") else "system",
        "of": [tuned, f"untuned/{rest}"] if is_difference else [],
        "run": run if name.startswith("tuned/") else None,
        "transductive": name.endswith(TRANSDUCTIVE),
        "clean": "_clean" in metric,
    }


def _score(row: Mapping[str, Any]) -> Score:
    return Score(_number(row["value"]), _number(row["ci_low"]), _number(row["ci_high"]), _reason(row))


def _headline_score(row: Mapping[str, Any]) -> Score:
    return Score(_number(row["value"]), _number(row["low"]), _number(row["high"]), _reason(row))


def _reason(row: Mapping[str, Any]) -> str:
    """Why there is no interval."""
    return str(row.get("no_interval") or "")


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)

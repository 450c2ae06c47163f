"""The figures of report.json that a model card shows. Read as plain JSON: train does not import eval."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from dec2vec.errors import UserError
from dec2vec.text_tables import markdown_table

METRIC = "spearman_all"
AVERAGE = "average"
MAX_UNTUNED = 10
_POST = re.compile(
    r"\+(centre|standardise|abtt|pca|whiten|shrunk_whiten|soft_whiten|embfilter|random|truncate)(-[^+/]*)?$"
)
"""Post-processings as older reports write them into the name of a row."""


@dataclass(frozen=True)
class Score:
    """One figure of report.json. The value is a correlation in [-1, 1], or None if there is none."""

    system: str
    task: str
    metric: str
    value: float | None
    ci_low: float | None
    ci_high: float | None
    n: int
    chosen_on: str | None
    kind: str | None = None
    """system, baseline, difference, mean or sd."""
    run: str | None = None
    """The tuned run; None for the untuned decoder and for baselines."""
    post: str | None = None
    transductive: bool = False
    """Fitted on the test sentences: no part of a card."""

    def __post_init__(self) -> None:
        """Older reports say what a row is about in its name alone."""
        if self.kind is None:
            for name, value in _fields_of_name(self.system).items():
                object.__setattr__(self, name, value)


def _fields_of_name(system: str) -> dict[str, object]:
    label = "(transductive)"
    post = _POST.search(system.removesuffix(label))
    tuned = system.startswith("tuned")
    return {
        "kind": "difference" if " minus " in system else "system",
        "run": system.removeprefix("tuned/").removesuffix(post[0] if post else "") if tuned else None,
        "post": post[1] if post else None,
        "transductive": system.endswith(label),
    }


def read_scores(path: Path) -> list[Score]:
    """The results of a report; empty if there is no report."""
    if not path.is_file():
        return []
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        return TypeAdapter(list[Score]).validate_python(tree["results"])
    except (ValueError, KeyError, TypeError, ValidationError) as error:
        raise UserError(
            f"{path}: not a report of dec2vec ({type(error).__name__}); run the evaluation again"
        ) from error


def exported(scores: Sequence[Score], *, whitened: bool) -> list[Score]:
    """The figures of the tuned system that is exported, with or without whitening."""
    post = "whiten" if whitened else None
    tuned = [score for score in scores if score.kind == "system" and score.run is not None and not score.transductive]
    return [score for score in tuned if score.metric == METRIC and score.post == post]


def scores_table(scores: Sequence[Score]) -> str:
    """Spearman x 100: the tuned systems, then the best untuned ones by their average, which has its interval."""
    kept = [row for row in scores if row.kind in ("system", "baseline") and not row.transductive]
    figures = {(row.system, row.task): row for row in kept if row.metric == METRIC}
    tuned = {row.system for row in kept if row.run is not None}
    systems = list(dict.fromkeys(system for system, _ in figures))
    dev = {score.chosen_on for score in scores} - {None}
    tasks = sorted(dict.fromkeys(task for _, task in figures), key=lambda task: (task == AVERAGE, task in dev))
    if len([task for task in tasks if task != AVERAGE and task not in dev]) == 1:
        tasks = [task for task in tasks if task != AVERAGE]
    rank = next((task for task in (AVERAGE, *tasks) if task in tasks), "")
    systems.sort(key=lambda name: (name not in tuned, -(_value(figures, name, rank) or -1.0)))
    untuned = [name for name in systems if name not in tuned]
    shown = [name for name in systems if name in tuned] + untuned[:MAX_UNTUNED]
    titles = [f"{task} (dev)" if task in dev else task for task in tasks]
    rows = [(name, *(_cell(figures.get((name, task)), task == rank) for task in tasks)) for name in shown]
    lines = markdown_table(("system", *titles), rows)
    rest = len(untuned) - MAX_UNTUNED
    return "\n".join(lines) + (f"\n\n{rest} lower untuned rows are left out." if rest > 0 else "")


def _value(figures: dict[tuple[str, str], Score], system: str, task: str) -> float | None:
    score = figures.get((system, task))
    return None if score is None else score.value


def _cell(score: Score | None, with_interval: bool) -> str:
    if score is None or score.value is None:
        return "–"
    figure = f"{100 * score.value:.2f}"
    if not with_interval or score.ci_low is None or score.ci_high is None:
        return figure
    return f"{figure} ({100 * score.ci_low:.2f} to {100 * score.ci_high:.2f})"

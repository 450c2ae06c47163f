"""The section "Results" of a model card: the exported model beside the untuned decoder and the baselines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dec2vec.text_tables import markdown_table
from train.export.card_report import AVERAGE, METRIC, SIMILARITY, CardReport, CardTask, Score
from train.export.card_scores import OwnScores, by_value

MAX_UNTUNED = 10
THIS = "**this model**"
_FEW = 3
"""Up to so many tests each figure of this model has its interval."""


def results_section(report: CardReport | None, own: OwnScores, choice: str) -> str:
    """Empty without a report; a line that says why if the report is of something else.

    `choice` is a sentence about what of this model dev data chose.
    """
    if report is None:
        return ""
    if own.missing:
        return f"## Results\n\n{own.missing} No figures are given."
    is_led = any(task.kind.partition("/")[0] == report.leading for task in report.tests)
    tables = [_similarity(report, own), _further(report, own)]
    parts = [_introduction(report, choice), *(reversed(tables) if is_led else tables)]
    parts += [_without_interval(report, own), _clean(own)]
    return "\n\n".join(["## Results", *filter(None, parts)])


def _introduction(report: CardReport, choice: str) -> str:
    dev = f", for similarity on `{report.dev}`" if report.dev else ""
    is_chosen = any(row.chosen_on for row in report.scores)
    chosen = f" Where several of them were tried, dev data chose layer and strength{dev}." if is_chosen else ""
    has_adapter = any(row.system.startswith("before/") for row in report.scores)
    rows, what = "Untuned rows", "same decoder before training"
    if has_adapter:
        rows, what = "Rows `before/...`", "decoder with the adapter from which training went on"
    return (
        f"Figures x 100, with 95 % intervals in brackets where one was shown to hold. {rows} are the "
        f"{what}.{chosen}{choice} Figures on data that chose something are marked as such; they are "
        "no results."
    )


def _similarity(report: CardReport, own: OwnScores) -> str:
    """Spearman: this model, the untuned rows that are best on the tests, and the baselines."""
    tests = [task.name for task in report.tests if task.kind == SIMILARITY and task.name in own.tests]
    if not tests:
        return ""
    chose = [task for task in own.chosen_on if task in own.others]
    columns = [*tests, *([AVERAGE] if _averages(report, own, tests) else []), *chose]
    rank = AVERAGE if AVERAGE in columns else tests[0]
    others = [row for row in report.scores if row.metric == METRIC and row.task in columns and _is_rival(row)]
    untuned, baselines = (_ranked(others, kind, rank) for kind in ("system", "baseline"))
    figures = {(row.system, row.task): row for row in others} | {
        (THIS, task): row for task, row in (*own.tests.items(), *own.others.items())
    }
    header = ["system", *(_title(task, figures[THIS, task], chose) for task in columns)]
    rows = [
        [shown(name), *(_cell(figures.get((name, task)), _has_interval(name, task, rank, tests)) for task in columns)]
        for name in (THIS, *untuned[:MAX_UNTUNED], *baselines)
    ]
    rest = len(untuned) - MAX_UNTUNED
    lines = ["Similarity: Spearman of cosines and human scores over the pairs of all subsets.", ""]
    lines += markdown_table(header, rows)
    return "\n".join([*lines, *([f"\n{rest} lower untuned rows are left out."] if rest > 0 else [])])


def _averages(report: CardReport, own: OwnScores, tests: Sequence[str]) -> bool:
    """Only over all tests of the report: an average over data that chose something is no result."""
    measured = [task.name for task in report.tests if task.kind == SIMILARITY]
    return AVERAGE in own.others and len(tests) > 1 and len(tests) == len(measured)


def _is_rival(row: Score) -> bool:
    return row.kind in ("system", "baseline") and row.run is None and not row.transductive and not row.clean


def _ranked(rows: Sequence[Score], kind: str, rank: str) -> list[str]:
    return [row.system for row in by_value([row for row in rows if row.kind == kind and row.task == rank])]


def _title(task: str, row: Score, chose: Sequence[str]) -> str:
    return f"{task} (n = {row.n:,}; chosen on)" if task in chose else f"{task} (n = {row.n:,})"


def _has_interval(name: str, task: str, rank: str, tests: Sequence[str]) -> bool:
    return task == rank or (name == THIS and task in tests and len(tests) <= _FEW)


def _further(report: CardReport, own: OwnScores) -> str:
    """One line a task: this model, the best untuned row and the best baseline, both by the test itself."""
    tasks = [task for task in report.tests if task.kind != SIMILARITY and task.name in own.tests]
    if not tasks:
        return ""
    rows = [_task_row(task, own.tests[task.name], report.scores) for task in tasks]
    header = ("task", "metric", "n", THIS, "highest untuned row", "highest baseline")
    lines = markdown_table(header, rows, left=(0, 1))
    return "\n".join(["Further tasks; the rows beside this model are the highest on the test itself.", "", *lines])


def _task_row(task: CardTask, mine: Score, scores: Sequence[Score]) -> list[str]:
    rivals = [row for row in scores if row.task == task.name and row.metric == task.metric and _is_rival(row)]
    best = [next(iter(by_value([row for row in rivals if row.kind == kind])), None) for kind in ("system", "baseline")]
    n = f"{mine.n:,}" if mine.n else "–"
    return [task.name, task.metric, n, _cell(mine, True), *("–" if row is None else _named(row) for row in best)]


def _named(row: Score) -> str:
    return f"{_cell(row, True)} {shown(row.system)}"


def _without_interval(report: CardReport, own: OwnScores) -> str:
    """Why figures of this model have no interval, test by test. An average has none where one of its tests has none."""
    rows = [(task.name, own.tests[task.name]) for task in report.tests if task.name in own.tests]
    found = [f"{name}: {row.no_interval}" for name, row in rows if _has_none(row)]
    return f"No 95 % interval is given where its coverage was not shown: {'; '.join(found)}." if found else ""


def _has_none(row: Score) -> bool:
    return bool(row.no_interval) and row.value is not None


def _clean(own: OwnScores) -> str:
    """Where training may have shown some items of a test: the figure without them."""
    parts = [
        f"{name} {_cell(row, True)} (n = {row.n:,})" for name, row in own.clean.items() if row.n < own.tests[name].n
    ]
    if not parts:
        return ""
    return (
        "Some test items have a text that occurs, or nearly does, in the training text or in dev. This model without "
        f"them: {'; '.join(parts)}."
    )


def shown(system: str) -> str:
    """The name of a row without the path of a local model."""
    kind, _, name = system.partition("/")
    is_path = kind == "baseline" and (name.startswith(("/", ".", "~")) or name.count("/") > 1)
    return " ".join((f"{kind}/{Path(name).name}" if is_path else system).split())


def _cell(score: Score | None, with_interval: bool) -> str:
    if score is None or score.value is None:
        return "–"
    figure = f"{100 * score.value:.2f}"
    if not with_interval:
        return figure
    if score.ci_low is None or score.ci_high is None:
        return f"{figure} (no interval)" if _has_none(score) else figure
    return f"{figure} ({100 * score.ci_low:.2f} to {100 * score.ci_high:.2f})"

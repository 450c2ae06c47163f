"""A report with every optional part, from random numbers: long names, bars, markup, Chinese labels."""

from __future__ import annotations

from functools import cache

import numpy as np

from eval.cache.cost import Cost
from eval.leakage.overlap import Overlap
from eval.metrics.statistics import Interval
from eval.report.report import Report
from eval.results.clean import CLEAN, CLEAN_DIFFERENCE
from eval.results.diagnostics import Confusion, Histogram, PrecisionRecall, Scatter
from eval.results.results import AVERAGE, Comparison, Result
from eval.results.task_results import TaskRow, TaskTable
from eval.selection.dev_curves import SweepPoint

TESTS = ("sts12", "sts13", "sts14")
TUNED, RIVAL = "tuned/english-8m-seed1", "untuned/prompteol/last@5+whiten-64"
OTHERS = ("untuned/bare/mean@0", "untuned/This | sentence <b>{text}</b> means 一个词 in one word:/weighted_mean@-2")
LABELS = ("亲子儿童", "news & <i>more</i>", "sports", "动作类")


def full_report(*, gap: float = 0.08) -> Report:
    """`gap`: how far the tuned system is ahead of the best untuned one; its interval is 0.04 wide on either side."""
    generator = np.random.default_rng(0)
    levels = {TUNED: 0.5 + gap, RIVAL: 0.5, OTHERS[0]: 0.41, OTHERS[1]: 0.3}
    results = [row for name, level in levels.items() for row in _rows(name, level, "spearman_all", 100, 0.03)]
    for metric in ("spearman_mean", "spearman_wmean"):
        results += [row for name, level in levels.items() for row in _rows(name, level - 0.01, metric, 100, 0.03)]
    results += [row for name in (TUNED, RIVAL) for row in _rows(name, levels[name] - 0.02, CLEAN, 80, 0.04)]
    both = f"{TUNED} minus {RIVAL}"
    results += _rows(both, gap, "spearman_all_difference", 100, 0.04) + _rows(both, gap, CLEAN_DIFFERENCE, 80, 0.04)
    comparison = Comparison(
        TUNED,
        RIVAL,
        0.5 + gap,
        0.5,
        Interval(gap, gap - 0.04, gap + 0.04),
        0.002 if gap > 0.04 else 0.4,
        1000,
        RIVAL,
        0.5,
    )
    return Report(
        provenance={"command": "dec2vec eval configs/eval/sts-en.yaml --tuned runs/english-8m-seed1", "seconds": 1.0},
        results=results,
        overlap=[Overlap("pairs.jsonl", name, 190, 3, 5, 9, 100, 2, 80) for name in ("dev", *TESTS)],
        comparison=comparison,
        reference=OTHERS[0],
        dev="dev",
        tests=TESTS,
        histograms=[
            Histogram(f"{moment} tuning: {name}", generator.beta(8, 2, 300), generator.beta(4, 4, 300))
            for moment, name in (("before", OTHERS[1]), ("after", TUNED))
        ],
        tasks=[_task()],
        sweep=_sweep(),
        costs={"untuned: prompteol": Cost(1200, 23_456, 8, 9_592, 12.34)},
        scatter=[_scatter()],
        confusions=[_confusion(generator)],
        curves=[_curve(generator)],
    )


def _rows(system: str, level: float, metric: str, n: int, half: float) -> list[Result]:
    places = [
        ("dev", level + 0.02),
        *((task, level + 0.01 * index) for index, task in enumerate(TESTS)),
        (AVERAGE, level),
    ]
    return [
        Result(
            system, task, metric, value, value - half, value + half, n * (len(TESTS) if task == AVERAGE else 1), "dev"
        )
        for task, value in places
    ]


def _task() -> TaskTable:
    rows = [
        TaskRow(name, metric, value, value - 0.02, value + 0.02, 500)
        for name, value in ((TUNED, 0.81), (RIVAL, 0.74), ("tf-idf", 0.69))
        for metric, value in (("accuracy", value), ("macro_f1", value - 0.05))
    ]
    return TaskTable(
        "iflytek-6",
        "accuracy",
        [
            *rows,
            TaskRow("majority", "accuracy", 0.31, None, None, 500),
            TaskRow(f"{TUNED} minus {RIVAL}", "accuracy", 0.07, -0.01, 0.11, 500),
        ],
        "Chance: 16.67.",
    )


def _sweep() -> list[SweepPoint]:
    points = []
    for index, prompt in enumerate(("bare", "prompteol", "pretended_cot", OTHERS[1].split("/", 1)[1])):
        for layer in range(9):
            score = 0.3 + 0.03 * index + 0.1 * float(np.sin(layer / 3))
            points.append(SweepPoint(prompt, "mean", layer, "raw", None, score))
            points.append(SweepPoint(prompt, "last", layer, "standardise", None, score + 0.01))
            for k in (8, 16, 32, 64, 96, 128, 192, 256):
                points.append(SweepPoint(prompt, "mean", layer, f"whiten-{k}", k, score + 0.1 - abs(k - 96) / 1500))
                points.append(SweepPoint(prompt, "mean", layer, f"truncate-{k}", k, score - 0.1 + k / 2560))
    return [*points, SweepPoint("broken", "last", 1, "raw", None, float("nan"))]


@cache
def _scatter() -> Scatter:
    """t-SNE takes its time: once for all reports."""
    generator = np.random.default_rng(1)
    centres = generator.standard_normal((len(LABELS), 12))
    labels = [LABELS[index] for index in generator.integers(0, len(LABELS), 120)]
    vectors = np.stack([centres[LABELS.index(label)] for label in labels]) + generator.standard_normal((120, 12)) / 2
    return Scatter.of(f"after tuning: {TUNED}", vectors, labels)


def _confusion(generator: np.random.Generator) -> Confusion:
    gold = [LABELS[index] for index in generator.integers(0, len(LABELS), 300)]
    given = [label if generator.random() < 0.7 else LABELS[int(generator.integers(0, 4))] for label in gold]
    return Confusion.of(f"iflytek-6, {TUNED}", gold, given)


def _curve(generator: np.random.Generator) -> PrecisionRecall:
    labels = generator.random(400) < 0.4
    return PrecisionRecall.of(f"covid, {TUNED}", labels + generator.standard_normal(400) * 0.6, labels, 0.55)

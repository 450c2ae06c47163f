"""A report with every optional part, from random numbers: long names, bars, markup, Chinese labels."""

from __future__ import annotations

from functools import cache

import numpy as np

from eval.cache.cost import Cost
from eval.leakage.overlap import Overlap
from eval.report.report import Report
from eval.results.diagnostics import Confusion, Histogram, PrecisionRecall, Scatter
from eval.results.headline import Gap, Headline, Party
from eval.results.results import AVERAGE, Result, TaskTable
from eval.selection.dev_curves import CurvePoint
from eval.systems.subject import Subject

TESTS = ("sts12", "sts13", "sts14")
TUNED, RIVAL = "tuned/english-8m-seed1", "untuned/prompteol/last@5+whiten-64"
OUTSIDE = "baseline/tfidf"
OTHERS = ("untuned/bare/mean@0", "untuned/This | sentence <b>{text}</b> means 一个词 in one word:/weighted_mean@-2")
SUBJECTS = {
    TUNED: Subject(TUNED, "system", run="english-8m-seed1", exported=True),
    RIVAL: Subject(RIVAL, "system", post="whiten", k=64),
    **{name: Subject(name, "system") for name in OTHERS},
    OUTSIDE: Subject(OUTSIDE, "baseline"),
}
GAIN = Subject.from_difference(SUBJECTS[TUNED], SUBJECTS[RIVAL])
OUTSIDE_GAP = Subject.from_difference(SUBJECTS[TUNED], SUBJECTS[OUTSIDE])
LABELS = ("亲子儿童", "news & <i>more</i>", "sports", "动作类")


def full_report(*, gap: float = 0.08) -> Report:
    """`gap`: how far the tuned system is ahead of the best untuned one; its interval is 0.04 wide on either side."""
    generator = np.random.default_rng(0)
    levels = {TUNED: 0.5 + gap, RIVAL: 0.5, OTHERS[0]: 0.41, OTHERS[1]: 0.3, OUTSIDE: 0.45}
    main, subjects = "spearman_all", SUBJECTS
    results = [row for name, level in levels.items() for row in _rows(subjects[name], level, main, 100, 0.03)]
    for metric in ("spearman_mean", "spearman_wmean"):
        results += [
            row for name, level in levels.items() for row in _rows(subjects[name], level - 0.01, metric, 100, 0.03)
        ]
    for name in (TUNED, RIVAL):
        results += _rows(subjects[name], levels[name] - 0.02, main, 80, 0.04, clean=True)
    results += _rows(GAIN, gap, main, 100, 0.04) + _rows(GAIN, gap, main, 80, 0.04, clean=True)
    results += _rows(OUTSIDE_GAP, 0.5 + gap - 0.45, main, 100, 0.04)
    return Report(
        provenance={"command": "dec2vec eval configs/eval/sts-en.yaml --tuned runs/english-8m-seed1", "seconds": 1.0},
        results=results,
        overlap=[Overlap("pairs.jsonl", name, 190, 3, 5, 9, 100, 2, 80) for name in ("dev", *TESTS)],
        comparison=_headline(gap),
        reference=OTHERS[0],
        dev="dev",
        tests=TESTS,
        histograms=[
            Histogram(f"{moment} tuning", name, generator.beta(8, 2, 300), generator.beta(4, 4, 300))
            for moment, name in (("before", OTHERS[1]), ("after", TUNED))
        ],
        tasks=[_task()],
        dev_curves=_dev_curves(),
        costs={"untuned: prompteol": Cost(1200, 23_456, 8, 9_592, 12.34)},
        scatter=[_scatter()],
        confusions=[_confusion(generator)],
        curves=[_curve(generator)],
    )


def _headline(gap: float) -> Headline:
    tuned, rival, outside = 0.5 + gap, 0.5, 0.45
    p_value = 0.002 if gap > 0.04 else 0.4
    return Headline(
        metric="spearman_all",
        n=300,
        resamples=1000,
        compared=5,
        tuned=Party(TUNED, tuned, tuned - 0.03, tuned + 0.03, "fixed", None, 1),
        untuned=Party(RIVAL, rival, rival - 0.03, rival + 0.03, "dev", "dev", 3),
        outside=Party(OUTSIDE, outside, outside - 0.03, outside + 0.03, "none", None, 1),
        highest_untuned=Party(RIVAL, rival, rival - 0.03, rival + 0.03, "none", None, 3),
        to_untuned=Gap(gap, gap - 0.04, gap + 0.04, p_value, p_value),
        to_outside=Gap(tuned - outside, tuned - outside - 0.04, tuned - outside + 0.04, 0.002, 0.002),
    )


def _rows(subject: Subject, level: float, metric: str, n: int, half: float, *, clean: bool = False) -> list[Result]:
    values = {
        "dev": level + 0.02,
        **{task: level + 0.01 * index for index, task in enumerate(TESTS)},
        AVERAGE: level,
    }
    counts = {AVERAGE: n * len(TESTS)}
    return [
        Result(subject, task, metric, value, value - half, value + half, counts.get(task, n), clean, "dev")
        for task, value in values.items()
    ]


def _task() -> TaskTable:
    name, baseline = "iflytek-6", Subject.from_baseline("tfidf")
    rows = [
        Result(subject, name, metric, value, value - 0.02, value + 0.02, 500)
        for subject, value in ((SUBJECTS[TUNED], 0.81), (SUBJECTS[RIVAL], 0.74), (baseline, 0.69))
        for metric, value in (("accuracy", value), ("macro_f1", value - 0.05))
    ]
    majority = Result(Subject("majority", "baseline"), name, "accuracy", 0.31, None, None, 500)
    gaps = [
        Result(subject, name, "accuracy", value, value - 0.08, value + 0.04, 500)
        for subject, value in ((GAIN, 0.07), (OUTSIDE_GAP, 0.12))
    ]
    headline = Headline(
        metric="accuracy",
        n=500,
        resamples=1000,
        compared=4,
        tuned=Party(TUNED, 0.81, 0.79, 0.83, "fixed", None, 1),
        untuned=Party(RIVAL, 0.74, 0.72, 0.76, "fixed", None, 1),
        outside=Party(OUTSIDE, 0.69, 0.67, 0.71, "none", None, 2),
        highest_untuned=Party(RIVAL, 0.74, 0.72, 0.76, "none", None, 1),
        to_untuned=Gap(0.07, -0.01, 0.11, 0.08, 0.08),
        to_outside=Gap(0.12, 0.04, 0.16, 0.002, 0.004),
    )
    return TaskTable(name, "accuracy", [*rows, majority, *gaps], "Chance: 16.67.", headline)


def _dev_curves() -> list[CurvePoint]:
    points = []
    for index, prompt in enumerate(("bare", "prompteol", "pretended_cot", OTHERS[1].split("/", 1)[1])):
        for layer in range(9):
            score = 0.3 + 0.03 * index + 0.1 * float(np.sin(layer / 3))
            points.append(CurvePoint(prompt, "mean", layer, "raw", None, score, "raw"))
            points.append(CurvePoint(prompt, "last", layer, "standardise", None, score + 0.01, "standardise"))
            for k in (8, 16, 32, 64, 96, 128, 192, 256):
                whitened, cut = score + 0.1 - abs(k - 96) / 1500, score - 0.1 + k / 2560
                points.append(CurvePoint(prompt, "mean", layer, f"whiten-{k}", k, whitened, "whiten"))
                points.append(CurvePoint(prompt, "mean", layer, f"truncate-{k}", k, cut, "truncate"))
    return [*points, CurvePoint("broken", "last", 1, "raw", None, float("nan"), "raw")]


@cache
def _scatter() -> Scatter:
    """t-SNE takes its time: once for all reports."""
    generator = np.random.default_rng(1)
    centres = generator.standard_normal((len(LABELS), 12))
    labels = [LABELS[index] for index in generator.integers(0, len(LABELS), 120)]
    vectors = np.stack([centres[LABELS.index(label)] for label in labels]) + generator.standard_normal((120, 12)) / 2
    return Scatter.from_vectors(f"after tuning: {TUNED}", vectors, labels)


def _confusion(generator: np.random.Generator) -> Confusion:
    gold = [LABELS[index] for index in generator.integers(0, len(LABELS), 300)]
    given = [label if generator.random() < 0.7 else LABELS[int(generator.integers(0, 4))] for label in gold]
    return Confusion.from_labels(f"iflytek-6, {TUNED}", gold, given)


def _curve(generator: np.random.Generator) -> PrecisionRecall:
    labels = generator.random(400) < 0.4
    return PrecisionRecall.from_scores(f"covid, {TUNED}", labels + generator.standard_normal(400) * 0.6, labels, 0.55)

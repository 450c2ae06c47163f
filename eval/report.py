"""The evidence as data: report.json, report.md and the table for the terminal all read from one `Report`."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float64

from eval.choose import SweepPoint
from eval.overlap import Overlap
from eval.results import AVERAGE, Comparison, Result
from eval.systems import TRANSDUCTIVE

SIMILAR, DISSIMILAR = 0.8, 0.2
"""Shares of a task's score range from which on, and up to which, a pair is similar and dissimilar."""


@dataclass(frozen=True, eq=False)
class Histogram:
    """Cosines of a system's similar and dissimilar test pairs."""

    title: str
    similar: Float64[np.ndarray, " similar"]
    dissimilar: Float64[np.ndarray, " dissimilar"]


@dataclass(frozen=True, eq=False)
class Report:
    """`provenance`, `results`, `overlap` and `sweep` are report.json; the rest is drawn from the same figures."""

    provenance: Mapping[str, object]
    results: Sequence[Result]
    overlap: Sequence[Overlap]
    comparison: Comparison | None
    reference: str | None
    """The untuned row that is the tuned encoder without its adapter."""
    dev: str
    tests: Sequence[str]
    sweep: Sequence[SweepPoint] = ()
    """Every candidate that was judged on dev, for plots of quality by layer and by k."""
    histograms: Sequence[Histogram] = ()

    @cached_property
    def _index(self) -> dict[tuple[str, str, str], Result]:
        return {(result.system, result.task, result.metric): result for result in self.results}

    def result(self, system: str, task: str, metric: str = "spearman_all") -> Result:
        """One figure."""
        return self._index[system, task, metric]

    @cached_property
    def systems(self) -> list[str]:
        """Names, tuned ones first, then by test average, best first."""
        names = dict.fromkeys(result.system for result in self.results if result.metric == "spearman_all")
        return sorted(names, key=lambda name: (not is_tuned(name), -_sortable(self.result(name, AVERAGE).value)))

    @property
    def columns(self) -> list[str]:
        """Tasks of the table: the tests and their average, if there are several."""
        return [*self.tests, AVERAGE] if len(self.tests) > 1 else list(self.tests)

    @cached_property
    def highlights(self) -> list[str]:
        """For a terminal: tuned rows, the best untuned on dev and test, the encoder without its adapter."""
        untuned = [name for name in self.systems if not is_tuned(name) and not is_transductive(name)]
        on_dev = sorted(untuned, key=lambda name: -_sortable(self.result(name, self.dev).value))
        wanted = {*untuned[:1], *on_dev[:3], self.reference}
        return [name for name in self.systems if is_tuned(name) or name in wanted]


def is_tuned(system: str) -> bool:
    """By the name, which is all that report.json has."""
    return system.startswith("tuned/")


def is_transductive(system: str) -> bool:
    """Rows whose post-processing saw the test sentences: shown, never called the best."""
    return system.endswith(TRANSDUCTIVE)


def _sortable(value: float) -> float:
    return value if math.isfinite(value) else -math.inf


def to_json(report: Report) -> str:
    """Provenance, results, overlap, sweep. A figure that does not exist is null, as JSON has no nan."""
    tree = {
        "provenance": dict(report.provenance),
        "results": [{key: _finite(value) for key, value in asdict(result).items()} for result in report.results],
        "overlap": [asdict(overlap) for overlap in report.overlap],
        "sweep": [_sweep_row(point) for point in report.sweep],
    }
    return json.dumps(tree, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _sweep_row(point: SweepPoint) -> dict[str, object]:
    """`k` is the width of the vectors; `value` the Spearman correlation on dev over all pairs."""
    system = point.system
    return {
        "run": system.run,
        "prompt": system.prompt,
        "pooling": system.view.pooling,
        "layer": system.view.layer,
        "post": system.post or "raw",
        "k": point.k,
        "value": _finite(point.dev_score),
    }


def _finite(value: object) -> object:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def hundred(value: float) -> str:
    """Spearman x 100, as published; a dash where there is none."""
    return f"{100 * value:.2f}" if math.isfinite(value) else "–"


def span(low: float, high: float) -> str:
    return f"{hundred(low)} to {hundred(high)}"


def headline(report: Report) -> list[str]:
    """Two or three sentences, all about test figures of systems chosen on dev."""
    found = report.comparison
    where = f"average of {len(report.tests)} test sets" if len(report.tests) > 1 else f"test set {report.tests[0]}"
    if found is None:
        honest = [name for name in report.systems if not is_transductive(name)]
        top = max(honest, key=lambda name: _sortable(report.result(name, report.dev).value))
        score = report.result(top, AVERAGE)
        return [
            f"Best on {report.dev}: {top}, with {hundred(score.value)}"
            f" ({span(score.ci_low, score.ci_high)}) on the {where}."
        ]
    gap = found.difference
    verdict = "yes" if found.is_tuned_above_every_untuned else "no"
    return [
        f"Tuned {hundred(found.tuned_value)} against {hundred(found.untuned_value)} untuned"
        f" (Spearman x 100, {where}): {found.tuned} against {found.untuned}, both chosen on {report.dev}.",
        f"Difference {100 * gap.value:+.2f}, 95 % interval {100 * gap.low:+.2f} to {100 * gap.high:+.2f}"
        " (paired bootstrap over pairs).",
        f"Tuned above every untuned row: {verdict}; the highest untuned row on the tests is"
        f" {found.best_untuned_on_test} with {hundred(found.best_untuned_on_test_value)}.",
    ]


def table_rows(report: Report, systems: Sequence[str]) -> list[list[str]]:
    """Name, test figures, average, its interval, dev."""
    rows = []
    for name in systems:
        average = report.result(name, AVERAGE)
        figures = [hundred(report.result(name, task).value) for task in report.columns]
        rows.append(
            [
                name,
                *figures,
                span(average.ci_low, average.ci_high),
                hundred(report.result(name, report.dev).value),
            ]
        )
    return rows


def table_header(report: Report) -> list[str]:
    return ["system", *report.columns, "95 % interval", report.dev]


def subset_rows(report: Report, systems: Sequence[str]) -> list[list[str]]:
    """The average in the three aggregations over sub-sets."""
    metrics = ("spearman_all", "spearman_mean", "spearman_wmean")
    return [[name, *(hundred(report.result(name, AVERAGE, metric).value) for metric in metrics)] for name in systems]


SUBSET_HEADER = ["system", "all (concatenated)", "mean over sub-sets", "weighted mean"]
OVERLAP_HEADER = [
    "training side",
    "evaluation",
    "texts",
    "exact",
    "normalised",
    "pairs",
    "pairs with both texts",
]


def overlap_rows(report: Report) -> list[list[str]]:
    return [[str(value) for value in asdict(overlap).values()] for overlap in report.overlap]


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) if index == 0 else cell.rjust(width) for index, (cell, width) in enumerate(cells))
        for cells in ([*zip(row, widths, strict=True)] for row in rows)
    ]


def format_table(report: Report) -> str:
    """For the terminal: headline and the rows that matter; report.md has them all."""
    lines = _aligned([table_header(report), *table_rows(report, report.highlights)])
    more = len(report.systems) - len(report.highlights)
    rest = [f"({more} more untuned rows in report.md)"] if more else []
    return "\n".join([*headline(report), "", lines[0], "-" * len(lines[0]), *lines[1:], *rest])


def _markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in (header, *rows)]
    lines = ["| " + " | ".join(row) + " |" for row in escaped]
    return [lines[0], "|---" + "|---:" * (len(header) - 1) + "|", *lines[1:]]


def to_markdown(report: Report) -> str:
    """The whole report without pictures' data; they lie beside it as PNG."""
    parts = ["# Evaluation", "", *(f"- {line}" for line in headline(report)), ""]
    parts += ["## Every system", "", "Spearman x 100 over all pairs of a set ('all').", ""]
    parts += [*_markdown_table(table_header(report), table_rows(report, report.systems)), ""]
    parts += ["![averages](averages.png)", "", "![test sets](tests.png)", ""]
    parts += ["![cosines](cosines.png)", ""] if report.histograms else []
    parts += ["## Aggregation over sub-sets", "", "Average over the test sets.", ""]
    parts += [*_markdown_table(SUBSET_HEADER, subset_rows(report, report.systems)), ""]
    if report.overlap:
        parts += ["## Overlap of training and evaluation texts", ""]
        parts += [*_markdown_table(OVERLAP_HEADER, overlap_rows(report)), ""]
    details = json.dumps(dict(report.provenance), indent=1, ensure_ascii=False)
    parts += ["## Provenance", "", "```json", details, "```", ""]
    return "\n".join(parts)

"""How often 95 % intervals hold the truth: simulated samples, measured by the product's own functions.

    scripts/checks/coverage macro-F1 average --trials 100

That script runs this one with the project on the path. A row a figure and a kind of sample: the share of samples that
get an interval at all, how many of these intervals hold the truth (of the figure, and of its difference from another
system), how often p is below 0.05 where two systems are equally good, and what plain percentiles would have covered.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
from populations import Case, Trial, ranking_cases
from scipy.stats import binom, norm
from task_populations import retrieval_cases, seed_cases, space_cases, topic_cases

from eval.tasks.figure import Figure

PAGE = Path(__file__).resolve().parents[2] / "docs/coverage.md"
LEAST, MOST = 0.93, 0.97
"""What a 95 % interval may cover."""
RARELY = 0.05
"""Share of the samples that must get an interval for its coverage to be judged: fewer are untypical samples."""
START, END = "<!-- table: scripts/checks/coverage -->", "<!-- end of table -->"
HEADER = (
    "figure",
    "sample",
    "samples",
    "shown",
    "covers",
    "difference covers",
    "p < 0.05 of equals",
    "percentiles cover",
)


@dataclass(frozen=True)
class Row:
    """Of one case: shares of the trials. nan where there is nothing of the kind."""

    figure: str
    sample: str
    shown: float
    covers: float
    gap_shown: float
    gap_covers: float
    false_alarms: float
    percentiles: float
    reasons: tuple[str, ...]
    trials: int
    conservative: str = ""
    """What the report says beside the interval, where it is too wide."""

    @property
    def fails(self) -> bool:
        """Whether chance does not explain what is outside of 93 to 97 %, and the report does not say so."""
        columns = ((self.covers, self.shown), (self.gap_covers, self.gap_shown))
        judged = [(covers, shown * self.trials) for covers, shown in columns if shown >= RARELY]
        return any(is_too_low(*each) or (is_too_high(*each) and not self.conservative) for each in judged)

    @property
    def cells(self) -> list[str]:
        gap = _percent(self.gap_covers)
        if self.gap_shown < 1:
            gap = f"{gap} of {_percent(self.gap_shown)}"
        covers = _percent(self.covers) + (" (conservative)" if self.conservative else "")
        shares = [_percent(self.shown), covers, gap]
        return [
            self.figure,
            self.sample,
            f"{self.trials}",
            *shares,
            _percent(self.false_alarms),
            _percent(self.percentiles),
        ]


def is_too_low(share: float, samples: float) -> bool:
    """Below 93 %, by more than chance explains: as two standard errors, but exact, for few samples."""
    if np.isnan(share) or np.isnan(samples):  # no sample has such an interval
        return False
    count = round(max(samples, 1))
    return bool(binom.cdf(round(share * count), count, LEAST) < norm.cdf(-2))


def is_too_high(share: float, samples: float) -> bool:
    """Above 97 %, in the same way."""
    if np.isnan(share) or np.isnan(samples):
        return False
    count = round(max(samples, 1))
    return bool(binom.sf(round(share * count) - 1, count, MOST) < norm.cdf(-2))


def _percent(share: float) -> str:
    return "–" if np.isnan(share) else f"{100 * share:.1f}".removesuffix(".0")


def cases() -> list[Case]:
    """Every figure that a report shows with an interval."""
    return [*ranking_cases(), *topic_cases(), *retrieval_cases(), *space_cases(), *seed_cases()]


def measured_at(index: int, trials: int | None) -> list[Row]:
    """In a process of its own, to which a case could not be sent."""
    case = cases()[index]
    return measured(case, min(trials or case.trials, case.trials))


def measured(case: Case, trials: int) -> list[Row]:
    """A row a metric. Seeds are fixed by the sample's name."""
    key = list(case.sample.encode())
    drawn = [case.draw(np.random.default_rng([*key, trial]), trial) for trial in range(trials)]
    return [_row(case, metric, [each[metric] for each in drawn]) for metric in case.titles]


def _row(case: Case, metric: str, drawn: Sequence[Trial]) -> Row:
    truth, gap_truth = case.truth(metric) if case.truth is not None else _means(drawn)
    shown, covers = _coverage([trial.ours for trial in drawn], truth)
    gap_shown, gap_covers = _coverage([trial.gap for trial in drawn if trial.gap is not None], gap_truth)
    nulls = [trial.null for trial in drawn if trial.null is not None and trial.null.interval is not None]
    alarms = [null.p_value < 0.05 for null in nulls]
    reasons = Counter(trial.ours.no_interval for trial in drawn if trial.ours.no_interval)
    return Row(
        case.titles[metric],
        case.sample,
        shown,
        covers,
        gap_shown,
        gap_covers,
        float(np.mean(alarms)) if alarms else float("nan"),
        _percentile_coverage([trial.before or trial.ours for trial in drawn], truth),
        tuple(reason for reason, _ in reasons.most_common(1)),
        len(drawn),
        next((trial.ours.conservative for trial in drawn), ""),
    )


def _means(drawn: Sequence[Trial]) -> tuple[float, float]:
    gaps = [trial.gap.value for trial in drawn if trial.gap is not None]
    return float(np.mean([trial.ours.value for trial in drawn])), float(np.mean(gaps)) if gaps else float("nan")


def _coverage(figures: Sequence[Figure], truth: float) -> tuple[float, float]:
    """Share with an interval, and the share of these that hold the truth."""
    found = [figure.interval for figure in figures]
    held = [bounds.low <= truth <= bounds.high for bounds in found if bounds is not None]
    return len(held) / len(found) if found else float("nan"), float(np.mean(held)) if held else float("nan")


def _percentile_coverage(figures: Sequence[Figure], truth: float) -> float:
    bounds = [np.percentile(figure.resampled, (2.5, 97.5)) for figure in figures]
    return float(np.mean([low <= truth <= high for low, high in bounds]))


def table(rows: Sequence[Row]) -> list[str]:
    """In Markdown, sorted by figure as they first come."""
    order = list(dict.fromkeys(row.figure for row in rows))
    rows = sorted(rows, key=lambda row: order.index(row.figure))
    lines = [HEADER, ("---",) * len(HEADER), *(row.cells for row in rows)]
    return [f"| {' | '.join(cells)} |" for cells in lines]


def write(rows: Sequence[Row], command: str, minutes: float) -> None:
    """Put the rows into docs/coverage.md, in place of those of the same names, with the date and the command."""
    before, rest = PAGE.read_text(encoding="utf-8").split(START)
    old, after = rest.split(END)
    lines = {tuple(line.strip("| ").split(" | ")[:2]): line for line in old.splitlines() if line.startswith("| ")}
    head, *found = table(rows)
    lines |= {tuple(line.strip("| ").split(" | ")[:2]): line for line in (head, *found)}
    order = [(title, case.sample) for case in cases() for title in case.titles.values()]
    titles = list(dict.fromkeys(title for title, _ in order))
    order = [HEADER[:2], ("---", "---"), *sorted(order, key=lambda key: titles.index(key[0]))]
    body = [lines[key] for key in order if key in lines]
    said = f"{date.today()}, `{command}`, {minutes:.0f} minutes on 2 cores shared with other work:"
    PAGE.write_text("\n".join([before + START, said, "", *body, END]) + after, encoding="utf-8")


def main(argv: Sequence[str]) -> int:
    """Print the table row by row. 1 where some figure's intervals were shown to be outside of 93 to 97 %."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("figures", nargs="*", help="only figures whose names begin so")
    parser.add_argument("--trials", type=int, help="at most so many samples a row; there are 120 to 1000")
    parser.add_argument("--processes", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--write", action="store_true", help="write the table into docs/coverage.md")
    options = parser.parse_args(argv)
    begins = tuple(options.figures) or ("",)
    wanted = [
        index for index, case in enumerate(cases()) if any(title.startswith(begins) for title in case.titles.values())
    ]
    started, rows = time.monotonic(), []
    with ProcessPoolExecutor(options.processes) as pool:
        for found in pool.map(measured_at, wanted, [options.trials] * len(wanted)):
            for row in found:
                rows.append(row)
                sys.stdout.write(f"{table([row])[-1]} {'; '.join(row.reasons)}\n")
                sys.stdout.flush()
    minutes = (time.monotonic() - started) / 60
    sys.stdout.write(f"{len(rows)} rows in {minutes:.1f} minutes\n")
    if options.write:
        write(rows, " ".join(["scripts/checks/coverage", *argv]), minutes)
    return int(any(row.fails for row in rows))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

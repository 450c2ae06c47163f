"""A cheap corner of `scripts/checks/coverage`, and that docs/coverage.md has a row for each of its cases."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from check_coverage import END, PAGE, START, Row, cases, is_too_low, measured


def row(figure: str, sample: str, trials: int) -> Row:
    case = next(case for case in cases() if figure in case.titles.values() and case.sample.startswith(sample))
    return next(row for row in measured(case, trials) if row.figure == figure)


def test_macro_f1_with_counts_like_iflyteks_gets_no_interval() -> None:
    """Percentiles covered 43 to 50 % there."""
    found = row("macro-F1", "1600 texts", 3)
    assert found.shown == 0 and "classes with fewer than 5 texts" in found.reasons[0]


def test_an_average_over_tests_of_one_size_covers() -> None:
    found = row("average of Spearman", "7 tests", 8)
    assert found.shown == 1 and found.covers >= 0.75


@pytest.mark.slow
def test_average_precision_of_25_positives_covers() -> None:
    found = row("AP", "250 pairs, about 25 positive, AUC 86", 300)
    assert found.covers >= 0.92 and found.gap_covers >= 0.92 and found.false_alarms < 0.08


def test_the_page_has_a_row_for_each_case_and_no_shown_interval_that_fails() -> None:
    table = PAGE.read_text(encoding="utf-8").split(START)[1].split(END)[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line[:2] == "| "]
    wanted = {(title, case.sample) for case in cases() for title in case.titles.values()}
    assert {(found[0], found[1]) for found in rows[2:]} == wanted and len(rows) == len(wanted) + 2
    for found in rows[2:]:
        for cell in found[4:6]:
            covered = re.match(r"[\d.]+", cell)
            share = re.search(r"of ([\d.]+)", cell) if cell != found[4] else re.match(r"([\d.]+)", found[3])
            samples = int(found[2]) * (float(share[1]) / 100 if share else 1)
            assert covered is None or not is_too_low(float(covered[0]) / 100, samples), found


def test_the_script_is_where_the_page_says() -> None:
    assert (Path(PAGE).parents[1] / "scripts/checks/coverage").stat().st_mode & 0o111


def test_too_low_is_what_chance_does_not_explain() -> None:
    """Exact, for a single sample as well; nothing is too low where no sample has an interval."""
    assert is_too_low(0.85, 216) and is_too_low(0.863, 300)
    assert not is_too_low(0.925, 120) and not is_too_low(0.0, 0.9) and not is_too_low(float("nan"), float("nan"))

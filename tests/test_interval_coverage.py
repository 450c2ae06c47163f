"""A cheap corner of `scripts/checks/coverage`, and that docs/coverage.md has a row for each of its cases."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from check_coverage import END, PAGE, RARELY, START, Row, cases, is_too_high, is_too_low, measured


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


def page_rows() -> list[list[str]]:
    """The cells of each row of the page's table."""
    table = PAGE.read_text(encoding="utf-8").split(START)[1].split(END)[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line[:2] == "| "]
    return rows[2:]


def outside(row: list[str]) -> list[str]:
    """What of a row is outside of 93 to 97 % by more than chance, and does not say so."""
    shown = {"covers": row[3], "difference covers": (re.search(r"of ([\d.]+)", row[5]) or [None, "100"])[1]}
    found = []
    for (name, share), cell in zip(shown.items(), row[4:6], strict=True):
        covered = re.match(r"[\d.]+", cell)
        if covered is None or float(share) < 100 * RARELY:
            continue
        measured_share, samples = float(covered[0]) / 100, int(row[2]) * float(share) / 100
        is_named = row[4].endswith("(conservative)")
        if is_too_low(measured_share, samples) or (is_too_high(measured_share, samples) and not is_named):
            found.append(f"{row[0]}, {row[1]}: {name} {cell}")
    return found


def test_the_page_has_a_row_for_each_case_and_each_interval_holds_what_it_promises() -> None:
    rows = page_rows()
    wanted = [(title, case.sample) for case in cases() for title in case.titles.values()]
    assert sorted((row[0], row[1]) for row in rows) == sorted(wanted)
    assert [line for row in rows for line in outside(row)] == []


def test_no_false_alarms_beyond_those_of_an_interval_that_covers_93() -> None:
    for row in page_rows():
        alarms = None if row[6] == "–" else float(row[6]) / 100
        share = float((re.search(r"of ([\d.]+)", row[5]) or [None, "100"])[1]) / 100
        assert alarms is None or not is_too_low(1 - alarms, int(row[2]) * share), row


@pytest.mark.parametrize(
    ("covers", "gap", "wrong"),
    [
        ("95", "95", 0),
        ("98.9", "95", 1),
        ("98.9 (conservative)", "99", 0),
        ("91", "95", 1),
        ("91 (conservative)", "95", 1),
        ("95", "99.1 of 90", 1),
        ("95", "90.2 of 100", 1),
        ("97.4", "92.5", 0),
        ("–", "–", 0),
    ],
)
def test_what_the_page_may_not_say(covers: str, gap: str, wrong: int) -> None:
    assert len(outside(["figure", "sample", "1000", "100", covers, gap, "5", "90"])) == wrong


def test_the_script_is_where_the_page_says() -> None:
    assert (Path(PAGE).parents[1] / "scripts/checks/coverage").stat().st_mode & 0o111


def test_too_low_is_what_chance_does_not_explain() -> None:
    """Exact, for a single sample as well; nothing is too low where no sample has an interval."""
    assert is_too_low(0.85, 216) and is_too_low(0.863, 300)
    assert not is_too_low(0.925, 120) and not is_too_low(0.0, 0.9) and not is_too_low(float("nan"), float("nan"))
    assert is_too_high(0.99, 480) and is_too_high(0.985, 1000) and is_too_high(1.0, 200)
    assert not is_too_high(0.983, 120) and not is_too_high(0.975, 1000) and not is_too_high(float("nan"), 5)

"""The page in a real browser: silent, self-contained, readable on a telephone, sorted by a click."""

from __future__ import annotations

import re
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Any

import pytest

from eval.report.blocks import Table
from eval.report.html import html_table, page
from eval.report.plots.style import FONT, INCHES
from eval.report.write import write_report
from tests.browser import Opened, find_browser, open_pages
from tests.report_data import full_report

WIDTHS = (400, 1400)
SMALLEST = 11
"""Pixels of the smallest letters that are read with ease."""
FIGURE = re.compile(r"[+-]?\d+(\.\d+)?( to [+-]?\d+\.\d+)?")
MIXED = Table(
    ["system", "score"], [[f"s{i}", cell] for i, cell in enumerate(("9.50", "–", "100.00", "10.20", "-2.00"))]
)
"""As text 9.50 comes after 10.20 and 100.00, and -2.00 before both."""
LONG = Table(["system", "score"], [[f"s{i}", f"{i}.00"] for i in range(40)])


@pytest.fixture(scope="module")
def browser() -> str:
    found = find_browser()
    if found is None:
        pytest.skip("no Chromium is installed (Debian: apt install chromium); the page is checked by its text alone")
    return found


def faults(opened: Opened) -> list[str]:
    """All that a reader could stumble over."""
    found = [f"console: {line}" for line in opened.console] + [f"request: {url}" for url in opened.requests]
    for seen in opened.visits:
        letters = min((FONT / 72 * width / INCHES for width in seen["images"]), default=inf)
        said = {
            f"{seen['overflow']} pixels wider than the window": seen["overflow"] > 0,
            f"letters of {seen['smallest']} pixels": seen["smallest"] < SMALLEST,
            f"letters of {letters:.1f} pixels in a picture": letters < SMALLEST,
            "broken pictures": seen["broken"] > 0,
            "a wide table without a scroll bar": seen["stuck"] > 0,
        }
        wrong = [fault for fault, is_so in said.items() if is_so]
        wrong += [fault for clicks in seen["sorts"] for fault in sort_faults(clicks)]
        found += [f"{seen['source']} at {seen['width']}: {fault}" for fault in wrong]
    return found


def sort_faults(clicks: list[dict[str, Any]]) -> list[str]:
    """Of the clicks on a table: figures fall first, names rise first, the next click turns them; dashes stay below."""
    found = []
    for number, click in enumerate(clicks):
        column, cells, aria = click["column"], click["cells"], click["aria"]
        known = [cell for cell in cells if cell != "–"]
        numeric = bool(known) and all(FIGURE.fullmatch(cell) for cell in known)
        falling = (number % 2 == 0) == numeric
        wanted = [("descending" if falling else "ascending") if i == column else None for i in range(len(aria))]
        if aria != wanted:
            found.append(f"aria-sort {aria}")
        if cells[: len(known)] != known:
            found.append(f"dashes among figures: {cells}")
        if numeric and known != sorted(known, key=lambda cell: float(cell.split(" ")[0]), reverse=falling):
            found.append(f"not by size: {cells}")
    return found


def test_the_report_has_no_fault(browser: str, tmp_path: Path) -> None:
    """And at 400 pixels its tables scroll in boxes of their own, or the check would have checked nothing."""
    write_report(full_report(), tmp_path)
    (tmp_path / "mixed.html").write_text(page("mixed", [html_table(MIXED)]))
    (tmp_path / "long.html").write_text(page("long", [html_table(LONG)]))
    visits = [*(("report.html", width) for width in WIDTHS), ("mixed.html", 400), ("long.html", 400)]
    opened = open_pages(browser, tmp_path, visits)
    assert faults(opened) == []
    assert [seen["width"] for seen in opened.visits] == [width for _, width in visits]
    narrow, wide, mixed, long = opened.visits
    assert mixed["filters"] == [] and long["filters"] == [{"S 3 1": 2, "nowhere": 0, "": 40}]  # s13, s31
    assert narrow["scrolled"] > wide["scrolled"]
    assert len(narrow["images"]) == len(wide["images"]) > 5 and len(narrow["sorts"]) > 5
    assert [click["cells"] for click in mixed["sorts"][0][:3]] == [
        ["100.00", "10.20", "9.50", "-2.00", "–"],
        ["-2.00", "9.50", "10.20", "100.00", "–"],
        ["s0", "s1", "s2", "s3", "s4"],
    ]


def test_pages_with_faults_are_found_out(browser: str, tmp_path: Path) -> None:
    """The very check above, on pages that are wrong in one way each."""
    asked, blocked = '<img src="http://asked.invalid/x.png">', '<img src="http://blocked.invalid/x.png">'
    bad = {
        "asks": f"<!doctype html><title>no policy</title>{asked}",
        "blocked": page("x", [blocked]),
        "throws": page("x", ["<script>throw new Error('boom')</script>"]),
        "wide": page("x", ['<div style="width:1200px">wide</div>']),
        "small": page("x", ['<p style="font-size:8px">small</p>']),
        "hides": page("x", ['<div class="scroll" style="overflow:hidden"><p style="width:1200px">wide</p></div>']),
        "as-text": page("x", [html_table(MIXED)]).replace(
            "figure(a.text) - figure(b.text)", "a.text.localeCompare(b.text)"
        ),
    }
    for name, text in bad.items():
        (tmp_path / f"{name}.html").write_text(text)
    found = faults(open_pages(browser, tmp_path, [(f"{name}.html", 400) for name in bad]))
    for wanted in (
        "request: http://asked.invalid/x.png", 'console: .*blocked.invalid.*violates.*Content Security Policy',
        "console: .*Uncaught Error: boom", "wide.html at 400: [0-9]+ pixels wider than the window",
        "small.html at 400: letters of 8 pixels", "hides.html at 400: a wide table without a scroll bar",
        "as-text.html at 400: not by size", "asks.html at 400: broken pictures",
    ):  # fmt: skip
        assert any(re.match(wanted, fault) for fault in found), (wanted, found)
    assert not any("blocked.invalid" in fault for fault in found if fault.startswith("request"))


def test_a_thousand_systems_stay_small(tmp_path: Path) -> None:
    """Below 5 MB, and folded away but for the rows that matter."""
    report = full_report()
    more = [
        replace(row, subject=replace(row.subject, name=f"untuned/p{i}/mean@1"))
        for i in range(1000)
        for row in report.results
        if row.system == "untuned/bare/mean@0"
    ]
    html = write_report(replace(report, results=[*report.results, *more]), tmp_path).html
    assert html.stat().st_size < 5e6
    above = html.read_text().partition("<details")[0]
    assert above.count("<tr") < 20

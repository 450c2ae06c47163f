"""Style and script of every page: plain CSS that fits 400 pixels, and a sort by click."""

from __future__ import annotations

STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, -apple-system, "Segoe UI", sans-serif; color: #1d2126; background: #fff; margin: 0; }
main { max-width: 1100px; margin: 0 auto; padding: 1.2rem 1rem 3rem; }
h1 { font-size: 1.5rem; margin: .4rem 0 .8rem; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .5rem; }
p, h2, summary, figcaption { overflow-wrap: anywhere; }
.headline { border-left: 4px solid #c2571a; padding: .2rem 1rem; background: #faf6f2; }
.headline p { margin: .5rem 0; }
.headline p:first-child { font-weight: 600; font-size: 1.05rem; }
.scroll { overflow: auto; max-width: 100%; max-height: 75vh; }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .6rem; text-align: right; border-bottom: 1px solid #e6e6e6; white-space: nowrap; }
th { position: sticky; top: 0; background: #fff; padding: 0; border-bottom: 1px solid #9aa0a6; }
th button { all: unset; cursor: pointer; padding: .25rem .6rem; font-weight: 600; }
th button:focus-visible { outline: 2px solid #3d6fa5; outline-offset: -2px; }
th[aria-sort=ascending] button::after { content: " \\25B2"; }
th[aria-sort=descending] button::after { content: " \\25BC"; }
th:first-child, td:first-child { text-align: left; }
td:first-child { white-space: normal; overflow-wrap: anywhere; min-width: 11rem; }
tr.tuned td { background: #fbeee4; font-weight: 600; }
tr.best td { background: #e8f0f8; }
tr.best td:first-child::after { content: " \\2605 best untuned"; color: #2c5a8c; font-weight: 600; }
details { margin: .7rem 0; }
summary { cursor: pointer; color: #2c5a8c; margin-bottom: .4rem; }
figure { margin: 1rem 0; }
figure .scroll { max-height: none; }
figcaption { color: #5a6068; font-size: 13px; }
img { display: block; width: 100%; max-width: 960px; min-width: 640px; height: auto; }
pre { background: #f5f5f5; padding: .8rem; overflow: auto; max-height: 75vh; font-size: 12px; margin: 0; }
pre.command { white-space: pre-wrap; overflow-wrap: anywhere; }
@media (max-width: 600px) { main { padding: .8rem .7rem 2rem; } th button, td { padding: .2rem .4rem; } }
@media print { .scroll, pre { max-height: none; overflow: visible; } img { min-width: 0; } }
"""

SCRIPT = """
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  const number = text => { const found = parseFloat(text); return Number.isNaN(found) ? -Infinity : found; };
  heads.forEach((head, column) => head.addEventListener("click", () => {
    const rows = [...table.tBodies[0].rows];
    const cell = row => row.cells[column].textContent;
    const numeric = column > 0 && rows.some(row => number(cell(row)) !== -Infinity);
    const now = head.getAttribute("aria-sort");
    const falling = numeric ? now !== "descending" : now === "ascending";
    const order = numeric
      ? (a, b) => number(cell(a)) - number(cell(b)) || 0
      : (a, b) => cell(a).localeCompare(cell(b));
    rows.sort((a, b) => falling ? order(b, a) : order(a, b));
    heads.forEach(other => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", falling ? "descending" : "ascending");
    table.tBodies[0].append(...rows);
  }));
}
"""
"""The first click on figures puts the highest on top, on names A; the next one turns the order."""

"""Style and script of every page: plain CSS that fits 400 pixels, a sort by click, a filter for long tables."""

from __future__ import annotations

MAX_WORDS = 10
"""Columns that can be set to the left by a class."""
_WORDS = ", ".join(f".words{place} :is(td, th):nth-child({place})" for place in range(2, MAX_WORDS + 1))
STYLE = (
    """
:root {
  color-scheme: light dark;
  --paper: #fff; --ink: #1d2126; --quiet: #5a6068; --line: #e3e4e6; --rule: #9aa0a6; --link: #2c5a8c; --panel: #f5f5f5;
  --warm: #fbeee4; --accent: #c2571a; --cool: #e8f0f8;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #16191d; --ink: #e4e6e9; --quiet: #a5abb3; --line: #33383f; --rule: #6b727b; --link: #8db8e6;
    --panel: #20242a; --warm: #3b2a1f; --accent: #e58a52; --cool: #1f2f41;
  }
}
* { box-sizing: border-box; }
body {
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", sans-serif; color: var(--ink); background: var(--paper);
  margin: 0;
}
main { max-width: 1100px; margin: 0 auto; padding: 1.2rem 1rem 3rem; }
h1 { font-size: 1.5rem; margin: .4rem 0 .8rem; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .5rem; }
p, h2, summary, figcaption { overflow-wrap: anywhere; }
p { margin: .5rem 0; max-width: 75ch; }
.headline { border-left: 4px solid var(--accent); padding: .4rem 1rem; background: var(--panel); }
.headline p { max-width: none; }
.sums { display: flex; flex-wrap: wrap; gap: .3rem 2.2rem; margin: .3rem 0; }
.sums div { display: flex; flex-direction: column-reverse; }
.sums dt { color: var(--quiet); font-size: 13px; }
.sums dd { margin: 0; font-size: 1.6rem; line-height: 1.3; font-weight: 650; font-variant-numeric: tabular-nums; }
.scroll { overflow: auto; max-width: 100%; max-height: 75vh; margin: .6rem 0; }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .6rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
td { background: var(--paper); }
th { position: sticky; top: 0; z-index: 1; background: var(--paper); padding: 0; border-bottom-color: var(--rule); }
th button { all: unset; cursor: pointer; padding: .25rem .6rem; font-weight: 600; }
th button:focus-visible { outline: 2px solid var(--link); outline-offset: -2px; }
th button::after { content: " \\2195"; color: var(--rule); font-weight: 400; }
th[aria-sort=ascending] button::after { content: " \\25B2"; color: inherit; }
th[aria-sort=descending] button::after { content: " \\25BC"; color: inherit; }
th:first-child, td:first-child { text-align: left; position: sticky; left: 0; }
th:first-child { z-index: 2; }
td:first-child { white-space: normal; overflow-wrap: anywhere; min-width: 17rem; max-width: 30rem; }
tr.tuned td { background: var(--warm); font-weight: 600; }
tr.best td { background: var(--cool); }
tr.best td:first-child::after { content: " \\2605\\A0 best untuned"; color: var(--link); font-weight: 600; }
input[type=search] { font: inherit; font-size: 14px; padding: .2rem .5rem; width: min(100%, 20rem); }
details { margin: .7rem 0; }
summary { cursor: pointer; color: var(--link); margin-bottom: .4rem; }
.pictures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 400px), 1fr)); gap: 0 1.5rem; }
figure { margin: .6rem 0; max-width: 520px; }
figcaption { color: var(--quiet); font-size: 13px; }
img { display: block; width: 100%; height: auto; background: #fff; border-radius: 4px; }
pre { background: var(--panel); padding: .8rem; overflow: auto; max-height: 75vh; font-size: 12px; margin: 0; }
pre.command { white-space: pre-wrap; overflow-wrap: anywhere; }
@media (max-width: 600px) {
  main { padding: .8rem .5rem 2rem; }
  .headline { padding: .4rem .7rem; }
  th button, td { padding: .2rem .4rem; }
  td:first-child { min-width: 9.5rem; max-width: 11rem; }
  th:not([aria-sort]) button::after { content: none; }
}
@media print { .scroll, pre { max-height: none; overflow: visible; } }
"""
    + _WORDS
    + " { text-align: left; }\n"
)

SCRIPT = """
const figure = text => /^[+-]?[0-9]/.test(text) ? parseFloat(text) : NaN;
const plain = text => /^[+-]?[0-9.]+( to [+-]?[0-9.]+.*)?$/.test(text);
const absent = text => text === "" || text === "\\u2013";
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.addEventListener("click", () => {
    const cells = [...table.tBodies[0].rows].map(row => ({ row, text: row.cells[column].textContent }));
    const known = cells.filter(cell => !absent(cell.text));
    const numeric = known.length > 0 && known.every(cell => plain(cell.text));
    const now = head.getAttribute("aria-sort");
    const falling = numeric ? now !== "descending" : now === "ascending";
    const order = numeric ? (a, b) => figure(a.text) - figure(b.text) : (a, b) => a.text.localeCompare(b.text);
    known.sort((a, b) => falling ? order(b, a) : order(a, b));
    heads.forEach(other => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", falling ? "descending" : "ascending");
    table.tBodies[0].append(...[...known, ...cells.filter(cell => absent(cell.text))].map(cell => cell.row));
  }));
}
for (const field of document.querySelectorAll("input[type=search]")) {
  field.addEventListener("input", () => {
    const words = field.value.toLowerCase().split(/\\s+/);
    for (const row of field.nextElementSibling.querySelectorAll("tbody tr")) {
      const name = row.cells[0].textContent.toLowerCase();
      row.hidden = !words.every(word => name.includes(word));
    }
  });
}
"""
"""The first click on figures puts the highest on top, on names A; the next one turns the order. Gaps stay below."""

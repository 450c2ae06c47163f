"""One self-contained page: nothing in it is fetched, so it can be mailed, archived and opened offline.

Its content policy forbids every request, so that a mistake here fails rather than calls home.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from html import escape
from importlib.resources import files
from itertools import groupby

from eval.report.blocks import Picture, Section, Table
from eval.report.numbers import hundred, signed, signed_span
from eval.report.report import Report, headline
from eval.report.sections import sections
from eval.results.headline import Gap

MAX_WORDS = 10
"""Columns that page.css can set to the left: their classes are words2, words3 ... in it."""
MANY_ROWS = 30
"""Rows from which on a table has a field to filter them."""
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


def to_html(report: Report, pictures: Mapping[str, bytes]) -> str:
    """Tables hold the very strings of report.md; `pictures` by file name."""
    lead = "".join(f"<p>{escape(line)}</p>" for line in headline(report))
    parts = [f'<h1>Evaluation</h1><div class="headline">{_sums(report)}{lead}</div>']
    parts += [_section(section, pictures) for section in sections(report)]
    command = str(report.provenance.get("command", ""))
    if command:
        parts.append(f'<h2>Command</h2><pre class="command">{escape(command)}</pre>')
    details = escape(json.dumps(dict(report.provenance), indent=1, ensure_ascii=False))
    parts.append(
        f"<h2>Provenance</h2><details><summary>Versions, data, choices</summary><pre>{details}</pre></details>"
    )
    return page("dec2vec evaluation", parts)


def page(title: str, parts: Sequence[str]) -> str:
    """A whole document around ready HTML."""
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f"<title>{escape(title)}</title><style>{_package_data('page.css')}</style>"
    )
    body = "\n".join(parts)
    return (
        f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n<main>\n{body}\n</main>\n'
        f"<script>{_package_data('page.js')}</script>\n</body></html>\n"
    )


@cache
def _package_data(name: str) -> str:
    return files("eval.report").joinpath(name).read_text(encoding="utf-8")


def _sums(report: Report) -> str:
    """The headline's figures, large."""
    found = report.comparison
    if found is None or found.tuned is None:
        return ""
    sums = {"tuned": hundred(found.tuned.value)}
    for role, party, gap in (
        ("best untuned" if report.dev else "untuned", found.untuned, found.to_untuned),
        ("best outside row", found.outside, found.to_outside),
    ):
        if party is not None and gap is not None:
            sums |= {role: hundred(party.value), _difference(role, gap): signed(gap.value)}
    cells = "".join(f"<div><dt>{escape(name)}</dt><dd>{value}</dd></div>" for name, value in sums.items())
    return f'<dl class="sums">{cells}</dl>'


def _difference(role: str, gap: Gap) -> str:
    verdict = "a tie" if gap.is_tie else "tuned is higher" if gap.value > 0 else "tuned is lower"
    return f"minus {role}, {signed_span(gap.low, gap.high, gap.no_interval)}: {verdict}"


def _section(section: Section, pictures: Mapping[str, bytes]) -> str:
    """Pictures in a row are next to each other where there is room."""
    text = "".join(f"<p>{escape(line)}</p>" for line in section.text)
    blocks = ""
    for is_row, group in groupby(section.blocks, lambda block: isinstance(block, Picture)):
        content = "".join(
            _picture(block, pictures[block.file]) if isinstance(block, Picture) else html_table(block)
            for block in group
        )
        blocks += f'<div class="pictures">{content}</div>' if is_row else content
    return f"<section><h2>{escape(section.title)}</h2>{text}{blocks}</section>"


def html_table(table: Table) -> str:
    """In a box of its own that scrolls; a click on a column's title sorts by it."""
    top = "".join(
        f'<th scope="col"><button type="button">{escape(cell) or "&nbsp;"}</button></th>' for cell in table.header
    )
    body = "".join(_row(row, table) for row in table.rows)
    search = '<input type="search" placeholder="Filter by name" aria-label="Filter rows by name">'
    box = (search if len(table.rows) >= MANY_ROWS else "") + (
        f'<div class="scroll" tabindex="0"><table class="sortable{_words(table)}"><thead><tr>{top}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )
    return f"<details><summary>{escape(table.fold)}</summary>{box}</details>" if table.fold else box


def _row(row: Sequence[str], table: Table) -> str:
    kind = "tuned" if row[0] in table.tuned else "best" if row[0] == table.best else "untuned"
    return f'<tr class="{kind}">' + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>"


def _words(table: Table) -> str:
    """Classes that set columns of words to the left; the first column always is."""
    columns = list(zip(*table.rows, strict=True))[1:MAX_WORDS]
    words = [number for number, cells in enumerate(columns, 2) if not any(re.match(r"[+-]?\d|–|$", c) for c in cells)]
    return "".join(f" words{number}" for number in words)


def _picture(picture: Picture, data: bytes) -> str:
    encoded = base64.b64encode(data).decode("ascii")
    caption = escape(picture.caption)
    image = f'<img alt="{caption}" src="data:image/png;base64,{encoded}">'
    return f"<figure>{image}<figcaption>{caption}</figcaption></figure>"

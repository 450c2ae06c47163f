"""One self-contained page: nothing in it is fetched, so it can be mailed, archived and opened offline.

Its content policy forbids every request, so that a mistake here fails rather than calls home.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from html import escape

from eval.page import SCRIPT, STYLE
from eval.report import Report, headline, is_tuned
from eval.sections import Picture, Section, Table, sections

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


def to_html(report: Report, pictures: Mapping[str, bytes]) -> str:
    """Tables hold the very strings of report.md; `pictures` by file name."""
    lead = "".join(f"<p>{escape(line)}</p>" for line in headline(report))
    parts = [f'<h1>Evaluation</h1><div class="headline">{lead}</div>']
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
        f"<title>{escape(title)}</title><style>{STYLE}</style>"
    )
    body = "\n".join(parts)
    return (
        f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n<main>\n{body}\n</main>\n'
        f"<script>{SCRIPT}</script>\n</body></html>\n"
    )


def _section(section: Section, pictures: Mapping[str, bytes]) -> str:
    text = "".join(f"<p>{escape(line)}</p>" for line in section.text)
    blocks = [
        _picture(block, pictures[block.file]) if isinstance(block, Picture) else html_table(block)
        for block in section.blocks
    ]
    return f"<section><h2>{escape(section.title)}</h2>{text}" + "".join(blocks) + "</section>"


def html_table(table: Table) -> str:
    """In a box of its own that scrolls; a click on a column's title sorts by it."""
    top = "".join(
        f'<th scope="col"><button type="button">{escape(cell) or "&nbsp;"}</button></th>' for cell in table.header
    )
    body = "".join(_row(row, table.best) for row in table.rows)
    box = (
        f'<div class="scroll" tabindex="0"><table class="sortable"><thead><tr>{top}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )
    return f"<details><summary>{escape(table.fold)}</summary>{box}</details>" if table.fold else box


def _row(row: Sequence[str], best: str | None) -> str:
    kind = "tuned" if is_tuned(row[0]) else "best" if row[0] == best else "untuned"
    return f'<tr class="{kind}">' + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>"


def _picture(picture: Picture, data: bytes) -> str:
    encoded = base64.b64encode(data).decode("ascii")
    caption = escape(picture.caption)
    return (
        f'<figure><div class="scroll" tabindex="0"><img alt="{caption}" src="data:image/png;base64,{encoded}"></div>'
        f"<figcaption>{caption}</figcaption></figure>"
    )

"""One self-contained page: nothing in it is fetched, so it can be mailed, archived and opened offline."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from html import escape

from eval import report as words
from eval.report import Report, is_tuned

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1d2126; }
body { max-width: 1100px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin-top: 2.2rem; }
.headline { border-left: 4px solid #c2571a; padding: .3rem 1rem; background: #faf6f2; }
.headline { overflow-wrap: anywhere; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .6rem; text-align: right; border-bottom: 1px solid #e6e6e6; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
tr.tuned td { background: #fbeee4; font-weight: 600; }
img { max-width: 100%; }
pre { background: #f5f5f5; padding: .8rem; overflow-x: auto; font-size: 12px; }
"""


def to_html(report: Report, pictures: Mapping[str, bytes]) -> str:
    """Tables hold the very strings of report.md."""
    lead = "".join(f"<p>{escape(line)}</p>" for line in words.headline(report))
    sections = [
        f'<h1>Evaluation</h1><div class="headline">{lead}</div>',
        "<h2>The comparison</h2>" + _table(words.table_header(report), words.table_rows(report, report.highlights)),
        *(_picture(name, data) for name, data in pictures.items()),
        "<h2>Every system</h2><p>Spearman x 100 over all pairs of a set ('all').</p>"
        + _table(words.table_header(report), words.table_rows(report, report.systems)),
        "<h2>Aggregation over sub-sets</h2><p>Average over the test sets.</p>"
        + _table(words.SUBSET_HEADER, words.subset_rows(report, report.systems)),
    ]
    if report.overlap:
        sections.append(
            "<h2>Overlap of training and evaluation texts</h2>"
            + _table(words.OVERLAP_HEADER, words.overlap_rows(report))
        )
    details = escape(json.dumps(dict(report.provenance), indent=1, ensure_ascii=False))
    sections.append(f"<h2>Provenance</h2><pre>{details}</pre>")
    head = f'<meta charset="utf-8"><title>dec2vec evaluation</title><style>{STYLE}</style>'
    return (
        f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n' + "\n".join(sections) + "\n</body></html>\n"
    )


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    top = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = "".join(
        f'<tr class="{"tuned" if is_tuned(row[0]) else "untuned"}">'
        + "".join(f"<td>{escape(cell)}</td>" for cell in row)
        + "</tr>"
        for row in rows
    )
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def _picture(name: str, data: bytes) -> str:
    encoded = base64.b64encode(data).decode("ascii")
    return f'<p><img alt="{escape(name)}" src="data:image/png;base64,{encoded}"></p>'

"""report.md: the sections of the page without what only a browser can do."""

from __future__ import annotations

import json

from dec2vec.text_tables import markdown_table
from eval.report.blocks import Picture, Section
from eval.report.report import Report, headline
from eval.report.sections import sections


def to_markdown(report: Report) -> str:
    """The whole report; its pictures are PNG files in the same folder."""
    parts = ["# Evaluation", "", *(f"- {line}" for line in headline(report)), ""]
    for section in sections(report):
        parts += _section(section)
    details = json.dumps(dict(report.provenance), indent=1, ensure_ascii=False)
    command = str(report.provenance.get("command", ""))
    parts += ["## Command", "", "```", command, "```", ""] if command else []
    return "\n".join([*parts, "## Provenance", "", "```json", details, "```", ""])


def _section(section: Section) -> list[str]:
    parts = [f"## {section.title}", ""]
    for line in section.text:
        parts += [line, ""]
    for block in section.blocks:
        if isinstance(block, Picture):
            parts += [f"![{block.caption}]({block.file})", ""]
        else:
            parts += [*([f"{block.fold}:", ""] if block.fold else []), *markdown_table(block.header, block.rows), ""]
    return parts

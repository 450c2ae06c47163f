"""The report folder: report.json, report.md, report.html and the pictures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dec2vec.errors import UserError
from dec2vec.files.atomic import atomic_write_files, why_not_written
from eval.report.html import to_html
from eval.report.markdown import to_markdown
from eval.report.plots.draw import draw
from eval.report.report import Report
from eval.report.report_json import to_json


@dataclass(frozen=True)
class ReportPaths:
    """What was written."""

    json: Path
    markdown: Path
    html: Path
    pictures: tuple[Path, ...]


def check_writable(folder: Path) -> None:
    """Before an hour of work, not after it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".probe"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(f"{folder}: can't be written; {why_not_written(error)}") from error


def write_report(report: Report, folder: Path) -> ReportPaths:
    """All files or none; old ones of the same names are replaced."""
    pictures = draw(report)
    files = {
        "report.json": to_json(report).encode(),
        "report.md": to_markdown(report).encode(),
        "report.html": to_html(report, pictures).encode(),
        **pictures,
    }
    check_writable(folder)
    try:
        atomic_write_files({folder / name: data for name, data in files.items()})
    except OSError as error:
        raise UserError(f"{folder}: can't be written; {why_not_written(error)}") from error
    return ReportPaths(
        json=folder / "report.json",
        markdown=folder / "report.md",
        html=folder / "report.html",
        pictures=tuple(folder / name for name in pictures),
    )

"""`dec2vec compare`: several reports -> a table of each run's headline, with mean and spread over seeds.

    dec2vec compare runs/a-seed1 runs/a-seed2 runs/b --output compare.html

Only runs that were tested on the same pairs are compared.
"""

from __future__ import annotations

import sys
from pathlib import Path

from pydantic.dataclasses import dataclass

from dec2vec.config.load import STRICT
from dec2vec.errors import UserError


@dataclass(frozen=True, config=STRICT)
class CompareArgs:
    """Compare the reports of several runs."""

    runs: tuple[str, ...] = ()
    """Run folders, report folders or report.json files."""
    output: Path | None = None
    """.html or .md file in which the tables are also written."""
    group: bool = False
    """Treat all runs as seeds of one recipe. Otherwise, runs whose names differ only in a trailing -seedN are seeds of
    one recipe."""


def compare_command(args: CompareArgs) -> None:
    """Print the tables and, if there is an output, write them to this file."""
    if len(args.runs) < 2:
        raise UserError("compare: give at least two runs: dec2vec compare RUN RUN ...")
    if args.output is not None and args.output.suffix not in (".html", ".md"):
        raise UserError(f"--output {args.output}: must end in .html or .md")
    from dec2vec.text_tables import plain_table
    from eval.compare.saved_report import read_report
    from eval.compare.tables import check_comparable, comparison_tables, notes_of, write_tables

    reports = [read_report(run) for run in args.runs]
    check_comparable(reports)
    tables = comparison_tables(reports, group=args.group)
    notes = notes_of(reports, group=args.group)
    lines = [line for table in tables for line in (*plain_table([table.header, *table.rows]), "")]
    sys.stdout.write("\n".join([*lines, *notes]) + "\n")
    if args.output is not None:
        write_tables(args.output, tables, notes)
        sys.stdout.write(f"{args.output}\n")

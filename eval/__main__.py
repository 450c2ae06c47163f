"""`dec2vec eval CONFIG.yaml [--section.key value ...]`: a decoder, read many ways, and its tuned runs."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dec2vec.config.load import load_arguments
from dec2vec.errors import UserError
from dec2vec.errors import run as run_command
from eval.config import EvalConfig

if TYPE_CHECKING:
    from eval.report.report import Report
    from eval.report.write import ReportPaths


def main(argv: Sequence[str]) -> None:
    """Evaluate, write the report, print the comparison and where it lies. Raises UserError."""
    config = load_arguments(EvalConfig, argv, prog="dec2vec eval")
    from dec2vec.runtime import keep_freed_memory
    from eval.report.report import format_table

    logging.basicConfig(format="%(message)s")
    keep_freed_memory()
    report, paths = evaluate(config)
    lines = [format_table(report), "", *(str(path) for path in (paths.html, paths.markdown, paths.json))]
    sys.stdout.write("\n".join(lines) + "\n")


def evaluate(config: EvalConfig, *, progress: bool = True) -> tuple[Report, ReportPaths]:
    """The evaluation and its report folder, for the command and for `dec2vec.evaluate`. Raises UserError."""
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise UserError("dec2vec eval runs in one process; start it without a launcher, or with --num_processes 1")
    from eval import run
    from eval.report.truncation import truncation_line
    from eval.report.write import check_writable, write_report

    folder = run.report_folder(config)
    check_writable(folder)
    report = run.evaluate(config, progress=progress)
    line = truncation_line(report.truncation)
    if line:
        sys.stderr.write(f"{line}\n")
    return report, write_report(report, folder)


if __name__ == "__main__":
    sys.exit(run_command(main, sys.argv[1:]))

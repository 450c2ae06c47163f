"""`dec2vec eval CONFIG.yaml [--section.key value ...]`: a decoder, read many ways, and its tuned runs."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence

from dec2vec.config.load import load_arguments
from dec2vec.errors import UserError
from dec2vec.errors import run as run_command
from eval.config import EvalConfig


def main(argv: Sequence[str]) -> None:
    """Evaluate, write the report, print the comparison and where it lies. Raises UserError."""
    config = load_arguments(EvalConfig, argv, prog="dec2vec eval")
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise UserError("dec2vec eval runs in one process; start it without a launcher, or with --num_processes 1")
    from dec2vec.runtime import keep_freed_memory
    from eval.report.report import format_table
    from eval.report.truncation import truncation_line
    from eval.report.write import check_writable, write_report
    from eval.run import evaluate, report_folder

    logging.basicConfig(format="%(message)s")
    keep_freed_memory()
    folder = report_folder(config)
    check_writable(folder)
    report = evaluate(config)
    line = truncation_line(report.truncation)
    if line:
        sys.stderr.write(f"{line}\n")
    paths = write_report(report, folder)
    lines = [format_table(report), "", *(str(path) for path in (paths.html, paths.markdown, paths.json))]
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    sys.exit(run_command(main, sys.argv[1:]))

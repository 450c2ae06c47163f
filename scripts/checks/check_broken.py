"""Break a good export in every way we know, and see whether `dec2vec check` names each one.

    python scripts/checks/check_broken.py runs/mine

For each breakage: the largest difference of plain sentence-transformers' vectors to the good ones (so silent ones are
seen: no error, another vector), the check that found it and its sentence. The vectors are of seven texts by
`encode_query`, `encode_document` and `encode`. A change that may move no vector of a decoder (padding on the left, of a
rotary one) is then said to have no effect. Exit code 0 when the good exports pass every check and all
breakages are found.
"""

from __future__ import annotations

import argparse
import logging
import shutil
import sys
import tempfile
import textwrap
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from broken.breakages import BREAKAGES, Breakage, Form

from dec2vec.checks.check_model import check_model
from dec2vec.checks.finding import Finding, failed, table
from dec2vec.config.model import ModelConfig
from train.export.export import ExportArgs, export_command

TEXTS = ["A man plays a guitar.", "", "a b", "<new>", "Ünïcödé 猫", "The cat sleeps on the warm roof.", "word " * 2000]
ROUNDING = 1e-5
WIDTH = 110
HEAD = "| what was broken | form | vectors move by | check | what it says |\n|---|---|---:|---|---|"
Vectors = np.ndarray[tuple[int, int], np.dtype[np.float32]]


@dataclass(frozen=True)
class Row:
    """A breakage and what was seen of it. `moved` is nan where vectors hold nan, None where there are none."""

    breakage: Breakage
    moved: float | None
    found: Finding | None
    """Of the check that failed first."""

    @property
    def is_harmless(self) -> bool:
        """No vector of this decoder is another one, so there is nothing to find."""
        unmoved = self.found is None and self.moved is not None and self.moved <= ROUNDING
        return unmoved and self.breakage.may_be_harmless

    @property
    def is_well(self) -> bool:
        """Named by the right check, in the right words."""
        if self.found is None:
            return self.is_harmless
        return self.found.check == self.breakage.check and self.breakage.says in self.found.what


def export_forms(run: Path, stage: Path) -> dict[Form, Path]:
    """A good export of each form."""
    return {
        "adapter": export_command(ExportArgs(run=run, to=stage / "adapter-form")),
        "merged": export_command(ExportArgs(run=run, to=stage / "merged-form", merge=True)),
    }


def faults_of_good(folders: dict[Form, Path]) -> list[str]:
    """Tables of those that do not pass every check."""
    tables = []
    for form, folder in folders.items():
        findings = _check(folder)
        if {finding.verdict for finding in findings} != {"pass"}:
            tables.append(f"the good {form} export does not pass:\n{table(findings)}")
    return tables


def break_in(good: Path, breakage: Breakage, stage: Path) -> Row:
    """Break a copy, check it, and compare its vectors with the good one's."""
    folder = stage / "broken"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(good, folder)
    breakage.spoil(folder)
    findings = _check(folder)
    first = next((finding for finding in findings if finding.check in failed(findings)), None)
    return Row(breakage, _moved(folder, good), first)


def _check(folder: Path) -> list[Finding]:
    return check_model(ModelConfig(name_or_path=str(folder), device="cpu"))


def _moved(folder: Path, good: Path) -> float | None:
    try:
        found = _vectors(folder)
    except Exception:  # any error is good news: what is broken is not silent
        return None
    expected = _vectors(good)
    return float(np.abs(found - expected).max()) if found.shape == expected.shape else float("nan")


def _vectors(folder: Path) -> Vectors:
    from sentence_transformers import SentenceTransformer

    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        model = SentenceTransformer(str(folder), device="cpu")
        ways = (model.encode_query, model.encode_document, model.encode)
        return np.concatenate([way(TEXTS, show_progress_bar=False) for way in ways]).astype(np.float32)


def line(row: Row) -> str:
    """Of the Markdown table."""
    moved = "an error" if row.moved is None else "nan" if np.isnan(row.moved) else f"{row.moved:.1e}"
    check, says = ("**not found**", "") if row.found is None else (row.found.check, _short(row.found.what))
    if row.is_harmless:
        check, says = "", "no effect on this decoder"
    return f"| {row.breakage.name} | {row.breakage.form} | {moved} | {check} | {says} |"


def _short(what: str) -> str:
    """Without this machine's folders, in one line that a table can hold."""
    words = [Path(word).name if word.startswith("/") else word for word in what.split()]
    return textwrap.shorten(" ".join(words), WIDTH, placeholder=" ...").replace("|", r"\|")


def main(argv: Sequence[str]) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a finished training run with an adapter")
    run = parser.parse_args(argv).run
    logging.disable(logging.WARNING)  # other libraries': of broken folders they have much to say
    with tempfile.TemporaryDirectory() as name:
        stage = Path(name)
        folders = export_forms(run, stage)
        wrong = faults_of_good(folders)
        rows = []
        sys.stdout.write(f"\n{HEAD}\n")
        for breakage in BREAKAGES:
            if breakage.applies(folders[breakage.form]):
                rows.append(break_in(folders[breakage.form], breakage, stage))
                sys.stdout.write(f"{line(rows[-1])}\n")
    wrong += [f"{row.breakage.name}: not named by `{row.breakage.check}`" for row in rows if not row.is_well]
    harmless = sum(row.is_harmless for row in rows)
    found = sum(row.is_well for row in rows) - harmless
    sys.stdout.write(f"\n{found} of {len(rows)} breakages found, {harmless} without effect\n")
    sys.stdout.write("".join(f"{fault}\n" for fault in wrong) or "the good exports pass every check\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

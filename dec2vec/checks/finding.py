"""The result of a check, and the table of all results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from dec2vec.text_tables import plain_table

Verdict = Literal["pass", "warn", "fail", "skip"]
WIDTH = 110


@dataclass(frozen=True)
class Finding:
    """One row of the table. `fix` says what to do about a warning or a failure."""

    check: str
    verdict: Verdict
    what: str
    fix: str = ""


def worst(check: str, findings: Sequence[Finding], otherwise: str) -> Finding:
    """The first failure, else the first warning, else a pass with the text `otherwise`."""
    for verdict in ("fail", "warn"):
        for finding in findings:
            if finding.verdict == verdict:
                return finding
    return Finding(check, "pass", otherwise)


def failed(findings: Sequence[Finding]) -> list[str]:
    """Names of the checks that failed."""
    return [finding.check for finding in findings if finding.verdict == "fail"]


def table(findings: Sequence[Finding]) -> str:
    """One row for each finding with the check, the verdict and what was seen, and a second row for the fix."""
    rows: list[tuple[str, str, str]] = []
    for finding in findings:
        rows.append((finding.check, finding.verdict, finding.what))
        if finding.fix:
            rows.append(("", "", f"fix: {finding.fix}"))
    return "\n".join(plain_table(rows, left=(0, 1, 2), width=WIDTH)) + "\n"

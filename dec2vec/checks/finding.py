"""What a check found out, and the table of all of them."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Verdict = Literal["pass", "warn", "fail", "skip"]
WIDTH = 110


@dataclass(frozen=True)
class Finding:
    """One line of the table. `fix` says what to do about a warn or a fail."""

    check: str
    verdict: Verdict
    what: str
    fix: str = ""


def worst(check: str, findings: Sequence[Finding], otherwise: str) -> Finding:
    """The first fail, else the first warn, else a pass that says `otherwise`."""
    for verdict in ("fail", "warn"):
        for finding in findings:
            if finding.verdict == verdict:
                return finding
    return Finding(check, "pass", otherwise)


def failed(findings: Sequence[Finding]) -> list[str]:
    """Names of the checks that failed."""
    return [finding.check for finding in findings if finding.verdict == "fail"]


def table(findings: Sequence[Finding]) -> str:
    """Plain text: check, verdict, what was seen; the fix on a line of its own."""
    width = max(len(finding.check) for finding in findings) + 2
    lines: list[str] = []
    for finding in findings:
        lines += _wrapped(f"{finding.check:<{width}}{finding.verdict:<6}", finding.what)
        if finding.fix:
            lines += _wrapped(f"{'':<{width + 6}}", f"fix: {finding.fix}")
    return "\n".join(lines) + "\n"


def _wrapped(start: str, text: str) -> list[str]:
    return textwrap.wrap(
        text, WIDTH, initial_indent=start, subsequent_indent=" " * len(start), break_long_words=False
    ) or [start]

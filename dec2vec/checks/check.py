"""`dec2vec check MODEL`: all checks in order, a table, and an error if one of them failed."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict

from dec2vec.checks.adapter import check_adapter
from dec2vec.checks.args import CheckArgs
from dec2vec.checks.finding import Finding, failed, table
from dec2vec.checks.last_token import check_ending
from dec2vec.checks.loaded_model import Subject, open_subject
from dec2vec.checks.model_files import find_place
from dec2vec.checks.overflow import check_numbers
from dec2vec.checks.pooling import check_pooling, check_spread
from dec2vec.checks.prompts import check_prompts
from dec2vec.checks.saved_files import check_vocabulary, check_weights
from dec2vec.checks.serving_files import check_servers
from dec2vec.checks.truncation import check_truncation
from dec2vec.checks.vectors import check_padding, check_routes, check_unit_length
from dec2vec.errors import UserError
from dec2vec.files.atomic import atomic_write_text, check_output

Check = Callable[[Subject], Finding]
OF_TOKENS: tuple[Check, ...] = (check_ending, check_prompts, check_truncation, check_pooling, check_servers)
OF_VECTORS: tuple[Check, ...] = (check_padding, check_unit_length, check_spread, check_adapter)


def check_command(args: CheckArgs) -> None:
    """Print the table. UserError, hence exit code 2, if a check failed."""
    if args.json is not None:
        check_output(args.json, option="json")
    findings = check_model(args)
    sys.stdout.write(table(findings))
    bad = failed(findings)
    if args.json is not None:
        content = {"model": args.model, "failed": bad, "findings": [asdict(finding) for finding in findings]}
        atomic_write_text(args.json, json.dumps(content, ensure_ascii=False, indent=2) + "\n")
    if bad:
        raise UserError(f"model {args.model}: {len(bad)} of {len(findings)} checks failed ({', '.join(bad)})")


def check_model(args: CheckArgs) -> list[Finding]:
    """What each check says; what would fail only because an earlier one did is not run. UserError for no model."""
    place = find_place(args)
    findings = [check_weights(place)]
    if failed(findings):
        return findings
    try:
        subject = open_subject(place)
    except UserError as error:
        return [*findings, Finding("loads", "fail", str(error), "mend what the line says")]
    findings += [Finding("loads", "pass", f"by {' and '.join(subject.routes)}"), check_vocabulary(subject)]
    if failed(findings):
        return findings  # an id without a row ends every forward pass
    findings += [check(subject) for check in OF_TOKENS]
    findings.append(check_numbers(subject))
    if findings[-1].verdict == "fail":
        return findings  # what follows compares numbers
    findings += [check(subject) for check in OF_VECTORS]
    findings.append(check_routes(subject) if not failed(findings) else _unasked())
    return findings


def _unasked() -> Finding:
    return Finding("same vectors", "skip", "mend what failed first")

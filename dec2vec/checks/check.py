"""`dec2vec check`: a model -> a table of what is wrong with it, and an exit code."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

from pydantic.dataclasses import dataclass

from dec2vec.config.encoder_args import ModelArgs
from dec2vec.config.load import STRICT
from dec2vec.errors import UserError
from dec2vec.files.atomic import atomic_write_text, check_output, written


@dataclass(frozen=True, kw_only=True, config=STRICT)
class CheckArgs(ModelArgs):
    """Report what is wrong with an embedding model and how to fix it. The exit code is 2 if a check fails."""

    model: str
    """Run folder, model folder or Hub id."""
    json: Path | None = None
    """Also write the findings to this file."""


def check_command(args: CheckArgs) -> None:
    """Run all checks and print the table. UserError, hence exit code 2, if a check failed."""
    if args.json is not None:
        check_output(args.json, option="json")
    from dec2vec.checks.check_model import check_model
    from dec2vec.checks.finding import failed, table

    findings = check_model(args.model_config(args.model), args.changes)
    sys.stdout.write(table(findings))
    failures = failed(findings)
    if args.json is not None:
        rows = [dataclasses.asdict(finding) for finding in findings]
        content = {"model": args.model, "failed": failures, "findings": rows}
        with written(args.json, "--json"):
            atomic_write_text(args.json, json.dumps(content, ensure_ascii=False, indent=2) + "\n")
    if failures:
        raise UserError(f"model {args.model}: {len(failures)} of {len(findings)} checks failed ({', '.join(failures)})")

"""What `dec2vec mine` writes: the pairs with their negatives, and the report next to them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dec2vec.errors import UserError
from dec2vec.files.atomic import atomic_write_files, written
from dec2vec.files.formats import Row
from dec2vec.prompts.tokenizer import clean_surrogates
from train.mining.pairs import Material
from train.mining.report import report_json, report_markdown
from train.mining.search import Mined


def write_mined(output: Path, material: Material, mined: Sequence[Mined], report: Mapping[str, Any]) -> Path:
    """Write mined.report.json, mined.report.md and mined.jsonl, all or none; return the path of the second.

    Raises UserError if no row has a negative.
    """
    if not any(row.negatives for row in mined):
        raise UserError(f"mine: no candidate passes the rules ({_refusals(report['refused'])}); loosen them")
    markdown = output.with_suffix(".report.md")
    rows = [_output_row(material, row, result) for row, result in enumerate(mined)]
    texts = {
        output.with_suffix(".report.json"): report_json(report),
        markdown: report_markdown(report),
        output: "".join(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows),
    }
    with written(output):
        atomic_write_files({path: clean_surrogates(text).encode("utf-8") for path, text in texts.items()})
    return markdown


def _output_row(material: Material, row: int, result: Mined) -> Row:
    """A row as the trainer reads it: the negatives of the input first, without a score, then the mined ones."""
    given = material.given[row]
    negatives = [*given, *(material.corpus[negative.position] for negative in result.negatives)]
    return {
        "anchor": material.anchors[row],
        "positive": material.positives[row],
        **{f"negative_{number}": text for number, text in enumerate(negatives, start=1)},
        "positive_score": result.positive_score,
        "negative_scores": [*(None for _ in given), *(negative.score for negative in result.negatives)],
        **material.other_columns[row],
    }


def _refusals(refused: Mapping[str, float]) -> str:
    """The rules that refuse candidates, the strictest first."""
    shares = sorted(refused.items(), key=lambda item: -item[1])
    return ", ".join(f"{rule} refuses {100 * share:.0f} %" for rule, share in shares if share) or "an empty window"

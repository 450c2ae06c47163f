"""What `dec2vec mine` writes: the pairs with their negatives, and the report next to them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dec2vec.errors import UserError
from dec2vec.files.atomic import atomic_write_files, written
from dec2vec.files.formats import Row
from dec2vec.files.layouts.query import TEACHER_SCORES
from dec2vec.prompts.tokenizer import clean_surrogates
from train.mining.cross_encoder import PairScores, score_documents
from train.mining.pairs import Material
from train.mining.report import report_json, report_markdown
from train.mining.search import Mined


def write_mined(
    output: Path,
    material: Material,
    mined: Sequence[Mined],
    report: Mapping[str, Any],
    reranker: PairScores | None = None,
) -> Path:
    """Write mined.report.json, mined.report.md and mined.jsonl, all or none; return the path of the second.

    The positive and the negatives of each row get the scores of a reranker, if there is one. Raises UserError if no row
    has a negative.
    """
    if not any(row.negatives for row in mined):
        raise UserError(f"mine: no candidate passes the rules ({_refusals(report['refused'])}); {_advice(report)}")
    markdown = output.with_suffix(".report.md")
    negatives = [_negatives(material, row, result) for row, result in enumerate(mined)]
    scores = _teacher_scores(material, negatives, reranker)
    rows = [_output_row(material, row, result, negatives[row], scores[row]) for row, result in enumerate(mined)]
    texts = {
        output.with_suffix(".report.json"): report_json(report),
        markdown: report_markdown(report),
        output: "".join(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows),
    }
    with written(output):
        atomic_write_files({path: clean_surrogates(text).encode("utf-8") for path, text in texts.items()})
    return markdown


def _negatives(material: Material, row: int, result: Mined) -> list[str]:
    """The negatives of the input first, then the mined ones."""
    return [*material.given[row], *(material.corpus[negative.position] for negative in result.negatives)]


def _teacher_scores(
    material: Material, negatives: Sequence[Sequence[str]], reranker: PairScores | None
) -> Sequence[Sequence[float | None] | None]:
    """A score for the positive and for each negative; without a reranker those of the input, which mined texts lack."""
    if reranker is not None:
        documents = [[positive, *texts] for positive, texts in zip(material.positives, negatives, strict=True)]
        return score_documents(reranker, material.anchors, documents)
    return [
        known and [*known, *[None] * (1 + len(texts) - len(known))]
        for known, texts in zip(material.teacher_scores or [None] * len(material), negatives, strict=True)
    ]


def _output_row(
    material: Material, row: int, result: Mined, negatives: Sequence[str], scores: Sequence[float | None] | None
) -> Row:
    """A row as the trainer reads it. Negatives of the input have no score of the search."""
    given = material.given[row]
    return {
        "anchor": material.anchors[row],
        "positive": material.positives[row],
        **{f"negative_{number}": text for number, text in enumerate(negatives, start=1)},
        "positive_score": result.positive_score,
        "negative_scores": [*(None for _ in given), *(negative.score for negative in result.negatives)],
        **({} if scores is None else {TEACHER_SCORES: scores}),
        **material.other_columns[row],
    }


_LOOSER = {
    "ratio": "--ratio 1",
    "margin": "--margin 0 or a larger --max_rank",
    "max_score": "a larger --max_score",
    "min_score": "a smaller --min_score",
    "teacher": "no --teacher",
}
"""What to try where a rule refuses everything."""


def _advice(report: Mapping[str, Any]) -> str:
    """The range of the scores, which may be too narrow for the rules, and what to change in the strictest rule."""
    strictest = max(report["refused"], key=report["refused"].get, default="")
    change = f"try {_LOOSER.get(strictest, 'a larger --max_rank')}"
    if not report["candidate_scores"]:
        return change
    low, high = report["candidate_scores"]
    alike = "all alike, " if low > report["options"]["ratio"] * high > 0 else ""
    return f"the scores of the candidates are {alike}from {low:.3f} to {high:.3f}; {change}"


def _refusals(refused: Mapping[str, float]) -> str:
    """The rules that refuse candidates, the strictest first."""
    shares = sorted(refused.items(), key=lambda item: -item[1])
    return ", ".join(f"{rule} refuses {100 * share:.0f} %" for rule, share in shares if share) or "an empty window"

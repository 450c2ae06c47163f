"""The report of `dec2vec mine`, to be read before training with the negatives."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dec2vec.text_tables import markdown_table
from train.mining.pairs import Material
from train.mining.search import Mined, Tally

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
EXAMPLES = 10
SHOWN = 160
"""Characters of a text in an example."""


def build_report(
    material: Material, mined: Sequence[Mined], tally: Tally, recall: float, options: Mapping[str, Any]
) -> dict[str, Any]:
    """Counts, fractions, quantiles, examples and the options, as plain data. Equal inputs give equal reports."""
    chosen = [(row, negative) for row in mined for negative in row.negatives]
    counts = Counter(len(row.negatives) for row in mined)
    return {
        "pairs": material.name,
        "rows": len(mined),
        "corpus": {"source": str(options["corpus"] or "positives of the pairs"), "texts": len(material.corpus)},
        "scores": "cosine" if options["cross_encoder"] is None else "cross-encoder",
        "index": {"kind": options["index"], "recall": recall},
        "rows_with_negatives": {str(n): counts[n] for n in range(options["negatives"] + 1)},
        "rows_with_given_negatives": sum(map(bool, material.given)),
        "candidates": tally.candidates,
        "equal_or_positive": tally.equal_or_positive,
        "refused": {rule: count / max(1, tally.candidates) for rule, count in sorted(tally.refused.items())},
        "candidate_scores": [tally.lowest, tally.highest] if tally.candidates else [],
        "quantiles": {
            "positive_score": _quantiles([row.positive_score for row in mined]),
            "negative_score": _quantiles([negative.score for _, negative in chosen]),
            "margin": _quantiles([row.positive_score - negative.score for row, negative in chosen]),
            "rank": _quantiles([float(negative.rank) for _, negative in chosen]),
        },
        "examples": _examples(material, mined),
        "options": {key: str(value) if isinstance(value, Path) else value for key, value in options.items()},
    }


def _quantiles(values: Sequence[float]) -> dict[str, float]:
    if not values:
        return {}
    return dict(zip(map(str, QUANTILES), map(float, np.quantile(values, QUANTILES)), strict=True))


def _examples(material: Material, mined: Sequence[Mined]) -> list[dict[str, Any]]:
    """Rows at even distances among those that have a negative."""
    rows = [row for row, result in enumerate(mined) if result.negatives]
    if not rows:
        return []
    picked = np.unique(np.linspace(0, len(rows) - 1, EXAMPLES).round().astype(int))
    return [_example(material, rows[i], mined[rows[i]]) for i in picked]


def _example(material: Material, row: int, result: Mined) -> dict[str, Any]:
    return {
        "row": row + 1,
        "anchor": material.anchors[row],
        "positive": material.positives[row],
        "positive_score": result.positive_score,
        "negatives": [
            {"text": material.corpus[negative.position], "score": negative.score, "rank": negative.rank}
            for negative in result.negatives
        ],
    }


def report_json(report: Mapping[str, Any]) -> str:
    """Indented, in UTF-8."""
    return json.dumps(report, ensure_ascii=False, indent=1) + "\n"


def report_markdown(report: Mapping[str, Any]) -> str:
    """The report as Markdown."""
    index, corpus = report["index"], report["corpus"]
    lines = [
        f"# Negatives mined for {report['pairs']}",
        "",
        f"{report['rows']} pairs; {corpus['texts']} different texts to search ({corpus['source']}); "
        f"index {index['kind']}, recall {index['recall']:.3f} of the exact window; scores: {report['scores']}.",
        "",
        *markdown_table(("negatives", "rows"), [(n, str(count)) for n, count in report["rows_with_negatives"].items()]),
        "",
        f"{report['candidates']} candidates in the windows; {report['equal_or_positive']} texts equal to an anchor, or "
        "to one of its positives or given negatives, were skipped.",
        "",
        *markdown_table(
            ("refused by", "share of the candidates"),
            [(rule, f"{100 * share:.1f} %") for rule, share in report["refused"].items()],
        ),
        "",
        *markdown_table(
            ("quantile", *map(str, QUANTILES)),
            [(name, *(f"{value:.3g}" for value in row.values())) for name, row in report["quantiles"].items() if row],
        ),
        "",
        "## Examples",
        "",
        *(line for example in report["examples"] for line in _example_lines(example)),
    ]
    return "\n".join(lines)


def _example_lines(example: Mapping[str, Any]) -> list[str]:
    return [
        f"- row {example['row']}: {_shown(example['anchor'])}",
        f"  - positive {example['positive_score']:.3f}: {_shown(example['positive'])}",
        *(
            f"  - negative {negative['score']:.3f} (rank {negative['rank']}): {_shown(negative['text'])}"
            for negative in example["negatives"]
        ),
        "",
    ]


def _shown(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= SHOWN else line[: SHOWN - 1] + "…"

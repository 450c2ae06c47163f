"""A description of the training data and their doubtful rows: one log line per source, and `data.json`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from dec2vec.encoder import Encoder
from dec2vec.errors import UserError
from dec2vec.files.atomic import atomic_write_text, why_not_written
from dec2vec.prompts.prompt import Side
from train.data.dataset import TrainingData
from train.data.make_sampler import left_out
from train.data.read import Told
from train.data.sampler import Sampler
from train.data.table import SourceTable
from train.options.data import SourceConfig

_BLOCK = 16_384
"""Number of texts whose token ids are in memory at the same time."""
_WORDS = {
    "empty": "with an empty text",
    "duplicate": "equal to an earlier one",
    "anchor_is_positive": "with anchor = positive",
    "lone_label": "alone with their label",
    "too_long": "too long, cut by model.max_length",
    "dropped": "left out",
}


def describe(data: TrainingData, sampler: Sampler, encoder: Encoder) -> dict[str, Any]:
    """The content of `data.json`: counts and sha256 of the rows of every source on which the run is trained."""
    told = data.told or (Told(),) * len(data.sources)
    sources = [
        {
            "path": source.path,
            "kind": source.kind,
            "told": list(news.layout),
            "rows": len(table),
            "sha256": sha256,
            **dataclasses.asdict(counts),
            "too_long": _too_long(table, source, encoder),
        }
        for source, table, counts, sha256, news in zip(
            data.sources, data.tables, data.counts, data.source_hashes, told, strict=True
        )
    ]
    return {
        "rows": len(data),
        "sha256": data.content_hash,
        "steps_per_epoch": sampler.steps_per_epoch,
        "left_out_of_first_epoch": left_out(sampler),
        "sources": sources,
    }


def lines(report: dict[str, Any]) -> list[str]:
    """The report for the terminal, without counts that are zero."""
    found = []
    for number, source in enumerate(report["sources"]):
        doubts = [f"{source[name]:,} {words}" for name, words in _WORDS.items() if source[name]]
        found.append(f"data.{number} {source['path']}: " + ", ".join([f"{source['rows']:,} {source['kind']}", *doubts]))
    if report["left_out_of_first_epoch"]:
        found.append(
            f"batch.no_duplicates: each epoch leaves out {report['left_out_of_first_epoch']:,} rows of texts that come "
            "more often than it has batches"
        )
    return found


def write(report: dict[str, Any], path: Path) -> None:
    """Write `data.json`."""
    try:
        atomic_write_text(path, json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    except OSError as error:
        raise UserError(f"cannot write {path}: {why_not_written(error)}") from error


def prompts_of(source: SourceConfig) -> list[tuple[str | None, Side]]:
    """Prompt and side of the first text of a row, and of all its other texts."""
    if source.kind == "pairs":
        return [(source.query_prompt, "query"), (source.document_prompt, "document")]
    return [(source.query_prompt, "text")] * 2


def _too_long(table: SourceTable, source: SourceConfig, encoder: Encoder) -> int:
    """Number of rows with a text that is truncated."""
    first, others = prompts_of(source)
    rows = _cut((texts[:1] for texts in table.texts), *first, encoder)
    return len(rows | _cut((texts[1:] for texts in table.texts), *others, encoder))


def _cut(rows: Iterable[Sequence[str]], prompt: str | None, side: Side, encoder: Encoder) -> set[int]:
    """Rows with a text that is truncated. Short texts are not tokenized: they have fewer tokens than bytes."""
    room = encoder.max_length - len(encoder.tokenize(["a"], prompt=prompt, side=side)[0])
    numbered = (
        (row, text)
        for row, texts in enumerate(rows)
        for text in texts
        if 2 * len(text.encode("utf-8", "surrogatepass")) > room
    )
    found: set[int] = set()
    while block := list(islice(numbered, _BLOCK)):
        cut = encoder.is_cut([text for _, text in block], prompt=prompt, side=side)
        found.update(row for (row, _), flag in zip(block, cut, strict=True) if flag)
    return found

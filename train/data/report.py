"""A description of the training data and their doubtful rows: one log line per source, and `data.json`."""

from __future__ import annotations

import dataclasses
import json
from collections import defaultdict
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
from train.data.sampler import Grouped, OneSource, Sampler
from train.data.stored import StoredTexts
from train.data.table import SourceTable
from train.data.windows import Windows
from train.options.data import SourceConfig

_BLOCK = 16_384
"""Number of texts whose token ids are in memory at the same time."""
LOOKED_AT = 10_000
"""Number of streamed rows among which those with long texts are counted."""
_WORDS = {
    "negatives": "with hard negatives",
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
            **_counted(table, source, encoder),
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
        "windows": max(part.count if isinstance(part, Windows) else 1 for part in _parts(sampler)),
        **({} if (together := _together(sampler)) is None else {"together": together}),
        "sources": sources,
    }


def lines(report: dict[str, Any]) -> list[str]:
    """The report for the terminal, without counts that are zero."""
    found = []
    for number, source in enumerate(report["sources"]):
        among = {name: f"{_WORDS[name]}{_among(source)}" for name in ("negatives", "too_long")}
        counts = [f"{source[name]:,} {said}" for name, said in {**_WORDS, **among}.items() if source[name]]
        found.append(f"data.{number} {source['path']}: " + ", ".join([f"{source['rows']:,} {source['kind']}", *counts]))
    if report["left_out_of_first_epoch"]:
        part = "the first window of each epoch" if report["windows"] > 1 else "each epoch"
        found.append(
            f"batch.no_duplicates: {part} leaves out {report['left_out_of_first_epoch']:,} rows of texts that come "
            "more often than it has batches"
        )
    if "together" in report:
        part = " (of the first window)" if report["windows"] > 1 else ""
        found.append(
            f"loss.positives{part}: {_together_line(report['together'])}; "
            f"about {report['rows'] / report['steps_per_epoch']:.0f} pairs a step"
            f"{_divided(report['together']['divided'])}"
        )
    return found


def _together_line(together: dict[str, Any]) -> str:
    """How many positives the queries have; with one each, the loss is the usual one."""
    if together["most"] <= 1:
        return f"{together['queries']:,} queries, 1 positive each, so that it has no effect"
    return f"{together['queries']:,} queries, up to {together['most']:,} positives each"


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


def _among(source: dict[str, Any]) -> str:
    """How many rows were looked at, if not all."""
    return f" (of {source['looked_at']:,} that were looked at)" if "looked_at" in source else ""


def _parts(sampler: Sampler) -> Sequence[Sampler]:
    return sampler.parts if isinstance(sampler, OneSource) else (sampler,)


def _together(sampler: Sampler) -> dict[str, int] | None:
    """Where the positives of a query are taken together: how many queries there are, how many of them are divided
    between steps because they have too many positives for one, and the most positives in a step.

    Of streamed rows those of the first window are counted.
    """
    drawn = [part.window(0, 0)[1] if isinstance(part, Windows) else part for part in _parts(sampler)]
    grouped = [part for part in drawn if isinstance(part, Grouped)]
    if not grouped:
        return None
    return {
        "queries": sum(part.queries for part in grouped),
        "divided": sum(part.divided for part in grouped),
        "most": max(len(rows) for part in grouped for rows in part.groups),
    }


def _divided(count: int) -> str:
    return f"; {count:,} of the queries have too many for one step and are divided" if count else ""


def _counted(whole: SourceTable, source: SourceConfig, encoder: Encoder) -> dict[str, int]:
    """Number of rows with hard negatives and with a text that is truncated; of streamed rows, among a sample."""
    table = whole.keep(whole.texts.places(LOOKED_AT)) if isinstance(whole.texts, StoredTexts) else whole
    negatives = sum(len(texts) > 2 for texts in table.texts) if source.kind == "pairs" else 0
    counted = {"negatives": negatives, "too_long": _too_long(table, source, encoder)}
    return counted if len(table) == len(whole) else {**counted, "looked_at": len(table)}


def _too_long(table: SourceTable, source: SourceConfig, encoder: Encoder) -> int:
    """Number of rows with a text that is truncated. Rows of one instruction are looked at together."""
    found: set[int] = set()
    for side, (prompt, of_side) in enumerate(prompts_of(source)):
        part = slice(0, 1) if side == 0 else slice(1, None)
        by_task: dict[str, Sequence[int]] = {"": range(len(table))}
        if table.instructions:
            by_task = _rows_by([own[side] for own in table.instructions])
        for task, mine in by_task.items():
            rows = ((row, text) for row in mine for text in table.texts[row][part])
            found |= _cut(rows, prompt, of_side, task or None, encoder)
    return len(found)


def _rows_by(names: Iterable[str]) -> dict[str, Sequence[int]]:
    found: defaultdict[str, list[int]] = defaultdict(list)
    for row, name in enumerate(names):
        found[name].append(row)
    return dict(found)


def _cut(
    rows: Iterable[tuple[int, str]], prompt: str | None, side: Side, task: str | None, encoder: Encoder
) -> set[int]:
    """Rows with a text that is truncated. Short texts are not tokenized: they have fewer tokens than bytes."""
    room = encoder.max_length - len(encoder.tokenize(["a"], prompt=prompt, side=side, task=task)[0])
    numbered = ((row, text) for row, text in rows if 2 * len(text.encode("utf-8", "surrogatepass")) > room)
    found: set[int] = set()
    while block := list(islice(numbered, _BLOCK)):
        cut = encoder.is_cut([text for _, text in block], prompt=prompt, side=side, task=task)
        found.update(row for (row, _), flag in zip(block, cut, strict=True) if flag)
    return found

"""The cosines of text pairs, the threshold from which on a pair is usable, and the rows that say so."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float64

from dec2vec.config.encoder_args import EncoderArgs
from dec2vec.errors import UserError
from dec2vec.files.atomic import atomic_write_bytes, written
from dec2vec.files.formats import Row
from dec2vec.prompts.tokenizer import clean_surrogates
from eval.metrics.classification import choose_threshold, decision_metrics, precision_recall, whole
from eval.metrics.correlation import cosine_pairs
from eval.systems.system import TextEncoder
from eval.tasks.pair_files import LabelledPairs
from eval.tasks.task import TaskVectors

ADDED = ("cosine", "threshold", "usable")
"""Columns that the output has in addition to those of the input."""
Pair = tuple[str, str]


@dataclass(frozen=True)
class Threshold:
    """The least cosine of a usable pair, and in words where it comes from."""

    value: float
    origin: str


def select_threshold(
    encoder: TextEncoder,
    dev: LabelledPairs,
    args: EncoderArgs,
    criterion: Literal["accuracy", "f1", "precision"],
    precision: float | None,
) -> Threshold:
    """The threshold that is best on dev. UserError if no threshold reaches the precision."""
    vectors = encoder.encode(dev.texts.queries, prompt=args.prompt, batch_tokens=args.batch_tokens)
    cosines = dev.cosines(TaskVectors.from_queries(vectors))
    _check_finite(cosines, dev.name)
    threshold = choose_threshold(cosines, dev.labels, criterion, precision)
    if threshold is None:
        best = precision_recall(cosines, dev.labels)[0].max()
        raise UserError(f"{dev.name}: no threshold reaches precision {precision:g}; the highest is {best:.3f}")
    metrics = decision_metrics(cosines, dev.labels, whole(len(dev)), threshold)
    facts = ", ".join(f"{name} {metrics[name][0]:.3f}" for name in ("accuracy", "f1", "precision", "recall"))
    return Threshold(threshold, f"selected for {criterion} on {dev.name}: {facts}")


def pair_cosines(
    encoder: TextEncoder, pairs: Sequence[Pair], name: str, args: EncoderArgs
) -> Float64[np.ndarray, " pairs"]:
    """The cosine of each pair. Every distinct text is embedded once, with the same prompt for both sides."""
    texts = list(dict.fromkeys([*(pair[0] for pair in pairs), *(pair[1] for pair in pairs)]))
    rows = {text: row for row, text in enumerate(texts)}
    vectors = encoder.encode(texts, prompt=args.prompt, batch_tokens=args.batch_tokens)
    left, right = (np.array([rows[pair[side]] for pair in pairs], dtype=np.int64) for side in (0, 1))
    cosines = cosine_pairs(vectors[left], vectors[right])
    _check_finite(cosines, name)
    return cosines


def _check_finite(cosines: Float64[np.ndarray, " pairs"], name: str) -> None:
    if np.isnan(cosines).any():
        raise UserError(f"{name}: the model gives vectors with inf or nan; run `dec2vec check` on it")


def judged_rows(
    rows: Sequence[Row], pairs: Sequence[Pair], cosines: Float64[np.ndarray, " pairs"], threshold: Threshold
) -> list[Row]:
    """The rows with the added columns. A pair with a blank text has no cosine and is not usable."""
    blank = [not all(text.strip() for text in pair) for pair in pairs]
    return [
        {
            **row,
            "cosine": None if is_blank else float(cosine),
            "threshold": threshold.value,
            "usable": "yes" if cosine >= threshold.value and not is_blank else "no",
        }
        for row, cosine, is_blank in zip(rows, cosines, blank, strict=True)
    ]


def write_rows(path: Path, rows: Sequence[Row], columns: Sequence[str]) -> None:
    """Write a .csv or .jsonl file, whole or not at all."""
    text = _csv(rows, columns) if path.suffix == ".csv" else _jsonl(rows)
    with written(path):
        atomic_write_bytes(path, clean_surrogates(text).encode("utf-8"))


def _jsonl(rows: Sequence[Row]) -> str:
    """Values that JSON does not have, such as the dates of a parquet file, become text."""
    return "".join(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows)


def _csv(rows: Sequence[Row], columns: Sequence[str]) -> str:
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()

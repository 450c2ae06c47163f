"""`dec2vec score`: a file of text pairs -> the same rows with cosine, threshold and usable yes or no."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from dec2vec.config.model import ModelConfig
from dec2vec.errors import UserError
from dec2vec.files.atomic import atomic_write_bytes, check_output
from dec2vec.files.formats import Row
from dec2vec.files.tables import Table, read_table
from dec2vec.prompts.ensembles import check_prompt
from eval.metrics.classification import choose_threshold, decision_metrics, precision_recall, whole
from eval.metrics.correlation import cosine_pairs
from eval.score.args import ScoreArgs
from eval.systems.system import TextEncoder
from eval.tasks.pair_files import LabelledPairs, PairColumns, read_pairs
from eval.tasks.pairs import check_criterion
from eval.tasks.task import TaskVectors

ADDED = ("cosine", "threshold", "usable")
SUFFIXES = (".jsonl", ".csv")


@dataclass(frozen=True)
class Chosen:
    """A threshold and where it comes from, in words."""

    value: float
    origin: str


def score_file(args: ScoreArgs) -> None:
    """Refuse what can be refused before the model is loaded; the output appears whole or not at all."""
    _check_options(args)
    table = read_table(args.input, [args.column1, args.column2])
    _refuse_added_columns(table)
    first, second = (_texts(table, column) for column in (args.column1, args.column2))
    dev = None if args.dev is None else read_pairs(args.dev, PairColumns(args.column1, args.column2, args.label))
    encoder = _load(args)
    chosen = _given(args) if dev is None else _choose(encoder, dev, args)
    cosines = _cosines(encoder, first, second, args)
    blank = [not (one.strip() and other.strip()) for one, other in zip(first, second, strict=True)]
    rows = [
        {**row, **_judgement(None if empty else float(cosine), chosen.value)}
        for row, cosine, empty in zip(table.rows, cosines, blank, strict=True)
    ]
    _write(args.output, rows, table.columns)
    usable = sum(row["usable"] == "yes" for row in rows)
    empties = f", {sum(blank)} with a blank text" if any(blank) else ""
    sys.stderr.write(
        f"{len(rows)} pairs{empties}, {usable} usable from cosine {chosen.value:.4f} on ({chosen.origin}): "
        f"{args.output}\n"
    )


def _judgement(cosine: float | None, threshold: float) -> Row:
    """The columns that are added; a pair with a blank text has no cosine and is not usable."""
    good = cosine is not None and cosine >= threshold
    return {"cosine": cosine, "threshold": threshold, "usable": "yes" if good else "no"}


def _check_options(args: ScoreArgs) -> None:
    if (args.dev is None) == (args.threshold is None):
        raise UserError("score: give either --dev labelled.jsonl, which chooses the threshold, or --threshold 0.7")
    if args.dev is not None:
        check_criterion(args.criterion, args.precision)
    elif args.criterion != "accuracy" or args.precision is not None:
        raise UserError("score: --criterion and --precision choose a threshold on --dev; remove them or --threshold")
    if args.prompt is not None:
        check_prompt(args.prompt)
    check_output(args.output, SUFFIXES, inputs=[args.input, args.dev])


def _refuse_added_columns(table: Table) -> None:
    taken = next((column for column in ADDED if column in table.columns), None)
    if taken is not None:
        raise UserError(f"{table.name}: has a column {taken!r}, which the output adds; rename it")


def _texts(table: Table, column: str) -> list[str]:
    """Blank texts are kept: a model may well have generated nothing."""
    return [table.text(row, column, may_be_blank=True) for row in range(len(table))]


def _load(args: ScoreArgs) -> TextEncoder:
    from dec2vec.encoder import Encoder
    from dec2vec.runtime import keep_freed_memory

    keep_freed_memory()
    encoder = Encoder.load(
        ModelConfig(
            name_or_path=args.model,
            revision=args.revision,
            device=args.device,
            trust_remote_code=args.trust_remote_code,
        )
    )
    if args.max_length is not None:
        encoder.set_max_length(args.max_length)
    return encoder


def _given(args: ScoreArgs) -> Chosen:
    if args.threshold is None:
        raise UserError("score: no threshold")
    return Chosen(args.threshold, "as given")


def _choose(encoder: TextEncoder, dev: LabelledPairs, args: ScoreArgs) -> Chosen:
    """On dev, with what it is worth there. UserError when no threshold has the wanted precision."""
    vectors = encoder.encode(dev.texts.queries, prompt=args.prompt, batch_tokens=args.batch_tokens)
    cosines = dev.cosines(TaskVectors(vectors, vectors[:0]))
    if np.isnan(cosines).any():
        raise UserError(f"{dev.name}: the model gives vectors with inf or nan; load it in another precision")
    threshold = choose_threshold(cosines, dev.labels, args.criterion, args.precision)
    if threshold is None:
        best = precision_recall(cosines, dev.labels)[0].max()
        raise UserError(f"{dev.name}: no threshold has precision {args.precision:g}; the best has {best:.3f}")
    found = decision_metrics(cosines, dev.labels, whole(len(dev)), threshold)
    facts = ", ".join(f"{name} {found[name][0]:.3f}" for name in ("accuracy", "f1", "precision", "recall"))
    return Chosen(threshold, f"chosen for {args.criterion} on {dev.name}: {facts}")


def _cosines(
    encoder: TextEncoder, first: Sequence[str], second: Sequence[str], args: ScoreArgs
) -> Float64[np.ndarray, " pairs"]:
    """Equal texts once; both sides through one and the same prompt."""
    texts = list(dict.fromkeys([*first, *second]))
    place = {text: index for index, text in enumerate(texts)}
    vectors = encoder.encode(texts, prompt=args.prompt, batch_tokens=args.batch_tokens)
    left, right = (np.array([place[text] for text in side], dtype=np.int64) for side in (first, second))
    cosines = cosine_pairs(vectors[left], vectors[right])
    if np.isnan(cosines).any():
        raise UserError(f"{args.input}: the model gives vectors with inf or nan; load it in another precision")
    return cosines


def _write(path: Path, rows: Sequence[Row], columns: Sequence[str]) -> None:
    from dec2vec.prompts.tokenizer import clean_surrogates

    text = _csv(rows, [*columns, *ADDED]) if path.suffix == ".csv" else _jsonl(rows)
    try:
        atomic_write_bytes(path, clean_surrogates(text).encode("utf-8"))
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from None


def _jsonl(rows: Sequence[Row]) -> str:
    """Dates and the like of a parquet file as text."""
    return "".join(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows)


def _csv(rows: Sequence[Row], columns: Sequence[str]) -> str:
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()

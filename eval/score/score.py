"""`dec2vec score`: a file of text pairs -> the same rows with cosine, threshold and usable yes or no."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Ge, Gt, Le
from pydantic.dataclasses import dataclass

from dec2vec.config.encoder_args import EncoderArgs
from dec2vec.config.load import STRICT
from dec2vec.errors import UserError
from dec2vec.files.atomic import check_output
from dec2vec.files.cells import listed
from dec2vec.files.tables import Table, read_table
from dec2vec.prompts.ensembles import check_prompt

if TYPE_CHECKING:
    from dec2vec.encoder import Encoder
    from eval.score.scored_pairs import Threshold
    from eval.tasks.pair_files import LabelledPairs


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ScoreArgs(EncoderArgs):
    """Decide for each pair of a file whether its texts mean the same: cosine, threshold, and usable yes or no."""

    model: str
    """Run folder, model folder or Hub id."""
    input: Path
    """File of pairs: .jsonl, .csv, .tsv or .parquet, with the columns that --column1 and --column2 name."""
    output: Path
    """.jsonl or .csv file with the rows of the input and the columns cosine, threshold and usable."""
    column1: str = "generated"
    """Column of the texts to be judged."""
    column2: str = "reference"
    """Column of the texts that they should agree with."""
    threshold: Annotated[float, Ge(-1), Le(1)] | None = None
    """Smallest cosine of a usable pair, if it is known in advance."""
    dev: Path | None = None
    """Labelled pairs on which the threshold is selected, with the same columns and `label`."""
    label: str = "label"
    """Column of the labels of dev: 1 for usable, 0 otherwise."""
    criterion: Literal["accuracy", "f1", "precision"] = "accuracy"
    """How the threshold is selected on dev: best accuracy, best f1, or a required precision."""
    precision: Annotated[float, Gt(0), Le(1)] | None = None
    """Required precision for criterion precision. The smallest threshold that reaches it on dev is used."""


def score_command(args: ScoreArgs) -> None:
    """Judge all pairs and write them. Mistakes are refused before the model is loaded."""
    _check_options(args)
    from dec2vec.corpus.inputs import load_encoder, saying_what_is_cut
    from eval.score.scored_pairs import ADDED, judged_rows, pair_cosines, write_rows
    from eval.tasks.pair_files import PairColumns, read_pairs

    table = read_table(args.input)
    absent = next((column for column in (args.column1, args.column2) if column not in table.columns), None)
    if absent is not None:
        raise UserError(
            f"{table.name}: no column {absent!r}; the columns are: {listed(table.columns)}; name those of the two "
            "texts with --column1 and --column2"
        )
    table.require_in_rows([args.column1, args.column2])
    taken = next((column for column in ADDED if column in table.columns), None)
    if taken is not None:
        raise UserError(f"{table.name} has a column {taken!r}, which the output adds; rename the column")
    pairs = list(zip(_texts(table, args.column1), _texts(table, args.column2), strict=True))
    dev = None if args.dev is None else read_pairs(args.dev, PairColumns(args.column1, args.column2, args.label))
    if dev is not None and dev.columns is not None and dev.columns.note:
        sys.stderr.write(f"{dev.columns.file}: {dev.columns.note}\n")
    encoder = load_encoder(args.model_config(args.model), args.changes)
    with saying_what_is_cut(encoder):
        threshold = _threshold(args, dev, encoder)
        cosines = pair_cosines(encoder, pairs, table.name, args)
    rows = judged_rows(table.rows, pairs, cosines, threshold)
    write_rows(args.output, rows, [*table.columns, *ADDED])
    blank = sum(row["cosine"] is None for row in rows)
    usable = sum(row["usable"] == "yes" for row in rows)
    sys.stderr.write(
        f"{len(rows)} pairs{(f', {blank} with a blank text' if blank else '')}, {usable} usable with a cosine of at "
        f"least {threshold.value:.4f} ({threshold.origin}): {args.output}\n"
    )


def _threshold(args: ScoreArgs, dev: LabelledPairs | None, encoder: Encoder) -> Threshold:
    """As given, or selected on dev."""
    from eval.score.scored_pairs import Threshold, select_threshold

    if dev is not None:
        return select_threshold(encoder, dev, args, args.criterion, args.precision)
    assert args.threshold is not None
    return Threshold(args.threshold, "as given")


def _check_options(args: ScoreArgs) -> None:
    if (args.dev is None) == (args.threshold is None):
        raise UserError(
            "score: give either --dev labelled.jsonl, on which the threshold is selected, or --threshold 0.7"
        )
    if args.dev is not None:
        from eval.tasks.pairs import check_criterion

        check_criterion(args.criterion, args.precision)
    elif args.criterion != "accuracy" or args.precision is not None:
        raise UserError(
            "score: --criterion and --precision select a threshold on --dev; remove them, or remove --threshold"
        )
    if args.prompt is not None:
        check_prompt(args.prompt)
    check_output(args.output, (".jsonl", ".csv"), inputs=[args.input, args.dev])


def _texts(table: Table, column: str) -> list[str]:
    """Blank texts are kept, because a model may have generated nothing."""
    return [table.text(row, column, may_be_blank=True) for row in range(len(table))]

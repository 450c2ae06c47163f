"""`dec2vec outliers`: texts or vectors -> the same, sorted by the distance of their nearest neighbours."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge
from pydantic.dataclasses import dataclass

from dec2vec.config.encoder_args import SidedEncoderArgs
from dec2vec.config.load import STRICT
from dec2vec.errors import UserError, check_installed
from dec2vec.files.atomic import check_output


@dataclass(frozen=True, kw_only=True, config=STRICT)
class OutliersArgs(SidedEncoderArgs):
    """Sort texts or vectors by the distance of their nearest neighbours."""

    input: Path
    """Texts (with --model), or vectors written by `dec2vec encode`."""
    output: Path
    """.jsonl file with one line per row, the most distant first."""
    k: Annotated[int, Ge(1)] = 10
    """Number of neighbours whose mean distance (1 - cosine) is used."""
    method: Literal["exact", "hnsw"] = "exact"
    """exact compares all rows with each other; hnsw is for larger inputs and may miss some neighbours."""
    model: str | None = None
    """Run folder, model folder or Hub id that embeds the texts. Only for texts."""
    column: str = "text"
    """Column of the texts. Not used for a .txt file."""


def outliers_command(args: OutliersArgs) -> None:
    """Write a line for each row, the most distant from its neighbours first, and print the first ones."""
    check_output(args.output, [".jsonl"], inputs=[args.input])
    if args.method == "hnsw":
        check_installed("faiss", "search", "outliers --method hnsw")
    from dec2vec.corpus.inputs import PRINTED_ROWS, print_table, read_corpus, short, write_rows
    from dec2vec.corpus.neighbours import mean_distances, nearest_others

    vectors, texts = read_corpus(args.input, args.column, args.model, args)
    if len(vectors) < 2:
        raise UserError(f"{args.input}: {len(vectors)} row has no neighbours; give at least two rows")
    ranking = nearest_others(vectors, args.k, args.method)
    distances = mean_distances(vectors, ranking)
    rows: list[dict[str, Any]] = [
        {"row": row, "distance": float(distances[row]), "nearest": int(ranking.positions[row, 0])}
        | ({} if texts is None else {"text": texts[row]})
        for row in (-distances).argsort(kind="stable").tolist()
    ]
    write_rows(args.output, rows)
    lines = [
        (f"{row['distance']:.4f}", str(row["row"]), short(str(row.get("text", "")))) for row in rows[:PRINTED_ROWS]
    ]
    print_table([("distance", "row", "text"), *lines], left=(2,))
    sys.stderr.write(f"{len(rows)} rows by their mean distance to {ranking.positions.shape[1]} others: {args.output}\n")

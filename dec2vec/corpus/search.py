"""`dec2vec search`: texts and an index -> the nearest rows of each text."""

from __future__ import annotations

import sys
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge
from pydantic.dataclasses import dataclass

from dec2vec.config.encoder_args import SidedEncoderArgs
from dec2vec.config.load import STRICT
from dec2vec.errors import UserError, check_installed
from dec2vec.files.atomic import check_output
from dec2vec.files.tables import block_texts, iter_tables, read_texts
from dec2vec.prompts.prompt import Side

TEXT_BLOCK = 8192
"""Rows of the indexed texts in memory at a time."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SearchArgs(SidedEncoderArgs):
    """Search an index with the texts of a file."""

    index: Path
    """Index written by `dec2vec index`."""
    model: str
    """Run folder, model folder or Hub id with which the vectors were computed."""
    queries: Path
    """Texts: lines of a .txt file, or a column of a .jsonl, .csv, .tsv or .parquet file."""
    output: Path
    """.jsonl file with one line per query and hit, best hits first."""
    k: Annotated[int, Ge(1)] = 10
    """Number of hits per query."""
    column: str = "text"
    """Column of the queries. Not used for a .txt file."""
    side: Side = "query"
    """Side of a prompt that differs between queries and documents. With instruct, documents have no instruction."""
    texts: Path | None = None
    """File of the indexed texts. If it is given, hits include their text."""
    texts_column: str = "text"
    """Column of the indexed texts."""


def search_command(args: SearchArgs) -> None:
    """Write a line for each query and hit, and print the best hit of the first queries."""
    check_installed("faiss", "search", "search")
    check_output(args.output, [".jsonl"], inputs=[args.queries, args.texts])
    from dec2vec.corpus.faiss_index import read_index, search_index, stores_codes
    from dec2vec.corpus.inputs import PRINTED_ROWS, embed, print_table, short, write_rows

    queries = read_texts(args.queries, args.column)
    index = read_index(args.index)
    vectors = embed(queries, args.model, args)
    if vectors.shape[1] != index.d:
        raise UserError(
            f"{args.index} has vectors of {index.d} dimensions, but model {args.model} gives {vectors.shape[1]}; use "
            "the model with which the index was built"
        )
    ranking = search_index(index, vectors, args.k)
    texts = _hit_texts(args, set(ranking.positions.ravel().tolist()), index.ntotal)
    approximate = {"approximate": True} if stores_codes(index) else {}
    rows = [
        {"query": at, "text": query, "rank": rank, "row": int(row), "cosine": float(score)}
        | approximate
        | ({"hit": texts[int(row)]} if int(row) in texts else {})
        for at, query in enumerate(queries)
        for rank, (row, score) in enumerate(zip(ranking.positions[at], ranking.scores[at], strict=True), start=1)
        if row >= 0
    ]
    write_rows(args.output, rows)
    best = [row for row in rows if row["rank"] == 1][:PRINTED_ROWS]
    lines = [
        (f"{row['cosine']:.4f}", str(row["row"]), short(str(row["text"])), short(str(row.get("hit", ""))))
        for row in best
    ]
    print_table([("cosine", "row", "query", "best hit"), *lines], left=(2, 3))
    sys.stderr.write(f"{len(queries)} queries, {len(rows)} hits: {args.output}\n")
    if approximate:
        sys.stderr.write(_approximation(args.index, index) + "\n")


def _approximation(path: Path, index: Any) -> str:
    """What a reader of the cosines of an ivf-pq index must know."""
    from dec2vec.corpus.index_note import read_index_note

    note = read_index_note(path, index.ntotal, index.d)
    recall = "" if note is None else f", and of the ten nearest rows it finds {100 * note.recall_at_10:.0f} %"
    return f"the cosines are approximate: {path} is ivf-pq, which stores codes instead of vectors{recall}"


def _hit_texts(args: SearchArgs, hits: Collection[int], indexed: int) -> dict[int, str]:
    """The texts of all hits, read block by block. UserError if the file has other rows than the index."""
    if args.texts is None:
        return {}
    texts, first = dict[int, str](), 0
    for block in iter_tables(args.texts, TEXT_BLOCK):
        for row, text in enumerate(block_texts(args.texts, block, args.texts_column), start=first):
            if row in hits:
                texts[row] = text
        first += len(block)
    if first != indexed:
        raise UserError(f"{args.texts} has {first} rows, but the index has {indexed}; give the file that was encoded")
    return texts

"""`dec2vec index`, `search`, `dedup`, `outliers`: read, compute, write one file, print a table."""

from __future__ import annotations

import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dec2vec.corpus.args import DedupArgs, IndexArgs, OutliersArgs, SearchArgs
from dec2vec.corpus.exact_search import Ranking
from dec2vec.corpus.faiss_index import build_index, read_index, sample_recall, search_index, write_index
from dec2vec.corpus.inputs import embed, read_corpus, short, write_rows
from dec2vec.corpus.neighbours import Group, group_duplicates, mean_distances, nearest_others
from dec2vec.corpus.vector_files import open_vectors
from dec2vec.errors import UserError
from dec2vec.files.atomic import check_output
from dec2vec.files.tables import block_texts, iter_tables, read_texts
from dec2vec.text_tables import plain_table

LINES = 10
"""Rows of a table on the terminal."""
TEXT_BLOCK = 8192


def index_command(args: IndexArgs) -> None:
    """Build, measure, write."""
    check_output(args.output, inputs=[args.vectors])
    vectors = open_vectors(args.vectors)
    index = build_index(vectors, args.kind, code_bytes=args.code_bytes, seed=args.seed)
    recall = sample_recall(index, vectors, sample=args.sample, seed=args.seed)
    write_index(index, args.output)
    header = ("kind", "rows", "dimensions", "MB", "recall@10", "file")
    size = f"{args.output.stat().st_size / 1e6:.1f}"
    row = (args.kind, str(len(vectors)), str(vectors.dimension), size, f"{recall:.4f}", str(args.output))
    _print_table([header, row], left=(0, 5))


def search_command(args: SearchArgs) -> None:
    """One line for each query and hit."""
    check_output(args.output, [".jsonl"], inputs=[args.queries, args.texts])
    queries = read_texts(args.queries, args.column)
    index = read_index(args.index)
    vectors = embed(args, args.model, queries)
    if vectors.shape[1] != index.d:
        raise UserError(
            f"{args.index}: vectors of {index.d} dimensions, model {args.model} gives {vectors.shape[1]}; name the "
            "model that the index was made with"
        )
    found = search_index(index, vectors, args.k)
    texts = {} if args.texts is None else _texts_at(args.texts, args.texts_column, found, index.ntotal)
    rows = [
        {"query": at, "text": query, "rank": rank, "row": int(row), "cosine": float(score), **_hit(texts, int(row))}
        for at, query in enumerate(queries)
        for rank, (row, score) in enumerate(zip(found.positions[at], found.scores[at], strict=True), start=1)
        if row >= 0
    ]
    write_rows(args.output, rows)
    best = [row for row in rows if row["rank"] == 1][:LINES]
    lines = [
        (f"{row['cosine']:.4f}", str(row["row"]), short(str(row["text"])), short(str(row.get("hit", ""))))
        for row in best
    ]
    _print_table([("cosine", "row", "query", "best hit"), *lines], left=(2, 3))
    sys.stderr.write(f"{len(queries)} queries, {len(rows)} hits: {args.output}\n")


def dedup_command(args: DedupArgs) -> None:
    """One line for each group."""
    check_output(args.output, [".jsonl"], inputs=[args.input])
    vectors, texts = read_corpus(args)
    groups = group_duplicates(vectors, args.threshold, args.method)
    write_rows(args.output, [_group_row(group, texts) for group in groups])
    largest = sorted(groups, key=lambda group: -len(group.members))[:LINES]
    lines = [(str(len(group.members)), str(group.kept), short(texts[group.kept]) if texts else "") for group in largest]
    _print_table([("rows", "kept", "text"), *lines], left=(2,))
    dropped = sum(len(group.members) - 1 for group in groups)
    sys.stderr.write(
        f"{len(vectors)} rows, {len(groups)} groups; {dropped} rows repeat an earlier one: {args.output}\n"
    )


def outliers_command(args: OutliersArgs) -> None:
    """One line for each row, the furthest from its neighbours first."""
    check_output(args.output, [".jsonl"], inputs=[args.input])
    vectors, texts = read_corpus(args)
    if len(vectors) < 2:
        raise UserError(f"{args.input}: {len(vectors)} row has no neighbours; give two or more")
    ranking = nearest_others(vectors, args.k, args.method)
    distances = mean_distances(ranking)
    order = np.argsort(-distances, kind="stable").tolist()
    rows: list[dict[str, Any]] = [
        {"row": row, "distance": float(distances[row]), "nearest": int(ranking.positions[row, 0])}
        | ({} if texts is None else {"text": texts[row]})
        for row in order
    ]
    write_rows(args.output, rows)
    lines = [(f"{row['distance']:.4f}", str(row["row"]), short(str(row.get("text", "")))) for row in rows[:LINES]]
    _print_table([("distance", "row", "text"), *lines], left=(2,))
    sys.stderr.write(f"{len(rows)} rows by their mean distance to {ranking.positions.shape[1]} others: {args.output}\n")


def _print_table(rows: Sequence[Sequence[str]], left: Collection[int]) -> None:
    sys.stdout.write("\n".join(plain_table(rows, left=left)) + "\n")


def _group_row(group: Group, texts: list[str] | None) -> dict[str, Any]:
    row: dict[str, Any] = {"kept": group.kept, "members": group.members, "cosines": group.cosines}
    return row if texts is None else {**row, "texts": [texts[member] for member in group.members]}


def _hit(texts: dict[int, str], row: int) -> dict[str, str]:
    return {"hit": texts[row]} if row in texts else {}


def _texts_at(path: Path, column: str, found: Ranking, rows: int) -> dict[int, str]:
    """The texts of all hits, read block by block. UserError if the file has other rows than the index."""
    wanted, texts, first = set(found.positions.ravel().tolist()), dict[int, str](), 0
    for block in iter_tables(path, TEXT_BLOCK):
        for row, text in enumerate(block_texts(path, block, column), start=first):
            if row in wanted:
                texts[row] = text
        first += len(block)
    if first != rows:
        raise UserError(f"{path}: {first} rows, the index has {rows}; give the file that was encoded")
    return texts

"""`dec2vec dedup`: texts or vectors -> groups of near-duplicates."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Le
from pydantic.dataclasses import dataclass

from dec2vec.config.encoder_args import SidedEncoderArgs
from dec2vec.config.load import STRICT
from dec2vec.errors import check_installed
from dec2vec.files.atomic import check_output


@dataclass(frozen=True, kw_only=True, config=STRICT)
class DedupArgs(SidedEncoderArgs):
    """Find near-duplicates among texts or vectors."""

    input: Path
    """Texts (with --model), or vectors written by `dec2vec encode`."""
    output: Path
    """.jsonl file with one line per group: its rows, and the one that is kept (the first)."""
    threshold: Annotated[float, Ge(-1), Le(1)] = 0.95
    """Two rows with at least this cosine are duplicates; 1 means equal ones only. Chains of duplicates form a group."""
    method: Literal["exact", "hnsw"] = "exact"
    """exact compares all rows with each other; hnsw is for larger inputs and may miss some neighbours."""
    model: str | None = None
    """Run folder, model folder or Hub id that embeds the texts. Only for texts."""
    column: str = "text"
    """Column of the texts. Not used for a .txt file."""


def dedup_command(args: DedupArgs) -> None:
    """Write a line for each group, and print the largest ones."""
    check_output(args.output, [".jsonl"], inputs=[args.input])
    if args.method == "hnsw":
        check_installed("faiss", "search", "dedup --method hnsw")
    from dec2vec.corpus.duplicates import group_duplicates
    from dec2vec.corpus.inputs import PRINTED_ROWS, print_table, read_corpus, short, write_rows

    vectors, texts = read_corpus(args.input, args.column, args.model, args)
    groups = group_duplicates(vectors, args.threshold, args.method)
    write_rows(args.output, [group.as_row(texts) for group in groups])
    largest = sorted(groups, key=lambda group: -len(group.members))[:PRINTED_ROWS]
    lines = [(str(len(group.members)), str(group.kept), short(texts[group.kept]) if texts else "") for group in largest]
    print_table([("rows", "kept", "text"), *lines], left=(2,))
    dropped = sum(len(group.members) - 1 for group in groups)
    sys.stderr.write(
        f"{len(vectors)} rows, {len(groups)} groups; {dropped} rows repeat an earlier one: {args.output}\n"
    )

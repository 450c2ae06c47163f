"""`dec2vec index`: vectors -> a FAISS index, and the recall that it has."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge
from pydantic.dataclasses import dataclass

from dec2vec.config.load import STRICT
from dec2vec.errors import check_installed
from dec2vec.files.atomic import check_output


@dataclass(frozen=True, config=STRICT)
class IndexArgs:
    """Build a FAISS index of vectors and measure its recall."""

    vectors: Path
    """Vectors written by `dec2vec encode`: a .npy file, a .parquet file or a folder of shards."""
    output: Path
    """File in which the index is written."""
    kind: Literal["flat", "hnsw", "ivf-pq"] = "flat"
    """flat is exact; hnsw is fast; ivf-pq is small, for corpora larger than memory."""
    code_bytes: Annotated[int, Ge(1)] | None = None
    """Number of bytes per vector for ivf-pq, one for each part of the vector. None uses up to 64."""
    sample: Annotated[int, Ge(1)] = 100
    """Number of rows whose ten nearest neighbours are compared with those of exact search."""
    seed: int = 0
    """Seed of the sample and of the rows on which ivf-pq is trained."""


def index_command(args: IndexArgs) -> None:
    """Build the index, measure its recall on a sample, write it and print one line about it."""
    check_installed("faiss", "search", "index")
    check_output(args.output, inputs=[args.vectors])
    from dec2vec.corpus.faiss_index import build_index, sample_recall, write_index
    from dec2vec.corpus.index_note import IndexNote, write_index_note
    from dec2vec.corpus.inputs import print_table
    from dec2vec.corpus.vector_files import open_vectors

    vectors = open_vectors(args.vectors)
    index = build_index(vectors, args.kind, code_bytes=args.code_bytes, seed=args.seed)
    recall = sample_recall(index, vectors, sample=args.sample, seed=args.seed)
    write_index(index, args.output)
    write_index_note(IndexNote(args.kind, len(vectors), vectors.dimension, recall), args.output)
    header = ("kind", "rows", "dimensions", "MB", "recall@10", "file")
    size = f"{args.output.stat().st_size / 1e6:.1f}"
    row = (args.kind, str(len(vectors)), str(vectors.dimension), size, f"{recall:.4f}", str(args.output))
    print_table([header, row], left=(0, 5))

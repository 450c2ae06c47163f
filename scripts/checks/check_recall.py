"""Flat, HNSW and IVF-PQ indexes over the same vectors: recall against exact search, size, time to build and to search.

    python scripts/checks/check_recall.py vectors/ --sample 500

VECTORS is what `dec2vec encode` wrote. Neighbours of rows of the corpus, the row itself left out, as `dec2vec index`
measures them; k is 10.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import numpy as np

from dec2vec.corpus.faiss_index import Kind, build_index, sample_recall, search_index, write_index
from dec2vec.corpus.vector_files import StoredVectors, open_vectors

KINDS: tuple[Kind, ...] = get_args(Kind)


def row(vectors: StoredVectors, kind: Kind, sample: int, folder: Path) -> str:
    """One line of the table."""
    started = time.perf_counter()
    index = build_index(vectors, kind)
    built = time.perf_counter() - started
    queries = vectors.take(np.random.default_rng(0).permutation(len(vectors))[:sample].astype(np.int64))
    started = time.perf_counter()
    search_index(index, queries, 11)
    searched = (time.perf_counter() - started) / len(queries)
    write_index(index, folder / kind)
    size = (folder / kind).stat().st_size / 1e6
    recall = sample_recall(index, vectors, sample=sample)
    cost = f"{size:>10.1f}{built:>10.1f}{1000 * searched:>12.2f}"
    return f"{kind:<8}{len(vectors):>10,}{vectors.dimension:>6}{cost}{recall:>12.4f}\n"


def main(argv: Sequence[str]) -> int:
    """The table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("vectors", type=Path)
    parser.add_argument("--sample", type=int, default=500)
    options = parser.parse_args(argv)
    vectors = open_vectors(options.vectors)
    sys.stdout.write(f"{'kind':<8}{'rows':>10}{'dim':>6}{'MB':>10}{'build s':>10}{'ms a query':>12}{'recall@10':>12}\n")
    with tempfile.TemporaryDirectory() as folder:
        for kind in KINDS:
            sys.stdout.write(row(vectors, kind, options.sample, Path(folder)))
            sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
